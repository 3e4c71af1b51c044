//! What submitting costs the client, in nanoseconds an operation, and a round trip, against a daemon in a thread that
//! takes records and computes nothing.
//!
//! `cargo bench -p tensord-client`. The daemon's thread shares the machine: with two cores or more it has one of its own.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::sync::atomic::Ordering;
use std::time::Instant;

use tensord_client::{Arg, DType, Elementwise, Operand, Options, Scalar, Session, Site, Tensor};

fn best(rounds: u32, count: u32, mut run: impl FnMut()) -> f64 {
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64 / f64::from(count)
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let daemon = fake::FakeDaemon::start("bench", 4096);
    let session = Session::connect(Options {
        slot_count: 4096,
        ..daemon.options()
    })
    .expect("the daemon is there");
    let x = session.tensor(&[1.0f32; 64], &[64]).expect("a value");
    let scale = Operand::Immediate(DType::F32, Scalar::from_f64(1.5, DType::F32));
    let count = 2000u32;
    // The engine stands still meanwhile, so that only the client is measured.
    let chain = |operand: &dyn Fn(&Tensor) -> Tensor| {
        best(200, count, || {
            daemon.knobs.hold.store(true, Ordering::Relaxed);
            let mut y = x.clone();
            for _ in 0..count {
                y = operand(&y);
            }
            daemon.knobs.hold.store(false, Ordering::Relaxed);
            session.synchronize().expect("nothing fails");
        })
    };
    let synchronize = best(200, 1, || {
        daemon.knobs.hold.store(true, Ordering::Relaxed);
        daemon.knobs.hold.store(false, Ordering::Relaxed);
        session.synchronize().expect("nothing fails");
    });
    let submit = |operands: &[Arg<'_>], function| {
        session
            .elementwise(function, operands, Site(1))
            .expect("it fits")
    };
    let scalar = chain(&|y| submit(&[Operand::Tensor(y), scale], Elementwise::Mul));
    let unary = chain(&|y| submit(&[Operand::Tensor(y)], Elementwise::Neg));
    let binary = chain(&|y| submit(&[Operand::Tensor(y), Operand::Tensor(&x)], Elementwise::Add));
    println!(
        "submit and drain, one operation: unary {unary:.0} ns, scalar {scalar:.0} ns, binary {binary:.0} ns"
    );
    println!("synchronize: {synchronize:.0} ns");
    let only = best(500, 1000, || {
        daemon.knobs.hold.store(true, Ordering::Relaxed);
        let mut y = x.clone();
        let start = Instant::now();
        for _ in 0..1000 {
            y = submit(&[Operand::Tensor(&y), scale], Elementwise::Mul);
        }
        FASTEST.fetch_min(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        daemon.knobs.hold.store(false, Ordering::Relaxed);
        session.synchronize().expect("nothing fails");
    });
    let _ = only;
    let fastest = FASTEST.load(Ordering::Relaxed) as f64 / 1000.0;
    println!("submit alone, with the drop of the operand before: {fastest:.1} ns");
    daemon.check();
}

static FASTEST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(u64::MAX);
