//! A plan made ready: its programs, once for each plan, and their bindings, once for each set of parameters.
//!
//! Both are found by pointer first: the engine launches the same `Arc<Plan>` and `Arc<Params>` over and over, and
//! a lookup costs a few nanoseconds. Equal plans and parameters behind other pointers cost a comparison.
//!
//! # Invariant
//! A remembered pointer keeps its `Arc`, so no other plan or parameters can come to stand at the address.

use std::collections::HashMap;
use std::sync::Arc;

use tensord_plan::{Body, Contract, Params, Plan, Slot, Step, Store, ValueId};

use crate::bands::{self, Band};
use crate::contract;
use crate::fold::{Fold, fold};
use crate::isa::Isa;
use crate::reduce::ReduceBound;
use crate::tile::{Bound, Program};

/// Plans remembered; beyond that all are forgotten (they come back by use).
const PLANS_MAX: usize = 8192;
/// Bindings remembered for each plan.
const BINDINGS_MAX: usize = 64;

/// A step's programs.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a plan has a handful of steps, prepared once"
)]
pub enum PreparedStep {
    /// A map's only program.
    Map(Program),
    /// What feeds a reduction, how it folds, what follows.
    Reduce {
        /// Feeds it.
        body: Program,
        /// Follows it.
        epilogue: Program,
        /// How.
        fold: Fold,
    },
    /// The parts of a contraction that are more than a load or a store.
    Contract {
        /// Prologue of the first operand.
        a: Option<Program>,
        /// Prologue of the second operand.
        b: Option<Program>,
        /// Epilogue.
        epilogue: Option<Program>,
    },
    /// Nothing to compile: scan and scatter.
    Plain,
}

/// A step's sizes and addresses.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a plan has a handful of steps, bound once for each set of parameters"
)]
pub enum BoundStep {
    /// As [`PreparedStep::Map`].
    Map(Bound),
    /// As [`PreparedStep::Reduce`].
    Reduce(Box<ReduceBound>),
    /// As [`PreparedStep::Contract`].
    Contract(Box<BoundContract>),
    /// Nothing bound ahead.
    Plain,
}

/// A contraction's parts and operands.
#[derive(Debug)]
pub struct BoundContract {
    /// Prologue of the first operand, over batch, m, k.
    pub a: Option<Bound>,
    /// Prologue of the second operand, over batch, n, k.
    pub b: Option<Bound>,
    /// Over batch, m, n.
    pub epilogue: Option<Bound>,
    /// Elements of m, n, k.
    pub counts: [u64; 3],
    /// How bare operands and results lie.
    pub form: contract::Form,
}

/// A plan's steps for one set of parameters.
#[derive(Debug)]
pub struct BoundPlan {
    /// One for each step of the plan.
    pub steps: Vec<BoundStep>,
    /// Steps that go through their rows together, in order.
    pub bands: Vec<Band>,
    /// First and last step of each temporary's life, with these bands.
    lives: Vec<(u32, u32)>,
}

impl BoundPlan {
    /// First and last step of each temporary's life in a launch of so many instances.
    pub fn lives<'a>(
        &'a self,
        plan: &'a Plan,
        instances: usize,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let banded = self.bands.iter().any(|band| band.has_blocks(instances));
        let temps = plan.temps.iter().zip(&self.lives);
        temps.map(move |(temp, &with_bands)| if banded { with_bands } else { temp.live })
    }
}

/// A plan, ready to be bound.
#[derive(Debug)]
pub struct Prepared {
    /// The plan.
    pub plan: Arc<Plan>,
    /// One for each of its steps.
    pub steps: Vec<PreparedStep>,
}

impl Prepared {
    /// A plan that does nothing.
    pub fn nothing() -> Prepared {
        Prepared {
            plan: Arc::default(),
            steps: Vec::new(),
        }
    }

    fn new(plan: Arc<Plan>, isa: Isa) -> Prepared {
        let steps = plan
            .steps
            .iter()
            .map(|step| prepare_step(&plan, step, isa))
            .collect();
        Prepared { plan, steps }
    }

    fn bind(&self, params: &Params) -> BoundPlan {
        let steps = self.plan.steps.iter().zip(&self.steps);
        let mut steps: Vec<BoundStep> = steps
            .map(|(step, prepared)| bind_step(&self.plan, step, prepared, params))
            .collect();
        let bands = bands::find(&self.plan, &mut steps, params);
        BoundPlan {
            lives: bands::lives(&self.plan, &bands),
            steps,
            bands,
        }
    }
}

fn prepare_step(plan: &Plan, step: &Step, isa: Isa) -> PreparedStep {
    let program = |body: &Body, stores: &[Store], wanted: &[ValueId]| {
        Program::new(plan, body, stores, wanted, isa)
    };
    let operand = |body: &Body| {
        let last = ValueId(body.instrs.len().saturating_sub(1) as u32);
        program(body, &[], &[last])
    };
    match step {
        Step::Map(map) => PreparedStep::Map(program(&map.body, &map.stores, &[])),
        Step::Reduce(reduce) => PreparedStep::Reduce {
            body: program(&reduce.body, &[], &[reduce.value]),
            epilogue: program(&reduce.epilogue, &reduce.stores, &[]),
            fold: fold(isa, reduce.kind, reduce.dtype),
        },
        Step::Contract(contract) => {
            let bare = |side| contract::loads_bare(contract, side);
            PreparedStep::Contract {
                a: (!bare(contract::Side::A)).then(|| operand(&contract.a)),
                b: (!bare(contract::Side::B)).then(|| operand(&contract.b)),
                epilogue: (!contract::stores_bare(contract))
                    .then(|| program(&contract.epilogue, &contract.stores, &[])),
            }
        }
        Step::Scan(_) | Step::Scatter(_) => PreparedStep::Plain,
    }
}

