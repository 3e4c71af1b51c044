//! Compiles a `Body` for the tile machine, once for each plan.
//!
//! Each value that somebody needs gets a tile slot by liveness; immediates are scalars and need none (they
//! get one behind the others for the case that instances with different scalars share a tile). Instructions whose value
//! nobody needs are dropped. Knows no sizes and no addresses: those come with `bind`.

use tensord_plan::{Access, Body, Guard, Immediate, Instr, Plan, Slot, Store, ValueId};
use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise;

use super::affine::{Folds, Part};
use super::chain::{self, Link, RunFn};
use super::kernels::{self, IotaFn, Kernel, RandomFn, is_half, lane_size};
use crate::isa::Isa;
use crate::math;

/// Number of a value: the index of its instruction.
pub type Value = u16;

/// One operation of the tile machine; all but `Load` work on whole tiles.
#[derive(Clone, Debug)]
pub enum Op {
    /// `Program::loads[load]`, in place where it lies contiguous.
    Load { load: u16 },
    /// A vector function on up to three tiles or scalars.
    Apply {
        kernel: Kernel,
        args: [Value; 3],
        /// The function, if it may be part of a run.
        linked: Option<Elementwise>,
    },
    /// Functions that pass a value on in registers, to the operation's own value.
    Run(Run),
    /// Index along an axis, scaled.
    Iota {
        form: u16,
        make: IotaFn,
        start: Immediate,
        step: Immediate,
    },
    /// Random draws.
    Random {
        form: u16,
        make: RandomFn,
        key: Immediate,
    },
    /// `Program::masks[mask]` around a value.
    Mask {
        mask: u16,
        arg: Value,
        fill: Immediate,
    },
    /// Elements found by a tile of indices.
    Gather {
        load: u16,
        index: Value,
        extent: Slot,
        stride: Slot,
    },
    /// Comes from outside.
    Reduced,
}

/// Functions that pass a value on in registers.
#[derive(Clone, Debug)]
pub struct Run {
    /// Executes it.
    pub execute: RunFn,
    /// The value that it starts from.
    pub first: Value,
    /// Dtype of all its values.
    pub dtype: DType,
    /// The functions, in order.
    pub links: Box<[Link]>,
    /// The same, scalar arithmetic joined.
    pub parts: Box<[Part]>,
}

/// An operation and the value that it makes.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The value.
    pub value: Value,
    /// How it is made.
    pub op: Op,
}

/// An affine function of the iteration index, before its parameters are known.
#[derive(Clone, Debug)]
pub enum FormSource {
    /// Index along one axis.
    Axis(u8),
    /// Offset and strides from slots.
    Slots(Slot, Slot),
}

/// A body, ready for any sizes.
#[derive(Clone, Debug)]
pub struct Program {
    /// In order.
    pub ops: Vec<Placed>,
    /// What is loaded.
    pub loads: Vec<Access>,
    /// What is stored.
    pub stores: Vec<Store>,
    /// For each store: may the instruction that makes its value write straight to the output?
    pub direct: Vec<bool>,
    /// Affine functions of iotas and draws.
    pub forms: Vec<FormSource>,
    /// Conditions of masks.
    pub masks: Vec<Vec<Guard>>,
    /// Immediates that stand as values.
    pub scalars: Vec<(Value, Immediate)>,
    /// How many of them, at the end, stand in `folds` alone as long as a tile lies in one instance.
    pub folded: usize,
    /// Scalar arithmetic of the runs.
    pub folds: Folds,
    /// Dtype of each value.
    pub dtypes: Vec<DType>,
    /// Tile slot of each value.
    pub slots: Vec<u16>,
    /// Tile slots in all; the last ones belong to the immediates and to `staging`.
    pub slot_count: usize,
    /// Slot in which 16-bit floats wait for their conversion.
    pub staging: u16,
    /// Level of its vector functions.
    pub isa: Isa,
    /// Bytes of the widest element in a tile.
    pub width: usize,
}

impl Program {
    /// Compiles `body` for the values in `stores` and `wanted`.
    pub fn new(
        plan: &Plan,
        body: &Body,
        stores: &[Store],
        wanted: &[ValueId],
        isa: Isa,
    ) -> Program {
        let mut program = Program {
            loads: body.loads.clone(),
            stores: stores.to_vec(),
            dtypes: body.instrs.iter().map(|i| dtype_of(body, i)).collect(),
            slots: vec![0; body.instrs.len()],
            ops: Vec::new(),
            direct: Vec::new(),
            forms: Vec::new(),
            masks: Vec::new(),
            scalars: Vec::new(),
            folded: 0,
            folds: Folds::default(),
            slot_count: 0,
            staging: 0,
            width: 1,
            isa,
        };
        let kept: Vec<Value> = stores
            .iter()
            .map(|store| store.value)
            .chain(wanted.iter().copied())
            .map(|value| value.0 as Value)
            .collect();
        let needed = needed(body, &kept);
        for (index, instr) in body.instrs.iter().enumerate() {
            if needed[index] {
                program.translate(body, index as Value, instr, isa);
            }
        }
        program.form_runs(&kept);
        program.fold_scalars(&kept);
        program.direct = stores
            .iter()
            .map(|store| program.may_be_direct(plan, store))
            .collect();
        program.place(&kept);
        program
    }

