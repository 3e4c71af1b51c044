//! Slices: how a launch stops after a while, and where it goes on.
//!
//! A launch is a sequence of sections, each a number of parts that may run in any order (`pool::Team::each`). Where it stops
//! is therefore two numbers: sections that have run, and parts of the next one that have. Nothing else of a thread's state
//! outlives a part: temporaries lie in the launch's own memory, and what a section hands to the next one in
//! [`Progress::kept`].
//!
//! How many parts a thread takes at once is found by measuring them: parts are far smaller than a slice, and estimates are wrong by
//! tens where functions are slow.

use crate::clock::Clock;
use crate::scratch::Arena;

/// Of a slice, what a thread takes at once: so much longer than a slice a launch may run.
const PIECES: u64 = 8;
/// How much more than last time a thread takes at most.
const GROWTH: usize = 8;

/// Where a launch stopped, and what it needs to go on.
#[derive(Default)]
pub struct Progress {
    /// Sections that have run.
    pub sections: usize,
    /// Parts of the next section that have run.
    pub parts: usize,
    /// What a section leaves for the next one.
    pub kept: Arena,
}

impl Progress {
    /// At the beginning of another launch.
    pub fn restart(&mut self) {
        (self.sections, self.parts) = (0, 0);
    }
}

/// A time after which a launch stops.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    clock: Clock,
    begin: u64,
    ns: u64,
}

impl Slice {
    /// From now on.
    pub fn begin(clock: Clock, ns: u64) -> Slice {
        Slice {
            clock,
            begin: clock.now(),
            ns,
        }
    }

    /// Is it over?
    pub fn is_over(&self) -> bool {
        self.clock.ns_between(self.begin, self.clock.now()) >= self.ns
    }
}

/// How many parts of a section a thread takes at once.
pub struct Pace {
    slice: Slice,
    taken: usize,
    since: u64,
}

impl Pace {
    /// Of a section that begins.
    pub fn new(slice: Slice) -> Pace {
        Pace {
            slice,
            taken: 1,
            since: slice.clock.now(),
        }
    }

    /// Parts to take now.
    pub fn parts(&self) -> usize {
        self.taken
    }

    /// They have run. False: so many as come next would end behind the slice.
    pub fn goes_on(&mut self) -> bool {
        let Slice { clock, begin, ns } = self.slice;
        let now = clock.now();
        let took_ns = clock.ns_between(self.since, now).max(1);
        self.since = now;
        let fit = (self.taken as u64).saturating_mul(ns / PIECES) / took_ns;
        let next = (fit as usize).clamp(1, self.taken * GROWTH);
        let next_ns = took_ns.saturating_mul(next as u64) / self.taken as u64;
        self.taken = next;
        clock.ns_between(begin, now).saturating_add(next_ns) <= ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_without_time_is_over_after_one_part() {
        let slice = Slice::begin(Clock::new(), 0);
        let mut pace = Pace::new(slice);
        assert_eq!(pace.parts(), 1);
        assert!(!pace.goes_on());
        assert!(slice.is_over());
    }

    #[test]
    fn quick_parts_are_taken_in_growing_numbers() {
        let mut pace = Pace::new(Slice::begin(Clock::new(), u64::MAX));
        assert!(pace.goes_on());
        assert_eq!(pace.parts(), GROWTH);
        assert!(pace.goes_on());
        assert_eq!(pace.parts(), GROWTH * GROWTH);
    }
}
