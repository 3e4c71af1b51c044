//! The operations of a queue that are accepted and not yet planned.
//!
//! A node is appended for each request that computes; views are no nodes. [`Window::cut`] takes the nodes up to a timeline value
//! out, as a [`Cut`] from which the fuser can make a plan.

use std::ops::Range;
use std::rc::Rc;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::elementwise::Elementwise;
use tensord_shm::error::Code;
use tensord_shm::layout::Layout;
use tensord_shm::op::{Meta, Op, scalar_meta};
use tensord_shm::record::opcode;

use super::value::{Failure, State, Value};
use crate::dispatch::transfer::bytes_of;
use crate::fuse::{Arg, External, ImmediateSource, Segment, SegmentNode, Source, Template};

/// The operation of a node: elementwise functions need no memory of their own.
#[derive(Clone, Debug)]
pub enum NodeOp {
    /// An elementwise function.
    Elementwise(Elementwise),
    /// Anything else.
    Other(Rc<Op>),
}

impl From<Op> for NodeOp {
    fn from(op: Op) -> NodeOp {
        match op {
            Op::Elementwise(function) => NodeOp::Elementwise(function),
            other => NodeOp::Other(Rc::new(other)),
        }
    }
}

/// An operand of a node.
#[derive(Clone, Debug)]
pub enum NodeArg {
    /// A view of a value; no view is the value itself.
    Value(Rc<Value>, Option<Rc<Layout>>),
    /// A scalar.
    Immediate(DType, Scalar),
}

impl NodeArg {
    /// Dtype and shape as the operation sees them.
    pub fn meta(&self) -> Meta {
        match self {
            NodeArg::Immediate(dtype, _) => scalar_meta(*dtype),
            NodeArg::Value(value, None) => value.meta,
            NodeArg::Value(value, Some(view)) => Meta {
                dtype: value.meta.dtype,
                shape: view.shape,
            },
        }
    }
}

/// An operation that computes.
#[derive(Debug)]
pub struct Node {
    /// The operation.
    pub op: NodeOp,
    /// What it makes.
    pub value: Rc<Value>,
    /// Scalars that belong to the operation.
    pub immediates: [Scalar; 2],
    /// Its timeline value.
    pub number: u64,
    /// Its source position.
    pub site: u32,
    /// Does the outcome of its request depend on this node? Not for helpers (a scalar made a tensor, the copy before a
    /// download), whose request has its outcome elsewhere.
    pub counts: bool,
    /// Ended by a cancel.
    pub cancelled: bool,
    args: Range<u32>,
    attributes: Range<u32>,
}

/// Nodes in the order of submission.
#[derive(Debug, Default)]
pub struct Window {
    nodes: Vec<Node>,
    args: Vec<NodeArg>,
    /// Words of the operations' attributes as they came, for the key.
    attributes: Vec<u64>,
    /// Bytes of the largest result since the window was last empty.
    largest_bytes: u64,
    /// Bytes of all results and operands since then: its work needs no more at once.
    bytes_most: u64,
}

/// A request that ended in an error.
#[derive(Clone, Copy, Debug)]
pub struct FailedRequest {
    /// Its timeline value.
    pub number: u64,
    /// Its source position.
    pub site: u32,
    /// Why.
    pub failure: Failure,
}

/// What the planner makes of a cut.
#[derive(Debug, Default)]
pub struct Cut {
    /// Nodes to be planned.
    nodes: Vec<Node>,
    args: Vec<NodeArg>,
    /// For each node: is it needed after the segment?
    needed: Vec<bool>,
    /// Values from outside, in the order of their first use.
    externals: Vec<Rc<Value>>,
    /// Everything that the plan depends on, in words.
    key: Vec<u64>,
    /// Nodes that fail because an operand did, or because they were cancelled.
    pub failed: Vec<FailedRequest>,
}

impl Window {
    /// Are there no nodes?
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Timeline value of the first node.
    pub fn first_number(&self) -> Option<u64> {
        self.nodes.first().map(|node| node.number)
    }

    /// Bytes of the largest result since the window was last empty: the least that its work will write.
    pub fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Bytes of all results and operands since the window was last empty.
    pub fn bytes_most(&self) -> u64 {
        self.bytes_most
    }

    /// Timeline value of the last node.
    pub fn last_number(&self) -> Option<u64> {
        self.nodes.last().map(|node| node.number)
    }

