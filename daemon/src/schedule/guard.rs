//! Where merging loses: how many instances of a plan a launch may have, learned from what launches took.
//!
//! For each plan and order of magnitude of its instances the time for a unit of work is kept by the number of instances, in
//! powers of two. As long as the largest launches are as quick for a unit as any, nothing is limited; where they are slower (their working set
//! leaves a cache, a thread is given less to do), launches get as many instances as were quick. Now and then a launch of
//! another number is tried, so that what was learned can be unlearned.
//!
//! A time is taken for the least of its latest samples: a launch is disturbed by others more often than it is quick by chance.

use std::sync::Arc;

use tensord_plan::Plan;

use super::INSTANCES_MAX;
use super::hold::Worth;
use crate::map::Map;

/// Powers of two up to `INSTANCES_MAX`.
const BATCHES: usize = INSTANCES_MAX.ilog2() as usize + 1;
/// Samples that a decision needs, and after which the oldest are let go.
const SAMPLES: u32 = 8;
/// Slower than the quickest by less than this is noise: in 64ths.
const TOLERANCE: u64 = 8;
/// A launch is no longer than another if it takes at most this part more.
const FREE: u64 = 32;
/// What a launch costs beside its device time, in nanoseconds: the engine's work for it.
const LAUNCH_NS: u64 = 1_500;
/// Between two tries of another number of instances.
const TRY_EVERY: u32 = 256;
/// The first tries come sooner, so that there is something to compare with.
const TRY_FIRST: u32 = 32;
/// Work from which instances of very different sizes stay apart: the small one would wait for the large one.
const APART_MIN: u64 = 1 << 16;
/// And how different: a power of two.
const APART: u32 = 4;
/// Plans that are watched.
const PLANS_MAX: usize = 1024;

/// The time for 1,024 units of work, in nanoseconds, over some launches.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    least: u64,
    /// The least of those before.
    least_before: u64,
    samples: u32,
    known: bool,
}

impl Rate {
    /// Takes in one more; says whether the value is another one now.
    fn sample(&mut self, rate: u64) -> bool {
        let before = self.value();
        self.least = match self.samples {
            0 => rate,
            _ => self.least.min(rate),
        };
        self.samples += 1;
        if self.samples == SAMPLES {
            (self.least_before, self.samples, self.known) = (self.least, 0, true);
        }
        self.value() != before
    }

    /// Once there are enough samples.
    fn value(&self) -> Option<u64> {
        let value = match self.samples {
            0 => self.least_before,
            _ => self.least.min(self.least_before),
        };
        self.known.then_some(value)
    }
}

/// What was learned of one plan with instances of one order of magnitude.
#[derive(Debug)]
struct Watched {
    /// Keeps the plan's address its own.
    _plan: Arc<Plan>,
    rates: [Rate; BATCHES],
    /// Most instances of a launch.
    most: usize,
    /// What a unit of work saves, times 1,024, by sharing a launch.
    saving: Option<u64>,
    launches: u32,
    /// Until the next try of another number.
    patience: u32,
    /// What is tried next.
    try_next: Option<usize>,
}

/// Plans, and how many instances of each are launched together.
#[derive(Debug, Default)]
pub struct Guard {
    plans: Map<(usize, u32), Watched>,
}

fn key(plan: &Arc<Plan>, cost: u64) -> (usize, u32) {
    (Arc::as_ptr(plan) as usize, cost.max(1).ilog2())
}

/// The batch that a number of instances belongs to: 1, 2, 3 to 4, 5 to 8, and so on.
fn batch_of(instances: usize) -> usize {
    let batch = instances.max(1).next_power_of_two().ilog2() as usize;
    batch.min(BATCHES - 1)
}

impl Guard {
    /// May instances of these costs share a launch?
    pub fn join(a: u64, b: u64) -> bool {
        let (less, more) = (a.min(b), a.max(b));
        more < APART_MIN || more >> APART <= less
    }

