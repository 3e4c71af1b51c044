//! Turns an analysed segment into a plan: one step for each reduction, contraction, scan or scatter, with the elementwise work
//! around it folded in, and maps for the rest.

use std::mem;

use tensord_plan::{
    Body, Buffer, Contract, Instr, Map, Plan, Reduce, ScanStep, ScatterStep, Slot, Step, Store,
    TempSpec, ValueId,
};
use tensord_shm::dtype::DType;
use tensord_shm::layout::{Layout, Shape};
use tensord_shm::op::{AxisSet, Op, Reduction, Scan, ScatterMode, contract_sizes};

use super::affine::{Affine, address};
use super::analyse::{Analysis, Role, analyse, is_identity};
use super::body::{BodyBuilder, Emitter, access};
use super::donate;
use super::segment::{Arg, ImmediateSource, Segment, SegmentNode, Source};

/// Most instructions of one step.
const STEP_INSTRUCTIONS_MAX: usize = 256;

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

/// Where a root's value is.
struct Place {
    step: usize,
    value: Option<ValueId>,
    /// Coordinates of the node in the step's space, for stores.
    coordinates: Vec<Affine>,
    buffer: Option<Buffer>,
}

enum Kind {
    Map,
    Reduce {
        sizes: Slot,
        outer: u8,
        inner: u8,
        body: Body,
        value: ValueId,
        dtype: DType,
        kind: Reduction,
    },
    Contract {
        sizes: Slot,
        groups: [u8; 4],
        dtype: DType,
        a: Body,
        b: Body,
    },
    Whole(Step),
}

struct StepBuilder {
    kind: Kind,
    /// Sizes of the space in which results are stored.
    sizes: Slot,
    /// That space's shape in the order of the result's axes, those of size 1 left out, and the variable for each.
    squeezed: Vec<u64>,
    variables: Vec<usize>,
    code: BodyBuilder,
    stores: Vec<Store>,
    open: bool,
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

    // ------------------------------------------------------------------ elementwise roots

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

    fn pointwise(&mut self, node: usize) {
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
        self.places[node] = Some(Place {
            step,
            value: Some(value),
            coordinates,
            buffer: None,
        });
        self.output_if_needed(node);
    }

    fn new_map(&mut self, squeezed: &[u64]) -> usize {
        let sizes = self.emitter.run(as_sizes(squeezed));
        self.push_step(
            Kind::Map,
            sizes,
            squeezed.to_vec(),
            (0..squeezed.len()).collect(),
            BodyBuilder::new(squeezed.len()),
        )
    }

    fn push_step(
        &mut self,
        kind: Kind,
        sizes: Slot,
        squeezed: Vec<u64>,
        variables: Vec<usize>,
        code: BodyBuilder,
    ) -> usize {
        self.steps.push(StepBuilder {
            kind,
            sizes,
            squeezed,
            variables,
            code,
            stores: Vec::new(),
            open: true,
        });
        self.steps.len() - 1
    }

    // ------------------------------------------------------------------ places

