//! What a launch costs: chains of elementwise operations, single ones, sums, batches of small instances, and large chains
//! beside a copy of the same memory. Prints one line each, best and middle of many repetitions.
//!
//! Arguments are parts of the names of the cases to run (all without any), `--cpu LEVEL` forces a level, and `--threads N` says how many
//! threads large launches run on. Times of small launches are means over a series, because reading the clock costs as much as the smallest of them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tensord_cpu::{CpuBackend, CpuConfig};
use tensord_plan::{
    Access, Backend, Body, Buffer, BufferId, Immediate, Instance, Instr, Launch, LaunchId, Map,
    Operand, Params, Plan, Reduce, Slot, Step, Store, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Elementwise, Reduction};

mod product_plan;
mod products;
mod rows;

/// Time for one case.
const CASE: Duration = Duration::from_millis(200);
/// A series takes at least about so long.
const SERIES: Duration = Duration::from_micros(20);

fn access(buffer: Buffer, dtype: DType, offset: u32, strides: u32) -> Access {
    Access {
        buffer,
        dtype,
        offset: Slot(offset),
        strides: Slot(strides),
        padded: vec![],
        fill: None,
    }
}

/// Which operand an operation of a chain takes beside the chain's value.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    /// A scalar of its own.
    Scalar,
    /// The second input.
    Tensor,
    /// The second input, of one row that all rows share.
    Row,
}

/// `length` operations over rows of one axis, taking turns from `pattern`. Slots: rows, row, 0, strides, strides of a row, strides of
/// the output, elements.
fn chain(dtype: DType, length: u32, pattern: &[(Elementwise, Other)]) -> Plan {
    let with_row = pattern.iter().any(|&(_, other)| other == Other::Row);
    let second = if with_row { 5 } else { 3 };
    let mut body = Body {
        loads: vec![
            access(Buffer::Input(0), dtype, 2, 3),
            access(Buffer::Input(1), dtype, 2, second),
        ],
        instrs: vec![Instr::Load(0), Instr::Load(1)],
    };
    let mut last = ValueId(0);
    for k in 0..length {
        let (function, other) = pattern[k as usize % pattern.len()];
        let other = match other {
            Other::Scalar => {
                body.instrs.push(Instr::Immediate {
                    slot: Immediate(k),
                    dtype,
                });
                ValueId(body.instrs.len() as u32 - 1)
            }
            Other::Tensor | Other::Row => ValueId(1),
        };
        body.instrs.push(Instr::Apply {
            function,
            dtype,
            args: [last, other, last],
        });
        last = ValueId(body.instrs.len() as u32 - 1);
    }
    Plan {
        steps: vec![Step::Map(Map {
            sizes: Slot(0),
            rank: 2,
            body,
            stores: vec![Store {
                value: last,
                access: access(Buffer::Output(0), dtype, 2, 3),
            }],
        })],
        inputs: vec![dtype; 2],
        outputs: vec![(dtype, Slot(7))],
        slots: 8,
        immediates: length,
        operations: length,
        ..Plan::default()
    }
}

fn chain_params(plan: &Plan, rows: i64, row: i64) -> Arc<Params> {
    Arc::new(Params::new(plan, vec![rows, row, 0, row, 1, 0, 1, rows * row]).unwrap())
}

/// Slots: size, 0, 1, 1.
fn sum(dtype: DType, kind: Reduction) -> Plan {
    Plan {
        steps: vec![Step::Reduce(Reduce {
            sizes: Slot(0),
            outer: 0,
            inner: 1,
            body: Body {
                loads: vec![access(Buffer::Input(0), dtype, 1, 2)],
                instrs: vec![Instr::Load(0)],
            },
            value: ValueId(0),
            dtype,
            kind,
            epilogue: Body {
                loads: vec![],
                instrs: vec![Instr::Reduced { dtype }],
            },
            stores: vec![Store {
                value: ValueId(0),
                access: access(Buffer::Output(0), dtype, 1, 2),
            }],
        })],
        inputs: vec![dtype],
        outputs: vec![(dtype, Slot(3))],
        slots: 4,
        operations: 1,
        ..Plan::default()
    }
}

/// Nanoseconds: the best and the middle of many repetitions.
struct Times {
    best: f64,
    middle: f64,
}

/// Repeats `series`, which takes the number of repetitions in a series and returns how long the series took.
fn measure(mut series: impl FnMut(usize) -> Duration) -> Times {
    let once = (0..20).map(|_| series(1)).min().unwrap_or(SERIES);
    let once = once.max(Duration::from_nanos(100));
    let count = (SERIES.as_nanos() / once.as_nanos()).clamp(1, 200) as usize;
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < 20 || start.elapsed() < CASE {
        all.push(series(count).as_nanos() as f64 / count as f64);
    }
    all.sort_unstable_by(f64::total_cmp);
    Times {
        best: all[0],
        middle: all[all.len() / 2],
    }
}