    fn translate(&mut self, body: &Body, value: Value, instr: &Instr, isa: Isa) {
        let op = match instr {
            Instr::Load(load) => Op::Load { load: *load as u16 },
            Instr::Immediate { slot, .. } => {
                self.scalars.push((value, *slot));
                return;
            }
            Instr::Iota {
                axis,
                dtype,
                start,
                step,
            } => Op::Iota {
                form: self.form(FormSource::Axis(*axis)),
                make: math::iota(*dtype).expect("inference refuses iota of bool"),
                start: *start,
                step: *step,
            },
            Instr::Random {
                dtype,
                distribution,
                key,
                offset,
                strides,
            } => Op::Random {
                form: self.form(FormSource::Slots(*offset, *strides)),
                make: math::random(isa, *distribution, *dtype)
                    .expect("inference refuses draws of other dtypes"),
                key: *key,
            },
            Instr::Apply {
                function,
                dtype,
                args,
            } => Op::Apply {
                kernel: kernels::apply(isa, *function, *dtype),
                args: args.map(|arg| arg.0 as Value),
                linked: matches!(dtype, DType::F32 | DType::F64).then_some(*function),
            },
            Instr::Cast { from, to, arg } => Op::Apply {
                kernel: math::cast(isa, *from, *to),
                args: [arg.0 as Value; 3],
                linked: None,
            },
            Instr::Mask {
                arg, guards, fill, ..
            } => {
                self.masks.push(guards.clone());
                Op::Mask {
                    mask: self.masks.len() as u16 - 1,
                    arg: arg.0 as Value,
                    fill: *fill,
                }
            }
            Instr::Gather {
                load,
                index,
                extent,
                stride,
            } => Op::Gather {
                load: *load as u16,
                index: index.0 as Value,
                extent: *extent,
                stride: *stride,
            },
            Instr::Reduced { .. } => Op::Reduced,
        };
        debug_assert!(usize::from(value) < body.instrs.len());
        self.ops.push(Placed { value, op });
    }

    /// Joins functions that pass a value on into runs. Loads between them move before the run: they depend on nothing.
    fn form_runs(&mut self, kept: &[Value]) {
        let mut uses = vec![0u32; self.dtypes.len()];
        let read = self.ops.iter().flat_map(|placed| operands(&placed.op));
        for value in read.chain(kept.iter().copied()) {
            uses[usize::from(value)] += 1;
        }
        let functions = chain::functions(self.isa);
        let mut old = std::mem::take(&mut self.ops).into_iter().peekable();
        while let Some(placed) = old.next() {
            let Some((first, link)) = self.start(&placed) else {
                self.ops.push(placed);
                continue;
            };
            let mut links = vec![link];
            let mut hoisted = Vec::new();
            while let Some(next) = old.peek() {
                if matches!(next.op, Op::Load { .. }) {
                    hoisted.extend(old.next());
                    continue;
                }
                let before = links[links.len() - 1].value;
                let Some(link) = follow(next, before) else {
                    break;
                };
                let all = operands(&next.op);
                let reads = all.iter().filter(|&&arg| arg == before).count() as u32;
                let last = links.len() - 1;
                links[last].kept = uses[usize::from(before)] > reads;
                links.push(link);
                old.next();
            }
            let value = links[links.len() - 1].value;
            let dtype = self.dtypes[usize::from(value)];
            let execute = match dtype {
                DType::F64 => functions[1],
                _ => functions[0],
            };
            self.ops.extend(hoisted);
            let run = Run {
                execute,
                first,
                dtype,
                links: links.into(),
                parts: Box::default(),
            };
            let op = Op::Run(run);
            self.ops.push(Placed { value, op });
        }
    }

