//! Decides which planned work runs now, and what shares a launch.
//!
//! In: the heads of all queues' planned work, and launches that were stopped. Out: one group of works with equal plans, to be launched
//! together, or a launch to go on with. Knows accounts and plans' identities; knows nothing of devices, buffers or rings.
//!
//! What comes first is found in this order, one file each: the class; the earliest `deadline`; the `policy`, which is
//! weighted fair sharing (`fair`) or first come, first served (`fifo`). What shares a launch: works of the same plan, as many as the
//! `guard` has measured to be quick, of sessions that may have more now; `hold` says whether it is worth waiting for partners.
//! `cost` predicts how long works take. Who has used his device time waits for his [`bucket`].
//!
//! # Invariants
//! - A lower class never makes a higher one wait: it rides along only where that was measured to cost nothing.
//! - Works of a queue are taken in their order.

pub mod bucket;
pub mod cost;
mod deadline;
mod fair;
mod fifo;
pub mod guard;
pub mod hold;
mod policy;
mod seats;

use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::{LaunchId, Plan};
use tensord_shm::control::Class;
use tensord_shm::dtype::Scalar;

use crate::engine_process::{SessionId, TenantId};
use crate::fuse::Template;
use crate::graph::value::Value;
use policy::Policy;
pub use seats::Seat;

/// Most instances of one launch.
pub const INSTANCES_MAX: usize = 256;
/// So many works behind a queue's head may run together with it.
pub const BEHIND_MAX: u32 = 31;

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
    /// When it should be over, if a request of it says so.
    pub deadline_ns: Option<u64>,
}

impl Work {
    /// Bytes and operations weighed alike, by the first estimate: good enough to compare works and to split a launch.
    pub fn cost(&self) -> u64 {
        let (bytes, flops) = self.template.params.cost();
        (bytes / 4).saturating_add(flops).max(1)
    }
}

/// Whose device time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Class of the work.
    pub class: Class,
    /// The session's tenant.
    pub tenant: TenantId,
    /// Weight of the tenant among tenants.
    pub tenant_weight: u32,
    /// The session.
    pub session: SessionId,
    /// Its weight among the tenant's sessions.
    pub weight: u32,
    /// Where its accounts stand.
    pub seat: Seat,
}

/// What could run next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Work of a queue: its head, or one of those right behind.
    Start {
        /// How many of the queue come before it.
        behind: u32,
    },
    /// A launch that was stopped, and is in part this session's.
    Resume(LaunchId),
}

/// Something that is ready to run, as the policies see it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Whose it is.
    pub owner: Owner,
    /// Which queue's, for the caller.
    pub place: (usize, usize),
    /// What it is.
    pub task: Task,
    /// Its plan; plans are interned, so equal plans are one allocation.
    pub plan: Arc<Plan>,
    /// How much work it is, by the first estimate.
    pub cost: u64,
    /// Device time that it will take, as far as can be told.
    pub cost_ns: u64,
    /// When it became ready.
    pub ready_ns: u64,
    /// When it should be over, on the same clock.
    pub deadline_ns: Option<u64>,
    /// May it share a launch?
    pub batch: bool,
}

impl Candidate {
    /// What its owner is charged for when it starts: what is left of that after its first slice it pays as it has it.
    pub fn request_ns(&self, slice_ns: u64) -> u64 {
        self.cost_ns.min(slice_ns)
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Launch these candidates (indices) together. Their owners have been charged for [`Candidate::request_ns`].
    Launch(Vec<usize>),
    /// Go on with this launch.
    Resume(LaunchId),
    /// Nothing before this time; partners may come.
    Hold {
        /// When holding ends.
        until_ns: u64,
    },
}

/// How turns are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Weighted fair sharing among tenants, and among the sessions of each.
    #[default]
    Fair,
    /// First come, first served.
    Fifo,
}

/// The scheduler.
pub struct Scheduler {
    policy: Box<dyn Policy>,
    name: PolicyName,
    seats: seats::Seats,
    /// Memory of the last decision.
    open: Vec<usize>,
    taken: Vec<u32>,
    /// How many may run together; `None` for as many as there are.
    pub guard: Option<guard::Guard>,
    /// How long to wait for partners.
    pub hold: hold::Holds,
    /// How long works take.
    pub costs: cost::Costs,
}

impl Default for Scheduler {
    fn default() -> Scheduler {
        Scheduler {
            policy: Box::new(fair::Fair::default()),
            name: PolicyName::Fair,
            seats: seats::Seats::default(),
            open: Vec::new(),
            taken: Vec::new(),
            guard: None,
            hold: hold::Holds::default(),
            costs: cost::Costs::default(),
        }
    }
}

impl Scheduler {
    /// Gives turns in another way from here on.
    pub fn set_policy(&mut self, name: PolicyName) {
        if name != self.name {
            self.name = name;
            self.policy = match name {
                PolicyName::Fair => Box::new(fair::Fair::default()),
                PolicyName::Fifo => Box::new(fifo::Fifo),
            };
        }
    }

