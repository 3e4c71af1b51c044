//! Products with a matrix that does not change, as a network's layers are.

use tensord_client::{DType, Error, Meta, Shape, Site};

use super::{Bench, Line};

const ROWS: [u64; 4] = [1, 8, 32, 256];
const WIDTH: u64 = 512;
/// Products submitted between two waits.
const TOGETHER: usize = 16;

/// GFLOP/s, one product of each number of rows.
pub fn products(bench: &Bench) -> Result<Vec<Line>, Error> {
    let session = &bench.session;
    let weights = 0.01f32.to_le_bytes().repeat((WIDTH * WIDTH) as usize);
    let square = Meta {
        dtype: DType::F32,
        shape: Shape::new(&[WIDTH, WIDTH]).expect("two axes"),
    };
    let weights = session.constant(&weights, square, Site::UNKNOWN)?;
    let mut lines = Vec::new();
    for rows in ROWS {
        let x = session.full(&[rows, WIDTH], 1.0, DType::F32)?;
        let runs = bench.repeat(|| {
            let seconds = bench.seconds_each(|| {
                let mut y = x.clone();
                for _ in 0..TOGETHER {
                    y = y.contract(&weights, "ik,kj->ij")?;
                }
                y.wait()
            })?;
            Ok((2 * rows * WIDTH * WIDTH) as f64 * TOGETHER as f64 / seconds / 1e9)
        })?;
        let name = format!("{rows} x {WIDTH} times {WIDTH} x {WIDTH} f32");
        lines.push(Line::new(name, "GFLOP/s", runs));
    }
    Ok(lines)
}