/// Values between -4 and 4: memory that nobody wrote would be one page, read again and again.
fn fill(to: &mut [u8], dtype: DType) {
    for (k, to) in to.chunks_mut(dtype.size()).enumerate() {
        let value = (k * 37 % 1021) as f64 / 128.0 - 4.0;
        to.copy_from_slice(&Scalar::from_f64(value, dtype).0.to_le_bytes()[..dtype.size()]);
    }
}

/// A buffer of numbers.
fn filled(backend: &mut CpuBackend, bytes: u64, dtype: DType) -> BufferId {
    let buffer = backend.alloc(bytes).unwrap();
    let write = &mut |_: u64, to: &mut [u8]| fill(to, dtype);
    backend.write(buffer, 0, bytes, write).unwrap();
    buffer
}

/// Launches of these instances, from the call until the completion is collected, without what the instances cost the caller.
fn launches(backend: &mut CpuBackend, plan: &Plan, all: &[Instance]) -> Times {
    let plan = Arc::new(plan.clone());
    let mut done = Vec::new();
    // A launch takes its instances over; what making and dropping them costs is taken off again.
    let own = measure(|count| {
        let begin = Instant::now();
        (0..count).for_each(|_| drop(black_box(all.to_vec())));
        begin.elapsed()
    });
    let times = measure(|count| {
        let begin = Instant::now();
        for _ in 0..count {
            backend
                .launch(
                    Launch {
                        id: LaunchId(0),
                        plan: plan.clone(),
                        instances: black_box(all.to_vec()),
                    },
                    u64::MAX,
                )
                .unwrap();
            backend.wait(&mut done);
            black_box(&done).len();
            done.clear();
        }
        begin.elapsed()
    });
    Times {
        best: times.best - own.best,
        middle: times.middle - own.middle,
    }
}

/// One launch of `instances`, from the call until its completion is collected, without what its instances cost the caller.
fn time(backend: &mut CpuBackend, plan: &Plan, params: &Arc<Params>, instances: usize) -> Times {
    let operand = |buffer| Operand {
        buffer,
        offset: 0,
        constant: false,
    };
    let dtype = plan.outputs[0].0;
    let mut make = |bytes| operand(filled(backend, bytes, dtype));
    let all: Vec<Instance> = (0..instances)
        .map(|_| Instance {
            params: params.clone(),
            immediates: vec![Scalar::from_f64(1.0, dtype); plan.immediates as usize],
            inputs: params.input_bytes().iter().map(|&b| make(b)).collect(),
            outputs: params.output_bytes().iter().map(|&b| make(b)).collect(),
        })
        .collect();
    let times = launches(backend, plan, &all);
    for operand in all.iter().flat_map(|i| i.inputs.iter().chain(&i.outputs)) {
        backend.free(operand.buffer);
    }
    times
}

