//! What a launch costs: chains of elementwise operations, sums, batches of small instances. Prints one line each.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tensord_cpu::{CpuBackend, CpuConfig};
use tensord_plan::{
    Access, Backend, Body, Buffer, Immediate, Instance, Instr, Launch, LaunchId, Map, Operand,
    Params, Plan, Reduce, Slot, Step, Store, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Elementwise, Reduction};

fn access(buffer: Buffer, offset: u32, strides: u32) -> Access {
    Access {
        buffer,
        dtype: DType::F32,
        offset: Slot(offset),
        strides: Slot(strides),
        padded: vec![],
        fill: None,
    }
}

/// `x * i0 + i1 ...`, `length` operations over one axis; every eighth reads a second tensor instead. Slots: size, 0, 1.
fn chain(length: u32) -> Plan {
    let mut body = Body {
        loads: vec![
            access(Buffer::Input(0), 1, 2),
            access(Buffer::Input(1), 1, 2),
        ],
        instrs: vec![Instr::Load(0), Instr::Load(1)],
    };
    let mut last = ValueId(0);
    for k in 0..length {
        let other = match k % 8 {
            7 => ValueId(1),
            _ => {
                body.instrs.push(Instr::Immediate {
                    slot: Immediate(k),
                    dtype: DType::F32,
                });
                ValueId(body.instrs.len() as u32 - 1)
            }
        };
        let function = [
            Elementwise::Mul,
            Elementwise::Add,
            Elementwise::Maximum,
            Elementwise::Sub,
        ][k as usize % 4];
        body.instrs.push(Instr::Apply {
            function,
            dtype: DType::F32,
            args: [last, other, last],
        });
        last = ValueId(body.instrs.len() as u32 - 1);
    }
    Plan {
        steps: vec![Step::Map(Map {
            sizes: Slot(0),
            rank: 1,
            body,
            stores: vec![Store {
                value: last,
                access: access(Buffer::Output(0), 1, 2),
            }],
        })],
        inputs: vec![DType::F32; 2],
        outputs: vec![(DType::F32, Slot(0))],
        slots: 3,
        immediates: length,
        operations: length,
        ..Plan::default()
    }
}

/// Slots: size, 0, 1, 1.
fn sum(kind: Reduction) -> Plan {
    Plan {
        steps: vec![Step::Reduce(Reduce {
            sizes: Slot(0),
            outer: 0,
            inner: 1,
            body: Body {
                loads: vec![access(Buffer::Input(0), 1, 2)],
                instrs: vec![Instr::Load(0)],
            },
            value: ValueId(0),
            dtype: DType::F32,
            kind,
            epilogue: Body {
                loads: vec![],
                instrs: vec![Instr::Reduced { dtype: DType::F32 }],
            },
            stores: vec![Store {
                value: ValueId(0),
                access: access(Buffer::Output(0), 1, 2),
            }],
        })],
        inputs: vec![DType::F32],
        outputs: vec![(DType::F32, Slot(3))],
        slots: 4,
        operations: 1,
        ..Plan::default()
    }
}

/// Nanoseconds for one launch of `instances`.
fn time(backend: &mut CpuBackend, plan: &Arc<Plan>, params: &Arc<Params>, instances: usize) -> f64 {
    let operand = |buffer| Operand {
        buffer,
        offset: 0,
        constant: false,
    };
    let mut make = |bytes: u64| operand(backend.alloc(bytes).unwrap());
    let all: Vec<Instance> = (0..instances)
        .map(|_| Instance {
            params: params.clone(),
            immediates: vec![Scalar::from_f64(1.001, DType::F32); plan.immediates as usize],
            inputs: params.input_bytes().iter().map(|&b| make(b)).collect(),
            outputs: params.output_bytes().iter().map(|&b| make(b)).collect(),
        })
        .collect();
    let mut done = Vec::new();
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 20 || start.elapsed().as_millis() < 150 {
        let instances = all.clone();
        let begin = Instant::now();
        backend
            .launch(Launch {
                id: LaunchId(0),
                plan: plan.clone(),
                instances,
            })
            .unwrap();
        backend.wait(&mut done);
        times.push(begin.elapsed().as_nanos() as u64);
        black_box(&done).len();
        done.clear();
    }
    // The tenth of a hundred: what it costs while nobody else has the core.
    times.sort_unstable();
    let best = times[times.len() / 10] as f64;
    for operand in all.iter().flat_map(|i| i.inputs.iter().chain(&i.outputs)) {
        backend.free(operand.buffer);
    }
    best
}

fn main() {
    let config = CpuConfig {
        inline_ns_max: u64::MAX,
        ..CpuConfig::default()
    };
    let mut backend = CpuBackend::new(config).unwrap();
    println!("{}", backend.info().description);
    let plan = Arc::new(chain(64));
    for n in [1i64, 64, 1024, 16_384] {
        let params = Arc::new(Params::new(&plan, vec![n, 0, 1]).unwrap());
        let ns = time(&mut backend, &plan, &params, 1);
        println!(
            "chain of 64 f32 over {n}: {:.1} ns an operation, {ns:.0} ns a launch",
            ns / 64.0
        );
    }
    for (length, n) in [(1, 64i64), (4, 128), (16, 128), (64, 128)] {
        let plan = Arc::new(chain(length));
        let params = Arc::new(Params::new(&plan, vec![n, 0, 1]).unwrap());
        let one = time(&mut backend, &plan, &params, 1);
        let many = time(&mut backend, &plan, &params, 16);
        println!(
            "{length} operations over {n} f32: {one:.0} ns alone, {:.0} ns each of 16 instances",
            many / 16.0
        );
    }
    for kind in [Reduction::Sum, Reduction::Max] {
        let plan = Arc::new(sum(kind));
        for n in [1024i64, 1 << 20] {
            let params = Arc::new(Params::new(&plan, vec![n, 0, 1, 1]).unwrap());
            let ns = time(&mut backend, &plan, &params, 1);
            println!("{kind:?} of {n} f32: {:.2} us", ns / 1000.0);
        }
    }
    let start = Instant::now();
    for _ in 0..1_000_000 {
        let buffer = backend.alloc(black_box(4096)).unwrap();
        backend.free(buffer);
    }
    println!(
        "alloc and free of 4 KiB: {:.0} ns",
        start.elapsed().as_nanos() as f64 / 1e6
    );
}