    /// What partners are worth to an instance of this plan and cost that is launched first.
    pub fn worth(&self, plan: &Arc<Plan>, cost: u64) -> Worth {
        match self.plans.get(&key(plan, cost)) {
            None => Worth::default(),
            Some(watched) => Worth {
                most: watched.try_next.unwrap_or(watched.most),
                saving_ns: watched
                    .saving
                    .map(|saving| saving.saturating_mul(cost) / 1024),
            },
        }
    }

    /// Device time of an instance in the quickest launches that there were.
    pub fn best_ns(&self, plan: &Arc<Plan>, cost: u64) -> Option<u64> {
        let watched = self.plans.get(&key(plan, cost))?;
        let best = watched.rates.iter().filter_map(Rate::value).min()?;
        Some(best.saturating_mul(cost) / 1024)
    }

    /// Is a launch that has so many instances no longer with one more? Only what was measured counts.
    pub fn is_free(&self, plan: &Arc<Plan>, cost: u64, instances: usize) -> bool {
        let Some(watched) = self.plans.get(&key(plan, cost)) else {
            return false;
        };
        // For a whole batch, as many as there are.
        let time = |batch: usize| Some(watched.rates[batch].value()?.saturating_mul(1 << batch));
        match (time(batch_of(instances)), time(batch_of(instances + 1))) {
            (Some(without), Some(with)) => with <= without + without / FREE,
            _ => false,
        }
    }

    /// A launch is over: the costs of its instances by estimate, first one first, and what they took.
    pub fn ran(&mut self, plan: &Arc<Plan>, costs: &[u64], busy_ns: u64) {
        let (instances, sum) = (costs.len(), costs.iter().sum::<u64>());
        let key = key(plan, costs.first().copied().unwrap_or(0));
        if self.plans.len() >= PLANS_MAX && !self.plans.contains_key(&key) {
            self.plans.clear();
        }
        let plan = self.plans.entry(key).or_insert_with(|| Watched {
            _plan: Arc::clone(plan),
            rates: [Rate::default(); BATCHES],
            most: INSTANCES_MAX,
            saving: None,
            launches: 0,
            patience: TRY_FIRST,
            try_next: None,
        });
        let rate = (busy_ns + LAUNCH_NS).saturating_mul(1024) / sum.max(1);
        plan.try_next = None;
        if plan.rates[batch_of(instances)].sample(rate) {
            plan.decide();
        }
        plan.launches += 1;
        if plan.launches >= plan.patience {
            plan.launches = 0;
            plan.try_another(instances);
        }
    }
}

impl Watched {
    /// Draws the conclusions from the rates.
    fn decide(&mut self) {
        let shared = self.rates[1..].iter().filter_map(Rate::value).min();
        let alone = self.rates[0].value();
        self.saving = alone
            .zip(shared)
            .map(|(alone, shared)| alone.saturating_sub(shared));
        let known = || {
            let rates = self.rates.iter().enumerate();
            rates.filter_map(|(batch, rate)| Some((batch, rate.value()?)))
        };
        let Some(best) = known().map(|(_, rate)| rate).min() else {
            return;
        };
        let good = best + best * TOLERANCE / 64;
        let largest_good = known().rfind(|&(_, rate)| rate <= good);
        let largest = known().next_back();
        self.most = match (largest_good, largest) {
            (Some((good, _)), Some((largest, _))) if good < largest => 1 << good,
            _ => INSTANCES_MAX,
        };
    }