    /// Joins the scalar arithmetic of each run, and puts the immediates that nobody else reads behind the others.
    fn fold_scalars(&mut self, kept: &[Value]) {
        let mut immediates: Vec<Option<u32>> = vec![None; self.dtypes.len()];
        for (value, immediate) in &self.scalars {
            immediates[usize::from(*value)] = Some(immediate.0);
        }
        let mut read = vec![false; self.dtypes.len()];
        for &value in kept {
            read[usize::from(value)] = true;
        }
        for placed in &mut self.ops {
            let Op::Run(run) = &mut placed.op else {
                for arg in operands(&placed.op) {
                    read[usize::from(arg)] = true;
                }
                continue;
            };
            run.parts = self.folds.join(run.dtype, &run.links, |value| {
                immediates[usize::from(value)]
            });
            read[usize::from(run.first)] = true;
            for part in &run.parts {
                if let Part::Link(index) = part {
                    for other in run.links[usize::from(*index)].others {
                        read[usize::from(other)] = true;
                    }
                }
            }
        }
        self.scalars
            .sort_by_key(|&(value, _)| !read[usize::from(value)]);
        self.folded = self
            .scalars
            .iter()
            .filter(|&&(value, _)| !read[usize::from(value)])
            .count();
    }

    /// The operation as the first one of a run, with the value that it starts from: a tile rather than a scalar.
    fn start(&self, placed: &Placed) -> Option<(Value, Link)> {
        let args = operands(&placed.op);
        let is_scalar = |value: Value| self.scalars.iter().any(|&(v, _)| v == value);
        let tile = args.iter().copied().find(|&arg| !is_scalar(arg));
        let from = |first: Value| Some((first, follow(placed, first)?));
        tile.and_then(from).or_else(|| from(*args.first()?))
    }

    /// Is it one run over what is loaded, written straight to its only result? Then, if all of that lies contiguous, no value needs
    /// a slot, whatever the length of a tile.
    pub fn is_one_run(&self) -> bool {
        let runs = self.ops.iter().filter_map(|placed| match &placed.op {
            Op::Run(run) => Some(run),
            _ => None,
        });
        let others = self.ops.iter().filter(|placed| match placed.op {
            Op::Load { .. } | Op::Run(_) => is_half(self.dtypes[usize::from(placed.value)]),
            _ => true,
        });
        let last = self.ops.last().map(|placed| u32::from(placed.value));
        others.count() == 0
            && runs.clone().count() == 1
            && runs.flat_map(|run| run.links.iter()).all(|link| !link.kept)
            && self.direct[..] == [true]
            && self.stores.iter().all(|store| Some(store.value.0) == last)
    }

    /// Is it nothing but a load of the value, whose tile has the elements as they are in memory?
    pub fn only_loads(&self, value: Value) -> bool {
        let dtype = self.dtypes.get(usize::from(value));
        let [placed] = &self.ops[..] else {
            return false;
        };
        placed.value == value
            && matches!(placed.op, Op::Load { load: 0 })
            && dtype.is_some_and(|&dtype| !is_half(dtype))
    }

    fn form(&mut self, source: FormSource) -> u16 {
        self.forms.push(source);
        self.forms.len() as u16 - 1
    }

    /// A result may be written while the tile is under way unless it lies on a donated input that a later instruction
    /// still reads in place.
    fn may_be_direct(&self, plan: &Plan, store: &Store) -> bool {
        use tensord_plan::Buffer;
        let Buffer::Output(output) = store.access.buffer else {
            return true;
        };
        let value = store.value.0 as Value;
        let made = self.ops.iter().position(|placed| placed.value == value);
        let donated = |load: u16| {
            let buffer = self.loads[usize::from(load)].buffer;
            plan.donations
                .iter()
                .any(|&(input, to)| to == output && buffer == Buffer::Input(input))
        };
        let reads_donated = |value: Value| {
            self.ops.iter().any(|placed| {
                placed.value == value && matches!(placed.op, Op::Load { load } if donated(load))
            })
        };
        let Some(made) = made else { return false };
        let later_op = self.ops[made + 1..].iter().any(|placed| match placed.op {
            Op::Load { load } | Op::Gather { load, .. } => donated(load),
            _ => operands(&placed.op).iter().any(|&arg| reads_donated(arg)),
        });
        let later_store = self
            .stores
            .iter()
            .any(|other| reads_donated(other.value.0 as Value));
        !later_op && !later_store
    }

