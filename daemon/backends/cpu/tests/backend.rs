//! The backend as a device: what it refuses, what it keeps in order, what donation does.

use std::sync::Arc;

use tensord_cpu::{CpuBackend, CpuConfig};
use tensord_plan::{
    Access, Backend, Body, Buffer, BufferId, DeviceFault, Immediate, Instance, Instr, Launch,
    LaunchId, Map, Operand, Params, Plan, SealedMemory, Slot, Step, Store, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::Elementwise;

/// `y = (x * i0 + x) * i0`, with the output donated; one axis, slots: size, 0, 1.
fn plan() -> Arc<Plan> {
    let access = |buffer| Access {
        buffer,
        dtype: DType::F32,
        offset: Slot(1),
        strides: Slot(2),
        padded: vec![],
        fill: None,
    };
    let apply = |function, a, b| Instr::Apply {
        function,
        dtype: DType::F32,
        args: [ValueId(a), ValueId(b), ValueId(a)],
    };
    Arc::new(Plan {
        steps: vec![Step::Map(Map {
            sizes: Slot(0),
            rank: 1,
            body: Body {
                loads: vec![access(Buffer::Input(0))],
                instrs: vec![
                    Instr::Load(0),
                    Instr::Immediate {
                        slot: Immediate(0),
                        dtype: DType::F32,
                    },
                    apply(Elementwise::Mul, 0, 1),
                    apply(Elementwise::Add, 2, 0),
                    apply(Elementwise::Mul, 3, 1),
                ],
            },
            stores: vec![Store {
                value: ValueId(4),
                access: access(Buffer::Output(0)),
            }],
        })],
        inputs: vec![DType::F32],
        outputs: vec![(DType::F32, Slot(0))],
        slots: 3,
        immediates: 1,
        donations: vec![(0, 0)],
        operations: 3,
        ..Plan::default()
    })
}

fn operand(buffer: BufferId, offset: u64) -> Operand {
    Operand {
        buffer,
        offset,
        constant: false,
    }
}

fn instance(plan: &Plan, n: i64, input: Operand, output: Operand) -> Instance {
    Instance {
        params: Arc::new(Params::new(plan, vec![n, 0, 1]).unwrap()),
        immediates: vec![Scalar::from_f64(2.0, DType::F32)],
        inputs: vec![input],
        outputs: vec![output],
    }
}

fn filled(backend: &mut CpuBackend, n: u64, value: f32) -> BufferId {
    let buffer = backend.alloc(n * 4).unwrap();
    backend
        .write(buffer, 0, n * 4, &mut |_, to| {
            to.chunks_mut(4)
                .for_each(|to| to.copy_from_slice(&value.to_le_bytes()));
        })
        .unwrap();
    buffer
}

fn floats(backend: &mut CpuBackend, buffer: BufferId, n: u64) -> Vec<f32> {
    let mut bytes = Vec::new();
    let mut take = |_: u64, piece: &[u8]| bytes.extend_from_slice(piece);
    backend.read(buffer, 0, n * 4, &mut take).unwrap();
    bytes
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn config(inline_ns_max: u64) -> CpuConfig {
    CpuConfig {
        threads: 2,
        inline_ns_max: Some(inline_ns_max),
        memory_bytes: 64 << 20,
        ..CpuConfig::default()
    }
}

#[test]
fn a_launch_stops_after_its_slice_and_goes_on_where_it_stopped() {
    for inline_ns_max in [u64::MAX, 0] {
        let mut backend = CpuBackend::new(config(inline_ns_max)).unwrap();
        let plan = plan();
        let n = 1 << 18;
        let (long, short) = (filled(&mut backend, n, 1.0), filled(&mut backend, 64, 1.0));
        let mut launch = |id, buffer, n: u64| {
            let instances = vec![instance(
                &plan,
                n as i64,
                operand(buffer, 0),
                operand(buffer, 0),
            )];
            let plan = plan.clone();
            backend
                .launch(
                    Launch {
                        id: LaunchId(id),
                        plan,
                        instances,
                    },
                    0,
                )
                .unwrap();
        };
        launch(1, long, n);
        launch(2, short, 64);
        let (mut over, mut slices) = (Vec::new(), 0);
        while over.len() < 2 {
            let mut done = Vec::new();
            backend.wait(&mut done);
            for ran in done {
                assert_eq!(ran.fault, None);
                match ran.over {
                    true => over.push(ran.id.0),
                    false => {
                        slices += 1;
                        backend.resume(ran.id, 0);
                    }
                }
            }
        }
        assert_eq!(over, [2, 1], "the short one is over first");
        assert!(slices > 10, "{slices}");
        // Donated: a part that ran twice would show.
        assert!(floats(&mut backend, long, n).iter().all(|&x| x == 6.0));
        assert_eq!(floats(&mut backend, short, 64), [6.0; 64]);
    }
}

struct Sealed(Vec<u128>);

impl SealedMemory for Sealed {
    fn bytes(&self) -> &[u8] {
        // SAFETY: 64 bytes from an address inside the vector, which has 128.
        unsafe {
            let start = self.0.as_ptr().cast::<u8>();
            std::slice::from_raw_parts(start.add(start.align_offset(64)), 64)
        }
    }
}

#[test]
fn sealed_memory_is_read_in_place_and_never_written() {
    let mut backend = CpuBackend::new(config(u64::MAX)).unwrap();
    let plan = plan();
    let one = u128::from(1f32.to_bits()) * 0x1_0000_0001_0000_0001_0000_0001;
    let sealed = backend.adopt(Arc::new(Sealed(vec![one; 8]))).unwrap();
    let output = filled(&mut backend, 16, 0.0);
    let instances = vec![instance(&plan, 16, operand(sealed, 0), operand(output, 0))];
    backend
        .launch(
            Launch {
                id: LaunchId(0),
                plan: plan.clone(),
                instances,
            },
            u64::MAX,
        )
        .unwrap();
    assert_eq!(floats(&mut backend, output, 16), [6.0; 16]);
    let instances = vec![instance(&plan, 16, operand(output, 0), operand(sealed, 0))];
    let refused = backend.launch(
        Launch {
            id: LaunchId(1),
            plan,
            instances,
        },
        u64::MAX,
    );
    assert!(matches!(refused, Err(DeviceFault::Invalid(_))));
    assert!(backend.zero(sealed, 0, 1).is_err());
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_touched() {
    let mut backend = CpuBackend::new(config(u64::MAX)).unwrap();
    let plan = plan();
    let (input, output) = (filled(&mut backend, 64, 1.0), filled(&mut backend, 64, 7.0));
    let good = instance(&plan, 32, operand(input, 0), operand(output, 0));
    let mut undonated = (*plan).clone();
    undonated.donations.clear();
    let bad: Vec<(Arc<Plan>, Instance)> = vec![
        (
            plan.clone(),
            instance(&plan, 65, operand(input, 0), operand(output, 0)),
        ),
        (
            plan.clone(),
            instance(&plan, 64, operand(input, 64), operand(output, 0)),
        ),
        (
            plan.clone(),
            instance(&plan, 1, operand(input, 4), operand(output, 0)),
        ),
        (
            plan.clone(),
            instance(&plan, 1, operand(input, u64::MAX - 63), operand(output, 0)),
        ),
        (
            plan.clone(),
            instance(&plan, 1, operand(BufferId(99), 0), operand(output, 0)),
        ),
        (
            plan.clone(),
            Instance {
                immediates: vec![],
                ..good.clone()
            },
        ),
        (
            plan.clone(),
            Instance {
                inputs: vec![],
                ..good.clone()
            },
        ),
        (
            Arc::new(undonated),
            instance(&plan, 32, operand(output, 0), operand(output, 64)),
        ),
    ];
    for (k, (plan, instance)) in bad.into_iter().enumerate() {
        let instances = vec![good.clone(), instance];
        let refused = backend.launch(
            Launch {
                id: LaunchId(k as u64),
                plan,
                instances,
            },
            u64::MAX,
        );
        assert!(
            matches!(refused, Err(DeviceFault::Invalid(_))),
            "case {k}: {refused:?}"
        );
    }
    let mut done = Vec::new();
    backend.wait(&mut done);
    assert!(done.is_empty());
    assert_eq!(floats(&mut backend, output, 64), [7.0; 64]);
    assert!(matches!(
        backend.alloc(1 << 40),
        Err(DeviceFault::OutOfMemory { .. })
    ));
}