    /// Chooses what to try: a number of which too little is known, or what is not launched any more.
    fn try_another(&mut self, instances: usize) {
        let seen = batch_of(instances);
        let unknown = (0..seen).find(|&batch| self.rates[batch].value().is_none());
        self.patience = if unknown.is_some() {
            TRY_FIRST
        } else {
            TRY_EVERY
        };
        self.try_next = match unknown {
            Some(batch) => Some(1 << batch),
            None if self.most < INSTANCES_MAX => Some(INSTANCES_MAX.min(self.most * 2)),
            None => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each instance.
    const COST: u64 = 1 << 14;

    /// Launches of as many of `ready` instances as the guard lets through, each taking what `busy_ns` says for its number; gives
    /// the instances of each.
    fn serve(
        guard: &mut Guard,
        plan: &Arc<Plan>,
        (launches, ready): (usize, usize),
        busy_ns: impl Fn(usize, u64) -> u64,
    ) -> Vec<usize> {
        let launch = |launch| {
            let instances = ready.min(guard.worth(plan, COST).most);
            let costs = vec![COST; instances];
            guard.ran(plan, &costs, busy_ns(launch, instances as u64));
            instances
        };
        (0..launches).map(launch).collect()
    }

    /// Up to four fit the cache.
    fn slow_from_five(_: usize, instances: u64) -> u64 {
        instances * if instances > 4 { 20_000 } else { 10_000 }
    }

    #[test]
    fn where_merging_gains_launches_are_as_large_as_they_can_be() {
        let gains = |_, n| 1_000 + 900 * n;
        let launches = serve(&mut Guard::default(), &Arc::default(), (20_000, 32), gains);
        let whole = launches.iter().filter(|&&n| n == 32).count();
        assert!(whole >= 19_900, "{whole} of 20,000 launches were whole");
        assert!(launches[10_000..].iter().all(|&n| n == 32));
    }

    #[test]
    fn where_large_launches_are_slow_they_are_no_longer_made() {
        let slow = slow_from_five;
        let launches = serve(&mut Guard::default(), &Arc::default(), (20_000, 32), slow);
        let late = &launches[10_000..];
        let four = late.iter().filter(|&&n| n == 4).count();
        assert!(four * 100 >= late.len() * 99, "{four} of {}", late.len());
        assert!(late.iter().all(|&n| n <= 8), "tries are a step away");
    }

    #[test]
    fn what_was_learned_is_unlearned() {
        let (mut guard, plan) = (Guard::default(), Arc::default());
        serve(&mut guard, &plan, (10_000, 32), slow_from_five);
        assert_eq!(guard.worth(&plan, COST).most, 4);
        serve(&mut guard, &plan, (10_000, 32), |_, n| 10_000 * n);
        assert_eq!(guard.worth(&plan, COST).most, INSTANCES_MAX);
    }

    #[test]
    fn disturbed_launches_change_nothing() {
        let (mut guard, plan) = (Guard::default(), Arc::default());
        let disturbed = |launch, n| 1_000 * n * if launch % 5 < 2 { 30 } else { 1 };
        serve(&mut guard, &plan, (10_000, 16), disturbed);
        assert_eq!(guard.worth(&plan, COST).most, INSTANCES_MAX);
    }

    #[test]
    fn what_sharing_saves_is_known_once_both_ways_were_tried() {
        let (mut guard, plan) = (Guard::default(), Arc::default());
        let gains = |_, n| 5_000 + 1_000 * n;
        assert_eq!(guard.worth(&plan, COST).saving_ns, None);
        serve(&mut guard, &plan, (TRY_FIRST as usize, 16), gains);
        assert_eq!(
            guard.worth(&plan, COST).saving_ns,
            None,
            "nothing ran alone yet"
        );
        serve(&mut guard, &plan, (10_000, 16), gains);
        let saving_ns = guard.worth(&plan, COST).saving_ns.expect("both are known");
        // Alone 6,000 and an engine's work for a launch; of sixteen each has a sixteenth of both overheads.
        let exact = (5_000 + LAUNCH_NS) * 15 / 16;
        assert!(
            saving_ns.abs_diff(exact) < 50,
            "{saving_ns} and not {exact}"
        );
    }

    #[test]
    fn a_small_instance_does_not_wait_for_a_large_one() {
        let [tiny, small, large] = [16, 1 << 14, 1 << 24];
        assert!(Guard::join(tiny, small), "both are over at once");
        assert!(!Guard::join(small, large));
        assert!(!Guard::join(large, tiny));
        assert!(Guard::join(large, 3 * large));
    }
}
