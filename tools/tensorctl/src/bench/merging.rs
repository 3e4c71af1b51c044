//! Several clients at once, whose work may share launches, beside the same clients when it may not.

use std::sync::Barrier;
use std::time::Instant;

use tensord_client::{DType, Elementwise, Error, Options, Reduction, Session, Tensor};

use super::{Bench, Line};

const CLIENTS: usize = 8;
const ALONE: &str = "launches of their own";

/// One client's step: submits it and waits for it.
type Step = fn(&Tensor) -> Result<Tensor, Error>;

/// A network's layer on one row wins by sharing launches; matrices whose rows and columns are made to add up to 1 in turns (Sinkhorn) may
/// lose what a cache held of each.
pub fn all(bench: &Bench) -> Result<Vec<Line>, Error> {
    let cases: [(&str, [u64; 2], Step); 3] = [
        ("64 x 64 Sinkhorn steps", [64, 64], sinkhorn),
        ("256 x 256 Sinkhorn steps", [256, 256], sinkhorn),
        ("chains of 16 over 1,024", [1, 1_024], chain),
    ];
    let mut lines = Vec::new();
    for (name, sizes, step) in cases {
        let [together, apart] = [true, false].map(|batch| fleet(bench, batch, &sizes));
        let (together, apart) = (together?, apart?);
        let mut other = Ok(0.0);
        let (ours, alone) = bench.beside(
            || steps_per_s(bench, &together, step),
            || {
                other = steps_per_s(bench, &apart, step);
                *other.as_ref().unwrap_or(&f64::NAN)
            },
        )?;
        other?;
        let name = format!("{name}, {CLIENTS} clients");
        lines.push(Line::new(name, "steps/s", ours).beside(ALONE, alone));
    }
    Ok(lines)
}

/// Clients, each with its tensor.
fn fleet(bench: &Bench, batch: bool, sizes: &[u64; 2]) -> Result<Vec<Tensor>, Error> {
    let client = |_| {
        let session = Session::connect(Options {
            socket: Some(bench.session.socket().to_owned()),
            name: "tensorctl bench".into(),
            batch,
            autostart: false,
            ..Options::default()
        })?;
        let count = sizes[0] * sizes[1];
        let x = session.iota(count, 0.5, 1.0 / count as f64, DType::F32)?;
        x.reshape(sizes)
    };
    (0..CLIENTS).map(client).collect()
}

/// Steps of all clients together.
fn steps_per_s(bench: &Bench, clients: &[Tensor], step: Step) -> Result<f64, Error> {
    let ready = Barrier::new(clients.len());
    let rates: Vec<Result<f64, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter()
            .map(|x| {
                let ready = &ready;
                scope.spawn(move || {
                    ready.wait();
                    let (start, mut steps) = (Instant::now(), 0u32);
                    while start.elapsed() < bench.run_for {
                        step(x)?.wait()?;
                        steps += 1;
                    }
                    Ok(f64::from(steps) / start.elapsed().as_secs_f64())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client's thread does not panic"))
            .collect()
    });
    rates.into_iter().sum()
}

fn sinkhorn(x: &Tensor) -> Result<Tensor, Error> {
    let mut x = x.clone();
    for _ in 0..4 {
        for axis in [1, 0] {
            let sums = x.reduce(Reduction::Sum, Some(&[axis]), true)?;
            x = x.binary(Elementwise::Div, &sums)?;
        }
    }
    Ok(x)
}

fn chain(x: &Tensor) -> Result<Tensor, Error> {
    let mut x = x.clone();
    for _ in 0..8 {
        x = x.scalar(Elementwise::Mul, 1.0001)?;
        x = x.scalar(Elementwise::Add, 0.5)?;
    }
    Ok(x)
}
