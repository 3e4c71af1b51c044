//! How long works take: from the first estimate, by shapes, and from what launches of the same plan and size took.
//!
//! The first estimate (`Work::cost`) weighs bytes and operations alike. What one unit of it takes is learned for each plan and order
//! of magnitude, as a moving average; for plans that never ran it is what units took on the whole.

use std::sync::Arc;

use tensord_plan::Plan;

use crate::map::Map;

/// Plans and sizes that are remembered.
const KNOWN_MAX: usize = 4096;
/// The newest launch counts for this part of the average.
const NEWEST: i64 = 8;
/// What 1,024 units take, in nanoseconds, as long as nothing is known: 4 units in a nanosecond.
const FIRST_RATE: i64 = 256;

/// Nanoseconds that 1,024 units take, on average.
#[derive(Clone, Copy, Debug)]
struct Rate(i64);

impl Rate {
    fn sample(&mut self, rate: i64) {
        self.0 += (rate - self.0) / NEWEST;
    }

    fn ns(self, cost: u64) -> u64 {
        let ns = u128::from(cost) * self.0.max(1) as u128 / 1024;
        u64::try_from(ns).unwrap_or(u64::MAX).max(1)
    }
}

/// What was learned.
#[derive(Debug)]
pub struct Costs {
    /// The plan is kept, so that its address stays its own.
    known: Map<(usize, u32), (Arc<Plan>, Rate)>,
    any: Rate,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs {
            known: Map::default(),
            any: Rate(FIRST_RATE),
        }
    }
}

fn key(plan: &Arc<Plan>, cost: u64) -> (usize, u32) {
    (Arc::as_ptr(plan) as usize, cost.max(1).ilog2())
}

impl Costs {
    /// Device time of a work, in nanoseconds.
    pub fn ns(&self, plan: &Arc<Plan>, cost: u64) -> u64 {
        let known = self.known.get(&key(plan, cost));
        known.map_or(self.any, |&(_, rate)| rate).ns(cost)
    }

    /// A launch is over: what its instances cost by the first estimate, the first one's first, and what they took.
    pub fn ran(&mut self, plan: &Arc<Plan>, costs: &[u64], busy_ns: u64) {
        let sum = costs
            .iter()
            .fold(0u64, |sum, &cost| sum.saturating_add(cost));
        let rate = u128::from(busy_ns) * 1024 / u128::from(sum.max(1));
        let rate = i64::try_from(rate).unwrap_or(i64::MAX / 2).max(1);
        self.any.sample(rate);
        let key = key(plan, costs.first().copied().unwrap_or(0));
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&key) {
            self.known.clear();
        }
        let first = || (Arc::clone(plan), Rate(rate));
        self.known.entry(key).or_insert_with(first).1.sample(rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ran_takes_what_units_take_on_the_whole() {
        let (mut costs, plan) = (Costs::default(), Arc::default());
        assert_eq!(costs.ns(&plan, 4096), 1024);
        let other = Arc::default();
        (0..200).for_each(|_| costs.ran(&other, &[1000], 7_000));
        let ns = costs.ns(&plan, 4096);
        assert!(ns.abs_diff(7 * 4096) < 100, "{ns}");
    }

    #[test]
    fn a_plan_is_known_by_its_launches_each_size_by_itself() {
        let (mut costs, plan) = (Costs::default(), Arc::default());
        for _ in 0..100 {
            costs.ran(&plan, &[1 << 10], 50_000);
            costs.ran(&plan, &[1 << 20, 1 << 20], 200_000);
        }
        assert!(costs.ns(&plan, 1 << 10).abs_diff(50_000) < 100);
        assert!(costs.ns(&plan, 1 << 20).abs_diff(100_000) < 1_100);
    }
}
