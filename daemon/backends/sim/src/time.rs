//! The time that a simulated device goes by.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A clock that never goes back, and how one waits by it.
pub trait Time: Send {
    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64;

    /// Returns once the time has come.
    fn wait_until(&self, ns: u64);
}

/// The machine's time.
#[derive(Clone, Copy, Debug)]
pub struct MachineTime(Instant);

impl Default for MachineTime {
    fn default() -> MachineTime {
        MachineTime(Instant::now())
    }
}

impl Time for MachineTime {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn wait_until(&self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns.saturating_sub(self.now_ns())));
    }
}

/// A time that moves only when told to. Clones share it; they stay on one thread, or take turns.
#[derive(Clone, Debug, Default)]
pub struct VirtualTime(Arc<AtomicU64>);

impl VirtualTime {
    /// Moves on to `ns`, or not at all if that is past.
    pub fn advance_to(&self, ns: u64) {
        self.0.fetch_max(ns, Ordering::Relaxed);
    }
}

impl Time for VirtualTime {
    fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn wait_until(&self, ns: u64) {
        self.advance_to(ns);
    }
}