    /// Chooses among candidates, of which there is at least one. Candidates of one plan run together; what may be worth holding
    /// does not keep anything else from running.
    pub fn decide(&mut self, candidates: &[Candidate], slice_ns: u64, now_ns: u64) -> Decision {
        self.policy.begin(candidates, slice_ns);
        let behind = |k: &usize| matches!(candidates[*k].task, Task::Start { behind: 1.. });
        let mut open = std::mem::take(&mut self.open);
        open.clear();
        open.extend((0..candidates.len()).filter(|k| !behind(k)));
        let decision = self.choose(candidates, &mut open, slice_ns, now_ns);
        self.open = open;
        decision
    }

    /// Chooses among those that are open: leaves those that are held.
    fn choose(
        &mut self,
        candidates: &[Candidate],
        open: &mut Vec<usize>,
        slice_ns: u64,
        now_ns: u64,
    ) -> Decision {
        let mut earliest = u64::MAX;
        while let Some(first) = self.first(candidates, open, slice_ns) {
            let chosen = &candidates[first];
            if let Task::Resume(id) = chosen.task {
                return Decision::Resume(id);
            }
            let partners = self.worth(chosen);
            let group = self.group(candidates, first, partners.most, (slice_ns, now_ns));
            match self.hold.until(candidates, &group, partners, now_ns) {
                None => return Decision::Launch(group),
                Some(until_ns) => {
                    for &k in &group {
                        self.charge(
                            &candidates[k].owner,
                            -(candidates[k].request_ns(slice_ns) as i64),
                        );
                    }
                    earliest = earliest.min(until_ns);
                    open.retain(|k| !group.contains(k));
                }
            }
        }
        Decision::Hold { until_ns: earliest }
    }

    /// Who comes first: the highest class, in it the earliest deadline, and else whose turn it is.
    fn first(&self, candidates: &[Candidate], open: &[usize], slice_ns: u64) -> Option<usize> {
        let class_of = |k: usize| candidates[k].owner.class;
        let class = open.iter().map(|&k| class_of(k)).max()?;
        let of_class: Vec<usize>;
        let peers = match open.iter().all(|&k| class_of(k) == class) {
            true => open,
            false => {
                let of = open.iter().copied().filter(|&k| class_of(k) == class);
                of_class = of.collect();
                &of_class
            }
        };
        let policy = &*self.policy;
        deadline::first(policy, candidates, peers, slice_ns)
            .or_else(|| policy.first(candidates, peers))
    }

