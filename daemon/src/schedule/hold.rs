//! Whether ready work waits a moment for partners that run the same plan.
//!
//! A device with room never waits for what may not come: work is held only when, a moment ago, more sessions ran this same plan than
//! are ready now, never longer than the plan's patience, and never longer than those who are missing would save. Patience grows where waiting brought partners and halves
//! where it did not (additive increase, multiplicative decrease, as Clipper sets its batch sizes).

use std::sync::Arc;

use tensord_plan::Plan;
use tensord_shm::control::Class;

use super::{Candidate, INSTANCES_MAX, Task};
use crate::engine_process::SessionId;
use crate::map::Map;

/// A session that ran a plan within this time is expected to come again.
const MEMORY_NS: u64 = 20_000_000;
/// Patience of a plan seen for the first time, and the steps in which it grows.
const PATIENCE_STEP_NS: u64 = 20_000;
/// Plans whose partners are remembered.
const PLANS_MAX: usize = 1024;

#[derive(Debug)]
struct Partners {
    /// When each session ran the plan last, and in which class.
    last_run: Map<SessionId, (u64, Class)>,
    patience_ns: u64,
}

/// What was learned of each plan.
#[derive(Debug)]
pub struct Holds {
    plans: Map<usize, (Arc<Plan>, Partners)>,
    /// No work is held longer than this; 0 holds nothing.
    pub hold_ns_max: u64,
}

impl Default for Holds {
    fn default() -> Self {
        Holds {
            plans: Map::default(),
            hold_ns_max: 500_000,
        }
    }
}

/// What partners are worth.
#[derive(Clone, Copy, Debug)]
pub struct Worth {
    /// So many may run together.
    pub most: usize,
    /// What each saves, where that is known.
    pub saving_ns: Option<u64>,
}

impl Worth {
    /// Nobody may run together with this one.
    pub const ALONE: Worth = Worth {
        most: 1,
        saving_ns: None,
    };
}

impl Default for Worth {
    fn default() -> Self {
        Worth {
            most: INSTANCES_MAX,
            saving_ns: None,
        }
    }
}

fn key(plan: &Arc<Plan>) -> usize {
    Arc::as_ptr(plan) as usize
}

impl Holds {
    /// Until when the group should wait; `None` to run it now.
    pub fn until(
        &mut self,
        candidates: &[Candidate],
        group: &[usize],
        partners: Worth,
        now_ns: u64,
    ) -> Option<u64> {
        let first = &candidates[*group.first()?];
        if !first.batch || self.hold_ns_max == 0 {
            return None;
        }
        if first.owner.class == Class::Realtime || first.deadline_ns.is_some() {
            return None;
        }
        let (_, known) = self.plans.get(&key(&first.plan))?;
        // Nobody waits for a lower class.
        let expected = known
            .last_run
            .values()
            .filter(|&&(ran, class)| {
                class >= first.owner.class && now_ns.saturating_sub(ran) < MEMORY_NS
            })
            .count();
        // Who is there and does not take part will not do so later.
        let heads = candidates
            .iter()
            .filter(|other| other.task == Task::Start { behind: 0 });
        let there = heads
            .filter(|other| Arc::ptr_eq(&other.plan, &first.plan))
            .count();
        let room = partners.most.saturating_sub(group.len());
        let missing = expected.saturating_sub(there).min(room);
        if missing == 0 {
            return None;
        }
        let oldest = group.iter().map(|&k| candidates[k].ready_ns).min()?;
        let worth_ns = partners
            .saving_ns
            .map_or(u64::MAX, |each| each.saturating_mul(missing as u64));
        let until = oldest + known.patience_ns.min(self.hold_ns_max).min(worth_ns);
        (now_ns < until).then_some(until)
    }

