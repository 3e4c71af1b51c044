//! Where values are: in a register of their step, in the memory of an input or output, or in a temporary.
//!
//! A register is written out when the first step asks that does not compute it, and only then.

use tensord_plan::{Buffer, Store, ValueId};
use tensord_shm::layout::Layout;

use super::Builder;
use crate::fuse::affine::{Affine, address};
use crate::fuse::body::access;
use crate::fuse::segment::{Arg, Source};

/// Where a root's value is.
pub(super) struct Place {
    pub(super) step: usize,
    pub(super) value: Option<ValueId>,
    /// Coordinates of the node in the step's space, for stores.
    pub(super) coordinates: Vec<Affine>,
    pub(super) buffer: Option<Buffer>,
}

impl Builder<'_> {
    /// The root's value is in a register of `step`, at coordinates of its space; written out if it is needed.
    pub(super) fn place_in_register(
        &mut self,
        node: usize,
        step: usize,
        value: ValueId,
        coordinates: Vec<Affine>,
    ) {
        self.places[node] = Some(Place {
            step,
            value: Some(value),
            coordinates,
            buffer: None,
        });
        if self.node(node).needed {
            let buffer = self.new_output(node);
            self.store(node, buffer);
        }
    }

    /// The root's value is in `buffer` once `step` has run.
    pub(super) fn place_in_memory(&mut self, node: usize, step: usize, buffer: Buffer) {
        self.places[node] = Some(Place {
            step,
            value: None,
            coordinates: Vec::new(),
            buffer: Some(buffer),
        });
    }

    fn new_output(&mut self, node: usize) -> Buffer {
        let meta = self.node(node).meta;
        let count = self.emitter.slot(meta.shape.count() as i64);
        self.outputs.push(node as u32);
        self.output_specs.push((meta.dtype, count));
        Buffer::Output(self.outputs.len() as u32 - 1)
    }

    fn new_temp(&mut self, node: usize) -> Buffer {
        let meta = self.node(node).meta;
        let count = self.emitter.slot(meta.shape.count() as i64);
        self.temps.push((meta.dtype, count));
        Buffer::Temp(self.temps.len() as u32 - 1)
    }

    /// Memory for a node that its step writes as a whole.
    pub(super) fn own_memory(&mut self, node: usize) -> Buffer {
        if self.node(node).needed {
            self.new_output(node)
        } else {
            self.new_temp(node)
        }
    }

    /// Writes a root's register to `buffer`.
    fn store(&mut self, node: usize, buffer: Buffer) {
        let meta = self.node(node).meta;
        let place = self.places[node]
            .as_mut()
            .expect("roots are placed before they are stored");
        place.buffer = Some(buffer);
        let flat = address(&Layout::contiguous(meta.shape), &place.coordinates);
        let step = &mut self.steps[place.step];
        let value = place.value.expect("only register values are stored");
        let access = access(
            &mut self.emitter,
            buffer,
            meta.dtype,
            &flat,
            step.code.rank(),
        );
        step.stores.push(Store { value, access });
    }

    /// Memory from which another step can read a root.
    pub(super) fn memory(&mut self, node: usize) -> Buffer {
        let place = self.places[node]
            .as_ref()
            .expect("producers are placed before consumers");
        place.buffer.unwrap_or_else(|| {
            let buffer = self.new_temp(node);
            self.store(node, buffer);
            buffer
        })
    }

    pub(super) fn input(&mut self, external: u32) -> Buffer {
        let known = self.input_of[external as usize];
        Buffer::Input(known.unwrap_or_else(|| {
            self.inputs.push(external);
            let index = self.inputs.len() as u32 - 1;
            self.input_of[external as usize] = Some(index);
            index
        }))
    }

    /// Memory of an operand that the analysis has made a root, or that comes from outside.
    pub(super) fn operand_memory(&mut self, arg: &Arg) -> Buffer {
        match arg.source {
            Source::External(external) => self.input(external),
            Source::Internal(node) => self.memory(node as usize),
            Source::Immediate => unreachable_immediate(),
        }
    }
}

#[cold]
fn unreachable_immediate() -> Buffer {
    unreachable!("the graph turns scalars that must lie in memory into tensors")
}
