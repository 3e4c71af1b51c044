//! Turns an analysed segment into a plan: one step for each reduction, contraction, scan or scatter, with the elementwise work
//! around it folded in, and maps for the rest.
//!
//! Each root of the analysis gets a step (`pointwise`, `anchor`, `whole`); what lies between roots is written into the
//! steps that use it (`value`). A root's value is in a register of its step, or in memory (`memory`).
//!
//! # Invariant
//! Slots, immediates, inputs and temporaries are numbered in the order of writing, which depends on structure alone.

mod anchor;
mod memory;
mod pointwise;
mod step;
#[cfg(test)]
mod tests;
mod value;
mod whole;

use tensord_plan::{Buffer, Plan, Slot, Step, TempSpec};
use tensord_shm::dtype::DType;
use tensord_shm::layout::Shape;
use tensord_shm::op::Op;

use crate::fuse::affine::Affine;
use crate::fuse::analyse::{Analysis, Role, analyse};
use crate::fuse::body::Emitter;
use crate::fuse::donate;
use crate::fuse::segment::{ImmediateSource, Segment, SegmentNode};

use memory::Place;
use step::StepBuilder;

/// A plan and the first instance's binding to it.
#[derive(Debug)]
pub struct Built {
    /// The plan.
    pub plan: Plan,
    /// Parameter values of the segment's sizes.
    pub values: Vec<i64>,
    /// Where each immediate comes from.
    pub immediates: Vec<ImmediateSource>,
    /// For each input of the plan, the segment's external tensor.
    pub inputs: Vec<u32>,
    /// For each output of the plan, the segment's node.
    pub outputs: Vec<u32>,
}

struct Builder<'a> {
    segment: &'a Segment,
    analysis: Analysis,
    emitter: Emitter,
    places: Vec<Option<Place>>,
    steps: Vec<StepBuilder>,
    temps: Vec<(DType, Slot)>,
    inputs: Vec<u32>,
    input_of: Vec<Option<u32>>,
    outputs: Vec<u32>,
    output_specs: Vec<(DType, Slot)>,
}

/// Plans a segment. Linear in its length.
pub fn build(segment: &Segment) -> Built {
    let mut builder = Builder {
        segment,
        analysis: analyse(segment),
        emitter: Emitter::default(),
        places: segment.nodes.iter().map(|_| None).collect(),
        steps: Vec::new(),
        temps: Vec::new(),
        inputs: Vec::new(),
        input_of: vec![None; segment.externals.len()],
        outputs: Vec::new(),
        output_specs: Vec::new(),
    };
    for node in 0..segment.nodes.len() {
        if builder.analysis.roles[node] == Role::Root {
            builder.root(node);
        }
    }
    builder.finish()
}

fn squeeze(shape: &Shape) -> Vec<u64> {
    shape.iter().copied().filter(|&size| size != 1).collect()
}

fn as_sizes(sizes: &[u64]) -> impl Iterator<Item = i64> + '_ {
    sizes.iter().map(|&size| size as i64)
}

/// Coordinates along the axes of `shape`: the given variables for axes that are not 1, 0 for the others.
fn coordinates_over(shape: &Shape, variables: &[usize]) -> Vec<Affine> {
    let mut next = variables.iter();
    let mut coordinate = |size: u64| match size {
        1 => Affine::constant(0),
        _ => Affine::variable(
            *next
                .next()
                .expect("one variable for each axis that is not 1"),
        ),
    };
    shape.iter().map(|&size| coordinate(size)).collect()
}

impl<'a> Builder<'a> {
    fn node(&self, node: usize) -> &'a SegmentNode {
        &self.segment.nodes[node]
    }

    fn root(&mut self, node: usize) {
        match *self.node(node).op {
            Op::Reduce { kind, axes, .. } => self.reduce(node, kind, axes),
            Op::Contract { .. } => self.contract(node),
            Op::Scan { kind, axis } => self.scan(node, kind, usize::from(axis)),
            Op::Scatter { axis, mode } => self.scatter(node, usize::from(axis), mode),
            Op::Concat { axis } => self.concat(node, usize::from(axis)),
            _ => self.pointwise(node),
        }
    }

    fn finish(self) -> Built {
        let Builder {
            segment,
            analysis,
            emitter,
            steps,
            temps,
            inputs,
            outputs,
            output_specs,
            ..
        } = self;
        let operations = analysis
            .roles
            .iter()
            .filter(|role| **role != Role::Dead)
            .count() as u32;
        let steps: Vec<Step> = steps.into_iter().map(StepBuilder::finish).collect();
        let mut plan = Plan {
            steps,
            temps: Vec::new(),
            inputs: inputs
                .iter()
                .map(|&e| segment.externals[e as usize].dtype)
                .collect(),
            outputs: output_specs,
            slots: emitter.values.len() as u32,
            immediates: emitter.immediates.len() as u32,
            donations: Vec::new(),
            operations,
        };
        plan.temps = temps
            .iter()
            .enumerate()
            .map(|(k, &(dtype, count))| TempSpec {
                dtype,
                count,
                live: donate::live_range(&plan, Buffer::Temp(k as u32)),
            })
            .collect();
        plan.donations = donate::donations(&plan, &emitter.values);
        Built {
            plan,
            values: emitter.values,
            immediates: emitter.immediates,
            inputs,
            outputs,
        }
    }
}