/// The sizes of a run of axes.
pub fn sizes(params: &Params, first: Slot, rank: usize) -> Vec<u64> {
    params.run(first, rank).iter().map(|&s| s as u64).collect()
}

fn bind_step(plan: &Plan, step: &Step, prepared: &PreparedStep, params: &Params) -> BoundStep {
    match (step, prepared) {
        (Step::Map(map), PreparedStep::Map(program)) => {
            let sizes = sizes(params, map.sizes, map.rank.into());
            let order: Vec<usize> = (0..sizes.len()).collect();
            BoundStep::Map(Bound::new(plan, program, params, &sizes, &order))
        }
        (Step::Reduce(reduce), PreparedStep::Reduce { body, epilogue, .. }) => {
            let bound = ReduceBound::new(plan, reduce, body, epilogue, params);
            BoundStep::Reduce(Box::new(bound))
        }
        (Step::Contract(contract), PreparedStep::Contract { a, b, epilogue }) => {
            bind_contract(plan, contract, [a, b, epilogue], params)
        }
        _ => BoundStep::Plain,
    }
}

fn bind_contract(
    plan: &Plan,
    contract: &Contract,
    [a, b, epilogue]: [&Option<Program>; 3],
    params: &Params,
) -> BoundStep {
    let ranks = [contract.batch, contract.m, contract.n, contract.k].map(usize::from);
    let all = sizes(params, contract.sizes, ranks.iter().sum());
    let (batch, rest) = all.split_at(ranks[0]);
    let (m, rest) = rest.split_at(ranks[1]);
    let (n, k) = rest.split_at(ranks[2]);
    let bind = |program: &Option<Program>, groups: [&[u64]; 3]| {
        let sizes = groups.concat();
        let order: Vec<usize> = (0..sizes.len()).collect();
        program
            .as_ref()
            .map(|program| Bound::new(plan, program, params, &sizes, &order))
    };
    let count = |sizes: &[u64]| sizes.iter().product::<u64>();
    BoundStep::Contract(Box::new(BoundContract {
        a: bind(a, [batch, m, k]),
        b: bind(b, [batch, n, k]),
        epilogue: bind(epilogue, [batch, m, n]),
        counts: [count(m), count(n), count(k)],
        form: contract::Form::new(contract, params),
    }))
}

struct Entry {
    prepared: Arc<Prepared>,
    bindings: Vec<(Arc<Params>, Arc<BoundPlan>)>,
    /// Plans equal to this one whose addresses are in `by_address`.
    _aliases: Vec<Arc<Plan>>,
}

/// Every plan that was launched lately.
pub struct Cache {
    isa: Isa,
    entries: Vec<Entry>,
    by_address: HashMap<usize, usize>,
    by_plan: HashMap<Arc<Plan>, usize>,
    last: (usize, usize),
}

impl Cache {
    /// Empty.
    pub fn new(isa: Isa) -> Cache {
        Cache {
            isa,
            entries: Vec::new(),
            by_address: HashMap::new(),
            by_plan: HashMap::new(),
            last: (0, 0),
        }
    }

    /// Number of the plan's entry, for [`Cache::bind`] until the next call.
    pub fn find(&mut self, plan: &Arc<Plan>) -> usize {
        let address = Arc::as_ptr(plan) as usize;
        if self.last.0 == address {
            return self.last.1;
        }
        let entry = match self.by_address.get(&address) {
            Some(&entry) => entry,
            None => self.add(plan, address),
        };
        self.last = (address, entry);
        entry
    }

    fn add(&mut self, plan: &Arc<Plan>, address: usize) -> usize {
        if self.by_address.len() >= PLANS_MAX {
            *self = Cache::new(self.isa);
        }
        let entry = match self.by_plan.get(plan) {
            Some(&entry) => entry,
            None => {
                self.entries.push(Entry {
                    prepared: Arc::new(Prepared::new(plan.clone(), self.isa)),
                    bindings: Vec::new(),
                    _aliases: Vec::new(),
                });
                let entry = self.entries.len() - 1;
                self.by_plan.insert(plan.clone(), entry);
                entry
            }
        };
        self.entries[entry]._aliases.push(plan.clone());
        self.by_address.insert(address, entry);
        entry
    }

    /// The plan of an entry.
    pub fn prepared(&self, entry: usize) -> &Arc<Prepared> {
        &self.entries[entry].prepared
    }

    /// The binding of an entry to parameters.
    pub fn bind(&mut self, entry: usize, params: &Arc<Params>) -> &Arc<BoundPlan> {
        let entry = &mut self.entries[entry];
        let found = entry
            .bindings
            .iter()
            .rposition(|(have, _)| Arc::ptr_eq(have, params))
            .or_else(|| {
                let values = params.values();
                entry
                    .bindings
                    .iter()
                    .rposition(|(have, _)| have.values() == values)
            });
        if let Some(found) = found {
            return &entry.bindings[found].1;
        }
        let bound = Arc::new(entry.prepared.bind(params));
        if entry.bindings.len() >= BINDINGS_MAX {
            entry.bindings.remove(0);
        }
        entry.bindings.push((params.clone(), bound));
        let last = entry.bindings.len() - 1;
        &entry.bindings[last].1
    }
}
