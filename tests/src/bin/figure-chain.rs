//! Times a chain of 64 elementwise operations for `bench/figures`: `figure-chain SOCKET [ELEMENTS]`.
//!
//! Submitted one by one, each intermediate let go at once, the result read back. Prints the median over rounds of the time of
//! one operation, in microseconds, after the result was checked.

#![forbid(unsafe_code)]

use std::time::Instant;

use tensord_client::{Elementwise, Error, Options, Session, Tensor};

const CHAIN: usize = 64;
const CHAINS_PER_ROUND: usize = 50;
const ROUNDS: usize = 60;

fn chain(x: &Tensor) -> Result<Vec<f32>, Error> {
    let mut y = x.clone();
    for _ in 0..CHAIN / 2 {
        y = y.scalar(Elementwise::Mul, 1.0001)?;
        y = y.scalar(Elementwise::Add, 0.5)?;
    }
    y.to_vec()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(socket) = arguments.next() else {
        return Err("usage: figure-chain SOCKET [ELEMENTS]".into());
    };
    let elements: usize = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let session = Session::connect(Options {
        socket: Some(socket.into()),
        name: "figure-chain".into(),
        autostart: false,
        ..Options::default()
    })?;
    let values: Vec<f32> = (0..elements).map(|index| index as f32 / 7.0).collect();
    let x = session.tensor(&values, &[elements as u64])?;
    let wanted: Vec<f32> = values
        .iter()
        .map(|value| (0..CHAIN / 2).fold(*value, |value, _| value * 1.0001f32 + 0.5))
        .collect();
    if chain(&x)? != wanted {
        return Err("the chain's result is wrong".into());
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CHAINS_PER_ROUND {
            chain(&x)?;
        }
        rounds.push(start.elapsed().as_secs_f64() * 1e6 / (CHAINS_PER_ROUND * CHAIN) as f64);
    }
    rounds.sort_by(f64::total_cmp);
    println!("{}", rounds[ROUNDS / 2]);
    Ok(())
}
