//! The operation table: what a request can ask to be computed, its attributes, and the shape and dtype rules.
//!
//! [`Op::infer`] is the one place where shapes and dtypes of results come from. The client library calls it before it
//! submits, the engine calls it again on the decoded record; both see the same [`OpError`].

#![allow(
    clippy::result_large_err,
    reason = "errors carry whole shapes so that messages can show them; they are built on the failing path only"
)]

use thiserror::Error;

use crate::dtype::{DType, Kind, Scalar};
pub use crate::elementwise::{Domain, Elementwise, Yields};
use crate::layout::{ELEMENTS_MAX, Layout, RANK_MAX, Shape};

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
        let mut list = AxisList {
            len: u8::try_from(items.len()).ok()?,
            items: [T::default(); RANK_MAX],
        };
        list.items.get_mut(..items.len())?.copy_from_slice(items);
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

/// Why an operation does not fit its operands. Says which values, and what would fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum OpError {
    #[error("{op} takes {want} operands, not {have}")]
    Arity {
        op: &'static str,
        want: usize,
        have: usize,
    },
    #[error("{op} does not take {dtype}; it takes {domain}")]
    DType {
        op: &'static str,
        dtype: DType,
        domain: &'static str,
    },
    #[error("{op} needs operands of one dtype, not {a} and {b}")]
    MixedDTypes {
        op: &'static str,
        a: DType,
        b: DType,
    },
    #[error("{op}: shapes {a} and {b} cannot be broadcast together: sizes must be equal or 1")]
    Broadcast {
        op: &'static str,
        a: Shape,
        b: Shape,
    },
    #[error("{op}: axis {axis} is out of range for shape {shape}")]
    Axis {
        op: &'static str,
        axis: usize,
        shape: Shape,
    },
    #[error("reshape of {from} to {to}: {from_count} elements do not fill {to_count}")]
    Reshape {
        from: Shape,
        to: Shape,
        from_count: u64,
        to_count: u64,
    },
    #[error("permute of {shape} by {order:?}: each of its {rank} axes must stand once")]
    Permutation {
        shape: Shape,
        order: Vec<u8>,
        rank: usize,
    },
    #[error("slice of axis {axis} (size {size}): {len} elements from {start} by {step} leave it")]
    Slice {
        axis: usize,
        size: u64,
        start: i64,
        step: i64,
        len: u64,
    },
    #[error(
        "expand of {from} to {to}: only axes of size 1 can be repeated, and new axes come first"
    )]
    Expand { from: Shape, to: Shape },
    #[error(
        "window over axis {axis} of {shape}: size, stride and dilation must be at least 1 and no axis named twice"
    )]
    Window { axis: usize, shape: Shape },
    #[error("{op}: {have} values given for {rank} axes")]
    AttributeCount {
        op: &'static str,
        have: usize,
        rank: usize,
    },
    #[error("contract: label {label} has size {a} in one place and {b} in another")]
    LabelSize { label: u8, a: u64, b: u64 },
    #[error("contract: {have} labels for an operand of shape {shape}")]
    LabelCount { have: usize, shape: Shape },
    #[error("contract: output label {label} stands twice or in no operand")]
    OutputLabel { label: u8 },
    #[error("concat along axis {axis}: shapes {a} and {b} differ elsewhere")]
    Concat { axis: usize, a: Shape, b: Shape },
    #[error("scatter: updates have shape {have}, the indexed part has {want}")]
    Updates { have: Shape, want: Shape },
    #[error(
        "{op}: the result would have more than {} axes or 2^48 elements",
        RANK_MAX
    )]
    TooLarge { op: &'static str },
}

impl OpError {
    /// The wire code of this error.
    pub fn code(&self) -> crate::error::Code {
        use crate::error::Code;
        match self {
            OpError::DType { .. } | OpError::MixedDTypes { .. } => Code::DTypes,
            OpError::Axis { .. }
            | OpError::Permutation { .. }
            | OpError::AttributeCount { .. }
            | OpError::OutputLabel { .. }
            | OpError::Arity { .. } => Code::Attribute,
            _ => Code::Shape,
        }
    }
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