    /// Gives slots by liveness. A result may take the slot of an operand of its own width that ends there: vector
    /// functions read an element before they write it.
    fn place(&mut self, kept: &[Value]) {
        let mut last = vec![0usize; self.dtypes.len()];
        for (at, placed) in self.ops.iter().enumerate() {
            for arg in operands(&placed.op) {
                last[usize::from(arg)] = at;
            }
        }
        for &value in kept {
            last[usize::from(value)] = usize::MAX;
        }
        let mut free = FreeSlots::default();
        let is_scalar = |value: Value| self.scalars.iter().any(|&(v, _)| v == value);
        let is_load = |value: Value| {
            let made = self.ops.iter().find(|placed| placed.value == value);
            made.is_some_and(|placed| matches!(placed.op, Op::Load { .. }))
        };
        for (at, placed) in self.ops.iter().enumerate() {
            let size = lane_size(self.dtypes[usize::from(placed.value)]);
            // Values kept in the middle of a run are written while its operands are still read: slots of their own.
            if let Op::Run(run) = &placed.op {
                for link in run.links.iter().filter(|link| link.kept) {
                    self.slots[usize::from(link.value)] = free.take();
                }
            }
            let mut ending: Vec<Value> = operands(&placed.op)
                .into_iter()
                .filter(|&arg| last[usize::from(arg)] == at && !is_scalar(arg))
                .collect();
            ending.sort_unstable();
            ending.dedup();
            let in_place = matches!(placed.op, Op::Apply { .. } | Op::Run(_) | Op::Mask { .. });
            // A load may turn out to be one element for all, written out some elements at a time: its slot is read again
            // after the first of the result were written.
            let (early, late): (Vec<Value>, Vec<Value>) = ending.into_iter().partition(|&arg| {
                let fits = lane_size(self.dtypes[usize::from(arg)]) == size;
                in_place && fits && !is_load(arg)
            });
            let slots = |args: &[Value]| -> Vec<u16> {
                args.iter()
                    .map(|&arg| self.slots[usize::from(arg)])
                    .collect()
            };
            let (early, late) = (slots(&early), slots(&late));
            free.again.extend(early);
            self.slots[usize::from(placed.value)] = free.take();
            free.again.extend(late);
        }
        let mut count = free.count;
        for &(value, _) in &self.scalars {
            self.slots[usize::from(value)] = count;
            count += 1;
        }
        self.width = self.dtypes.iter().map(|&d| lane_size(d)).max().unwrap_or(1);
        // One more for 16-bit floats on their way between memory and tile.
        self.staging = count;
        self.slot_count = usize::from(count) + 1;
    }
}

/// Tile slots while they are given out.
#[derive(Default)]
struct FreeSlots {
    /// Given back.
    again: Vec<u16>,
    /// Given out at least once.
    count: u16,
}

impl FreeSlots {
    fn take(&mut self) -> u16 {
        self.again.pop().unwrap_or_else(|| {
            self.count += 1;
            self.count - 1
        })
    }
}

/// The operation as the next one of a run whose last value is `before`.
fn follow(placed: &Placed, before: Value) -> Option<Link> {
    let Op::Apply {
        args,
        linked: Some(function),
        ..
    } = placed.op
    else {
        return None;
    };
    let (code, others) = chain::link(function, args, before)?;
    Some(Link {
        code,
        others,
        value: placed.value,
        kept: false,
    })
}

/// The values that an operation reads.
pub fn operands(op: &Op) -> Vec<Value> {
    match op {
        Op::Apply { args, .. } => args.to_vec(),
        Op::Run(run) => {
            let made: Vec<Value> = run.links.iter().map(|link| link.value).collect();
            let others = run.links.iter().flat_map(|link| link.others);
            let all = std::iter::once(run.first).chain(others);
            all.filter(|value| !made.contains(value)).collect()
        }
        Op::Mask { arg, .. } => vec![*arg],
        Op::Gather { index, .. } => vec![*index],
        Op::Load { .. } | Op::Iota { .. } | Op::Random { .. } | Op::Reduced => Vec::new(),
    }
}

fn dtype_of(body: &Body, instr: &Instr) -> DType {
    match instr {
        Instr::Load(load) | Instr::Gather { load, .. } => body.loads[*load as usize].dtype,
        Instr::Immediate { dtype, .. }
        | Instr::Iota { dtype, .. }
        | Instr::Random { dtype, .. }
        | Instr::Mask { dtype, .. }
        | Instr::Reduced { dtype } => *dtype,
        Instr::Apply {
            function, dtype, ..
        } => function.result(*dtype),
        Instr::Cast { to, .. } => *to,
    }
}

/// Which values the kept ones depend on.
fn needed(body: &Body, kept: &[Value]) -> Vec<bool> {
    let mut needed = vec![false; body.instrs.len()];
    for &value in kept {
        needed[usize::from(value)] = true;
    }
    for index in (0..body.instrs.len()).rev() {
        if !needed[index] {
            continue;
        }
        match &body.instrs[index] {
            Instr::Apply { args, .. } => args.iter().for_each(|arg| needed[arg.0 as usize] = true),
            Instr::Cast { arg, .. } | Instr::Mask { arg, .. } => needed[arg.0 as usize] = true,
            Instr::Gather { index, .. } => needed[index.0 as usize] = true,
            _ => {}
        }
    }
    needed
}
