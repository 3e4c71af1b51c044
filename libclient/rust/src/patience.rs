//! How a wait passes its first microseconds: with yields while that is known to end well, asleep otherwise.
//!
//! A yield that returns at once found nobody waiting for this core. One that takes longer gave it to somebody who has
//! work, and after a few of these a sleep is better for all, this thread included. A yield of more than a millisecond
//! says that others compute on this core. A wait that yields did not end makes the next ones sleep at once: one, then
//! two, then four, and many more after a slow yield; a wait that they did end takes half of that back.
//!
//! The constants were chosen by `bench/peers/src/bin/waiting.rs`: 1 to 128 clients, with foreign load and without.

use std::time::{Duration, Instant};

/// Longest time spent with yields.
const YIELD_FOR: Duration = Duration::from_micros(50);
/// A yield longer than this gave the core to somebody.
const SHARED_YIELD: Duration = Duration::from_micros(3);
/// So many of them in one wait are enough.
const SHARED_YIELDS_MAX: u32 = 3;
/// Looks between two yields, which take about as long as one of them.
const LOOKS: usize = 32;
/// A yield longer than this was slow.
const SLOW_YIELD: Duration = Duration::from_millis(1);
/// Most waits that sleep at once after yields that were in vain.
const SLEEPS_MAX: u32 = 64;
/// Fewest and most after a slow yield.
const SLEEPS_SLOW: (u32, u32) = (256, 16_384);

/// What earlier waits have taught.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Waits that still sleep at once.
    sleeps_left: u32,
    /// How many it was last time.
    sleeps: u32,
}

impl Patience {
    /// Looks again and again for a little while; true once `reached` is.
    pub(crate) fn spin(&mut self, reached: impl Fn() -> bool) -> bool {
        if reached() {
            return true;
        }
        if self.sleeps_left > 0 {
            self.sleeps_left -= 1;
            return false;
        }
        let start = Instant::now();
        let mut before = start;
        let mut shared = 0;
        while shared < SHARED_YIELDS_MAX && before - start < YIELD_FOR {
            std::thread::yield_now();
            let now = Instant::now();
            let took = now - before;
            before = now;
            if took > SLOW_YIELD {
                self.sleeps = (self.sleeps * 4).clamp(SLEEPS_SLOW.0, SLEEPS_SLOW.1);
                self.sleeps_left = self.sleeps;
                return reached();
            }
            // Nobody else wants the core after a yield that came back at once: looking on costs less than the next one.
            let looks = if took > SHARED_YIELD { 1 } else { LOOKS };
            if (0..looks).any(|_| {
                std::hint::spin_loop();
                reached()
            }) {
                self.sleeps /= 2;
                return true;
            }
            shared += u32::from(took > SHARED_YIELD);
        }
        self.sleeps = self.sleeps.max((self.sleeps * 2).clamp(1, SLEEPS_MAX));
        self.sleeps_left = self.sleeps;
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
