//! Chains of small operations: what the daemon is for.

use tensord_client::{Elementwise, Error, Tensor};

use super::{Bench, Line};

/// Operations of a chain.
pub const LENGTH: usize = 64;
const ELEMENTS: [usize; 3] = [64, 1_024, 16_384];

/// Multiplies and adds in turn; each intermediate is let go at once.
pub fn submit(x: &Tensor) -> Result<Tensor, Error> {
    let mut y = x.clone();
    for _ in 0..LENGTH / 2 {
        y = y.scalar(Elementwise::Mul, 1.0001)?;
        y = y.scalar(Elementwise::Add, 0.5)?;
    }
    Ok(y)
}

fn chain(x: &Tensor) -> Result<Vec<f32>, Error> {
    submit(x)?.to_vec()
}

/// The same in this process.
fn expected(x: f32) -> f32 {
    (0..LENGTH / 2).fold(x, |x, _| x * 1.0001 + 0.5)
}

/// Microseconds an operation.
pub fn chains(bench: &Bench) -> Result<Vec<Line>, Error> {
    let mut lines = Vec::new();
    for count in ELEMENTS {
        let values: Vec<f32> = (0..count).map(|k| k as f32 / 7.0).collect();
        let x = bench.session.tensor(&values, &[count as u64])?;
        let right = chain(&x)?
            .iter()
            .zip(&values)
            .all(|(have, x)| *have == expected(*x));
        assert!(right, "a chain of {count} elements gave wrong numbers");
        let runs = bench.repeat(|| {
            let seconds = bench.seconds_each(|| chain(&x).map(drop))?;
            Ok(seconds * 1e6 / LENGTH as f64)
        })?;
        let name = format!("chain of {LENGTH} over {count} f32");
        lines.push(Line::new(name, "us an operation", runs));
    }
    Ok(lines)
}
