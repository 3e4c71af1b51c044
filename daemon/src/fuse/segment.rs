//! What the fuser is given: a run of operations of one queue, free of handles and buffers.

use std::rc::Rc;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::Layout;
use tensord_shm::op::{Meta, Op};

/// Where an operand's elements come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The result of an earlier node of the segment.
    Internal(u32),
    /// A tensor that exists before the segment runs.
    External(u32),
    /// A scalar that stands in the request: the node's operand of the same position.
    Immediate,
}

/// An operand: a view of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arg {
    /// The source.
    pub source: Source,
    /// Element type.
    pub dtype: DType,
    /// The view, over the source's row-major elements. A scalar's for immediates.
    pub layout: Layout,
}

/// An operation that computes. Views are not nodes: they stand in the layouts of the operands.
#[derive(Clone, Debug)]
pub struct SegmentNode {
    /// The operation.
    pub op: Rc<Op>,
    /// Dtype and shape of its result.
    pub meta: Meta,
    /// Its operands.
    pub args: Vec<Arg>,
    /// Must its result be written, because somebody holds it or will read it after the segment?
    pub needed: bool,
}

/// A tensor from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct External {
    /// Element type.
    pub dtype: DType,
    /// Shared by content, and never changing: kernels may keep it in another layout.
    pub constant: bool,
}

/// A run of operations to be planned together.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// In the order of submission.
    pub nodes: Vec<SegmentNode>,
    /// Tensors from outside.
    pub externals: Vec<External>,
}

/// Where an instance's immediate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImmediateSource {
    /// The scalar operand `1` of node `0`.
    Operand(u32, u8),
    /// The attribute immediate `1` of node `0`.
    Attribute(u32, u8),
    /// A value of the fuser's own.
    Fixed(Scalar),
}