    fn output_if_needed(&mut self, node: usize) {
        if self.node(node).needed {
            let buffer = self.new_output(node);
            self.store(node, buffer);
        }
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
    fn own_memory(&mut self, node: usize) -> Buffer {
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
    fn memory(&mut self, node: usize) -> Buffer {
        let place = self.places[node]
            .as_ref()
            .expect("producers are placed before consumers");
        place.buffer.unwrap_or_else(|| {
            let buffer = self.new_temp(node);
            self.store(node, buffer);
            buffer
        })
    }

    fn input(&mut self, external: u32) -> Buffer {
        let known = self.input_of[external as usize];
        Buffer::Input(known.unwrap_or_else(|| {
            self.inputs.push(external);
            let index = self.inputs.len() as u32 - 1;
            self.input_of[external as usize] = Some(index);
            index
        }))
    }

    /// Memory of an operand that the analysis has made a root, or that comes from outside.
    fn operand_memory(&mut self, arg: &Arg) -> Buffer {
        match arg.source {
            Source::External(external) => self.input(external),
            Source::Internal(node) => self.memory(node as usize),
            Source::Immediate => unreachable_immediate(),
        }
    }

    // ------------------------------------------------------------------ values

    /// An operand of `consumer` at the consumer's coordinates (those of its operand's axes, aligned from the last).
    fn operand(
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
                code.load(
                    &mut self.emitter,
                    (buffer, arg.dtype),
                    &address(&arg.layout, &aligned),
                    &[],
                    None,
                )
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
                code.load(
                    &mut self.emitter,
                    (buffer, arg.dtype),
                    &address(&arg.layout, &aligned),
                    &[],
                    None,
                )
            }
        }
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

    fn compute(
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
                let slot = self
                    .emitter
                    .immediate(ImmediateSource::Attribute(node as u32, 0));
                code.push(Instr::Immediate {
                    slot,
                    dtype: meta.dtype,
                })
            }
            Op::Iota { meta, axis } => {
                let start = self
                    .emitter
                    .immediate(ImmediateSource::Attribute(node as u32, 0));
                let along = &coordinates[usize::from(axis)];
                match along.terms.iter().rposition(|&term| term != 0) {
                    None => code.push(Instr::Immediate {
                        slot: start,
                        dtype: meta.dtype,
                    }),
                    Some(variable) => {
                        let step = self
                            .emitter
                            .immediate(ImmediateSource::Attribute(node as u32, 1));
                        code.push(Instr::Iota {
                            axis: variable as u8,
                            dtype: meta.dtype,
                            start,
                            step,
                        })
                    }
                }
            }
            Op::Random { meta, distribution } => {
                let flat = address(&Layout::contiguous(meta.shape), coordinates);
                let key = self
                    .emitter
                    .immediate(ImmediateSource::Attribute(node as u32, 0));
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
        let fill = (node as u32, 0);
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
                Some(fill),
            );
        }
        let value = self.operand(code, node, 0, &inner, step);
        let guards = code.conditions(&guarded);
        let fill = self
            .emitter
            .immediate(ImmediateSource::Attribute(fill.0, fill.1));
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

    // ------------------------------------------------------------------ steps of their own

    /// Opens the epilogue of a reduction or contraction: its first instruction is the result.
    fn anchor(&mut self, node: usize, kind: Kind, sizes: Slot, rank: usize, variables: Vec<usize>) {
        let meta = self.node(node).meta;
        let mut code = BodyBuilder::new(rank);
        let value = code.push(Instr::Reduced { dtype: meta.dtype });
        let coordinates = coordinates_over(&meta.shape, &variables);
        code.note(node as u32, &coordinates, value);
        let step = self.push_step(kind, sizes, squeeze(&meta.shape), variables, code);
        self.places[node] = Some(Place {
            step,
            value: Some(value),
            coordinates,
            buffer: None,
        });
        self.output_if_needed(node);
    }

    fn reduce(&mut self, node: usize, kind: Reduction, axes: AxisSet) {
        let arg = &self.node(node).args[0];
        let shape = arg.layout.shape;
        let wide = |axis: &usize| shape[*axis] != 1;
        let outer: Vec<usize> = (0..shape.rank())
            .filter(|&a| !axes.contains(a))
            .filter(wide)
            .collect();
        let inner: Vec<usize> = (0..shape.rank())
            .filter(|&a| axes.contains(a))
            .filter(wide)
            .collect();
        let order: Vec<usize> = outer.iter().chain(&inner).copied().collect();
        let sizes = self
            .emitter
            .run(order.iter().map(|&axis| shape[axis] as i64));
        let mut coordinates = vec![Affine::constant(0); shape.rank()];
        for (variable, &axis) in order.iter().enumerate() {
            coordinates[axis] = Affine::variable(variable);
        }
        let mut code = BodyBuilder::new(order.len());
        let step = self.steps.len();
        let value = self.operand(&mut code, node, 0, &coordinates, step);
        let (outer, inner) = (outer.len(), inner.len());
        let kind = Kind::Reduce {
            sizes,
            outer: outer as u8,
            inner: inner as u8,
            body: code.finish(),
            value,
            dtype: arg.dtype,
            kind,
        };
        self.anchor(node, kind, sizes, outer, (0..outer).collect());
    }

