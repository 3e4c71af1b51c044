//! Earliest deadline first, for requests that have one.
//!
//! Within a class and before the policy's turns: whoever has the earliest deadline comes first, as long as its session has not had
//! more than its share by [`DEBT_SLICES`]. So a deadline buys time earlier and never more of it, and who invents deadlines
//! starves nobody.
//! (C. L. Liu and J. W. Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment", JACM 20(1),
//! 1973: on one device whatever can be met is met by this order.)

use super::Candidate;
use super::policy::Policy;

/// How far ahead of its share a session may be whose deadlines count, in slices.
const DEBT_SLICES: u64 = 8;

/// The candidate among `open` whose deadline comes first.
pub fn first(
    policy: &dyn Policy,
    candidates: &[Candidate],
    open: &[usize],
    slice_ns: u64,
) -> Option<usize> {
    let debt_ns = slice_ns.saturating_mul(DEBT_SLICES) as i64;
    let urgent = open.iter().filter_map(|&k| {
        let deadline_ns = candidates[k].deadline_ns?;
        let within = policy.lag_ns(&candidates[k].owner) >= -debt_ns;
        within.then_some((deadline_ns, k))
    });
    urgent.min().map(|(_, k)| k)
}
