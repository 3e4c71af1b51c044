//! What each result of a plan is made from: its inputs and immediates, followed through all steps.
//!
//! A plan stands for a whole window of requests with several results. A result's label must hold what went into that result
//! and nothing of its neighbours, else a client could not know it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tensord_plan::{Access, Body, Buffer, Immediate, Instr, Plan, Step, Store};

/// Plans whose flow is remembered.
const KNOWN_MAX: usize = 256;

/// A set of inputs and immediates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Numbers of inputs.
    pub inputs: BTreeSet<u32>,
    /// Numbers of immediates.
    pub immediates: BTreeSet<u32>,
}

impl Sources {
    fn add(&mut self, other: &Sources) {
        self.inputs.extend(&other.inputs);
        self.immediates.extend(&other.immediates);
    }

    fn of_immediate(immediate: Immediate) -> Sources {
        Sources {
            inputs: BTreeSet::new(),
            immediates: BTreeSet::from([immediate.0]),
        }
    }
}

/// The flow of plans, each followed once.
#[derive(Default)]
pub struct Flows(Vec<(Arc<Plan>, Arc<[Sources]>)>);

impl Flows {
    /// The sources of each output.
    pub fn of(&mut self, plan: &Arc<Plan>) -> Arc<[Sources]> {
        if let Some(at) = self
            .0
            .iter()
            .position(|(known, _)| Arc::ptr_eq(known, plan))
        {
            // Plans that come often stand in front.
            self.0.swap(at, at / 2);
            return Arc::clone(&self.0[at / 2].1);
        }
        if self.0.len() >= KNOWN_MAX {
            self.0.pop();
        }
        let outputs: Arc<[Sources]> = follow(plan).into();
        self.0.push((Arc::clone(plan), Arc::clone(&outputs)));
        outputs
    }
}

/// What is known so far.
struct Flow {
    temps: Vec<Sources>,
    outputs: Vec<Sources>,
}

fn follow(plan: &Plan) -> Vec<Sources> {
    let mut flow = Flow {
        temps: vec![Sources::default(); plan.temps.len()],
        outputs: vec![Sources::default(); plan.outputs.len()],
    };
    for step in &plan.steps {
        flow.step(step);
    }
    flow.outputs
}

impl Flow {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Map(map) => {
                let values = self.body(&map.body, &Sources::default());
                self.stores(&map.stores, &values);
            }
            Step::Reduce(reduce) => {
                let values = self.body(&reduce.body, &Sources::default());
                let reduced = values.get(reduce.value.0 as usize).cloned();
                let values = self.body(&reduce.epilogue, &reduced.unwrap_or_default());
                self.stores(&reduce.stores, &values);
            }
            Step::Contract(contract) => {
                let mut reduced = Sources::default();
                for body in [&contract.a, &contract.b] {
                    if let Some(operand) = self.body(body, &Sources::default()).last() {
                        reduced.add(operand);
                    }
                }
                let values = self.body(&contract.epilogue, &reduced);
                self.stores(&contract.stores, &values);
            }
            Step::Scan(scan) => {
                let read = self.load(&scan.from);
                self.write(&scan.to, &read);
            }
            Step::Scatter(scatter) => {
                let mut read = self.load(&scatter.index);
                read.add(&self.load(&scatter.updates));
                self.write(&scatter.to, &read);
            }
        }
    }

    fn load(&self, access: &Access) -> Sources {
        let mut read = match access.buffer {
            Buffer::Input(k) => Sources {
                inputs: BTreeSet::from([k]),
                immediates: BTreeSet::new(),
            },
            Buffer::Temp(k) => self.temps.get(k as usize).cloned().unwrap_or_default(),
            Buffer::Output(k) => self.outputs.get(k as usize).cloned().unwrap_or_default(),
        };
        read.immediates.extend(access.fill.map(|fill| fill.0));
        read
    }

    fn write(&mut self, access: &Access, what: &Sources) {
        let to = match access.buffer {
            Buffer::Output(k) => self.outputs.get_mut(k as usize),
            Buffer::Temp(k) => self.temps.get_mut(k as usize),
            // Nothing writes an input.
            Buffer::Input(_) => None,
        };
        if let Some(to) = to {
            to.add(what);
        }
    }

    fn stores(&mut self, stores: &[Store], values: &[Sources]) {
        for store in stores {
            if let Some(value) = values.get(store.value.0 as usize) {
                self.write(&store.access, value);
            }
        }
    }

    /// The sources of each value of a body.
    fn body(&self, body: &Body, reduced: &Sources) -> Vec<Sources> {
        let load = |k: u32| {
            let access = body.loads.get(k as usize);
            access.map(|access| self.load(access)).unwrap_or_default()
        };
        let mut values: Vec<Sources> = Vec::with_capacity(body.instrs.len());
        for instr in &body.instrs {
            let mut value = Sources::default();
            match instr {
                Instr::Load(k) => value = load(*k),
                Instr::Immediate { slot, .. } => value = Sources::of_immediate(*slot),
                Instr::Iota { start, step, .. } => {
                    value = Sources::of_immediate(*start);
                    value.immediates.insert(step.0);
                }
                Instr::Random { key, .. } => value = Sources::of_immediate(*key),
                Instr::Apply { args, .. } => {
                    for arg in args {
                        value.add(&values[arg.0 as usize]);
                    }
                }
                Instr::Cast { arg, .. } => value.add(&values[arg.0 as usize]),
                Instr::Mask { arg, fill, .. } => {
                    value = Sources::of_immediate(*fill);
                    value.add(&values[arg.0 as usize]);
                }
                Instr::Gather {
                    load: from, index, ..
                } => {
                    value = load(*from);
                    value.add(&values[index.0 as usize]);
                }
                Instr::Reduced { .. } => value.add(reduced),
            }
            values.push(value);
        }
        values
    }
}
