//! What was asked for before is recognised, and still means what it says: each sequence runs several times on other data in one
//! session, in turns with the same sequence where every operation is planned alone, and all bits are equal.

use tensord_client::{
    DType, Elementwise, Error, Fetched, Op, Operand, Options, Reduction, Session, Site, Tensor,
};
use tensord_shm::dtype::Scalar;
use tensord_tests::daemon::Daemon;

type Sequence = fn(&Session, u32) -> Result<Vec<Fetched>, Error>;

/// Thirty-two elements that are others in each round.
fn data(session: &Session, round: u32, which: u32) -> Result<Tensor, Error> {
    let value = |k: u32| (k * 7 + round * 13 + which * 5) as f32 / 3.0 - 20.0;
    session.tensor(&(0..32).map(value).collect::<Vec<f32>>(), &[8, 4])
}

fn fetch(tensors: &[Tensor]) -> Result<Vec<Fetched>, Error> {
    tensors.iter().map(Tensor::fetch).collect()
}

/// Rounds after which a sequence should have been found again on the busiest machine.
const ROUNDS_MAX: u32 = 1000;

/// Runs a sequence in six rounds, merged and alone, and in more until a window of the merged ones was found again: where a busy
/// machine holds the client up, a window is cut at another place.
fn repeat(name: &str, sequence: Sequence) {
    let daemon = Daemon::start(name, "");
    let merged = daemon.session();
    let alone = Session::connect(Options {
        fuse: false,
        batch: false,
        ..daemon.options()
    })
    .expect("the daemon serves");
    let mut hits = 0;
    for round in 0..ROUNDS_MAX {
        if round >= 6 && hits > 0 {
            break;
        }
        let before = daemon.counter("plan_hits");
        let ours =
            sequence(&merged, round).unwrap_or_else(|error| panic!("round {round}: {error}"));
        hits += daemon.counter("plan_hits") - before;
        let theirs =
            sequence(&alone, round).unwrap_or_else(|error| panic!("round {round}: {error}"));
        for (k, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(a.meta(), b.meta(), "{name}, round {round}, result {k}");
            assert_eq!(a[..], b[..], "{name}, round {round}, result {k}");
        }
    }
    assert!(hits > 0, "{name}: nothing was found again");
    daemon.stop();
}

/// Scalars, views of what was just made and of what was there, results that are dropped and results that stay.
fn mixture(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let (x, w) = (data(session, round, 0)?, data(session, round, 1)?);
    let sum = x.scalar(Elementwise::Mul, f64::from(round) + 0.5)?;
    let top = sum.slice(&[0, 0], &[1, 1], &[4, 4])?;
    let bottom = sum.slice(&[4, 0], &[1, 1], &[4, 4])?;
    let column = w.slice(&[0, 1], &[1, 1], &[4, 1])?;
    let both = top.binary(Elementwise::Add, &bottom)?;
    let scaled = both.binary(Elementwise::Mul, &column)?;
    drop((sum, top, both));
    let turned = scaled.permute(&[1, 0])?;
    let product = turned.contract(&bottom, "ab,bc->ac")?;
    let rows = product.reduce(Reduction::Sum, Some(&[1]), false)?;
    fetch(&[product, rows, turned, column])
}

#[test]
fn scalars_views_and_results() {
    repeat("mixture", mixture);
}

/// One tensor twice in some rounds, two tensors in others.
fn aliases(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let x = data(session, round, 0)?;
    let other = data(session, round, 1)?;
    let y = if round.is_multiple_of(2) {
        x.clone()
    } else {
        other
    };
    // Handles of one value: the tensor itself, and a view of it that was made before the window.
    let view = y.slice(&[0, 0], &[1, 1], &[8, 4])?;
    session.synchronize()?;
    let a = x.binary(Elementwise::Sub, &view)?;
    let b = a.binary(Elementwise::Maximum, &y)?;
    drop((x, y, view));
    let c = b.scalar(Elementwise::Add, 1.0)?;
    fetch(&[a, c])
}

#[test]
fn one_tensor_or_two() {
    repeat("aliases", aliases);
}

/// A result is read in the middle, another one is read and let go before it is there.
fn reading(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let x = data(session, round, 0)?;
    let a = x.unary(Elementwise::Neg)?;
    let view = a.slice(&[1, 0], &[2, 1], &[3, 4])?;
    let first = view.fetch()?;
    let b = view.binary(Elementwise::Mul, &view)?;
    drop(view);
    let second = b.fetch()?;
    drop(b);
    let c = a.permute(&[1, 0])?;
    drop(a);
    let third = c.fetch()?;
    Ok(vec![first, second, third])
}

#[test]
fn results_that_are_read_in_between() {
    repeat("reading", reading);
}

/// Two queues that use each other's results at once.
fn queues(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let other = session.queue()?;
    let x = data(session, round, 0)?;
    let y = data(&other, round, 1)?;
    let a = x.scalar(Elementwise::Mul, 2.0)?;
    let b = other.submit(
        &Op::Elementwise(Elementwise::Add),
        &[Operand::Tensor(&a), Operand::Tensor(&y)],
        [Scalar(0); 2],
        Site::UNKNOWN,
    )?;
    let c = a.scalar(Elementwise::Add, 1.0)?;
    drop(a);
    let d = b.unary(Elementwise::Abs)?;
    drop(b);
    fetch(&[c, d])
}

#[test]
fn queues_that_share_results() {
    repeat("queues", queues);
}

/// What becomes more than one node, or none: a reshape that has to copy, a scalar that has to be a tensor.
fn copies(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let x = data(session, round, 0)?;
    let a = x.scalar(Elementwise::Mul, 3.0)?;
    let flat = a.permute(&[1, 0])?.reshape(&[32])?;
    let b = flat.cast(DType::I32)?;
    let c = b.reduce(Reduction::Max, None, true)?;
    let full = session.full(&[4], f64::from(round), DType::F32)?;
    let d = a.binary(Elementwise::Add, &full)?;
    fetch(&[flat, b, c, d])
}

#[test]
fn operations_that_need_a_copy() {
    repeat("copies", copies);
}

/// More than one window's worth without anybody waiting.
fn stream(session: &Session, round: u32) -> Result<Vec<Fetched>, Error> {
    let mut x = data(session, round, 0)?;
    let mut kept = Vec::new();
    for k in 0..700 {
        x = x.scalar(Elementwise::Mul, 0.999)?;
        x = x.slice(&[0, 0], &[1, 1], &[8, 4])?;
        if k % 100 == 7 {
            kept.push(x.clone());
        }
    }
    kept.push(x);
    fetch(&kept)
}

#[test]
fn a_stream_of_operations() {
    repeat("stream", stream);
}
