//! First come, first served: what merging reaches where nobody's share counts. For machines of one user, and to measure what
//! fairness costs.

use super::policy::Policy;
use super::{Candidate, Owner};

/// Keeps no accounts.
#[derive(Debug, Default)]
pub struct Fifo;

impl Policy for Fifo {
    fn begin(&mut self, _: &[Candidate], _: u64) {}

    fn first(&self, candidates: &[Candidate], open: &[usize]) -> Option<usize> {
        open.iter().copied().min_by_key(|&k| candidates[k].ready_ns)
    }

    fn lag_ns(&self, _: &Owner) -> i64 {
        0
    }

    fn may_ride(&self, _: &Owner, _: u64) -> bool {
        true
    }

    fn charge(&mut self, _: &Owner, _: i64) {}

    fn leave_session(&mut self, _: u32) {}

    fn leave_tenant(&mut self, _: u32) {}
}