    /// Appends a node. Each of its operands counts as a use of its value.
    pub fn push(
        &mut self,
        op: NodeOp,
        value: Rc<Value>,
        args: impl IntoIterator<Item = NodeArg>,
        (attributes, immediates): (&[u64], [Scalar; 2]),
        (number, site): (u64, u32),
    ) {
        let first = self.args.len() as u32;
        if self.nodes.is_empty() {
            self.largest_bytes = 0;
            self.bytes_most = 0;
        }
        let bytes = bytes_of(&value.meta);
        self.largest_bytes = self.largest_bytes.max(bytes);
        self.bytes_most = self.bytes_most.saturating_add(bytes);
        for arg in args {
            if let NodeArg::Value(value, _) = &arg {
                value.add_use();
                self.bytes_most = self.bytes_most.saturating_add(bytes_of(&value.meta));
            }
            self.args.push(arg);
        }
        let attributes_from = self.attributes.len() as u32;
        self.attributes.extend_from_slice(attributes);
        self.nodes.push(Node {
            op,
            value,
            immediates,
            number,
            site,
            counts: true,
            cancelled: false,
            args: first..self.args.len() as u32,
            attributes: attributes_from..self.attributes.len() as u32,
        });
    }

    /// Says that the last node's request has its outcome elsewhere.
    pub fn uncount_last(&mut self) {
        if let Some(node) = self.nodes.last_mut() {
            node.counts = false;
        }
    }

    /// How many nodes up to timeline value `last`, at most `most` and at least one, need no more than `budget` bytes together: for what
    /// they read from outside and what is left of them. `takes` says how many a value takes; `serial` is a number that no other
    /// look has.
    pub fn count_within(
        &self,
        (last, most): (u64, usize),
        budget: u64,
        takes: impl Fn(&Value) -> u64,
        serial: u64,
    ) -> usize {
        let mut needed = 0;
        let mut count = 1;
        // Uses of each result by the nodes after it.
        let mut inside: Vec<u32> = Vec::new();
        let nodes = self.nodes.iter().take(most);
        for node in nodes.take_while(|node| node.number <= last) {
            for arg in &self.args[node.args.start as usize..node.args.end as usize] {
                let NodeArg::Value(value, _) = arg else {
                    continue;
                };
                let (seen, index) = value.mark.get();
                if seen != serial {
                    value.mark.set((serial, u32::MAX));
                    needed += takes(value);
                } else if let Some(uses) = inside.get_mut(index as usize) {
                    *uses += 1;
                    if *uses == value.uses.get() && value.handles.get() == 0 {
                        needed -= takes(value);
                    }
                }
            }
            if node.value.handles.get() > 0 || node.value.uses.get() > 0 {
                needed += takes(&node.value);
            }
            node.value.mark.set((serial, inside.len() as u32));
            inside.push(0);
            if needed <= budget {
                count = inside.len();
            }
        }
        count
    }

    /// Marks the nodes with timeline values in `first..=last` as cancelled.
    pub fn cancel(&mut self, first: u64, last: u64) {
        for node in self
            .nodes
            .iter_mut()
            .filter(|node| (first..=last).contains(&node.number))
        {
            node.cancelled = true;
        }
    }

    /// Takes the nodes up to timeline value `last` out, at most `most`. `serial` is a number that no other cut has.
    pub fn cut(&mut self, last: u64, most: usize, serial: u64) -> Cut {
        let count = self
            .nodes
            .iter()
            .take(most)
            .take_while(|node| node.number <= last)
            .count();
        let mut cut = Cut {
            nodes: Vec::with_capacity(count),
            ..Cut::default()
        };
        if count == self.nodes.len() {
            // The next window is probably as long as this one.
            let (nodes, args) = (
                Vec::with_capacity(count),
                Vec::with_capacity(self.args.len()),
            );
            cut.args = std::mem::replace(&mut self.args, args);
            let nodes = std::mem::replace(&mut self.nodes, nodes);
            let attributes = std::mem::take(&mut self.attributes);
            cut.fill(nodes, &attributes, serial);
            self.attributes = attributes;
            self.attributes.clear();
            return cut;
        }
        // Operands and attributes were appended in the order of their nodes, so the rest only moves down.
        let rest = self.nodes.split_off(count);
        let nodes = std::mem::replace(&mut self.nodes, rest);
        let (args_end, attributes_end) = nodes
            .last()
            .map_or((0, 0), |node| (node.args.end, node.attributes.end));
        let rest = self.args.split_off(args_end as usize);
        cut.args = std::mem::replace(&mut self.args, rest);
        cut.fill(nodes, &self.attributes, serial);
        self.attributes.drain(..attributes_end as usize);
        for node in &mut self.nodes {
            node.args = node.args.start - args_end..node.args.end - args_end;
            node.attributes =
                node.attributes.start - attributes_end..node.attributes.end - attributes_end;
        }
        cut
    }
}

