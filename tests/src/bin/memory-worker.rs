//! A session that works through tensors one after the other, again and again: `memory-worker SOCKET HOW SEED TENSORS ELEMENTS ROUNDS`.
//!
//! `kept` uploads its tensors once; `by-hand` uploads each one before its step and drops it after. Says `ready`, waits for a line,
//! works, and says the seconds that it took and a number that depends on each result's bits.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use tensord_client::{Elementwise, Options, Reduction, Session, Tensor};
use tensord_tests::random::Random;

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// One step: something of every element.
fn step(x: &Tensor, round: u64) -> Result<u32, tensord_client::Error> {
    let scaled = x.scalar(Elementwise::Mul, 1.0 + round as f64 / 16.0)?;
    let sum = scaled.reduce(Reduction::Sum, None, false)?;
    Ok(sum.item::<f32>()?.to_bits())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, how, seed, tensors, elements, rounds] = arguments.as_slice() else {
        return Err("memory-worker SOCKET HOW SEED TENSORS ELEMENTS ROUNDS".into());
    };
    let elements: usize = elements.parse()?;
    let mut random = Random(seed.parse()?);
    let data: Vec<Vec<f32>> = (0..tensors.parse()?)
        .map(|_| {
            (0..elements)
                .map(|_| (random.word() >> 40) as f32)
                .collect()
        })
        .collect();
    let session = Session::connect(Options {
        socket: Some(socket.into()),
        autostart: false,
        ..Options::default()
    })?;
    let upload = |data: &Vec<f32>| session.tensor(data, &[elements as u64]);
    let kept: Vec<Tensor> = match how.as_str() {
        "kept" => data.iter().map(upload).collect::<Result<_, _>>()?,
        "by-hand" => Vec::new(),
        other => return Err(format!("{other}: must be `kept` or `by-hand`").into()),
    };
    session.synchronize()?;
    say("ready")?;
    std::io::stdin().lock().lines().next();
    let start = Instant::now();
    let mut bits = 0u64;
    for round in 0..rounds.parse()? {
        for (k, data) in data.iter().enumerate() {
            let result = match kept.get(k) {
                Some(tensor) => step(tensor, round)?,
                None => step(&upload(data)?, round)?,
            };
            bits = bits.rotate_left(5) ^ u64::from(result).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("{seconds} {bits:016x}"))?;
    // Its tensors stay until it is told to end.
    std::io::stdin().lock().lines().next();
    Ok(())
}
