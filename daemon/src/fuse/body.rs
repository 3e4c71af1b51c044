//! Writes straight-line code: turns nodes at given coordinates into instructions of one step.
//!
//! Slots are handed out in the order of writing, which depends on structure alone: two segments that differ in sizes only
//! get equal plans and other parameter values.

use std::collections::HashMap;

use tensord_plan::{Access, Body, Buffer, Guard, Immediate, Instr, PaddedAxis, Slot, ValueId};
use tensord_shm::dtype::{DType, Scalar};

use super::affine::Affine;
use super::segment::ImmediateSource;

/// Collects the parameter values and immediates of the plan under construction.
#[derive(Default)]
pub struct Emitter {
    /// Parameter values, by slot.
    pub values: Vec<i64>,
    /// Where immediates come from, by their index.
    pub immediates: Vec<ImmediateSource>,
}

impl Emitter {
    /// A new slot.
    pub fn slot(&mut self, value: i64) -> Slot {
        self.values.push(value);
        Slot(self.values.len() as u32 - 1)
    }

    /// A run of slots.
    pub fn run(&mut self, values: impl IntoIterator<Item = i64>) -> Slot {
        let first = Slot(self.values.len() as u32);
        self.values.extend(values);
        first
    }

    /// A new immediate.
    pub fn immediate(&mut self, source: ImmediateSource) -> Immediate {
        self.immediates.push(source);
        Immediate(self.immediates.len() as u32 - 1)
    }
}

/// Offset and strides over a space, as a store or a plain load has them.
pub fn access(
    emitter: &mut Emitter,
    buffer: Buffer,
    dtype: DType,
    flat: &Affine,
    rank: usize,
) -> Access {
    Access {
        buffer,
        dtype,
        offset: emitter.slot(flat.offset),
        strides: emitter.run((0..rank).map(|variable| flat.term(variable))),
        padded: Vec::new(),
        fill: None,
    }
}

/// A coordinate under padding: a variable of its own, beyond those of the space.
struct GuardVariable {
    definition: Affine,
    extent: u64,
    guard: Guard,
}

#[derive(PartialEq, Eq, Hash)]
struct LoadKey {
    buffer: Buffer,
    flat: Affine,
    guards: Vec<usize>,
    fill: Option<(u32, u8)>,
}

/// Code over a space of `rank` axes. Variables `0..rank` are the axes; further ones are guarded coordinates.
#[derive(Default)]
pub struct BodyBuilder {
    rank: usize,
    body: Body,
    guards: Vec<GuardVariable>,
    loads: HashMap<LoadKey, u32>,
    loaded: HashMap<u32, ValueId>,
    computed: HashMap<(u32, Vec<Affine>), ValueId>,
    scalars: HashMap<(u32, u8), ValueId>,
}