    /// A group was launched: remembers who took part, and whether waiting was worth it.
    pub fn launched(&mut self, candidates: &[Candidate], group: &[usize], now_ns: u64) {
        let Some(&first) = group.first() else { return };
        let plan = &candidates[first].plan;
        if self.plans.len() >= PLANS_MAX && !self.plans.contains_key(&key(plan)) {
            self.plans.clear();
        }
        let hold_ns_max = self.hold_ns_max;
        let (_, partners) = self.plans.entry(key(plan)).or_insert_with(|| {
            let partners = Partners {
                last_run: Map::default(),
                patience_ns: PATIENCE_STEP_NS,
            };
            (Arc::clone(plan), partners)
        });
        let oldest = group
            .iter()
            .map(|&k| candidates[k].ready_ns)
            .min()
            .unwrap_or(now_ns);
        let waited_in_vain =
            group.len() == 1 && now_ns.saturating_sub(oldest) >= partners.patience_ns;
        partners.patience_ns = match waited_in_vain {
            true => (partners.patience_ns / 2).max(PATIENCE_STEP_NS / 4),
            false => {
                (partners.patience_ns + PATIENCE_STEP_NS).min(hold_ns_max.max(PATIENCE_STEP_NS))
            }
        };
        for &k in group {
            let owner = candidates[k].owner;
            partners
                .last_run
                .insert(owner.session, (now_ns, owner.class));
        }
        partners
            .last_run
            .retain(|_, (ran, _)| now_ns.saturating_sub(*ran) < MEMORY_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::tests::candidate;

    fn candidates(count: u64, plan: &Arc<Plan>, ready_ns: u64) -> Vec<Candidate> {
        let candidate = |session| Candidate {
            plan: Arc::clone(plan),
            ready_ns,
            ..candidate(0, session)
        };
        (0..count).map(candidate).collect()
    }

    /// Of these, as many as are ready; the first of them leads.
    fn until(
        holds: &mut Holds,
        all: &[Candidate],
        ready: usize,
        worth: Worth,
        now_ns: u64,
    ) -> Option<u64> {
        let group: Vec<usize> = (0..ready).collect();
        holds.until(&all[..ready], &group, worth, now_ns)
    }

    #[test]
    fn work_without_known_partners_runs_at_once() {
        let plan = Arc::default();
        let alone = candidates(1, &plan, 1000);
        let mut holds = Holds::default();
        assert_eq!(until(&mut holds, &alone, 1, Worth::default(), 1000), None);
        holds.launched(&alone, &[0], 1000);
        assert_eq!(until(&mut holds, &alone, 1, Worth::default(), 2000), None);
    }

    #[test]
    fn known_partners_are_waited_for_but_not_for_ever() {
        let plan = Arc::default();
        let all = candidates(4, &plan, 0);
        let mut holds = Holds::default();
        holds.launched(&all, &[0, 1, 2, 3], 10);
        let mut until = |ready, now_ns| until(&mut holds, &all, ready, Worth::default(), now_ns);
        let end_ns = until(2, 10).expect("two more are expected");
        assert_eq!(until(4, 10), None);
        assert_eq!(until(2, end_ns), None);
        assert_eq!(until(2, MEMORY_NS + 20), None, "partners are forgotten");
    }

    #[test]
    fn who_is_there_and_does_not_take_part_is_not_waited_for() {
        let plan = Arc::default();
        let all = candidates(4, &plan, 0);
        let mut holds = Holds::default();
        holds.launched(&all, &[0, 1, 2, 3], 10);
        assert_eq!(holds.until(&all, &[0, 1], Worth::default(), 10), None);
    }

    #[test]
    fn nobody_waits_for_a_lower_class_and_the_highest_for_nobody() {
        let plan = Arc::default();
        let mut all = candidates(2, &plan, 0);
        let mut holds = Holds::default();
        for (class, waits) in [
            (Class::Idle, true),
            (Class::Normal, false),
            (Class::Realtime, false),
        ] {
            all[0].owner.class = class;
            all[1].owner.class = Class::Idle;
            holds.launched(&all, &[0, 1], 10);
            let until = until(&mut holds, &all, 1, Worth::default(), 10);
            assert_eq!(until.is_some(), waits, "{class:?}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_who_is_missing_would_save() {
        let plan = Arc::default();
        let all = candidates(4, &plan, 100);
        let mut holds = Holds::default();
        holds.launched(&all, &[0, 1, 2, 3], 100);
        let mut until = |ready, worth| until(&mut holds, &all, ready, worth, 100);
        let worth = |saving_ns| Worth {
            saving_ns: Some(saving_ns),
            ..Worth::default()
        };
        assert_eq!(until(2, worth(300)), Some(700));
        assert_eq!(until(3, worth(300)), Some(400));
        assert_eq!(until(2, worth(0)), None);
        let two = Worth {
            most: 2,
            ..Worth::default()
        };
        assert_eq!(until(2, two), None, "no room for more");
    }

    #[test]
    fn patience_shrinks_where_nobody_comes() {
        let plan = Arc::default();
        let all = candidates(2, &plan, 0);
        let mut holds = Holds::default();
        holds.launched(&all, &[0, 1], 1);
        let before = until(&mut holds, &all, 1, Worth::default(), 1);
        let before = before.expect("a partner is expected");
        holds.launched(&all, &[0], before);
        let late = candidates(1, &plan, before);
        let after = until(&mut holds, &late, 1, Worth::default(), before);
        let after = after.expect("still expected");
        assert!(after - before < before, "{before} then {after}");
    }
}
