//! Plans do not grow with sizes, and memory does not grow with what a plan leaves out: counted, not timed.

use tensord_client::{
    DType, Distribution, Elementwise, Meta, Op, Reduction, Session, Shape, Site, Tensor,
};
use tensord_shm::dtype::Scalar;
use tensord_shm::op::AxisList;
use tensord_tests::daemon::Daemon;
use tensord_tests::figures::figure;
use tensord_tests::reference::{Accuracy, Value, evaluate};

/// A chain of elementwise operations with a reduction behind it.
fn chain(x: &Tensor) -> Tensor {
    let step = |x: &Tensor, function, y: f64| x.scalar(function, y).expect("it fits");
    let y = step(x, Elementwise::Mul, 1.25);
    let y = step(&y, Elementwise::Add, 0.5);
    let y = y.binary(Elementwise::Maximum, x).expect("it fits");
    let y = step(&y, Elementwise::Sub, 3.0);
    let y = y.unary(Elementwise::Abs).expect("it fits");
    step(&y, Elementwise::Minimum, 100.0)
}

fn expected(n: u64) -> Vec<f32> {
    let each = (0..n).map(|k| k as f32);
    each.map(|x| ((x * 1.25 + 0.5).max(x) - 3.0).abs().min(100.0))
        .collect()
}

fn run_sizes(session: &Session, sizes: impl Iterator<Item = u64>) {
    for n in sizes {
        let x = session.iota(n, 0.0, 1.0, DType::F32).expect("iota");
        let y = chain(&x);
        drop(x);
        assert_eq!(
            y.to_vec::<f32>().expect("computed"),
            expected(n),
            "size {n}"
        );
    }
}

#[test]
fn one_chain_of_all_sizes_needs_no_more_plans() {
    let daemon = Daemon::start("sizes", "");
    let session = daemon.session();
    // Where a busy machine interrupts the client a window may be cut, so plans of parts may come to be: few, and soon.
    run_sizes(&session, 1..=2_000);
    let early = daemon.counter("plans");
    run_sizes(&session, 2_001..=10_000);
    let late = daemon.counter("plans");
    assert!(
        late - early <= 24,
        "{early} plans after 2000 sizes, {late} after 10000"
    );
    assert!(late <= 80, "{late} plans for one chain");
    assert_eq!(
        daemon.counter("compiles"),
        0,
        "nothing is compiled that anything could wait for"
    );
    let command = "cargo test --release -p tensord-tests --test plans -- --nocapture";
    figure(
        "plans made for sizes 1 to 10,000 of one chain",
        late,
        command,
    );
    figure(
        "plans made for its sizes 2,001 to 10,000",
        late - early,
        command,
    );
    daemon.stop();
}

#[test]
fn an_update_in_a_loop_needs_a_quarter_of_a_copy() {
    const COUNT: u64 = 16 << 20;
    let daemon = Daemon::start("update", "");
    let session = daemon.session();
    let make = |key| {
        session
            .random(&[COUNT], DType::F32, Distribution::Uniform, key)
            .expect("random")
    };
    let g = make(1);
    let mut p = make(2);
    g.wait().expect("computed");
    p.wait().expect("computed");
    for _ in 0..100 {
        let step = g.scalar(Elementwise::Mul, 0.01).expect("it fits");
        p = p.binary(Elementwise::Sub, &step).expect("it fits");
    }
    p.wait().expect("computed");
    let sum = p.reduce(Reduction::Sum, None, false).expect("it fits");
    let sum = sum.item::<f32>().expect("computed");
    assert!(sum.is_finite());
    let copies =
        (daemon.counter("device_bytes_max") as f64 - (COUNT * 4) as f64) / (COUNT * 4) as f64;
    let command = "cargo test --release -p tensord-tests --test plans -- --nocapture";
    figure(
        "p = p - lr*g, 100 steps on 64 MiB, copies of p beside g at the peak",
        format!("{copies:.3}"),
        command,
    );
    assert!(copies <= 1.25, "{copies} copies of p beside g");
    drop((p, g));
    daemon.stop();
}

fn list(items: &[u64]) -> AxisList<u64> {
    AxisList::new(items).expect("few")
}

#[test]
fn a_padded_window_is_never_written_out() {
    let daemon = Daemon::start("window", "");
    let session = daemon.session();
    let meta = |sizes: &[u64]| Meta {
        dtype: DType::F32,
        shape: Shape::new(sizes).expect("small"),
    };
    let value = |sizes: &[u64], scale: u64| {
        let meta = meta(sizes);
        let bits = (0..meta.shape.count())
            .map(|k| Scalar::from_f64((k * scale % 31) as f64 / 8.0, DType::F32).0);
        Value::new(meta, bits.collect())
    };
    let (x, w) = (value(&[8, 96, 96], 7), value(&[4, 8, 5, 5], 5));
    let pad = Op::Pad {
        low: list(&[0, 2, 2]),
        high: list(&[0, 2, 2]),
    };
    let window = Op::Window {
        axes: AxisList::new(&[1, 2]).expect("two"),
        sizes: list(&[5, 5]),
        strides: list(&[1, 1]),
        dilations: list(&[1, 1]),
    };
    let contract = tensord_client::parse_contract("chwij,ocij->ohw").expect("well formed");
    let none = [Scalar(0); 2];
    let padded = evaluate(&pad, &[&x], none);
    let windowed = evaluate(&window, &[&padded], none);
    let want = evaluate(&contract, &[&windowed, &w], none);
    let have = {
        let upload = |value: &Value| {
            session
                .upload(&value.to_bytes(), value.meta, Site::UNKNOWN)
                .expect("upload")
        };
        let (x, w) = (upload(&x), upload(&w));
        let windows = x
            .pad(&[0, 2, 2], &[0, 2, 2], 0.0)
            .and_then(|x| x.window(&[1, 2], &[5, 5], &[1, 1], &[1, 1]));
        let out = windows
            .expect("it fits")
            .contract(&w, "chwij,ocij->ohw")
            .expect("it fits");
        out.fetch().expect("computed")
    };
    assert_eq!(want.accuracy, Accuracy::Exact);
    want.check(&have).expect("the bits of the reference");
    let peak = daemon.counter("device_bytes_max");
    let (held, windowed) = (
        x.to_bytes().len() + w.to_bytes().len() + want.to_bytes().len(),
        windowed.bits.len() * 4,
    );
    let command = "cargo test --release -p tensord-tests --test plans -- --nocapture";
    figure(
        "padded windowed contraction, peak device bytes over those of operands and result (windowed operand: 25 times the input)",
        format!("{:.2}", peak as f64 / held as f64),
        command,
    );
    assert!(
        peak < (windowed / 4) as u64,
        "{peak} bytes at the peak; the windowed operand has {windowed}"
    );
    daemon.stop();
}
