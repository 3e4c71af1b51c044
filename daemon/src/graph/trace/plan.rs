//! What becomes of a trace: an instance of a plan known before, or nodes of the window and a note for the next time.

use std::rc::Rc;

use tensord_shm::dtype::Scalar;

use super::{Row, Trace};
use crate::fuse::{ImmediateSource, Template};
use crate::graph::branch::{Act, Arg, Branch, Ending, ScalarSource};
use crate::graph::handles::{Handles, Mark, Place};
use crate::graph::value::{Binding, State, Value};
use crate::graph::window::{Cut, NodeArg, Window};

/// An instance of a plan known before.
pub struct Replay {
    /// The plan.
    pub template: Rc<Template>,
    /// Its scalars.
    pub immediates: Vec<Scalar>,
    /// Its inputs.
    pub inputs: Vec<Rc<Value>>,
    /// Its outputs.
    pub outputs: Vec<Rc<Value>>,
    /// Timeline value and source position of each request that it ends.
    pub requests: Vec<(u64, u32)>,
    /// Timeline value of its first operation.
    pub first_number: u64,
}

impl Trace {
    /// The value that a step computes.
    fn value(&mut self, step: u32, queue: u32) -> Option<Rc<Value>> {
        let branch = Rc::clone(self.steps.branches.get(step as usize)?);
        let Act::Compute { meta, .. } = &*branch.act else {
            return None;
        };
        let value = self.steps.value_mut(step as usize).get_or_insert_with(|| {
            let value = Value::new(*meta, State::Waiting);
            value.queue.set(queue);
            value
        });
        Some(Rc::clone(value))
    }

    /// What a step's handle names.
    pub(super) fn binding(&mut self, step: u32, queue: u32) -> Option<Binding> {
        match &*self.steps.branches.get(step as usize)?.act {
            Act::Compute { .. } => Some(Binding {
                value: self.value(step, queue)?,
                view: None,
            }),
            Act::View { base, layout, .. } => {
                let (base, view) = (*base, layout.clone());
                let value = match base {
                    Place::Step(base) => self.value(base, queue)?,
                    Place::External(e) => Rc::clone(&self.seen.externals.get(e as usize)?.value),
                };
                Some(Binding { value, view })
            }
            Act::Note => None,
        }
    }

    /// Bytes that the whole trace's plan needs at once, where it was planned before; `takes` says how many a value takes.
    pub fn bytes_needed(&self, takes: impl Fn(&Value) -> u64) -> Option<u64> {
        let ending = self.at()?.ending()?;
        let inputs = ending.inputs.iter();
        let inputs = inputs.map(|&e| takes(&self.seen.externals[e as usize].value));
        let outputs = ending.template.params.output_bytes().iter().copied();
        Some(inputs.chain(outputs).fold(0, u64::saturating_add))
    }

    /// An instance of the whole trace's plan, if it was planned before and nothing that it reads has failed; the trace is empty
    /// afterwards. `None` leaves it as it is.
    pub fn replay(&mut self, handles: &mut Handles, queue: u32) -> Option<Replay> {
        let ending = self.at()?.ending()?;
        if self
            .seen
            .externals
            .iter()
            .any(|external| external.value.failure().is_some())
        {
            return None;
        }
        let outputs = ending
            .outputs
            .iter()
            .map(|&step| self.value(step, queue))
            .collect::<Option<Vec<_>>>()?;
        for &step in &ending.alive {
            self.keep(handles, step, queue);
        }
        let scalar = |source: &ScalarSource| match *source {
            ScalarSource::Fixed(scalar) => scalar,
            ScalarSource::At(k) => self
                .seen
                .scalars
                .get(k as usize)
                .copied()
                .unwrap_or(Scalar(0)),
        };
        let inputs = ending.inputs.iter();
        let mut requests = Vec::with_capacity(self.operations);
        let steps = self.steps.branches.iter().zip(&self.steps.rows);
        let computing = steps.filter(|(branch, _)| branch.result_bytes.is_some());
        requests.extend(computing.map(|(_, row)| (row.number, row.site)));
        let replay = Replay {
            template: Rc::clone(&ending.template),
            immediates: ending.scalars.iter().map(scalar).collect(),
            inputs: inputs
                .map(|&e| Rc::clone(&self.seen.externals[e as usize].value))
                .collect(),
            outputs,
            requests,
            first_number: self.first,
        };
        self.clear();
        Some(replay)
    }

    /// Binds what a step has promised, for good.
    fn keep(&mut self, handles: &mut Handles, step: u32, queue: u32) {
        let out = self.steps.rows[step as usize].out;
        if let Some(binding) = self.binding(step, queue) {
            handles.keep_promise(out, binding);
            handles.set_mark(out, Mark::default());
        }
    }

    fn clear(&mut self) {
        for external in self.seen.externals.drain(..) {
            external.value.drop_use();
        }
        self.steps.clear();
        self.seen.scalars.clear();
        self.operations = 0;
        self.largest_bytes = 0;
    }

