//! The time, as the engine sees it: a clock that tests and simulations can move themselves.

use std::cell::Cell;
use std::rc::Rc;

use tensord_cpu::clock::Clock as Ticks;

/// A clock that never goes back.
pub trait Clock {
    /// The time in the unit that is read fastest.
    fn ticks(&self) -> u64;

    /// Nanoseconds that so many ticks are; more ticks are never fewer.
    fn ns_of(&self, ticks: u64) -> u64;

    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64 {
        self.ns_of(self.ticks())
    }
}

/// The machine's clock, in the way that costs least: an engine reads it several times in a turn, which may be over in a microsecond.
#[derive(Debug)]
pub struct Monotonic {
    ticks: Ticks,
    start: u64,
    /// Counters of two processors may be a little apart.
    last: Cell<u64>,
}

impl Default for Monotonic {
    fn default() -> Self {
        let ticks = Ticks::new();
        Monotonic {
            ticks,
            start: ticks.now(),
            last: Cell::new(0),
        }
    }
}

impl Clock for Monotonic {
    fn ticks(&self) -> u64 {
        let ticks = self.ticks.now().saturating_sub(self.start);
        let ticks = ticks.max(self.last.get());
        self.last.set(ticks);
        ticks
    }

    fn ns_of(&self, ticks: u64) -> u64 {
        self.ticks.ns_between(0, ticks)
    }
}

/// A clock that moves only when told to.
#[derive(Clone, Debug, Default)]
pub struct Manual {
    now_ns: Rc<Cell<u64>>,
}

impl Manual {
    /// Moves it on.
    pub fn advance_ns(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }
}

impl Clock for Manual {
    fn ticks(&self) -> u64 {
        self.now_ns.get()
    }

    fn ns_of(&self, ticks: u64) -> u64 {
        ticks
    }
}
