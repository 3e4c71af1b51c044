//! Chains of arithmetic on numbers at the edges of their type: each operation is rounded for itself, and neither its place in a
//! chain, nor the length of a tile, nor the company of other instances changes a bit.

use std::sync::Arc;

use tensord_cpu::{CpuBackend, CpuConfig, Isa};
use tensord_plan::{
    Access, Backend, Body, Buffer, Immediate, Instance, Instr, Launch, LaunchId, Map, Operand,
    Params, Plan, Slot, Step, Store, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::Elementwise::{self, *};

/// Operands that find what is not exact: of either sign, tiny, huge, not numbers.
const SPECIAL: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    -0.1,
    3.0e-39,
    -1.0e-45,
    1.0e38,
    -3.0e38,
    1.0e-30,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    7.0,
    0.333,
];

/// An operation of a chain: what, whether the chain's value is its second operand, and whether the other one is a scalar.
#[derive(Clone, Copy, Debug)]
struct Link {
    function: Elementwise,
    turned: bool,
    scalar: bool,
}

struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn links(&mut self) -> Vec<Link> {
        let length = 1 + self.below(40);
        (0..length)
            .map(|_| Link {
                function: [Add, Sub, Mul, Add, Sub, Mul, Div, Maximum, Minimum]
                    [self.below(9) as usize],
                turned: self.below(3) == 0,
                scalar: self.below(4) > 0,
            })
            .collect()
    }

    fn number(&mut self) -> f64 {
        match self.below(3) {
            0 => SPECIAL[self.below(16) as usize],
            _ => self.below(4000) as f64 / 1000.0 - 2.0,
        }
    }
}

/// Slots: size, 0, 1. The result of every operation `every` is stored as well.
fn plan(dtype: DType, links: &[Link], every: usize) -> Plan {
    let access = |buffer| Access {
        buffer,
        dtype,
        offset: Slot(1),
        strides: Slot(2),
        padded: vec![],
        fill: None,
    };
    let mut instrs = vec![Instr::Load(0), Instr::Load(1)];
    let mut stores = Vec::new();
    let mut last = ValueId(0);
    for (k, link) in links.iter().enumerate() {
        let mut other = ValueId(1);
        if link.scalar {
            let slot = Immediate(k as u32);
            instrs.push(Instr::Immediate { slot, dtype });
            other = ValueId(instrs.len() as u32 - 1);
        }
        let (a, b) = if link.turned {
            (other, last)
        } else {
            (last, other)
        };
        instrs.push(Instr::Apply {
            function: link.function,
            dtype,
            args: [a, b, a],
        });
        last = ValueId(instrs.len() as u32 - 1);
        if (k + 1) % every == 0 || k + 1 == links.len() {
            stores.push(Store {
                value: last,
                access: access(Buffer::Output(stores.len() as u32)),
            });
        }
    }
    Plan {
        outputs: vec![(dtype, Slot(0)); stores.len()],
        steps: vec![Step::Map(Map {
            sizes: Slot(0),
            rank: 1,
            body: Body {
                loads: vec![access(Buffer::Input(0)), access(Buffer::Input(1))],
                instrs,
            },
            stores,
        })],
        inputs: vec![dtype; 2],
        slots: 3,
        immediates: links.len() as u32,
        operations: links.len() as u32,
        ..Plan::default()
    }
}

trait Float: Copy + PartialEq + std::fmt::Debug {
    const DTYPE: DType;
    fn of(x: f64) -> Self;
    fn apply(function: Elementwise, a: Self, b: Self) -> Self;
    fn bits(self) -> u64;
    fn from_bytes(bytes: &[u8]) -> Self;
    fn nan(self) -> bool;
}

macro_rules! float {
    ($float:ident, $dtype:ident) => {
        impl Float for $float {
            const DTYPE: DType = DType::$dtype;
            fn of(x: f64) -> $float {
                x as $float
            }
            fn apply(function: Elementwise, a: $float, b: $float) -> $float {
                let zeros = a == 0.0 && b == 0.0;
                match function {
                    Add => a + b,
                    Sub => a - b,
                    Mul => a * b,
                    Div => a / b,
                    _ if a.is_nan() || b.is_nan() => $float::NAN,
                    Maximum if zeros => $float::from_bits(a.to_bits() & b.to_bits()),
                    Minimum if zeros => $float::from_bits(a.to_bits() | b.to_bits()),
                    Maximum => a.max(b),
                    _ => a.min(b),
                }
            }
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
            fn from_bytes(bytes: &[u8]) -> $float {
                $float::from_le_bytes(bytes.try_into().expect("one element"))
            }
            fn nan(self) -> bool {
                self.is_nan()
            }
        }
    };
}

float!(f32, F32);
float!(f64, F64);

