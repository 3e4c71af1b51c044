//! Why an operation does not fit its operands: a variant for each broken rule, with the values that broke it.

use thiserror::Error;

use crate::dtype::DType;
use crate::layout::{RANK_MAX, Shape};

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