/// Runs the cases that were asked for.
struct Bench {
    wanted: Vec<String>,
    backend: CpuBackend,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(&part[..]))
    }

    fn case(&mut self, name: &str, plan: &Plan, params: &Arc<Params>, instances: usize) {
        if !self.wants(name) {
            return;
        }
        let times = time(&mut self.backend, plan, params, instances);
        self.show(name, plan, instances, &times);
    }

    fn show(&self, name: &str, plan: &Plan, instances: usize, &Times { best, middle }: &Times) {
        let one = f64::from(plan.operations.max(1)) * instances as f64;
        println!(
            "{name}: {best:.0} ns a launch (middle {middle:.0}), {:.1} ns ({:.1}) an operation",
            best / one,
            middle / one
        );
    }

    fn chains(&mut self) {
        use Elementwise::{Add, Maximum, Mul, Sub};
        use Other::{Row, Scalar, Tensor};
        let plain: &[(Elementwise, Other)] = &[(Mul, Scalar), (Add, Scalar)];
        let mixed = [
            (Mul, Scalar),
            (Add, Scalar),
            (Maximum, Scalar),
            (Sub, Scalar),
            (Mul, Scalar),
            (Add, Scalar),
            (Maximum, Scalar),
            (Sub, Tensor),
        ];
        for (what, pattern) in [
            ("mul and add", plain),
            ("mul, add, maximum, sub", &mixed),
            ("tensors", &[(Mul, Tensor), (Add, Tensor)]),
            ("rows", &[(Mul, Row), (Add, Scalar)]),
        ] {
            let plan = chain(DType::F32, 64, pattern);
            for n in [1i64, 64, 1024, 16_384] {
                let rows = if what == "rows" { (n / 64).max(1) } else { 1 };
                let params = chain_params(&plan, rows, n / rows);
                self.case(&format!("64 f32 {what} over {n}"), &plan, &params, 1);
            }
        }
        for dtype in [DType::F64, DType::F16, DType::Bf16, DType::I32] {
            let plan = chain(dtype, 64, plain);
            let params = chain_params(&plan, 1, 1024);
            let name = format!("64 {dtype:?} mul and add over 1024");
            self.case(&name, &plan, &params, 1);
        }
        for (length, n) in [(1, 64i64), (1, 1024), (4, 128), (16, 128), (64, 128)] {
            let plan = chain(DType::F32, length, plain);
            let params = chain_params(&plan, 1, n);
            for instances in [1, 16] {
                let name = format!("{length} f32 over {n}, {instances} instances");
                self.case(&name, &plan, &params, instances);
            }
        }
        let single = chain(DType::F32, 1, &[(Elementwise::Tanh, Tensor)]);
        let params = chain_params(&single, 1, 1024);
        self.case("tanh f32 over 1024", &single, &params, 1);
    }

    fn sums(&mut self) {
        for dtype in [DType::F32, DType::F64, DType::Bf16, DType::I32] {
            for kind in [Reduction::Sum, Reduction::Max] {
                let plan = sum(dtype, kind);
                for n in [1024i64, 1 << 20] {
                    let params = Arc::new(Params::new(&plan, vec![n, 0, 1, 1]).unwrap());
                    self.case(&format!("{kind:?} of {n} {dtype:?}"), &plan, &params, 1);
                }
            }
        }
    }

    fn blocks(&mut self) {
        let name = "alloc and free of 4 KiB";
        if !self.wants(name) {
            return;
        }
        let backend = &mut self.backend;
        let Times { best, middle } = measure(|count| {
            let start = Instant::now();
            for _ in 0..count {
                let buffer = backend.alloc(black_box(4096)).unwrap();
                backend.free(buffer);
            }
            start.elapsed()
        });
        println!("{name}: {best:.0} ns (middle {middle:.0})");
    }
}

/// A chain of 8 over 16 M elements on `threads` threads, and a copy of as many bytes on as many threads.
fn large(config: &CpuConfig, threads: usize) {
    const COUNT: usize = 16 << 20;
    let config = CpuConfig {
        inline_ns_max: Some(0),
        threads,
        ..config.clone()
    };
    let mut backend = CpuBackend::new(config).unwrap();
    let pattern = [
        (Elementwise::Mul, Other::Scalar),
        (Elementwise::Add, Other::Scalar),
    ];
    let plan = chain(DType::F32, 8, &pattern);
    let params = chain_params(&plan, 1, COUNT as i64);
    let chain = time(&mut backend, &plan, &params, 1);
    let (from, mut to) = (vec![1f32; COUNT], vec![0f32; COUNT]);
    let part = COUNT / threads;
    let copy = measure(|count| {
        let start = Instant::now();
        for _ in 0..count {
            std::thread::scope(|scope| {
                for (from, to) in from.chunks(part).zip(to.chunks_mut(part)) {
                    scope.spawn(|| black_box(to).copy_from_slice(black_box(from)));
                }
            });
        }
        start.elapsed()
    });
    let bytes = (COUNT * 8) as f64;
    println!(
        "8 f32 over 16 M on {threads} threads: {:.1} GB/s (middle {:.1}), a copy {:.1} GB/s ({:.1}), share {:.0} % ({:.0} %)",
        bytes / chain.best,
        bytes / chain.middle,
        bytes / copy.best,
        bytes / copy.middle,
        100.0 * copy.best / chain.best,
        100.0 * copy.middle / chain.middle,
    );
}

fn main() {
    let mut wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let mut option = |name: &str| {
        let at = wanted.iter().position(|arg| arg == name)?;
        wanted.remove(at);
        Some(wanted.remove(at))
    };
    let level = option("--cpu").map(|level| level.parse().expect("a level of vector instructions"));
    let threads = option("--threads").map_or(0, |count| count.parse().expect("a number"));
    let config = CpuConfig {
        isa: level,
        threads,
        inline_ns_max: Some(u64::MAX),
        ..CpuConfig::default()
    };
    let backend = CpuBackend::new(config.clone()).unwrap();
    println!("{}", backend.info().description);
    let mut bench = Bench { wanted, backend };
    bench.chains();
    bench.sums();
    bench.rows();
    bench.products();
    bench.blocks();
    if bench.wants("over 16 M") {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        large(&config, 1);
        if cores > 1 {
            large(&config, cores);
        }
    }
}
