//! Values: the instructions that compute a node at given coordinates of a step.
//!
//! Operands that are computed inside their consumers are written in place, at coordinates composed with the
//! consumer's; the others are registers of the same step or loads.

use tensord_plan::{Buffer, Immediate, Instr, ValueId};
use tensord_shm::dtype::DType;
use tensord_shm::layout::Layout;
use tensord_shm::op::Op;

use super::Builder;
use crate::fuse::affine::{Affine, address};
use crate::fuse::analyse::{Role, is_identity};
use crate::fuse::body::BodyBuilder;
use crate::fuse::segment::{Arg, ImmediateSource, Source};

impl Builder<'_> {
    /// An operand of `consumer` at the consumer's coordinates (those of its operand's axes, aligned from the last).
    pub(super) fn operand(
        &mut self,
        code: &mut BodyBuilder,
        consumer: usize,
        position: usize,
        coordinates: &[Affine],
        step: usize,
    ) -> ValueId {
        let segment = self.segment;
        let arg = &segment.nodes[consumer].args[position];
        let lead = coordinates.len() - arg.layout.shape.rank();
        let aligned: Vec<Affine> = arg
            .layout
            .shape
            .iter()
            .enumerate()
            .map(|(axis, &size)| {
                if size == 1 {
                    Affine::constant(0)
                } else {
                    coordinates[lead + axis].clone()
                }
            })
            .collect();
        match arg.source {
            Source::Immediate => code.scalar(
                &mut self.emitter,
                consumer as u32,
                position as u8,
                arg.dtype,
            ),
            Source::External(external) => {
                let buffer = self.input(external);
                self.load(code, buffer, arg, &aligned)
            }
            Source::Internal(producer) => {
                let producer = producer as usize;
                if let Some(inner) = self.inline_coordinates(consumer, position, &aligned) {
                    return self.value(code, producer, &inner, step);
                }
                if let Some(value) = self.register(code, producer, arg, &aligned, step) {
                    return value;
                }
                let buffer = self.memory(producer);
                self.load(code, buffer, arg, &aligned)
            }
        }
    }

    /// An operand read from memory.
    fn load(
        &mut self,
        code: &mut BodyBuilder,
        buffer: Buffer,
        arg: &Arg,
        coordinates: &[Affine],
    ) -> ValueId {
        let flat = address(&arg.layout, coordinates);
        code.load(&mut self.emitter, (buffer, arg.dtype), &flat, &[], None)
    }

    /// A scalar that belongs to a node's operation.
    fn attribute(&mut self, node: usize, position: u8) -> Immediate {
        self.emitter
            .immediate(ImmediateSource::Attribute(node as u32, position))
    }

    /// The producer's coordinates, where it is computed inside its consumers.
    fn inline_coordinates(
        &self,
        consumer: usize,
        position: usize,
        aligned: &[Affine],
    ) -> Option<Vec<Affine>> {
        let inner = self.analysis.coordinates[consumer][position].as_ref()?;
        let compose = |outer: &Affine| {
            let mut composed = Affine::constant(outer.offset);
            for (variable, &term) in outer.terms.iter().enumerate() {
                composed.add_scaled(&aligned[variable], term);
            }
            composed.trimmed()
        };
        Some(inner.iter().map(compose).collect())
    }

    /// The register of a root of this same step.
    fn register(
        &self,
        code: &BodyBuilder,
        producer: usize,
        arg: &Arg,
        aligned: &[Affine],
        step: usize,
    ) -> Option<ValueId> {
        let shape = &self.node(producer).meta.shape;
        let place = self.places[producer].as_ref()?;
        if place.step != step || !is_identity(arg, shape) {
            return None;
        }
        let mut given = arg
            .layout
            .shape
            .iter()
            .zip(aligned)
            .filter(|(size, _)| **size != 1)
            .map(|(_, c)| c.clone());
        let coordinates: Vec<Affine> = shape
            .iter()
            .map(|&size| {
                if size == 1 {
                    Affine::constant(0)
                } else {
                    given.next().unwrap_or_default()
                }
            })
            .collect();
        code.computed(producer as u32, &coordinates)
    }

    /// An inline node at coordinates of its own axes.
    fn value(
        &mut self,
        code: &mut BodyBuilder,
        node: usize,
        coordinates: &[Affine],
        step: usize,
    ) -> ValueId {
        if let Some(value) = code.computed(node as u32, coordinates) {
            return value;
        }
        let value = self.compute(code, node, coordinates, step);
        code.note(node as u32, coordinates, value);
        value
    }

    pub(super) fn compute(
        &mut self,
        code: &mut BodyBuilder,
        node: usize,
        coordinates: &[Affine],
        step: usize,
    ) -> ValueId {
        let spec = self.node(node);
        match *spec.op {
            Op::Elementwise(function) => {
                let mut args = [ValueId(0); 3];
                for (position, arg) in args.iter_mut().enumerate().take(spec.args.len()) {
                    *arg = self.operand(code, node, position, coordinates, step);
                }
                for position in spec.args.len()..3 {
                    args[position] = args[0];
                }
                let dtype = spec.args[spec.args.len() - 1].dtype;
                code.push(Instr::Apply {
                    function,
                    dtype,
                    args,
                })
            }
            Op::Cast(to) => {
                let arg = self.operand(code, node, 0, coordinates, step);
                match spec.args[0].dtype {
                    from if from == to => arg,
                    from => code.push(Instr::Cast { from, to, arg }),
                }
            }
            Op::Pad { low, .. } => self.pad(code, node, coordinates, &low, step),
            Op::Full(meta) => {
                let slot = self.attribute(node, 0);
                code.push(Instr::Immediate {
                    slot,
                    dtype: meta.dtype,
                })
            }
            Op::Iota { meta, axis } => {
                self.iota(code, node, &coordinates[usize::from(axis)], meta.dtype)
            }
            Op::Random { meta, distribution } => {
                let flat = address(&Layout::contiguous(meta.shape), coordinates);
                let key = self.attribute(node, 0);
                let offset = self.emitter.slot(flat.offset);
                let strides = self
                    .emitter
                    .run((0..code.rank()).map(|variable| flat.term(variable)));
                code.push(Instr::Random {
                    dtype: meta.dtype,
                    distribution,
                    key,
                    offset,
                    strides,
                })
            }
            Op::Gather { axis } => self.gather(code, node, coordinates, usize::from(axis), step),
            // Copy, and nothing else: the other operations have steps of their own.
            _ => self.operand(code, node, 0, coordinates, step),
        }
    }

    /// Counts along the coordinate of its axis; where that never moves it is its start.
    fn iota(
        &mut self,
        code: &mut BodyBuilder,
        node: usize,
        along: &Affine,
        dtype: DType,
    ) -> ValueId {
        let start = self.attribute(node, 0);
        match along.terms.iter().rposition(|&term| term != 0) {
            None => code.push(Instr::Immediate { slot: start, dtype }),
            Some(variable) => {
                let step = self.attribute(node, 1);
                code.push(Instr::Iota {
                    axis: variable as u8,
                    dtype,
                    start,
                    step,
                })
            }
        }
    }

    fn pad(
        &mut self,
        code: &mut BodyBuilder,
        node: usize,
        coordinates: &[Affine],
        low: &[u64],
        step: usize,
    ) -> ValueId {
        let spec = self.node(node);
        let arg = &spec.args[0];
        let mut inner = Vec::with_capacity(coordinates.len());
        let mut guarded = Vec::new();
        for (axis, coordinate) in coordinates.iter().enumerate() {
            let size = arg.layout.shape[axis];
            if spec.meta.shape[axis] == size {
                inner.push(coordinate.clone());
                continue;
            }
            let variable = code.guarded(&mut self.emitter, coordinate, -(low[axis] as i64), size);
            guarded.push(variable);
            inner.push(Affine::variable(variable));
        }
        let leaf = match arg.source {
            Source::External(external) => Some(self.input(external)),
            Source::Internal(producer) if self.analysis.roles[producer as usize] == Role::Root => {
                Some(self.memory(producer as usize))
            }
            _ => None,
        };
        if guarded.is_empty() {
            return self.operand(code, node, 0, coordinates, step);
        }
        if let Some(buffer) = leaf {
            let flat = address(&arg.layout, &inner);
            return code.load(
                &mut self.emitter,
                (buffer, arg.dtype),
                &flat,
                &guarded,
                Some((node as u32, 0)),
            );
        }
        let value = self.operand(code, node, 0, &inner, step);
        let guards = code.conditions(&guarded);
        let fill = self.attribute(node, 0);
        code.push(Instr::Mask {
            dtype: arg.dtype,
            arg: value,
            guards,
            fill,
        })
    }

    fn gather(
        &mut self,
        code: &mut BodyBuilder,
        node: usize,
        coordinates: &[Affine],
        axis: usize,
        step: usize,
    ) -> ValueId {
        let spec = self.node(node);
        let (from, index) = (&spec.args[0], &spec.args[1]);
        let index_rank = index.layout.shape.rank();
        let mut outer: Vec<Affine> = coordinates[..axis].to_vec();
        outer.push(Affine::constant(0));
        outer.extend_from_slice(&coordinates[axis + index_rank..]);
        let buffer = self.operand_memory(from);
        let load = code.base(
            &mut self.emitter,
            buffer,
            from.dtype,
            &address(&from.layout, &outer),
        );
        let index = self.operand(code, node, 1, &coordinates[axis..axis + index_rank], step);
        let extent = self.emitter.slot(from.layout.shape[axis] as i64);
        let stride = self.emitter.slot(from.layout.strides[axis]);
        code.push(Instr::Gather {
            load,
            index,
            extent,
            stride,
        })
    }
}