    /// Dtype and shape of the result.
    pub fn infer(&self, operands: &[Meta]) -> Result<Meta, OpError> {
        let op = self.name();
        let arity = |want: usize| match operands.len() {
            have if have == want => Ok(()),
            have => Err(OpError::Arity { op, want, have }),
        };
        match *self {
            Op::Elementwise(function) => infer_elementwise(function, operands),
            Op::Cast(dtype) => arity(1).map(|()| Meta {
                dtype,
                shape: operands[0].shape,
            }),
            Op::Copy => arity(1).map(|()| operands[0]),
            Op::Reduce { kind, axes, keep } => {
                arity(1)?;
                infer_reduce(op, kind, axes, keep, operands[0])
            }
            Op::Scan { axis, .. } => {
                arity(1)?;
                check_axis(op, axis, &operands[0].shape)?;
                number(op, operands[0].dtype)?;
                Ok(operands[0])
            }
            Op::Contract { a, b, out } => {
                arity(2)?;
                same_dtype(op, operands)?;
                number(op, operands[0].dtype)?;
                let shape =
                    contract_sizes(&a, &b, &out, &operands[0].shape, &operands[1].shape)?.out;
                let dtype = match operands[0].dtype {
                    DType::I8 => DType::I32,
                    other => other,
                };
                Ok(Meta { dtype, shape })
            }
            Op::Pad { low, high } => {
                arity(1)?;
                infer_pad(&low, &high, operands[0])
            }
            Op::Concat { axis } => infer_concat(axis, operands),
            Op::Gather { axis } => {
                arity(2)?;
                infer_gather(op, axis, operands[0], operands[1])
            }
            Op::Scatter { axis, .. } => {
                arity(3)?;
                let part = infer_gather(op, axis, operands[0], operands[1])?;
                if operands[2].dtype != operands[0].dtype {
                    return Err(OpError::MixedDTypes {
                        op,
                        a: operands[0].dtype,
                        b: operands[2].dtype,
                    });
                }
                match operands[2].shape == part.shape {
                    true => Ok(operands[0]),
                    false => Err(OpError::Updates {
                        have: operands[2].shape,
                        want: part.shape,
                    }),
                }
            }
            Op::Full(meta) => arity(0).map(|()| meta),
            Op::Iota { meta, axis } => {
                arity(0)?;
                check_axis(op, axis, &meta.shape)?;
                number(op, meta.dtype)?;
                Ok(meta)
            }
            Op::Random { meta, distribution } => {
                arity(0)?;
                match (distribution, meta.dtype.is_float()) {
                    (Distribution::Bits, true) => Err(OpError::DType {
                        op,
                        dtype: meta.dtype,
                        domain: "integers and bool for bits",
                    }),
                    (Distribution::Uniform | Distribution::Normal, false) => Err(OpError::DType {
                        op,
                        dtype: meta.dtype,
                        domain: "floats",
                    }),
                    _ => Ok(meta),
                }
            }
            Op::Reshape(_)
            | Op::Permute(_)
            | Op::Slice { .. }
            | Op::Expand(_)
            | Op::Window { .. } => {
                arity(1)?;
                self.check_view(&operands[0].shape).map(|shape| Meta {
                    dtype: operands[0].dtype,
                    shape,
                })
            }
        }
    }

    /// Shape of a view's result.
    fn check_view(&self, from: &Shape) -> Result<Shape, OpError> {
        let op = self.name();
        let counted = |have: usize| match have == from.rank() {
            true => Ok(()),
            false => Err(OpError::AttributeCount {
                op,
                have,
                rank: from.rank(),
            }),
        };
        match self {
            Op::Reshape(to) => match (from.count(), to.count()) {
                (a, b) if a == b => Ok(*to),
                (from_count, to_count) => Err(OpError::Reshape {
                    from: *from,
                    to: *to,
                    from_count,
                    to_count,
                }),
            },
            Op::Permute(order) => {
                let seen = order.iter().fold(0u32, |set, &axis| {
                    set | 1u32.checked_shl(axis.into()).unwrap_or(0)
                });
                if order.len() != from.rank() || seen != u32::from(AxisSet::all(from.rank()).0) {
                    return Err(OpError::Permutation {
                        shape: *from,
                        order: order.to_vec(),
                        rank: from.rank(),
                    });
                }
                Ok(Layout::contiguous(*from).permute(order).shape)
            }
            Op::Slice {
                starts,
                steps,
                lens,
            } => {
                counted(starts.len())?;
                counted(steps.len())?;
                counted(lens.len())?;
                for (axis, &size) in from.iter().enumerate() {
                    let (start, step, len) = (starts[axis], steps[axis], lens[axis]);
                    if !slice_fits(size, start, step, len) {
                        return Err(OpError::Slice {
                            axis,
                            size,
                            start,
                            step,
                            len,
                        });
                    }
                }
                Shape::new(lens).ok_or(OpError::TooLarge { op })
            }
            Op::Expand(to) => {
                let fits = to.rank() >= from.rank()
                    && from
                        .iter()
                        .rev()
                        .zip(to.iter().rev())
                        .all(|(&have, &want)| have == want || have == 1);
                if fits {
                    Ok(*to)
                } else {
                    Err(OpError::Expand {
                        from: *from,
                        to: *to,
                    })
                }
            }
            Op::Window {
                axes,
                sizes,
                strides,
                dilations,
            } => window_shape(from, axes, sizes, strides, dilations),
            _ => Err(OpError::Arity {
                op,
                want: 0,
                have: 1,
            }),
        }
    }

