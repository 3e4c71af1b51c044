//! Decides which results of a segment are computed where they are used, and which get a place of their own.
//!
//! A *root* has a place: a register of its step, a temporary or an output. Every other live node is computed inside its consumer, at
//! the coordinates that the consumer's view asks for. The decision looks only at structure and at whether sizes are 0, 1 or equal,
//! never at how large they are, so that one chain has one plan at all its sizes.

use tensord_shm::layout::Shape;
use tensord_shm::op::Op;

use super::affine::{Affine, decompose};
use super::segment::{Arg, Segment, SegmentNode, Source};

/// Most instructions of a tree that is computed inside its consumer.
const TREE_INSTRUCTIONS_MAX: u32 = 160;
/// A tree with more than one consumer is computed again in each of them up to this cost and this many consumers.
const DUPLICATE_COST_MAX: u32 = 2;
const DUPLICATE_USES_MAX: usize = 3;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody needs it.
    Dead,
    /// Computed inside its consumers.
    Inline,
    /// Has a place.
    Root,
}

/// The fuser's view of a segment.
pub struct Analysis {
    /// For each node.
    pub roles: Vec<Role>,
    /// For each node and operand that reads an inline node: the coordinates in that node of each index of the view.
    pub coordinates: Vec<Vec<Option<Vec<Affine>>>>,
}

/// Can the operation be computed at any single index from its operands at single indices?
pub fn is_pointwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Elementwise(_) | Op::Cast(_) | Op::Copy | Op::Full(_) | Op::Pad { .. }
    )
}

/// Does operand `position` of this operation have to lie in memory?
fn wants_memory(op: &Op, position: usize) -> bool {
    match op {
        Op::Scan { .. } => true,
        Op::Gather { .. } => position == 0,
        Op::Scatter { .. } => position > 0,
        _ => false,
    }
}

fn own_cost(op: &Op) -> u32 {
    match op {
        Op::Elementwise(function) => u32::from(function.info().cost),
        _ => 0,
    }
}

/// Is the view the whole source in its own order (axes of size 1 aside)?
pub fn is_identity(arg: &Arg, shape: &Shape) -> bool {
    let squeezed = |s: &Shape| {
        s.iter()
            .copied()
            .filter(|&size| size != 1)
            .collect::<Vec<u64>>()
    };
    arg.layout.is_contiguous() && squeezed(&arg.layout.shape) == squeezed(shape)
}

/// Looks at every node once, in linear time.
pub fn analyse(segment: &Segment) -> Analysis {
    let nodes = &segment.nodes;
    let live = liveness(nodes);
    let mut uses: Vec<Vec<(usize, usize)>> = vec![Vec::new(); nodes.len()];
    for (consumer, node) in nodes.iter().enumerate().filter(|(n, _)| live[*n]) {
        for (position, arg) in node.args.iter().enumerate() {
            if let Source::Internal(producer) = arg.source {
                uses[producer as usize].push((consumer, position));
            }
        }
    }
    let mut roles = vec![Role::Dead; nodes.len()];
    let mut coordinates: Vec<Vec<Option<Vec<Affine>>>> =
        nodes.iter().map(|n| vec![None; n.args.len()]).collect();
    let mut cost = vec![0u32; nodes.len()];
    let mut instructions = vec![0u32; nodes.len()];
    for (index, node) in nodes.iter().enumerate().filter(|(n, _)| live[*n]) {
        cost[index] = own_cost(&node.op);
        instructions[index] = 1;
        for arg in &node.args {
            match arg.source {
                Source::Internal(p) if roles[p as usize] == Role::Inline => {
                    cost[index] = cost[index].saturating_add(cost[p as usize]);
                    instructions[index] =
                        instructions[index].saturating_add(instructions[p as usize]);
                }
                _ => instructions[index] += 1,
            }
        }
        let inline = is_pointwise(&node.op)
            && !node.needed
            && instructions[index] <= TREE_INSTRUCTIONS_MAX
            && may_repeat(nodes, &uses[index], cost[index], instructions[index])
            && pull(nodes, &uses, index, cost[index], &mut coordinates);
        roles[index] = if inline { Role::Inline } else { Role::Root };
    }
    Analysis { roles, coordinates }
}

fn liveness(nodes: &[SegmentNode]) -> Vec<bool> {
    let mut live: Vec<bool> = nodes.iter().map(|node| node.needed).collect();
    for index in (0..nodes.len()).rev() {
        if live[index] {
            for arg in &nodes[index].args {
                if let Source::Internal(producer) = arg.source {
                    live[producer as usize] = true;
                }
            }
        }
    }
    live
}

fn may_repeat(
    nodes: &[SegmentNode],
    uses: &[(usize, usize)],
    cost: u32,
    instructions: u32,
) -> bool {
    let first = uses.first().map(|u| u.0);
    let one_consumer = uses.iter().all(|&(consumer, _)| Some(consumer) == first);
    one_consumer
        || (cost <= DUPLICATE_COST_MAX
            && instructions <= 4
            && uses.len() <= DUPLICATE_USES_MAX
            && !feeds_contraction(nodes, uses))
}

/// Does any of these uses belong to a contraction?
fn feeds_contraction(nodes: &[SegmentNode], uses: &[(usize, usize)]) -> bool {
    uses.iter()
        .any(|&(consumer, _)| matches!(*nodes[consumer].op, Op::Contract { .. }))
}

/// Can all consumers compute the node at the indices they want? Notes the coordinates where they can.
fn pull(
    nodes: &[SegmentNode],
    uses: &[Vec<(usize, usize)>],
    index: usize,
    cost: u32,
    coordinates: &mut [Vec<Option<Vec<Affine>>>],
) -> bool {
    let shape = nodes[index].meta.shape;
    let mut found = Vec::with_capacity(uses[index].len());
    for &(consumer, position) in &uses[index] {
        let user = &nodes[consumer];
        let view = &user.args[position].layout;
        // Repeating work is worth it only where it is no more than reading: padding, copies, casts.
        let repeats = repeats(user, view, &shape);
        // A contraction packs padded windows of what lies in memory; computing them it would go from window to window.
        let padded =
            matches!(*user.op, Op::Pad { .. }) && feeds_contraction(nodes, &uses[consumer]);
        if wants_memory(&user.op, position) || cost > 0 && (repeats || padded) {
            return false;
        }
        match decompose(view, &shape) {
            Some(found_here) => found.push((consumer, position, found_here)),
            None => return false,
        }
    }
    for (consumer, position, found_here) in found {
        coordinates[consumer][position] = Some(found_here);
    }
    true
}

/// Does the consumer read some element of the source more than once? Judged by structure: an axis repeated by a stride of 0, by
/// broadcasting, or a window.
fn repeats(user: &SegmentNode, view: &tensord_shm::layout::Layout, source: &Shape) -> bool {
    let repeated_axis = view
        .shape
        .iter()
        .zip(view.strides)
        .any(|(&size, stride)| size > 1 && stride == 0);
    let broadcast =
        matches!(*user.op, Op::Elementwise(_)) && view.shape.count() < user.meta.shape.count();
    repeated_axis || broadcast || view.shape.count() > source.count()
}
