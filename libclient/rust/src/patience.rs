//! How a wait passes its first microseconds: looking, then with yields, each while that is known to end well, asleep otherwise.
//!
//! An engine with a core of its own answers within microseconds: looking on, without a system call, sees that first, and gives the core
//! to nobody. A yield that returns at once found nobody waiting for this core. One that takes longer gave it to somebody who has
//! work, and after a few of these a sleep is better for all, this thread included. A yield of more than a millisecond
//! says that others compute on this core. A wait that looking (or yields) did not end makes the next ones do without: one, then
//! two, then four, and many more after a slow yield; a wait that it did end takes half of that back.
//!
//! The constants were chosen by `bench/peers/src/bin/waiting.rs`: 1 to 128 clients, with foreign load and without.

use std::time::{Duration, Instant};

/// Longest time spent looking.
const LOOK_FOR: Duration = Duration::from_micros(8);
/// Longest time spent with yields.
const YIELD_FOR: Duration = Duration::from_micros(50);
/// A yield longer than this gave the core to somebody.
const SHARED_YIELD: Duration = Duration::from_micros(3);
/// So many of them in one wait are enough.
const SHARED_YIELDS_MAX: u32 = 3;
/// Looks between two yields, or two looks at the clock: about as long as a yield takes.
const LOOKS: usize = 32;
/// A yield longer than this was slow.
const SLOW_YIELD: Duration = Duration::from_millis(1);
/// Fewest and most waits that do without what was in vain.
const WITHOUT: (u32, u32) = (1, 64);
/// The same for yields after a slow one.
const WITHOUT_SLOW: (u32, u32) = (256, 16_384);

/// Whether the next wait tries something that did not always help.
#[derive(Debug, Default)]
struct Trial {
    /// Waits that still do without.
    left: u32,
    /// How many it was last time.
    last: u32,
}

impl Trial {
    fn is_due(&mut self) -> bool {
        let due = self.left == 0;
        self.left = self.left.saturating_sub(1);
        due
    }

    fn was_in_vain(&mut self, (fewest, most): (u32, u32)) {
        self.last = self
            .last
            .max(self.last.saturating_mul(2).clamp(fewest, most));
        self.left = self.last;
    }

    fn helped(&mut self) {
        self.last /= 2;
    }
}

/// What earlier waits have taught.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    looking: Trial,
    yielding: Trial,
}

/// Looks about as long as a yield takes.
fn look(looks: usize, reached: &impl Fn() -> bool) -> bool {
    (0..looks).any(|_| {
        std::hint::spin_loop();
        reached()
    })
}

impl Patience {
    /// Looks again and again for a little while; true once `reached` is.
    pub(crate) fn spin(&mut self, reached: impl Fn() -> bool) -> bool {
        if reached() {
            return true;
        }
        if self.looking.is_due() {
            let start = Instant::now();
            while start.elapsed() < LOOK_FOR {
                if look(LOOKS, &reached) {
                    self.looking.helped();
                    return true;
                }
            }
            self.looking.was_in_vain(WITHOUT);
        }
        self.yielding.is_due() && self.pass_with_yields(reached)
    }

    fn pass_with_yields(&mut self, reached: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let mut before = start;
        let mut shared = 0;
        while shared < SHARED_YIELDS_MAX && before - start < YIELD_FOR {
            std::thread::yield_now();
            let now = Instant::now();
            let took = now - before;
            before = now;
            if took > SLOW_YIELD {
                self.yielding.was_in_vain(WITHOUT_SLOW);
                return reached();
            }
            // Nobody else wants the core after a yield that came back at once: looking on costs less than the next one.
            let looks = if took > SHARED_YIELD { 1 } else { LOOKS };
            if look(looks, &reached) {
                self.yielding.helped();
                return true;
            }
            shared += u32::from(took > SHARED_YIELD);
        }
        self.yielding.was_in_vain(WITHOUT);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn yields_in_vain_are_given_up_and_tried_again() {
        let mut patience = Patience::default();
        let looks = Cell::new(0);
        let look_in_vain = || {
            looks.set(looks.get() + 1);
            false
        };
        assert!(!patience.spin(look_in_vain));
        assert!(looks.get() > 1);
        // From now on most waits look once and sleep.
        let mut yielded = 0;
        for _ in 0..100 {
            looks.set(0);
            assert!(!patience.spin(look_in_vain));
            yielded += u32::from(looks.get() > 1);
        }
        assert!(yielded < 10, "{yielded}");
        assert!(patience.spin(|| true));
    }
}
