//! How a wait passes its first microseconds: with yields while nobody else wants the core, asleep otherwise.
//!
//! A yield that returns at once found nobody waiting for this core. One that takes longer gave it to somebody who has
//! work, and after a few of these a sleep is better for all, this thread included. A yield of more than a millisecond
//! says that others compute on this core; the next waits then sleep at once.
//!
//! Measured figures stand in the documentation of the benchmark `submit`.

use std::time::{Duration, Instant};

/// Longest time spent with yields.
const YIELD_FOR: Duration = Duration::from_micros(50);
/// A yield longer than this gave the core to somebody.
const SHARED_YIELD: Duration = Duration::from_micros(3);
/// So many of them in one wait are enough.
const SHARED_YIELDS_MAX: u32 = 3;
/// A yield longer than this was slow.
const SLOW_YIELD: Duration = Duration::from_millis(1);
/// Waits that sleep at once after a slow yield.
const SLEEP_AT_ONCE: u32 = 64;

/// What earlier waits have taught.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    sleep_at_once: u32,
}

impl Patience {
    /// Looks again and again for a little while; true once `reached` is.
    pub(crate) fn spin(&mut self, reached: impl Fn() -> bool) -> bool {
        if reached() {
            return true;
        }
        if self.sleep_at_once > 0 {
            self.sleep_at_once -= 1;
            return false;
        }
        let start = Instant::now();
        let mut before = start;
        let mut shared = 0;
        while shared < SHARED_YIELDS_MAX && before - start < YIELD_FOR {
            std::thread::yield_now();
            if reached() {
                return true;
            }
            let now = Instant::now();
            let took = now - before;
            before = now;
            if took > SLOW_YIELD {
                self.sleep_at_once = SLEEP_AT_ONCE;
                return false;
            }
            shared += u32::from(took > SHARED_YIELD);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn patience_ends_and_what_is_reached_is_seen() {
        let mut patience = Patience::default();
        assert!(!patience.spin(|| false));
        let looks = Cell::new(0);
        assert!(
            patience.spin(|| {
                looks.set(looks.get() + 1);
                looks.get() > 1
            }) || patience.sleep_at_once > 0
        );
    }
}
