//! What is as fast as memory is, beside a plain copy by all cores.

use std::hint::black_box;
use std::time::Instant;

use tensord_client::{Elementwise, Error, Reduction, Tensor};

use super::{Bench, Line};

/// Larger than any cache.
const LARGE: usize = 16 << 20;
const SIDE: usize = 1_024;
const COPY: &str = "a copy by all cores";

/// Measures one computation in GB/s of `bytes`, beside a copy of memory as large.
fn beside_copy(
    bench: &Bench,
    name: &str,
    bytes: usize,
    compute: impl Fn() -> Result<Tensor, Error>,
) -> Result<Line, Error> {
    let elements = bytes / 8;
    let from = vec![1.0f32; elements];
    let mut to = vec![0.0f32; elements];
    let (ours, copies) = bench.beside(
        || {
            let seconds = bench.seconds_each(|| compute()?.wait())?;
            Ok(bytes as f64 / seconds / 1e9)
        },
        || copy_gb_per_s(bench, &from, &mut to),
    )?;
    Ok(Line::new(name, "GB/s", ours).beside(COPY, copies))
}

/// Bytes read and written by a copy, a part by each core.
fn copy_gb_per_s(bench: &Bench, from: &[f32], to: &mut [f32]) -> f64 {
    let part = from.len().div_ceil(bench.cores);
    let start = Instant::now();
    let mut count = 0;
    while count == 0 || start.elapsed() < bench.run_for {
        if from.len() < 1 << 20 {
            // Starting threads would take as long.
            black_box(&mut *to).copy_from_slice(black_box(from));
        } else {
            std::thread::scope(|scope| {
                for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                    scope.spawn(|| black_box(to).copy_from_slice(black_box(from)));
                }
            });
        }
        count += 1;
    }
    (8 * from.len() * count) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// All of them. Bytes are those that must be read and written once.
pub fn all(bench: &Bench) -> Result<Vec<Line>, Error> {
    let session = &bench.session;
    let large = session.full(&[LARGE as u64], 1.5, tensord_client::DType::F32)?;
    let side = SIDE as u64;
    let square = session.iota(side * side, 0.0, 1e-6, tensord_client::DType::F32)?;
    let square = square.reshape(&[side, side])?;
    let once = SIDE * SIDE * 4;
    Ok(vec![
        beside_copy(bench, "chain of 8 over 16 M f32", LARGE * 8, || {
            let mut y = large.clone();
            for _ in 0..4 {
                y = y.scalar(Elementwise::Mul, 1.0001)?;
                y = y.scalar(Elementwise::Add, 0.5)?;
            }
            Ok(y)
        })?,
        beside_copy(bench, "sum of 1,024 x 1,024 f32", once, || {
            square.reduce(Reduction::Sum, None, false)
        })?,
        beside_copy(bench, "sums of rows", once, || {
            square.reduce(Reduction::Sum, Some(&[1]), false)
        })?,
        beside_copy(bench, "softmax of rows", 2 * once, || softmax(&square))?,
        beside_copy(bench, "layer norm of rows", 2 * once, || {
            layer_norm(&square)
        })?,
    ])
}

fn softmax(x: &Tensor) -> Result<Tensor, Error> {
    let high = x.reduce(Reduction::Max, Some(&[1]), true)?;
    let powers = x.binary(Elementwise::Sub, &high)?.unary(Elementwise::Exp)?;
    let sum = powers.reduce(Reduction::Sum, Some(&[1]), true)?;
    powers.binary(Elementwise::Div, &sum)
}

fn layer_norm(x: &Tensor) -> Result<Tensor, Error> {
    let part = 1.0 / SIDE as f64;
    let sum = x.reduce(Reduction::Sum, Some(&[1]), true)?;
    let centred = x.binary(Elementwise::Sub, &sum.scalar(Elementwise::Mul, part)?)?;
    let squares = centred.binary(Elementwise::Mul, &centred)?;
    let sum = squares.reduce(Reduction::Sum, Some(&[1]), true)?;
    let variance = sum.scalar(Elementwise::Mul, part)?;
    let scale = variance
        .scalar(Elementwise::Add, 1e-5)?
        .unary(Elementwise::Rsqrt)?;
    centred.binary(Elementwise::Mul, &scale)
}
