//! The operation table: what a request can ask to be computed, with its attributes and its operands.
//!
//! [`Op::infer`] is the one place where shapes and dtypes of results come from. The client library calls it before it
//! submits, the engine calls it again on the decoded record; both see the same [`OpError`].

#![allow(
    clippy::result_large_err,
    reason = "errors carry whole shapes so that messages can show them; they are built on the failing path only"
)]

mod contraction;
mod error;
mod infer;
mod view;

pub use contraction::{ContractSizes, LABEL_MAX, contract_sizes};
pub use error::OpError;

use crate::dtype::{DType, Scalar};
pub use crate::elementwise::{Domain, Elementwise, Yields};
use crate::layout::{RANK_MAX, Shape};

/// Most operands of one operation (`concat`).
pub const OPERANDS_MAX: usize = 32;

/// Dtype and shape of a tensor: all that inference needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes.
    pub shape: Shape,
}

/// A small list of axis-wise attributes, at most one for each axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AxisList<T> {
    len: u8,
    items: [T; RANK_MAX],
}

impl<T: Copy + Default> AxisList<T> {
    /// From a slice; `None` where it is longer than the highest rank.
    pub fn new(items: &[T]) -> Option<AxisList<T>> {
        AxisList::collect(items.iter().copied())
    }

    /// Of as many items as there are; `None` where they are more than the highest rank.
    pub fn collect(items: impl IntoIterator<Item = T>) -> Option<AxisList<T>> {
        let mut list = AxisList {
            len: 0,
            items: [T::default(); RANK_MAX],
        };
        for item in items {
            *list.items.get_mut(usize::from(list.len))? = item;
            list.len += 1;
        }
        Some(list)
    }
}

impl<T> std::ops::Deref for AxisList<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.items[..usize::from(self.len)]
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for AxisList<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A set of axes, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AxisSet(pub u16);

impl AxisSet {
    /// All axes of a rank.
    pub fn all(rank: usize) -> AxisSet {
        AxisSet(((1u32 << rank) - 1) as u16)
    }
    /// Is the axis in the set?
    pub fn contains(self, axis: usize) -> bool {
        axis < 16 && self.0 >> axis & 1 == 1
    }
}

/// How a reduction combines elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reduction {
    /// Sum; +0 for no elements. Integers wrap.
    Sum = 0,
    /// Product; 1 for no elements. Integers wrap.
    Prod = 1,
    /// Least element, NaN if any is; for no elements +inf or the greatest integer.
    Min = 2,
    /// Greatest element, NaN if any is; for no elements -inf or the least integer.
    Max = 3,
    /// Is any element other than 0? False for no elements. Yields bool.
    Any = 4,
    /// Are all elements other than 0? True for no elements. Yields bool.
    All = 5,
    /// Row-major index (i64) of the first least element, or of the first NaN; 0 for no elements.
    ArgMin = 6,
    /// Row-major index (i64) of the first greatest element, or of the first NaN; 0 for no elements.
    ArgMax = 7,
}

impl Reduction {
    /// Every reduction, in wire order.
    pub const ALL: [Reduction; 8] = [
        Reduction::Sum,
        Reduction::Prod,
        Reduction::Min,
        Reduction::Max,
        Reduction::Any,
        Reduction::All,
        Reduction::ArgMin,
        Reduction::ArgMax,
    ];

    /// Dtype of the result for operands of `dtype`, or `None` where it does not take them. Sums and products take
    /// numbers (the client casts bool first); a sum of small integers wraps in their own dtype.
    pub fn result(self, dtype: DType) -> Option<DType> {
        match self {
            Reduction::Any | Reduction::All => Some(DType::Bool),
            _ if dtype == DType::Bool => None,
            Reduction::ArgMin | Reduction::ArgMax => Some(DType::I64),
            _ => Some(dtype),
        }
    }
}

/// A cumulative operation along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scan {
    /// Running sum.
    Sum = 0,
    /// Running product.
    Prod = 1,
}

/// How scatter combines an update with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ScatterMode {
    /// The update replaces; of several at one place the last in row-major order counts.
    Replace = 0,
    /// The updates are added one after the other in row-major order.
    Add = 1,
}

/// What `random` draws, from Philox 4x32-10 with the element's row-major index as counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Distribution {
    /// All bits of an integer dtype; for bool a fair coin.
    Bits = 0,
    /// Uniform in [0, 1) with as many bits as the float's significand holds.
    Uniform = 1,
    /// Standard normal by Box-Muller.
    Normal = 2,
}

/// Labels of a contraction: for each axis of an operand or of the output a small number.
pub type Labels = AxisList<u8>;