    /// Appends the trace's operations to the window and binds all that was promised; the trace is empty afterwards.
    pub fn expand(&mut self, handles: &mut Handles, window: &mut Window, queue: u32) -> Lesson {
        let mut lesson = Lesson {
            end: self.at().cloned(),
            steps: Vec::with_capacity(self.operations),
            alive: Vec::new(),
            externals: Vec::with_capacity(self.seen.externals.len()),
        };
        let scalars = std::mem::take(&mut self.seen.scalars);
        for step in 0..self.steps.len() as u32 {
            let at = step as usize;
            let branch = Rc::clone(&self.steps.branches[at]);
            let Row {
                out,
                number,
                site,
                scalars_from,
            } = self.steps.rows[at];
            if let Act::Compute {
                op,
                args,
                attributes,
                attribute_scalars,
                ..
            } = &*branch.act
                && let Some(value) = self.value(step, queue)
            {
                let mut scalars = scalars[scalars_from as usize..].iter().copied();
                let args: Vec<NodeArg> = args
                    .iter()
                    .filter_map(|arg| match *arg {
                        Arg::Immediate(dtype) => Some(NodeArg::Immediate(dtype, scalars.next()?)),
                        Arg::Tensor(Place::Step(step)) => {
                            let Binding { value, view } = self.binding(step, queue)?;
                            Some(NodeArg::Value(value, view))
                        }
                        Arg::Tensor(Place::External(e)) => {
                            let external = &self.seen.externals[e as usize];
                            let value = Rc::clone(&external.value);
                            Some(NodeArg::Value(value, external.view.clone()))
                        }
                    })
                    .collect();
                let mut immediates = [Scalar(0); 2];
                for (immediate, scalar) in
                    immediates.iter_mut().take(*attribute_scalars).zip(scalars)
                {
                    *immediate = scalar;
                }
                window.push(
                    op.clone(),
                    value,
                    args,
                    (attributes, immediates),
                    (number, site),
                );
                lesson.steps.push((step, scalars_from));
            }
            let mark = handles.mark(out);
            if mark.is_some_and(|mark| self.made(mark)) {
                self.keep(handles, step, queue);
                lesson.alive.push(step);
            }
        }
        let externals = self.seen.externals.iter();
        lesson
            .externals
            .extend(externals.map(|external| (Rc::clone(&external.value), external.alias)));
        self.clear();
        lesson
    }
}

/// A trace that was expanded as a whole, for noting what becomes of it.
pub struct Lesson {
    end: Option<Rc<Branch>>,
    /// The steps that compute, in order, each with its first scalar.
    steps: Vec<(u32, u32)>,
    alive: Vec<u32>,
    /// Each with whether the key says that it is the same as an earlier one.
    externals: Vec<(Rc<Value>, bool)>,
}

impl Lesson {
    /// Notes the plan of a cut that took exactly the trace.
    pub fn learn(&self, cut: &Cut, template: &Rc<Template>) {
        if let (Some(end), Some(ending)) = (&self.end, self.ending(cut, template)) {
            end.set_ending(ending);
        }
    }

    /// `None` where the cut is not the whole trace and nothing else.
    fn ending(&self, cut: &Cut, template: &Rc<Template>) -> Option<Ending> {
        if !cut.failed.is_empty() || cut.nodes().len() != self.steps.len() {
            return None;
        }
        let external = |value: &Rc<Value>| {
            let same = |(other, _): &(Rc<Value>, bool)| Rc::ptr_eq(other, value);
            Some(self.externals.iter().position(same)? as u32)
        };
        // What the planner took for one input has to be what the keys say is one.
        let told_apart = |(e, (value, alias)): (u32, &(Rc<Value>, bool))| {
            external(value).is_some_and(|first| *alias == (first != e))
        };
        if !(0..).zip(&self.externals).all(told_apart) {
            return None;
        }
        let inputs = template
            .inputs
            .iter()
            .map(|&input| external(&cut.externals()[input as usize]))
            .collect::<Option<_>>()?;
        let outputs: Vec<u32> = template
            .outputs
            .iter()
            .map(|&node| self.steps[node as usize].0)
            .collect();
        let scalars = template.immediates.iter().map(|source| match *source {
            ImmediateSource::Fixed(scalar) => ScalarSource::Fixed(scalar),
            ImmediateSource::Operand(node, position) => {
                let before = cut.immediates_before(node, usize::from(position));
                ScalarSource::At(self.steps[node as usize].1 + before)
            }
            ImmediateSource::Attribute(node, k) => {
                let before = cut.immediates_before(node, usize::MAX);
                ScalarSource::At(self.steps[node as usize].1 + before + u32::from(k))
            }
        });
        Some(Ending {
            template: Rc::clone(template),
            inputs,
            scalars: scalars.collect(),
            outputs,
            alive: self.alive.clone(),
        })
    }
}
