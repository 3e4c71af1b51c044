//! Decides which planned work runs now, and what shares a launch.
//!
//! In: the heads of all queues' planned work. Out: one group of works with equal plans, to be launched together. Knows accounts and
//! plans' identities; knows nothing of devices, buffers or rings. Policies are one file each: [`turn`] says whose turn it is,
//! [`guard`] how many may run together, [`hold`] whether it is worth waiting for partners.

pub mod guard;
pub mod hold;
pub mod turn;

use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::Plan;
use tensord_shm::dtype::Scalar;

use crate::engine_process::{SessionId, TenantId};
use crate::fuse::Template;
use crate::graph::value::Value;

/// Most instances of one launch.
pub const INSTANCES_MAX: usize = 256;

/// One instance of a plan, waiting to run: a part of one queue's requests.
pub struct Work {
    /// The plan and its parameters.
    pub template: Rc<Template>,
    /// Scalars.
    pub immediates: Vec<Scalar>,
    /// The plan's inputs. Each counts as a use of its value until the work is dispatched.
    pub inputs: Vec<Rc<Value>>,
    /// The plan's outputs.
    pub outputs: Vec<Rc<Value>>,
    /// Timeline value of its first operation: the timeline stays below it until the work is over.
    pub first_number: u64,
    /// Timeline value and source position of each request that gets its outcome with this work.
    pub requests: Vec<(u64, u32)>,
    /// When it became ready.
    pub ready_ns: u64,
}

impl Work {
    /// Bytes and operations weighed alike, by the first estimate: good enough to compare works and to split a launch.
    pub fn cost(&self) -> u64 {
        let (bytes, flops) = self.template.params.cost();
        (bytes / 4).saturating_add(flops).max(1)
    }
}

/// The head of a queue's work, as the policies see it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Whose it is.
    pub tenant: TenantId,
    /// Whose it is.
    pub session: SessionId,
    /// Where it is, for the caller.
    pub place: (usize, usize),
    /// Its plan; plans are interned, so equal plans are one allocation.
    pub plan: Arc<Plan>,
    /// How much work it is, by estimate.
    pub cost: u64,
    /// When it became ready.
    pub ready_ns: u64,
    /// May it share a launch?
    pub batch: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Launch these candidates (indices) together.
    Launch(Vec<usize>),
    /// Nothing before this time; partners may come.
    Hold {
        /// When holding ends.
        until_ns: u64,
    },
}

/// The scheduler: a turn among tenants and sessions, a limit where merging loses, and patience for partners.
#[derive(Default)]
pub struct Scheduler {
    /// Whose turn it is.
    pub turn: turn::FairTurn,
    /// How many may run together; `None` for as many as there are.
    pub guard: Option<guard::Guard>,
    /// How long to wait for partners.
    pub hold: hold::Holds,
}

impl Scheduler {
    /// Chooses among candidates, of which there is at least one. Candidates of one plan run together; what may be worth holding
    /// does not keep anything else from running.
    pub fn decide(&mut self, candidates: &[Candidate], now_ns: u64) -> Decision {
        let mut earliest = u64::MAX;
        let mut open: Vec<usize> = (0..candidates.len()).collect();
        while let Some(first) = self.turn.next(candidates, &open) {
            let chosen = &candidates[first];
            let partners = self.worth(chosen);
            let mut group = vec![first];
            let partner = |&k: &usize| k != first && self.may_join(chosen, &candidates[k]);
            group.extend(open.iter().copied().filter(partner).take(partners.most - 1));
            match self.hold.until(candidates, &group, partners, now_ns) {
                None => return Decision::Launch(group),
                Some(until_ns) => {
                    earliest = earliest.min(until_ns);
                    open.retain(|k| !group.contains(k));
                }
            }
        }
        Decision::Hold { until_ns: earliest }
    }

    /// What those are worth who may run together with this one.
    fn worth(&self, first: &Candidate) -> hold::Worth {
        match &self.guard {
            _ if !first.batch => hold::Worth::ALONE,
            Some(guard) => guard.worth(&first.plan, first.cost),
            None => hold::Worth::default(),
        }
    }

    fn may_join(&self, first: &Candidate, other: &Candidate) -> bool {
        let sizes = self.guard.is_none() || guard::Guard::join(first.cost, other.cost);
        first.batch && other.batch && Arc::ptr_eq(&first.plan, &other.plan) && sizes
    }
}
