//! The time, as the engine sees it: a clock that tests and simulations can move themselves.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// A clock that never goes back.
pub trait Clock {
    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64;
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct Monotonic {
    start: Instant,
}

impl Default for Monotonic {
    fn default() -> Self {
        Monotonic {
            start: Instant::now(),
        }
    }
}

impl Clock for Monotonic {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
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
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}
