//! What it costs to reach the engine and to hear of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tensord_client::{Elementwise, Error};

use super::{Bench, Line, median, quantile};

/// Requests between two looks at the clock.
const REQUESTS: usize = 10_000;
/// Round trips in one run.
const TRIPS: usize = 20_000;
/// Elements of the addition that goes there and back.
const ELEMENTS: usize = 64;

/// Requests that do nothing.
pub fn requests(bench: &Bench) -> Result<Vec<Line>, Error> {
    let runs = bench.repeat(|| {
        let seconds = bench.seconds_each(|| {
            for _ in 1..REQUESTS {
                bench.session.no_op()?;
            }
            let last = bench.session.no_op()?;
            bench.session.wait(last, None)
        })?;
        Ok(REQUESTS as f64 / seconds / 1e6)
    })?;
    Ok(vec![Line::new(
        "no-op requests, one ring",
        "million/s",
        runs,
    )])
}

/// Seconds of each round trip.
fn trips(mut trip: impl FnMut() -> Result<(), Error>) -> Result<Vec<f64>, Error> {
    (0..TRIPS)
        .map(|_| {
            let start = Instant::now();
            trip()?;
            Ok(start.elapsed().as_secs_f64() * 1e6)
        })
        .collect()
}

/// A no-op and an addition, there and back, beside a cache line that two threads hand to and fro.
pub fn round_trips(bench: &Bench) -> Result<Vec<Line>, Error> {
    let session = &bench.session;
    let x = session.tensor(&[1.5f32; ELEMENTS], &[ELEMENTS as u64])?;
    let y = session.tensor(&[2.5f32; ELEMENTS], &[ELEMENTS as u64])?;
    let no_op = || trips(|| session.wait(session.no_op()?, None));
    let add = || trips(|| x.binary(Elementwise::Add, &y)?.wait());
    let mut figures = [const { Vec::new() }; 4];
    for run in 0..=bench.runs {
        let (no_op, add) = (no_op()?, add()?);
        let all = [
            median(&no_op),
            median(&add),
            quantile(&add, 0.99),
            cache_line_us(),
        ];
        // The first one warms up.
        if run > 0 {
            for (figures, figure) in figures.iter_mut().zip(all) {
                figures.push(figure);
            }
        }
    }
    let [no_op, add, add_late, line] = figures;
    let limit = "a cache line there and back";
    let named = |name: &str| format!("{name}, submit to done");
    Ok(vec![
        Line::new(named("no-op"), "us", no_op).beside(limit, line.clone()),
        Line::new(named("add of 64 f32"), "us", add).beside(limit, line.clone()),
        Line::new(named("add of 64 f32, p99"), "us", add_late).beside(limit, line),
    ])
}

/// Microseconds that a word takes to another core and back, in the middle.
fn cache_line_us() -> f64 {
    const STOP: u64 = u64::MAX;
    let (there, back) = (Line64::default(), Line64::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while last != STOP {
                last = there.next(last);
                back.0.store(last, Ordering::Release);
            }
        });
        let trips: Vec<f64> = (1..=TRIPS as u64)
            .map(|turn| {
                let start = Instant::now();
                there.0.store(turn, Ordering::Release);
                back.next(turn - 1);
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        there.0.store(STOP, Ordering::Release);
        median(&trips)
    })
}

/// A word with a line of its own; two, because processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Line64(AtomicU64);

impl Line64 {
    /// Spins until the word is not `last`.
    fn next(&self, last: u64) -> u64 {
        loop {
            let now = self.0.load(Ordering::Acquire);
            if now != last {
                return now;
            }
            std::hint::spin_loop();
        }
    }
}