    /// The view applied to a layout, after [`Op::infer`] accepted its shape. `None` for a reshape that
    /// strides do not allow, and for operations that are no views.
    pub fn apply_view(&self, layout: &Layout) -> Option<Layout> {
        match self {
            Op::Reshape(to) => layout.reshape(*to),
            Op::Permute(order) => Some(layout.permute(order)),
            Op::Expand(to) => Some(layout.expand(*to)),
            Op::Slice {
                starts,
                steps,
                lens,
            } => {
                let mut out = *layout;
                out.shape = Shape::new(lens)?;
                for axis in 0..lens.len() {
                    if lens[axis] > 0 {
                        out.offset += starts[axis] * layout.strides[axis];
                    }
                    out.strides[axis] = if lens[axis] > 1 {
                        layout.strides[axis] * steps[axis]
                    } else {
                        0
                    };
                }
                Some(out)
            }
            Op::Window {
                axes,
                sizes,
                strides,
                dilations,
            } => {
                let mut out = *layout;
                out.shape = window_shape(&layout.shape, axes, sizes, strides, dilations).ok()?;
                for (k, &axis) in axes.iter().enumerate() {
                    let axis = usize::from(axis);
                    let step = layout.strides[axis];
                    // A factor beyond the axis's size can only belong to an axis of one position.
                    let scaled =
                        |size: u64, factor: u64| if size > 1 { step * factor as i64 } else { 0 };
                    out.strides[axis] = scaled(out.shape[axis], strides[k]);
                    let appended = layout.shape.rank() + k;
                    out.strides[appended] = scaled(out.shape[appended], dilations[k]);
                }
                // No position at all: nothing is read, whatever the strides say.
                Some(out)
            }
            _ => None,
        }
    }
}

fn slice_fits(size: u64, start: i64, step: i64, len: u64) -> bool {
    if len == 0 {
        return step != 0;
    }
    let (Ok(size), Ok(len)) = (i64::try_from(size), i64::try_from(len)) else {
        return false;
    };
    let last = step
        .checked_mul(len - 1)
        .and_then(|reach| start.checked_add(reach));
    step != 0 && (0..size).contains(&start) && last.is_some_and(|last| (0..size).contains(&last))
}

fn window_shape(
    from: &Shape,
    axes: &AxisList<u8>,
    sizes: &AxisList<u64>,
    strides: &AxisList<u64>,
    dilations: &AxisList<u64>,
) -> Result<Shape, OpError> {
    let op = "window";
    for have in [sizes.len(), strides.len(), dilations.len()] {
        if have != axes.len() {
            return Err(OpError::AttributeCount {
                op,
                have,
                rank: axes.len(),
            });
        }
    }
    let mut out = [0u64; 2 * RANK_MAX];
    out[..from.rank()].copy_from_slice(from);
    let mut seen = 0u32;
    for (k, &axis) in axes.iter().enumerate() {
        check_axis(op, axis, from)?;
        let bad = seen >> axis & 1 == 1 || sizes[k] == 0 || strides[k] == 0 || dilations[k] == 0;
        if bad || sizes[k].max(strides[k]).max(dilations[k]) > ELEMENTS_MAX {
            return Err(OpError::Window {
                axis: axis.into(),
                shape: *from,
            });
        }
        seen |= 1 << axis;
        let reach = (sizes[k] - 1)
            .checked_mul(dilations[k])
            .ok_or(OpError::TooLarge { op })?;
        let axis = usize::from(axis);
        out[axis] = from[axis]
            .checked_sub(reach + 1)
            .map_or(0, |room| room / strides[k] + 1);
        out[from.rank() + k] = sizes[k];
    }
    let rank = from.rank() + axes.len();
    if rank > RANK_MAX {
        return Err(OpError::TooLarge { op });
    }
    Shape::new(&out[..rank]).ok_or(OpError::TooLarge { op })
}

