//! What a plan is made of.
//!
//! A plan is a list of steps, run in order for each instance. A step is one loop nest: a [`Map`] over an iteration
//! space, a [`Reduce`] of one with what feeds it and what follows it, a [`Contract`] with prologues and an epilogue,
//! a scan or a scatter. Inside a step values live in registers; between steps they live in temporaries, which
//! belong to the launch and are never tensors.
//!
//! # Invariants
//! - `Body::instrs` is in SSA form: instruction `i` defines value `i` and reads only lower values.
//! - A step reads inputs and temporaries written by earlier steps; it never reads what it writes.
//! - An output is written completely by the steps together, each element once.

use tensord_shm::dtype::DType;
use tensord_shm::op::{Distribution, Elementwise, Reduction, Scan, ScatterMode};

/// Index into an instance's parameters: a size, stride, offset or extent, each an i64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// The slot `k` behind this one: runs of slots stand for lists.
    pub const fn plus(self, k: usize) -> Slot {
        Slot(self.0 + k as u32)
    }
}

/// Index into an instance's immediates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Immediate(pub u32);

/// A value of a [`Body`]: the index of the instruction that defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Memory that a step reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Buffer {
    /// A tensor's buffer, `Instance::inputs[k]`.
    Input(u32),
    /// A result's buffer, `Instance::outputs[k]`.
    Output(u32),
    /// A temporary of the launch, `Plan::temps[k]`, one for each instance.
    Temp(u32),
}

/// A condition on the iteration index: `0 <= offset + sum(coefficients[k] * index[k]) < extent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Guard {
    /// Slot of the offset.
    pub offset: Slot,
    /// First of a run of slots, one for each axis of the iteration space.
    pub coefficients: Slot,
    /// Slot of the extent.
    pub extent: Slot,
}

/// An axis of the source that padding was put around: where the guard holds, its coordinate (the guarded sum) times
/// `stride` adds to the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PaddedAxis {
    /// The coordinate along the axis, and its extent.
    pub guard: Guard,
    /// Slot: the axis's stride in elements.
    pub stride: Slot,
}

/// How a step addresses a buffer: element `offset + sum(strides[k] * index[k]) + sum(padded coordinates * their strides)`.
/// [`crate::Params::address`] adds the padded axes in, so that a backend sees one offset and one list of strides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The buffer.
    pub buffer: Buffer,
    /// Dtype of its elements.
    pub dtype: DType,
    /// Slot of the offset in elements.
    pub offset: Slot,
    /// First of a run of slots: strides in elements, one for each axis of the iteration space.
    pub strides: Slot,
    /// Their guards must all hold for the element to be there. Empty for stores.
    pub padded: Vec<PaddedAxis>,
    /// What a load gives where a guard does not hold. Present exactly if `padded` is not empty.
    pub fill: Option<Immediate>,
}

/// One instruction. Values have a dtype; f16 and bf16 values are rounded to their dtype after each instruction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Instr {
    /// `loads[k]`, of the access's dtype.
    Load(u32),
    /// A scalar of the instance.
    Immediate {
        /// Which.
        slot: Immediate,
        /// Its dtype.
        dtype: DType,
    },
    /// `start + step * index[axis]`, as `Op::Iota` defines it.
    Iota {
        /// Axis of the iteration space.
        axis: u8,
        /// Dtype of the result.
        dtype: DType,
        /// Immediate `start`.
        start: Immediate,
        /// Immediate `step`.
        step: Immediate,
    },
    /// A draw of Philox 4x32-10 whose counter is the row-major position `offset + sum(strides[k] * index[k])`.
    Random {
        /// Dtype of the result.
        dtype: DType,
        /// What to draw.
        distribution: Distribution,
        /// The 64-bit key.
        key: Immediate,
        /// Slot of the position's offset.
        offset: Slot,
        /// First of a run of slots: the position's strides.
        strides: Slot,
    },
    /// An elementwise function on operands of `dtype` (the values' own dtype; for `Select`, of the last two).
    Apply {
        /// The function.
        function: Elementwise,
        /// Dtype of its operands.
        dtype: DType,
        /// Operands; entries beyond the arity repeat the first.
        args: [ValueId; 3],
    },
    /// Conversion.
    Cast {
        /// From.
        from: DType,
        /// To.
        to: DType,
        /// Operand.
        arg: ValueId,
    },
    /// `arg` where all guards hold, else `fill`: padding of a computed value.
    Mask {
        /// Dtype of value and fill.
        dtype: DType,
        /// Operand.
        arg: ValueId,
        /// The conditions.
        guards: Vec<Guard>,
        /// Elsewhere.
        fill: Immediate,
    },
    /// `buffer[base address + index * stride]`, where `index` (i64, negative from the end) is in `0..extent`, else 0. The base
    /// address is that of `loads[load]`, which is itself never loaded.
    Gather {
        /// The access whose element 0 along the gathered axis is the base.
        load: u32,
        /// The i64 index.
        index: ValueId,
        /// Slot: size of the gathered axis.
        extent: Slot,
        /// Slot: stride of the gathered axis in elements.
        stride: Slot,
    },
    /// What the step's reduction or contraction made (first instruction of an epilogue), of this dtype.
    Reduced {
        /// Dtype of the result.
        dtype: DType,
    },
}

/// Straight-line code over one iteration space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Body {
    /// What it reads. Access `k` is loaded by `Instr::Load(k)`.
    pub loads: Vec<Access>,
    /// The code.
    pub instrs: Vec<Instr>,
}