/// Tags of a key's operand words.
const TAG_INTERNAL: u64 = 1 << 60;
const TAG_EXTERNAL: u64 = 2 << 60;
const TAG_IMMEDIATE: u64 = 3 << 60;
const HAS_VIEW: u64 = 1 << 59;
const FIRST_SEEN: u64 = 1 << 58;

impl Cut {
    fn fill(&mut self, nodes: Vec<Node>, attributes: &[u64], serial: u64) {
        // Uses inside the segment, to tell whether anybody outside still wants a value.
        let mut inside: Vec<u32> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let args = node.args.start as usize..node.args.end as usize;
            if let Some(failure) = self.failure_of(&node, args.clone()) {
                self.fail(node, args, failure);
                continue;
            }
            self.push_key(
                &node,
                args,
                &attributes[node.attributes.start as usize..node.attributes.end as usize],
                serial,
                &mut inside,
            );
            node.value.mark.set((serial, self.nodes.len() as u32));
            self.nodes.push(node);
            inside.push(0);
        }
        for (node, inside) in self.nodes.iter().zip(inside) {
            let needed = node.value.handles.get() > 0 || node.value.uses.get() > inside;
            self.needed.push(needed);
        }
        for chunk in self.needed.chunks(64) {
            self.key.push(
                chunk
                    .iter()
                    .enumerate()
                    .fold(0, |word, (bit, &needed)| word | u64::from(needed) << bit),
            );
        }
        // The uses end here: the work that is made of the cut counts its own.
        for node in &self.nodes {
            for arg in &self.args[node.args.start as usize..node.args.end as usize] {
                if let NodeArg::Value(value, _) = arg {
                    value.drop_use();
                }
            }
        }
    }

    fn failure_of(&self, node: &Node, args: Range<usize>) -> Option<Failure> {
        if node.cancelled {
            return Some(Failure {
                code: Code::Cancelled,
                origin: node.number,
                site: node.site,
            });
        }
        self.args[args].iter().find_map(|arg| match arg {
            NodeArg::Value(value, _) => value.failure().map(|f| Failure {
                code: Code::Poisoned,
                ..f
            }),
            NodeArg::Immediate(..) => None,
        })
    }

    fn fail(&mut self, node: Node, args: Range<usize>, failure: Failure) {
        node.value.set(State::Failed(failure));
        for arg in &self.args[args] {
            if let NodeArg::Value(value, _) = arg {
                value.drop_use();
            }
        }
        if node.counts {
            self.failed.push(FailedRequest {
                number: node.number,
                site: node.site,
                failure,
            });
        }
    }

    fn push_key(
        &mut self,
        node: &Node,
        args: Range<usize>,
        attributes: &[u64],
        serial: u64,
        inside: &mut [u32],
    ) {
        let (code, attribute_immediates) = match &node.op {
            NodeOp::Elementwise(function) => (function.wire(), 0),
            // The variant's own number tells operations apart; 256 and above are free of elementwise functions.
            NodeOp::Other(op) => (opcode::CAST + discriminant(op), op.attribute_immediates()),
        };
        let head = u64::from(code)
            | u64::from(node.value.meta.dtype.wire()) << 16
            | (args.len() as u64) << 24;
        let attributes = attributes.get(attribute_immediates..).unwrap_or(&[]);
        self.key.push(head | (attributes.len() as u64) << 40);
        self.key.extend_from_slice(attributes);
        for arg in &self.args[args] {
            match arg {
                NodeArg::Immediate(dtype, _) => {
                    self.key.push(TAG_IMMEDIATE | u64::from(dtype.wire()))
                }
                NodeArg::Value(value, view) => {
                    let view_bit = if view.is_some() { HAS_VIEW } else { 0 };
                    let (seen, index) = value.mark.get();
                    if seen == serial
                        && (index as usize) < inside.len()
                        && Rc::ptr_eq(&self.nodes[index as usize].value, value)
                    {
                        inside[index as usize] += 1;
                        self.key.push(TAG_INTERNAL | view_bit | u64::from(index));
                    } else {
                        push_external(&mut self.key, &mut self.externals, value, view_bit, serial);
                    }
                    if let Some(layout) = view {
                        push_layout(&mut self.key, layout);
                    }
                }
            }
        }
    }

    /// Are there no operations?
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Everything that the plan depends on.
    pub fn key(&self) -> &[u64] {
        &self.key
    }

    /// Values from outside.
    pub fn externals(&self) -> &[Rc<Value>] {
        &self.externals
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The segment for the fuser, for a key that it does not know.
    pub fn segment(&self) -> Segment {
        let nodes = self
            .nodes
            .iter()
            .zip(&self.needed)
            .map(|(node, &needed)| SegmentNode {
                op: match &node.op {
                    NodeOp::Elementwise(function) => Rc::new(Op::Elementwise(*function)),
                    NodeOp::Other(op) => Rc::clone(op),
                },
                meta: node.value.meta,
                args: self.args[node.args.start as usize..node.args.end as usize]
                    .iter()
                    .map(|arg| self.arg(arg))
                    .collect(),
                needed,
            });
        let externals = self.externals.iter();
        Segment {
            nodes: nodes.collect(),
            externals: externals
                .map(|value| External {
                    dtype: value.meta.dtype,
                    constant: value.constant.get(),
                })
                .collect(),
        }
    }

    fn arg(&self, arg: &NodeArg) -> Arg {
        match arg {
            NodeArg::Immediate(dtype, _) => {
                let layout = Layout::contiguous(tensord_shm::layout::Shape::SCALAR);
                Arg {
                    source: Source::Immediate,
                    dtype: *dtype,
                    layout,
                }
            }
            NodeArg::Value(value, view) => {
                let (_, index) = value.mark.get();
                let internal = self
                    .nodes
                    .get(index as usize)
                    .is_some_and(|node| Rc::ptr_eq(&node.value, value));
                let source = if internal {
                    Source::Internal(index)
                } else {
                    Source::External(index)
                };
                let layout = view
                    .as_ref()
                    .map_or_else(|| Layout::contiguous(value.meta.shape), |view| **view);
                Arg {
                    source,
                    dtype: value.meta.dtype,
                    layout,
                }
            }
        }
    }

    /// Timeline value and source position of each request whose outcome depends on a node.
    pub fn requests(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let counts = self.nodes.iter().filter(|node| node.counts);
        counts.map(|node| (node.number, node.site))
    }

    /// Scalars among a node's operands before a position.
    pub fn immediates_before(&self, node: u32, position: usize) -> u32 {
        let args = self.nodes[node as usize].args.clone();
        let args = self.args[args.start as usize..args.end as usize].iter();
        let scalars = args
            .take(position)
            .filter(|arg| matches!(arg, NodeArg::Immediate(..)));
        scalars.count() as u32
    }

    /// The scalars of an instance, in the plan's order.
    pub fn immediates(&self, template: &Template) -> Vec<Scalar> {
        let resolve = |source: &ImmediateSource| match *source {
            ImmediateSource::Fixed(scalar) => scalar,
            ImmediateSource::Attribute(node, k) => {
                self.nodes[node as usize].immediates[usize::from(k)]
            }
            ImmediateSource::Operand(node, position) => {
                let node = &self.nodes[node as usize];
                match &self.args[node.args.start as usize + usize::from(position)] {
                    NodeArg::Immediate(_, scalar) => *scalar,
                    NodeArg::Value(..) => Scalar(0),
                }
            }
        };
        template.immediates.iter().map(resolve).collect()
    }
}

