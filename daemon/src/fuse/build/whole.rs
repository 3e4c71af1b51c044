//! Scans, scatters and concatenations: steps that write their node's memory themselves, and that nothing joins.

use std::mem;

use tensord_plan::{Buffer, ScanStep, ScatterStep, Slot, Step, Store};
use tensord_shm::layout::Layout;
use tensord_shm::op::{Scan, ScatterMode};

use super::step::Kind;
use super::{Builder, as_sizes, coordinates_over, squeeze};
use crate::fuse::affine::{Affine, address};
use crate::fuse::body::{BodyBuilder, access};

impl Builder<'_> {
    /// A step that writes its node's memory itself.
    fn whole(&mut self, node: usize, step: Step, buffer: Buffer) {
        let index = self.push_step(
            Kind::Whole(step),
            Slot(0),
            Vec::new(),
            Vec::new(),
            BodyBuilder::default(),
        );
        self.steps[index].open = false;
        self.place_in_memory(node, index, buffer);
    }

    pub(super) fn scan(&mut self, node: usize, kind: Scan, axis: usize) {
        let spec = self.node(node);
        let shape = spec.meta.shape;
        let mut order: Vec<usize> = (0..shape.rank())
            .filter(|&a| a != axis && shape[a] != 1)
            .collect();
        order.push(axis);
        let sizes = self.emitter.run(order.iter().map(|&a| shape[a] as i64));
        let mut coordinates = vec![Affine::constant(0); shape.rank()];
        for (variable, &a) in order.iter().enumerate() {
            coordinates[a] = Affine::variable(variable);
        }
        let from = self.operand_memory(&spec.args[0]);
        let to = self.own_memory(node);
        let rank = order.len();
        let from = access(
            &mut self.emitter,
            from,
            spec.meta.dtype,
            &address(&spec.args[0].layout, &coordinates),
            rank,
        );
        let target = address(&Layout::contiguous(shape), &coordinates);
        let step = Step::Scan(ScanStep {
            sizes,
            rank: rank as u8,
            kind,
            from,
            to: access(&mut self.emitter, to, spec.meta.dtype, &target, rank),
        });
        self.whole(node, step, to);
    }

    /// A map that writes one operand of `node` into its memory, `shift` elements from the start.
    fn copy_operand(&mut self, node: usize, position: usize, buffer: Buffer, shift: i64) {
        let spec = self.node(node);
        let shape = spec.args[position].layout.shape;
        let step = self.new_map(&squeeze(&shape));
        self.steps[step].open = false;
        let coordinates = coordinates_over(&shape, &self.steps[step].variables);
        let mut code = mem::take(&mut self.steps[step].code);
        let value = self.operand(&mut code, node, position, &coordinates, step);
        let mut flat = address(&Layout::contiguous(spec.meta.shape), &coordinates);
        flat.offset += shift;
        let access = access(
            &mut self.emitter,
            buffer,
            spec.meta.dtype,
            &flat,
            code.rank(),
        );
        self.steps[step].code = code;
        self.steps[step].stores.push(Store { value, access });
        self.place_in_memory(node, step, buffer);
    }

    pub(super) fn concat(&mut self, node: usize, axis: usize) {
        let spec = self.node(node);
        let buffer = self.own_memory(node);
        let stride = spec.meta.shape.contiguous_strides()[axis];
        let mut before = 0;
        for (position, arg) in spec.args.iter().enumerate() {
            self.copy_operand(node, position, buffer, before * stride);
            before += arg.layout.shape[axis] as i64;
        }
    }

    pub(super) fn scatter(&mut self, node: usize, axis: usize, mode: ScatterMode) {
        let spec = self.node(node);
        let shape = spec.meta.shape;
        let buffer = self.own_memory(node);
        self.copy_operand(node, 0, buffer, 0);
        let (index, updates) = (&spec.args[1], &spec.args[2]);
        let index_rank = index.layout.shape.rank();
        let space = updates.layout.shape;
        let sizes = self.emitter.run(as_sizes(&space));
        let variables: Vec<Affine> = (0..space.rank()).map(Affine::variable).collect();
        let from = self.operand_memory(updates);
        let from = access(
            &mut self.emitter,
            from,
            updates.dtype,
            &address(&updates.layout, &variables),
            space.rank(),
        );
        let at = self.operand_memory(index);
        let at = access(
            &mut self.emitter,
            at,
            index.dtype,
            &address(&index.layout, &variables[..index_rank]),
            index_rank,
        );
        let layout = Layout::contiguous(shape);
        let mut rows: Vec<Affine> = (0..shape.rank())
            .map(|a| Affine::variable(if a > axis { a - 1 } else { a }))
            .collect();
        rows[axis] = Affine::constant(0);
        let to = access(
            &mut self.emitter,
            buffer,
            spec.meta.dtype,
            &address(&layout, &rows),
            shape.rank() - 1,
        );
        let step = Step::Scatter(ScatterStep {
            sizes,
            before: axis as u8,
            index_rank: index_rank as u8,
            behind: (shape.rank() - 1 - axis) as u8,
            mode,
            to,
            extent: self.emitter.slot(shape[axis] as i64),
            stride: self.emitter.slot(layout.strides[axis]),
            index: at,
            updates: from,
        });
        self.whole(node, step, buffer);
    }
}