/// An operation with its attributes. Operands stand beside it, in the order that the variant names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// An elementwise function of 1 to 3 operands, broadcast against each other.
    Elementwise(Elementwise),
    /// One operand converted: floats to integers truncate and saturate, NaN becomes 0; integers wrap; anything to
    /// bool is `!= 0`; to a narrower float rounds to nearest even.
    Cast(DType),
    /// One operand reduced over `axes`; with `keep` the reduced axes stay with size 1.
    Reduce {
        /// How elements combine.
        kind: Reduction,
        /// Axes reduced; none reduces nothing.
        axes: AxisSet,
        /// Keep reduced axes with size 1.
        keep: bool,
    },
    /// One operand accumulated along `axis`, ascending, one element after the other, in the accumulator dtype.
    Scan {
        /// Sum or product.
        kind: Scan,
        /// The axis.
        axis: u8,
    },
    /// Sum over all labels not in `out` of the product of two operands: einsum of two operands. A label that stands
    /// twice in one operand reads its diagonal. Sizes of one label agree, or one of them is 1 and is repeated.
    Contract {
        /// Labels of the first operand's axes.
        a: Labels,
        /// Labels of the second operand's axes.
        b: Labels,
        /// Labels of the output's axes, each once and each in `a` or `b`.
        out: Labels,
    },
    /// View: the same elements in row-major order. Data move only where strides do not allow a view.
    Reshape(Shape),
    /// View: output axis `k` is input axis `order[k]`.
    Permute(AxisList<u8>),
    /// View: along each axis `lens[k]` elements from `starts[k]`, `steps[k]` apart (negative steps allowed).
    Slice {
        /// First index along each axis.
        starts: AxisList<i64>,
        /// Distance between indices along each axis; not 0.
        steps: AxisList<i64>,
        /// Number of elements along each axis.
        lens: AxisList<u64>,
    },
    /// View: axes of size 1 repeated, leading axes added.
    Expand(Shape),
    /// View: each axis in `axes` becomes its window positions, and a new axis of `sizes` is appended for it.
    /// Positions: `(n - (size - 1) * dilation - 1) / stride + 1`, none where that is below 1.
    Window {
        /// Axes windowed, each once.
        axes: AxisList<u8>,
        /// Window sizes, at least 1.
        sizes: AxisList<u64>,
        /// Distance between windows, at least 1.
        strides: AxisList<u64>,
        /// Distance between the elements of a window, at least 1.
        dilations: AxisList<u64>,
    },
    /// One operand with `low[k]` and `high[k]` elements of value `fill` (an immediate) before and behind each axis.
    Pad {
        /// Elements before.
        low: AxisList<u64>,
        /// Elements behind.
        high: AxisList<u64>,
    },
    /// 1 to [`OPERANDS_MAX`] operands joined along an axis.
    Concat {
        /// The axis.
        axis: u8,
    },
    /// `x, index`: the axis is replaced by the axes of `index` (i64). Negative indices count from the end; an index
    /// out of range reads 0.
    Gather {
        /// The axis indexed.
        axis: u8,
    },
    /// `x, index, updates`: `x` with rows along `axis` replaced or added to. `updates` has the shape that `Gather` of
    /// `x` by `index` would have. An index out of range is dropped.
    Scatter {
        /// The axis indexed.
        axis: u8,
        /// Replace or add.
        mode: ScatterMode,
    },
    /// One operand copied to a row-major tensor of its own.
    Copy,
    /// No operands: every element is the immediate.
    Full(Meta),
    /// No operands: `start + index * step` (two immediates) along `axis`, repeated along the others. Floats: one
    /// fused multiply-add of the index converted to f64, then rounded; integers wrap.
    Iota {
        /// Result.
        meta: Meta,
        /// The axis that counts.
        axis: u8,
    },
    /// No operands; the immediate is the 64-bit key.
    Random {
        /// Result.
        meta: Meta,
        /// What to draw.
        distribution: Distribution,
    },
}

impl Op {
    /// Name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Elementwise(f) => f.info().name,
            Op::Cast(_) => "cast",
            Op::Reduce { kind, .. } => match kind {
                Reduction::Sum => "sum",
                Reduction::Prod => "prod",
                Reduction::Min => "min",
                Reduction::Max => "max",
                Reduction::Any => "any",
                Reduction::All => "all",
                Reduction::ArgMin => "argmin",
                Reduction::ArgMax => "argmax",
            },
            Op::Scan {
                kind: Scan::Sum, ..
            } => "cumulative_sum",
            Op::Scan {
                kind: Scan::Prod, ..
            } => "cumulative_prod",
            Op::Contract { .. } => "contract",
            Op::Reshape(_) => "reshape",
            Op::Permute(_) => "permute",
            Op::Slice { .. } => "slice",
            Op::Expand(_) => "expand",
            Op::Window { .. } => "window",
            Op::Pad { .. } => "pad",
            Op::Concat { .. } => "concat",
            Op::Gather { .. } => "gather",
            Op::Scatter { .. } => "scatter",
            Op::Copy => "copy",
            Op::Full(_) => "full",
            Op::Iota { .. } => "iota",
            Op::Random { .. } => "random",
        }
    }

    /// Is it a view, which moves no data (reshape: where strides allow)?
    pub fn is_view(&self) -> bool {
        matches!(
            self,
            Op::Reshape(_) | Op::Permute(_) | Op::Slice { .. } | Op::Expand(_) | Op::Window { .. }
        )
    }

    /// Immediates that the operation takes beside its operands: `pad` 1, `full` 1, `iota` 2, `random` 1.
    pub fn attribute_immediates(&self) -> usize {
        match self {
            Op::Pad { .. } | Op::Full(_) | Op::Random { .. } => 1,
            Op::Iota { .. } => 2,
            _ => 0,
        }
    }
}

/// Immediate operands are scalars of the request's dtype: this is their [`Meta`].
pub fn scalar_meta(dtype: DType) -> Meta {
    Meta {
        dtype,
        shape: Shape::SCALAR,
    }
}

/// An operand of a request: a tensor, or an immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand<T> {
    /// A tensor.
    Tensor(T),
    /// A scalar inside the request, with its dtype.
    Immediate(DType, Scalar),
}
