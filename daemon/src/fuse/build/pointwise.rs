//! Elementwise roots: each joins the map, or the epilogue, that already holds its operands, or a new map.

use std::mem;

use tensord_shm::op::Op;

use super::step::{Kind, StepBuilder};
use super::{Builder, as_sizes, coordinates_over, squeeze};
use crate::fuse::analyse::is_identity;
use crate::fuse::body::BodyBuilder;
use crate::fuse::segment::Source;

/// Most instructions of one step.
const STEP_INSTRUCTIONS_MAX: usize = 256;

impl Builder<'_> {
    /// The first step that may compute the node, and a step from which it takes a value in a register.
    fn earliest(&self, node: usize, identity: bool) -> (usize, Option<usize>) {
        let mut earliest = 0;
        let mut partner = None;
        let spec = self.node(node);
        for (position, arg) in spec.args.iter().enumerate() {
            let Source::Internal(producer) = arg.source else {
                continue;
            };
            let producer = producer as usize;
            let same = identity
                && !matches!(*spec.op, Op::Pad { .. } | Op::Gather { .. })
                && squeeze(&arg.layout.shape) == squeeze(&spec.meta.shape)
                && is_identity(arg, &self.node(producer).meta.shape);
            let (from, with) = match (&self.places[producer], position) {
                (Some(place), _) if same && place.value.is_some() => (place.step, Some(place.step)),
                (Some(place), _) => (place.step + 1, None),
                (None, _) => self.earliest(producer, same),
            };
            earliest = earliest.max(from);
            partner = partner.max(with);
        }
        (earliest, partner)
    }

    pub(super) fn pointwise(&mut self, node: usize) {
        let shape = self.node(node).meta.shape;
        let squeezed = squeeze(&shape);
        let (mut earliest, partner) = self.earliest(node, true);
        let joinable = |step: &StepBuilder| {
            step.open && step.squeezed == squeezed && step.code.len() < STEP_INSTRUCTIONS_MAX
        };
        let joined = match partner {
            Some(step) if step == earliest && joinable(&self.steps[step]) => Some(step),
            _ => {
                // Values in registers of a step that cannot be joined are read back from memory.
                earliest = earliest.max(partner.map_or(0, |step| step + 1));
                (earliest..self.steps.len())
                    .find(|&s| matches!(self.steps[s].kind, Kind::Map) && joinable(&self.steps[s]))
            }
        };
        let step = joined.unwrap_or_else(|| self.new_map(&squeezed));
        let coordinates = coordinates_over(&shape, &self.steps[step].variables);
        let mut code = mem::take(&mut self.steps[step].code);
        let value = self.compute(&mut code, node, &coordinates, step);
        code.note(node as u32, &coordinates, value);
        self.steps[step].code = code;
        self.place_in_register(node, step, value, coordinates);
    }

    pub(super) fn new_map(&mut self, squeezed: &[u64]) -> usize {
        let sizes = self.emitter.run(as_sizes(squeezed));
        self.push_step(
            Kind::Map,
            sizes,
            squeezed.to_vec(),
            (0..squeezed.len()).collect(),
            BodyBuilder::new(squeezed.len()),
        )
    }
}