/// Operands of one instance, and what each operation gives.
struct Values<T> {
    inputs: [Vec<T>; 2],
    scalars: Vec<T>,
    results: Vec<Vec<T>>,
}

fn values<T: Float>(draws: &mut Draws, links: &[Link], size: usize) -> Values<T> {
    let mut draw = |count| (0..count).map(|_| T::of(draws.number())).collect();
    let inputs: [Vec<T>; 2] = [draw(size), draw(size)];
    let scalars: Vec<T> = draw(links.len());
    let mut last = inputs[0].clone();
    let mut results = Vec::new();
    for (link, &scalar) in links.iter().zip(&scalars) {
        for (v, &tensor) in last.iter_mut().zip(&inputs[1]) {
            let other = if link.scalar { scalar } else { tensor };
            let (a, b) = if link.turned {
                (other, *v)
            } else {
                (*v, other)
            };
            *v = T::apply(link.function, a, b);
        }
        results.push(last.clone());
    }
    Values {
        inputs,
        scalars,
        results,
    }
}

fn bytes<T: Float>(values: &[T]) -> Vec<u8> {
    let size = T::DTYPE.size();
    let each = values.iter();
    each.flat_map(|value| value.bits().to_le_bytes().into_iter().take(size))
        .collect()
}

fn check<T: Float>(backend: &mut CpuBackend, draws: &mut Draws, size: usize, count: usize) {
    let links = draws.links();
    let every = [5, 1000][draws.below(2) as usize];
    let plan = Arc::new(plan(T::DTYPE, &links, every));
    let params = Arc::new(Params::new(&plan, vec![size as i64, 0, 1]).unwrap());
    let all: Vec<Values<T>> = (0..count).map(|_| values(draws, &links, size)).collect();
    let room = (size * T::DTYPE.size()) as u64;
    let mut make = |content: Option<&[T]>| {
        let buffer = backend.alloc(room).unwrap();
        if let Some(content) = content {
            let content = bytes(content);
            let fill = &mut |at: u64, to: &mut [u8]| {
                to.copy_from_slice(&content[at as usize..at as usize + to.len()]);
            };
            backend.write(buffer, 0, room, fill).unwrap();
        }
        Operand {
            buffer,
            offset: 0,
            constant: false,
        }
    };
    let instances: Vec<Instance> = all
        .iter()
        .map(|values| Instance {
            params: params.clone(),
            immediates: values.scalars.iter().map(|s| Scalar(s.bits())).collect(),
            inputs: values.inputs.iter().map(|x| make(Some(x))).collect(),
            outputs: plan.outputs.iter().map(|_| make(None)).collect(),
        })
        .collect();
    let launch = Launch {
        id: LaunchId(1),
        plan: plan.clone(),
        instances: instances.clone(),
    };
    backend.launch(launch, u64::MAX).unwrap();
    let mut done = Vec::new();
    backend.wait(&mut done);
    assert!(done[0].fault.is_none(), "{done:?}");
    for (instance, values) in instances.iter().zip(&all) {
        for (k, output) in instance.outputs.iter().enumerate() {
            let operation = ((k + 1) * every).min(links.len()) - 1;
            let mut have = Vec::new();
            let take = &mut |_, bytes: &[u8]| have.extend_from_slice(bytes);
            backend.read(output.buffer, 0, room, take).unwrap();
            let have = have.chunks_exact(T::DTYPE.size()).map(T::from_bytes);
            for (at, (have, &want)) in have.zip(&values.results[operation]).enumerate() {
                assert!(
                    have.bits() == want.bits() || have.nan() && want.nan(),
                    "element {at} of {size}, operation {operation} of {links:?} with {:?}: {have:?}, not {want:?}",
                    values.scalars,
                );
            }
        }
    }
    let operands = instances
        .iter()
        .flat_map(|i| i.inputs.iter().chain(&i.outputs));
    for operand in operands {
        backend.free(operand.buffer);
    }
}

#[test]
fn each_operation_of_a_chain_is_rounded_for_itself() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for threads in [1, 3] {
            let mut backend = CpuBackend::new(CpuConfig {
                isa: Some(isa),
                threads,
                inline_ns_max: Some(if threads == 1 { u64::MAX } else { 0 }),
                ..CpuConfig::default()
            })
            .unwrap();
            let mut draws = Draws(0x9e37_79b9_7f4a_7c15 + threads as u64);
            for size in [
                1, 15, 16, 17, 31, 64, 96, 100, 128, 512, 1000, 1024, 5000, 40_000,
            ] {
                for _ in 0..if size > 2000 { 2 } else { 12 } {
                    let count = if size > 2000 {
                        1
                    } else {
                        1 + draws.below(4) as usize
                    };
                    check::<f32>(&mut backend, &mut draws, size, count);
                    check::<f64>(&mut backend, &mut draws, size, count);
                }
            }
        }
    }
}