fn push_external(
    key: &mut Vec<u64>,
    externals: &mut Vec<Rc<Value>>,
    value: &Rc<Value>,
    view_bit: u64,
    serial: u64,
) {
    let (seen, index) = value.mark.get();
    let known = seen == serial
        && externals
            .get(index as usize)
            .is_some_and(|known| Rc::ptr_eq(known, value));
    if known {
        key.push(TAG_EXTERNAL | view_bit | u64::from(index));
        return;
    }
    let index = externals.len() as u32;
    value.mark.set((serial, index));
    externals.push(Rc::clone(value));
    let about = u64::from(value.meta.dtype.wire()) << 32
        | u64::from(value.constant.get()) << 40
        | (value.meta.shape.rank() as u64) << 44;
    key.push(TAG_EXTERNAL | FIRST_SEEN | view_bit | about | u64::from(index));
    key.extend_from_slice(&value.meta.shape);
}

fn push_layout(key: &mut Vec<u64>, layout: &Layout) {
    let rank = layout.shape.rank();
    key.push(rank as u64 | (layout.offset as u64) << 8);
    key.extend_from_slice(&layout.shape);
    key.extend(layout.strides[..rank].iter().map(|&stride| stride as u64));
}

/// A number for each kind of operation that is no elementwise function.
fn discriminant(op: &Op) -> u16 {
    match op {
        Op::Elementwise(_) | Op::Cast(_) => 0,
        Op::Reduce { .. } => 1,
        Op::Scan { .. } => 2,
        Op::Contract { .. } => 3,
        Op::Pad { .. } => 4,
        Op::Concat { .. } => 5,
        Op::Gather { .. } => 6,
        Op::Scatter { .. } => 7,
        Op::Copy => 8,
        Op::Full(_) => 9,
        Op::Iota { .. } => 10,
        Op::Random { .. } => 11,
        Op::Reshape(_) | Op::Permute(_) | Op::Slice { .. } | Op::Expand(_) | Op::Window { .. } => {
            12
        }
    }
}