/// A value written to memory. The access has no guards and no two indices share an element, except along axes
/// where the stride is 0 because their size is 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// What.
    pub value: ValueId,
    /// Where; its dtype is the value's.
    pub access: Access,
}

/// Elementwise work over one iteration space, of any rank up to 24 (views can split axes).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// First of a run of `rank` slots: sizes of the iteration space, outermost first.
    pub sizes: Slot,
    /// Number of axes.
    pub rank: u8,
    /// The code.
    pub body: Body,
    /// Results, at least one.
    pub stores: Vec<Store>,
}

/// A reduction with what feeds it and what follows it.
///
/// The iteration space of `body` is `outer` axes, then `inner` axes; the inner ones, flattened in row-major order, are the n
/// elements of one reduction. The epilogue's space is the outer axes alone.
///
/// # Order
/// Position p of the n elements goes to lane `p % 16` of block `p / 1024`. In a block a lane combines its elements in
/// ascending order, starting from its first; lanes without an element are left out. Lanes combine as l with l+8, then
/// l+4, l+2, l+1. Blocks combine as a balanced tree: adjacent pairs, again and again, an odd last one carried up.
/// The accumulator has the dtype's accumulator dtype, and the result is rounded once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// First of a run of slots: sizes, outer axes then inner axes.
    pub sizes: Slot,
    /// Number of outer axes.
    pub outer: u8,
    /// Number of inner axes.
    pub inner: u8,
    /// What feeds it.
    pub body: Body,
    /// The value reduced.
    pub value: ValueId,
    /// Its dtype.
    pub dtype: DType,
    /// How.
    pub kind: Reduction,
    /// What follows, over the outer axes; instruction 0 is `Reduced`.
    pub epilogue: Body,
    /// Results, of the epilogue's values, over the outer axes.
    pub stores: Vec<Store>,
}

/// A sum of products.
///
/// Axes stand in groups: batch (in both operands and the output), m (in a and the output), n (in b and the output), k
/// (summed). The space of `a` is batch, m, k; of `b` batch, n, k; of the epilogue batch, m, n; each axis list in this order.
///
/// # Order
/// k, flattened in row-major order, is cut in blocks of 256. In a block one chain of fused multiply-adds runs from +0,
/// ascending; block sums are added ascending, from the first. f16 and bf16 accumulate in f32 and round once; i8 accumulates in i32
/// (the result's dtype); other integers wrap in their own dtype. For an empty k the result is +0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// First of a run of slots: sizes of batch, m, n, k axes.
    pub sizes: Slot,
    /// Number of batch axes.
    pub batch: u8,
    /// Number of m axes.
    pub m: u8,
    /// Number of n axes.
    pub n: u8,
    /// Number of k axes.
    pub k: u8,
    /// Dtype of both operands.
    pub dtype: DType,
    /// Prologue of the first operand: its last instruction is the operand.
    pub a: Body,
    /// Prologue of the second operand: its last instruction is the operand.
    pub b: Body,
    /// What follows, over batch, m, n; instruction 0 is `Reduced`.
    pub epilogue: Body,
    /// Results, of the epilogue's values.
    pub stores: Vec<Store>,
}

/// A cumulative sum or product along the last axis of its space, ascending, in the accumulator dtype; each
/// element is rounded once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScanStep {
    /// First of a run of slots: sizes; the last axis is scanned.
    pub sizes: Slot,
    /// Number of axes, at least 1.
    pub rank: u8,
    /// Sum or product.
    pub kind: Scan,
    /// Source.
    pub from: Access,
    /// Result.
    pub to: Access,
}

/// Updates written into `to`, which an earlier step filled with the operand. The space of `index` is the index's axes;
/// of `updates` before axes, index axes, behind axes; of `to` before axes then behind axes, at index 0 of the scattered axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScatterStep {
    /// First of a run of slots: sizes of before, index and behind axes.
    pub sizes: Slot,
    /// Number of axes before the scattered one.
    pub before: u8,
    /// Number of axes of the index.
    pub index_rank: u8,
    /// Number of axes behind the scattered one.
    pub behind: u8,
    /// Replace or add.
    pub mode: ScatterMode,
    /// Where to.
    pub to: Access,
    /// Slot: size of the scattered axis.
    pub extent: Slot,
    /// Slot: its stride in `to`.
    pub stride: Slot,
    /// i64 indices.
    pub index: Access,
    /// The updates.
    pub updates: Access,
}

/// One loop nest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Step {
    Map(Map),
    Reduce(Reduce),
    Contract(Box<Contract>),
    Scan(ScanStep),
    Scatter(ScatterStep),
}

/// A temporary: row-major elements, written by one step (or several, for a concatenation) and read by later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TempSpec {
    /// Dtype of its elements.
    pub dtype: DType,
    /// Slot: number of elements.
    pub count: Slot,
    /// First and last step that touch it: temporaries that do not overlap may share memory.
    pub live: (u32, u32),
}

/// A fused program. Equal plans are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Plan {
    /// The loop nests, in order.
    pub steps: Vec<Step>,
    /// Temporaries.
    pub temps: Vec<TempSpec>,
    /// Dtype of each input.
    pub inputs: Vec<DType>,
    /// Dtype of each output and the slot of its element count.
    pub outputs: Vec<(DType, Slot)>,
    /// Number of parameters of an instance.
    pub slots: u32,
    /// Number of immediates of an instance.
    pub immediates: u32,
    /// Pairs of (input, output) that may be the same memory: the input is read by one step only, which writes the output with
    /// the same access, so each element is read before it is written. Backends keep that order inside a tile.
    pub donations: Vec<(u32, u32)>,
    /// Operations of the window that it stands for.
    pub operations: u32,
}