    /// Those who run together with the first one, all of them charged for it.
    fn group(
        &mut self,
        candidates: &[Candidate],
        first: usize,
        most: usize,
        (slice_ns, now_ns): (u64, u64),
    ) -> Vec<usize> {
        let chosen = &candidates[first];
        self.charge(&chosen.owner, chosen.request_ns(slice_ns) as i64);
        let mut group = vec![first];
        // Nobody who rides along makes it late.
        let mut left_ns = match chosen.deadline_ns {
            Some(deadline_ns) => deadline_ns
                .saturating_sub(now_ns)
                .saturating_sub(chosen.cost_ns),
            None => u64::MAX,
        };
        // Of each queue's works, how many are in; it stands at the queue's head.
        let mut taken = std::mem::take(&mut self.taken);
        taken.clear();
        taken.resize(candidates.len(), 0);
        taken[first] = 1;
        // The heads of all queues before anybody's second.
        'full: for round in 0..=BEHIND_MAX {
            let before = group.len();
            for (k, other) in candidates.iter().enumerate() {
                if group.len() >= most {
                    break 'full;
                }
                let next = k != first && other.task == Task::Start { behind: round };
                if next
                    && taken[k - round as usize] == round
                    && other.cost_ns <= left_ns
                    && self.may_join(chosen, other, group.len())
                    && self.policy.may_ride(&other.owner, other.cost_ns)
                {
                    self.charge(&other.owner, other.request_ns(slice_ns) as i64);
                    left_ns = left_ns.saturating_sub(other.cost_ns);
                    taken[k - round as usize] += 1;
                    group.push(k);
                }
            }
            if round > 0 && group.len() == before {
                break;
            }
        }
        self.taken = taken;
        group
    }

    /// What those are worth who may run together with this one.
    fn worth(&self, first: &Candidate) -> hold::Worth {
        match &self.guard {
            _ if !first.batch => hold::Worth::ALONE,
            Some(guard) => guard.worth(&first.plan, first.cost),
            None => hold::Worth::default(),
        }
    }

    /// Is it work of the same kind, and does nobody of a higher class wait for it?
    fn may_join(&self, first: &Candidate, other: &Candidate, instances: usize) -> bool {
        let same = first.batch && other.batch && Arc::ptr_eq(&first.plan, &other.plan);
        let sizes = || self.guard.is_none() || guard::Guard::join(first.cost, other.cost);
        let classes = || {
            let guard = self.guard.as_ref();
            other.owner.class >= first.owner.class
                || guard.is_some_and(|guard| guard.is_free(&first.plan, first.cost, instances))
        };
        same && sizes() && classes()
    }

    /// Somebody had device time, or less than it was charged for.
    pub fn charge(&mut self, owner: &Owner, ns: i64) {
        self.policy.charge(owner, ns);
    }

    /// A session begins, or begins to work in another class.
    pub fn seat(&mut self, class: Class, tenant: TenantId) -> Seat {
        self.seats.take(class, tenant)
    }

    /// A session ends, or leaves a class.
    pub fn leave(&mut self, owner: &Owner) {
        self.seats
            .leave(owner.class, owner.tenant, owner.seat, &mut *self.policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work of a session of a tenant, with a plan of its own.
    pub fn candidate(tenant: u32, session: u64) -> Candidate {
        Candidate {
            owner: Owner {
                class: Class::Normal,
                tenant: TenantId(tenant),
                tenant_weight: 100,
                session: SessionId(session),
                weight: 100,
                seat: Seat {
                    tenant,
                    session: session as u32,
                },
            },
            place: (session as usize, 0),
            task: Task::Start { behind: 0 },
            plan: Arc::default(),
            cost: 1,
            cost_ns: 100_000,
            ready_ns: 0,
            deadline_ns: None,
            batch: true,
        }
    }

    const SLICE_NS: u64 = 500_000;

    fn scheduler() -> Scheduler {
        let mut scheduler = Scheduler::default();
        scheduler.hold.hold_ns_max = 0;
        scheduler
    }

    fn decide(candidates: &[Candidate]) -> Decision {
        scheduler().decide(candidates, SLICE_NS, 0)
    }

    #[test]
    fn a_higher_class_comes_first() {
        let mut candidates = [0, 1, 2].map(|session| candidate(0, session));
        candidates[0].owner.class = Class::Idle;
        candidates[2].owner.class = Class::Realtime;
        assert_eq!(decide(&candidates), Decision::Launch(vec![2]));
        assert_eq!(decide(&candidates[..2]), Decision::Launch(vec![1]));
        assert_eq!(decide(&candidates[..1]), Decision::Launch(vec![0]));
    }

    #[test]
    fn a_launch_that_was_stopped_waits_for_a_higher_class() {
        let mut stopped = candidate(0, 0);
        stopped.task = Task::Resume(LaunchId(7));
        let mut urgent = candidate(0, 1);
        assert_eq!(decide(&[stopped.clone()]), Decision::Resume(LaunchId(7)));
        urgent.owner.class = Class::Realtime;
        assert_eq!(decide(&[stopped, urgent]), Decision::Launch(vec![1]));
    }

    #[test]
    fn the_earliest_deadline_comes_first_in_its_class() {
        let mut candidates = [0, 1, 2, 3].map(|session| candidate(0, session));
        candidates[1].deadline_ns = Some(900);
        candidates[2].deadline_ns = Some(800);
        candidates[3].deadline_ns = Some(100);
        candidates[3].owner.class = Class::Idle;
        assert_eq!(decide(&candidates), Decision::Launch(vec![2]));
    }

    #[test]
    fn a_deadline_buys_time_earlier_and_never_more() {
        let mut candidates = [0, 1].map(|session| candidate(0, session));
        candidates[1].deadline_ns = Some(1);
        let mut scheduler = scheduler();
        let urgent = (0..1_000)
            .filter(|_| scheduler.decide(&candidates, SLICE_NS, 0) == Decision::Launch(vec![1]))
            .count();
        assert!(urgent < 550, "{urgent} of 1,000");
    }

    #[test]
    fn works_of_one_plan_run_together_the_heads_first() {
        let plan = Arc::default();
        let mut candidates = [0, 0, 0, 1, 2].map(|session| candidate(0, session));
        for (candidate, behind) in candidates.iter_mut().zip([0, 1, 2, 0, 0]) {
            candidate.task = Task::Start { behind };
            candidate.plan = Arc::clone(&plan);
        }
        candidates[4].plan = Arc::default();
        assert_eq!(decide(&candidates), Decision::Launch(vec![0, 3, 1, 2]));
        candidates[1].batch = false;
        assert_eq!(
            decide(&candidates),
            Decision::Launch(vec![0, 3]),
            "in their order"
        );
    }

    #[test]
    fn a_lower_class_rides_along_only_where_it_is_known_to_cost_nothing() {
        let plan: Arc<Plan> = Arc::default();
        let mut candidates = [0, 1].map(|session| candidate(0, session));
        for candidate in &mut candidates {
            candidate.plan = Arc::clone(&plan);
        }
        candidates[1].owner.class = Class::Idle;
        let mut scheduler = scheduler();
        let mut guard = guard::Guard::default();
        let decide = |scheduler: &mut Scheduler| scheduler.decide(&candidates, SLICE_NS, 0);
        assert_eq!(decide(&mut scheduler), Decision::Launch(vec![0]));
        for _ in 0..8 {
            guard.ran(&plan, &[1], 100_000);
            guard.ran(&plan, &[1, 1], 100_000);
        }
        scheduler.guard = Some(guard);
        assert_eq!(decide(&mut scheduler), Decision::Launch(vec![0, 1]));
    }
}