fn check_axis(op: &'static str, axis: u8, shape: &Shape) -> Result<(), OpError> {
    let axis = usize::from(axis);
    if axis < shape.rank() {
        Ok(())
    } else {
        Err(OpError::Axis {
            op,
            axis,
            shape: *shape,
        })
    }
}

fn number(op: &'static str, dtype: DType) -> Result<(), OpError> {
    match dtype.kind() {
        Kind::Bool => Err(OpError::DType {
            op,
            dtype,
            domain: "numbers",
        }),
        _ => Ok(()),
    }
}

fn same_dtype(op: &'static str, operands: &[Meta]) -> Result<(), OpError> {
    match operands
        .windows(2)
        .find(|pair| pair[0].dtype != pair[1].dtype)
    {
        Some(pair) => Err(OpError::MixedDTypes {
            op,
            a: pair[0].dtype,
            b: pair[1].dtype,
        }),
        None => Ok(()),
    }
}

fn infer_elementwise(function: Elementwise, operands: &[Meta]) -> Result<Meta, OpError> {
    let info = function.info();
    let op = info.name;
    if operands.len() != function.arity() {
        return Err(OpError::Arity {
            op,
            want: function.arity(),
            have: operands.len(),
        });
    }
    let mut values = operands;
    if function == Elementwise::Select {
        if operands[0].dtype != DType::Bool {
            return Err(OpError::DType {
                op,
                dtype: operands[0].dtype,
                domain: "a bool condition",
            });
        }
        values = &operands[1..];
    }
    same_dtype(op, values)?;
    let dtype = values[0].dtype;
    if !info.domain.contains(dtype) {
        let domain = match info.domain {
            Domain::Any => "every dtype",
            Domain::Number => "integers and floats",
            Domain::Float => "floats",
            Domain::Integer => "integers",
            Domain::Bits => "integers and bool",
            Domain::Bool => "bool",
        };
        return Err(OpError::DType { op, dtype, domain });
    }
    let mut shape = operands[0].shape;
    for operand in &operands[1..] {
        if operand.shape != shape {
            shape = shape.broadcast(&operand.shape).ok_or(OpError::Broadcast {
                op,
                a: shape,
                b: operand.shape,
            })?;
        }
    }
    Ok(Meta {
        dtype: function.result(dtype),
        shape,
    })
}

fn infer_reduce(
    op: &'static str,
    kind: Reduction,
    axes: AxisSet,
    keep: bool,
    operand: Meta,
) -> Result<Meta, OpError> {
    let shape = operand.shape;
    if axes.0 & !AxisSet::all(shape.rank()).0 != 0 {
        return Err(OpError::Axis {
            op,
            axis: 15 - axes.0.leading_zeros() as usize,
            shape,
        });
    }
    let dtype = kind.result(operand.dtype).ok_or(OpError::DType {
        op,
        dtype: operand.dtype,
        domain: "numbers",
    })?;
    let mut sizes = [0u64; RANK_MAX];
    let mut rank = 0;
    for (axis, &size) in shape.iter().enumerate() {
        if !axes.contains(axis) || keep {
            sizes[rank] = if axes.contains(axis) { 1 } else { size };
            rank += 1;
        }
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta { dtype, shape })
}

fn infer_pad(low: &AxisList<u64>, high: &AxisList<u64>, operand: Meta) -> Result<Meta, OpError> {
    let op = "pad";
    let rank = operand.shape.rank();
    for have in [low.len(), high.len()] {
        if have != rank {
            return Err(OpError::AttributeCount { op, have, rank });
        }
    }
    let mut sizes = [0u64; RANK_MAX];
    for (axis, &size) in operand.shape.iter().enumerate() {
        let padded = size
            .checked_add(low[axis])
            .and_then(|s| s.checked_add(high[axis]));
        sizes[axis] = padded.ok_or(OpError::TooLarge { op })?;
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: operand.dtype,
        shape,
    })
}