impl BodyBuilder {
    /// Empty code.
    pub fn new(rank: usize) -> BodyBuilder {
        BodyBuilder {
            rank,
            ..BodyBuilder::default()
        }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of instructions so far.
    pub fn len(&self) -> usize {
        self.body.instrs.len()
    }

    /// The finished code.
    pub fn finish(self) -> Body {
        self.body
    }

    /// Appends an instruction.
    pub fn push(&mut self, instr: Instr) -> ValueId {
        self.body.instrs.push(instr);
        ValueId(self.body.instrs.len() as u32 - 1)
    }

    /// The register that holds a node at these coordinates, if one does.
    pub fn computed(&self, node: u32, coordinates: &[Affine]) -> Option<ValueId> {
        self.computed.get(&(node, trimmed(coordinates))).copied()
    }

    /// Notes which register holds a node at these coordinates.
    pub fn note(&mut self, node: u32, coordinates: &[Affine], value: ValueId) {
        self.computed.insert((node, trimmed(coordinates)), value);
    }

    /// A scalar operand of a node.
    pub fn scalar(
        &mut self,
        emitter: &mut Emitter,
        node: u32,
        position: u8,
        dtype: DType,
    ) -> ValueId {
        if let Some(&value) = self.scalars.get(&(node, position)) {
            return value;
        }
        let slot = emitter.immediate(ImmediateSource::Operand(node, position));
        let value = self.push(Instr::Immediate { slot, dtype });
        self.scalars.insert((node, position), value);
        value
    }

    /// The variable for a coordinate that is in `0..extent` where an element is there: its index.
    pub fn guarded(
        &mut self,
        emitter: &mut Emitter,
        coordinate: &Affine,
        shift: i64,
        extent: u64,
    ) -> usize {
        let mut definition = self.over_space(coordinate);
        definition.offset += shift;
        let definition = definition.trimmed();
        let known = self
            .guards
            .iter()
            .position(|g| g.definition == definition && g.extent == extent);
        let index = known.unwrap_or_else(|| {
            let guard = Guard {
                offset: emitter.slot(definition.offset),
                coefficients: emitter.run((0..self.rank).map(|variable| definition.term(variable))),
                extent: emitter.slot(extent as i64),
            };
            self.guards.push(GuardVariable {
                definition,
                extent,
                guard,
            });
            self.guards.len() - 1
        });
        self.rank + index
    }

    /// The same function with guarded coordinates replaced by their definitions.
    pub fn over_space(&self, affine: &Affine) -> Affine {
        let mut out = Affine::constant(affine.offset);
        for (variable, &term) in affine.terms.iter().enumerate() {
            match variable.checked_sub(self.rank) {
                None => out.add_scaled(&Affine::variable(variable), term),
                Some(guard) => out.add_scaled(&self.guards[guard].definition, term),
            }
        }
        out.trimmed()
    }

    /// The conditions behind guarded variables.
    pub fn conditions(&self, variables: &[usize]) -> Vec<Guard> {
        variables
            .iter()
            .map(|&variable| self.guards[variable - self.rank].guard)
            .collect()
    }

    /// An access without an instruction: the base of a gather.
    pub fn base(
        &mut self,
        emitter: &mut Emitter,
        buffer: Buffer,
        dtype: DType,
        flat: &Affine,
    ) -> u32 {
        let access = self.access(emitter, buffer, dtype, flat, &[], None);
        self.body.loads.push(access);
        self.body.loads.len() as u32 - 1
    }

    /// A load at `flat`, which may use guarded variables; those in `extra` are checked besides. Elsewhere it gives `fill` (the
    /// attribute immediate of a pad node), or 0 where a later mask hides it.
    pub fn load(
        &mut self,
        emitter: &mut Emitter,
        (buffer, dtype): (Buffer, DType),
        flat: &Affine,
        extra: &[usize],
        fill: Option<(u32, u8)>,
    ) -> ValueId {
        let mut guards: Vec<usize> = extra.to_vec();
        guards.extend((self.rank..flat.terms.len()).filter(|&variable| flat.term(variable) != 0));
        guards.sort_unstable();
        guards.dedup();
        let key = LoadKey {
            buffer,
            flat: flat.clone().trimmed(),
            guards,
            fill,
        };
        if let Some(&load) = self.loads.get(&key) {
            return self.loaded[&load];
        }
        let access = self.access(emitter, buffer, dtype, flat, &key.guards, fill);
        self.body.loads.push(access);
        let load = self.body.loads.len() as u32 - 1;
        let value = self.push(Instr::Load(load));
        self.loads.insert(key, load);
        self.loaded.insert(load, value);
        value
    }

    fn access(
        &mut self,
        emitter: &mut Emitter,
        buffer: Buffer,
        dtype: DType,
        flat: &Affine,
        guards: &[usize],
        fill: Option<(u32, u8)>,
    ) -> Access {
        let mut access = access(emitter, buffer, dtype, flat, self.rank);
        for &variable in guards {
            let stride = emitter.slot(flat.term(variable));
            access.padded.push(PaddedAxis {
                guard: self.guards[variable - self.rank].guard,
                stride,
            });
        }
        if !guards.is_empty() {
            let source = fill.map_or(ImmediateSource::Fixed(Scalar(0)), |(node, k)| {
                ImmediateSource::Attribute(node, k)
            });
            access.fill = Some(emitter.immediate(source));
        }
        access
    }
}

fn trimmed(coordinates: &[Affine]) -> Vec<Affine> {
    coordinates.iter().map(|c| c.clone().trimmed()).collect()
}
