//! What a scheduling policy is asked.

use super::{Candidate, Owner};

/// Whose turn it is among those of one class. Classes come before policies, and deadlines before turns.
pub trait Policy {
    /// A round of decisions begins: these are ready.
    fn begin(&mut self, candidates: &[Candidate], slice_ns: u64);

    /// The one among `open` that comes first.
    fn first(&self, candidates: &[Candidate], open: &[usize]) -> Option<usize>;

    /// Device time that somebody is owed: negative if it has had more than its share.
    fn lag_ns(&self, owner: &Owner) -> i64;

    /// May it take part, with so much device time, in a launch that runs on somebody else's turn?
    fn may_ride(&self, owner: &Owner, ns: u64) -> bool;

    /// Somebody had device time, or less of it than it was charged for.
    fn charge(&mut self, owner: &Owner, ns: i64);

    /// A session ended, or changed its class: the next one in its seat is another.
    fn leave_session(&mut self, seat: u32);

    /// A tenant has no session in a class any more: the next one in its seat is another.
    fn leave_tenant(&mut self, seat: u32);
}