    fn contract(&mut self, node: usize) {
        let spec = self.node(node);
        let Op::Contract { a, b, out } = *spec.op else {
            return;
        };
        let found = contract_sizes(
            &a,
            &b,
            &out,
            &spec.args[0].layout.shape,
            &spec.args[1].layout.shape,
        );
        let sizes = found.expect("inference accepted these labels and shapes");
        // The shared operand goes second: rows of many instances then meet one packed operand.
        let constant = |arg: &Arg| matches!(arg.source, Source::External(e) if self.segment.externals[e as usize].constant);
        let swapped = constant(&spec.args[0]) && !constant(&spec.args[1]);
        let (first, second) = if swapped { (&b, &a) } else { (&a, &b) };
        let size = |label: u8| sizes.sizes[usize::from(label)];
        let wide = |labels: &mut dyn Iterator<Item = u8>| {
            labels.filter(|&l| size(l) != 1).collect::<Vec<u8>>()
        };
        let batch = wide(
            &mut out
                .iter()
                .copied()
                .filter(|l| first.contains(l) && second.contains(l)),
        );
        let m = wide(
            &mut out
                .iter()
                .copied()
                .filter(|l| first.contains(l) && !second.contains(l)),
        );
        let n = wide(&mut out.iter().copied().filter(|l| !first.contains(l)));
        let k = wide(&mut sizes.summed.iter().copied());
        let all: Vec<u8> = [&batch[..], &m, &n, &k].concat();
        let slot = self.emitter.run(all.iter().map(|&l| size(l) as i64));
        let step = self.steps.len();
        let positions = if swapped { [1, 0] } else { [0, 1] };
        let mut prologue = |labels: &[u8], position: usize, middle: &[u8]| {
            let space: Vec<u8> = [&batch[..], middle, &k].concat();
            let coordinates: Vec<Affine> = labels
                .iter()
                .map(|label| match space.iter().position(|l| l == label) {
                    Some(variable) => Affine::variable(variable),
                    None => Affine::constant(0),
                })
                .collect();
            let mut code = BodyBuilder::new(space.len());
            self.operand(&mut code, node, position, &coordinates, step);
            code.finish()
        };
        let first_body = prologue(first, positions[0], &m);
        let second_body = prologue(second, positions[1], &n);
        let kind = Kind::Contract {
            sizes: slot,
            groups: [
                batch.len() as u8,
                m.len() as u8,
                n.len() as u8,
                k.len() as u8,
            ],
            dtype: spec.args[0].dtype,
            a: first_body,
            b: second_body,
        };
        let space: Vec<u8> = [&batch[..], &m, &n].concat();
        let variables = out
            .iter()
            .filter_map(|label| space.iter().position(|l| l == label))
            .collect();
        self.anchor(node, kind, slot, space.len(), variables);
    }

    /// A step that writes its node's memory itself.
    fn whole(&mut self, node: usize, step: Step, buffer: Buffer) {
        let place = Place {
            step: self.steps.len(),
            value: None,
            coordinates: Vec::new(),
            buffer: Some(buffer),
        };
        let index = self.push_step(
            Kind::Whole(step),
            Slot(0),
            Vec::new(),
            Vec::new(),
            BodyBuilder::default(),
        );
        self.steps[index].open = false;
        self.places[node] = Some(place);
    }

    fn scan(&mut self, node: usize, kind: Scan, axis: usize) {
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
        self.places[node] = Some(Place {
            step,
            value: None,
            coordinates: Vec::new(),
            buffer: Some(buffer),
        });
    }

    fn concat(&mut self, node: usize, axis: usize) {
        let spec = self.node(node);
        let buffer = self.own_memory(node);
        let stride = spec.meta.shape.contiguous_strides()[axis];
        let mut before = 0;
        for (position, arg) in spec.args.iter().enumerate() {
            self.copy_operand(node, position, buffer, before * stride);
            before += arg.layout.shape[axis] as i64;
        }
    }

    fn scatter(&mut self, node: usize, axis: usize, mode: ScatterMode) {
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

    // ------------------------------------------------------------------ the end

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

impl StepBuilder {
    fn finish(self) -> Step {
        let code = self.code;
        match self.kind {
            Kind::Whole(step) => step,
            Kind::Map => Step::Map(Map {
                sizes: self.sizes,
                rank: code.rank() as u8,
                body: code.finish(),
                stores: self.stores,
            }),
            Kind::Reduce {
                sizes,
                outer,
                inner,
                body,
                value,
                dtype,
                kind,
            } => Step::Reduce(Reduce {
                sizes,
                outer,
                inner,
                body,
                value,
                dtype,
                kind,
                epilogue: code.finish(),
                stores: self.stores,
            }),
            Kind::Contract {
                sizes,
                groups: [batch, m, n, k],
                dtype,
                a,
                b,
            } => Step::Contract(Box::new(Contract {
                sizes,
                batch,
                m,
                n,
                k,
                dtype,
                a,
                b,
                epilogue: code.finish(),
                stores: self.stores,
            })),
        }
    }
}

#[cold]
fn unreachable_immediate() -> Buffer {
    unreachable!("the graph turns scalars that must lie in memory into tensors")
}