fn infer_concat(axis: u8, operands: &[Meta]) -> Result<Meta, OpError> {
    let op = "concat";
    if operands.is_empty() || operands.len() > OPERANDS_MAX {
        return Err(OpError::Arity {
            op,
            want: 1,
            have: operands.len(),
        });
    }
    same_dtype(op, operands)?;
    let first = operands[0];
    check_axis(op, axis, &first.shape)?;
    let axis = usize::from(axis);
    let mut sizes = [0u64; RANK_MAX];
    let rank = first.shape.rank();
    sizes[..rank].copy_from_slice(&first.shape);
    for operand in &operands[1..] {
        let fits = operand.shape.rank() == rank
            && (0..rank).all(|k| k == axis || operand.shape[k] == first.shape[k]);
        if !fits {
            return Err(OpError::Concat {
                axis,
                a: first.shape,
                b: operand.shape,
            });
        }
        sizes[axis] = sizes[axis]
            .checked_add(operand.shape[axis])
            .ok_or(OpError::TooLarge { op })?;
    }
    let shape = Shape::new(&sizes[..rank]).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: first.dtype,
        shape,
    })
}

fn infer_gather(op: &'static str, axis: u8, operand: Meta, index: Meta) -> Result<Meta, OpError> {
    check_axis(op, axis, &operand.shape)?;
    if index.dtype != DType::I64 {
        return Err(OpError::DType {
            op,
            dtype: index.dtype,
            domain: "int64 indices",
        });
    }
    let axis = usize::from(axis);
    let (before, behind) = (&operand.shape[..axis], &operand.shape[axis + 1..]);
    let rank = operand.shape.rank() - 1 + index.shape.rank();
    if rank > RANK_MAX {
        return Err(OpError::TooLarge { op });
    }
    let sizes: Vec<u64> = before
        .iter()
        .chain(index.shape.iter())
        .chain(behind)
        .copied()
        .collect();
    let shape = Shape::new(&sizes).ok_or(OpError::TooLarge { op })?;
    Ok(Meta {
        dtype: operand.dtype,
        shape,
    })
}

/// Highest label of a contraction.
pub const LABEL_MAX: u8 = 63;

/// What [`contract_sizes`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractSizes {
    /// Shape of the output.
    pub out: Shape,
    /// Labels summed over, in the order in which they first stand in `a`, then in `b`. Their row-major order over
    /// these labels is the order of the sum: block sums of 256, each an ascending chain of fused multiply-adds.
    pub summed: Vec<u8>,
    /// Size of each label, indexed by label; 0 entries for labels that do not occur are not meaningful.
    pub sizes: [u64; LABEL_MAX as usize + 1],
}

/// Checks the labels of a contraction against its operands.
pub fn contract_sizes(
    a: &Labels,
    b: &Labels,
    out: &Labels,
    a_shape: &Shape,
    b_shape: &Shape,
) -> Result<ContractSizes, OpError> {
    let op = "contract";
    let mut sizes = [0u64; LABEL_MAX as usize + 1];
    let mut seen = 0u64;
    let mut order = Vec::with_capacity(a.len() + b.len());
    for (labels, shape) in [(a, a_shape), (b, b_shape)] {
        if labels.len() != shape.rank() {
            return Err(OpError::LabelCount {
                have: labels.len(),
                shape: *shape,
            });
        }
        for (axis, &label) in labels.iter().enumerate() {
            if label > LABEL_MAX {
                return Err(OpError::OutputLabel { label });
            }
            let size = &mut sizes[usize::from(label)];
            if seen >> label & 1 == 0 {
                seen |= 1 << label;
                order.push(label);
                *size = shape[axis];
            } else if *size == 1 {
                *size = shape[axis];
            } else if shape[axis] != *size && shape[axis] != 1 {
                return Err(OpError::LabelSize {
                    label,
                    a: *size,
                    b: shape[axis],
                });
            }
        }
    }
    let mut kept = 0u64;
    let mut out_sizes = [0u64; RANK_MAX];
    for (axis, &label) in out.iter().enumerate() {
        if label > LABEL_MAX || seen >> label & 1 == 0 || kept >> label & 1 == 1 {
            return Err(OpError::OutputLabel { label });
        }
        kept |= 1 << label;
        out_sizes[axis] = sizes[usize::from(label)];
    }
    let out = Shape::new(&out_sizes[..out.len()]).ok_or(OpError::TooLarge { op })?;
    order.retain(|&label| kept >> label & 1 == 0);
    let work = order.iter().try_fold(out.count().max(1), |work, &label| {
        work.checked_mul(sizes[usize::from(label)].max(1))
            .filter(|&w| w <= 1 << 60)
    });
    work.ok_or(OpError::TooLarge { op })?;
    Ok(ContractSizes {
        out,
        summed: order,
        sizes,
    })
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
