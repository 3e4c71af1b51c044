//! How the engine's thread shares its core with others.
//!
//! Beside clients, which run for microseconds and then wait for the engine, it yields. A yield that takes long gave the core to somebody who
//! computes and keeps it for a whole slice of the scheduler's; where that happens again and again the engine does not yield any more
//! and sleeps early, because who wakes from a sleep goes before who computes. Measured with two foreign processes that
//! compute, on two cores: 32 clients took 21,000 steps a second with yields, 41,000 without; a single one 55,000 and 30,000.

use crate::clock::Clock;

/// How often a busy engine's thread yields, so that clients on its core come to run.
const YIELD_EVERY_NS: u64 = 500_000;
/// A yield that takes longer gave the core to somebody who computes.
const SLOW_YIELD_NS: u64 = 1_000_000;
/// Idle time after which the engine sleeps where others compute on its core.
const CROWDED_PARK_NS: u64 = 20_000;
/// For how long others are taken to stay, at first and at most.
const STAYS_NS: (u64, u64) = (4_000_000, 256_000_000);

/// Others who compute on this core.
#[derive(Debug, Default)]
struct Crowd {
    until_ns: u64,
    /// How long it was thought to stay last time.
    stays_ns: u64,
}

impl Crowd {
    fn is_here(&self, now_ns: u64) -> bool {
        now_ns < self.until_ns
    }

    /// Somebody took the core for long. Who does so again and again stays.
    fn seen(&mut self, now_ns: u64) {
        let again = now_ns < self.until_ns + 4 * self.stays_ns;
        let stays_ns = if again { 2 * self.stays_ns } else { 0 };
        self.stays_ns = stays_ns.clamp(STAYS_NS.0, STAYS_NS.1);
        self.until_ns = now_ns + self.stays_ns;
    }
}

/// What a thread's manners depend on.
#[derive(Debug, Default)]
pub struct Courtesy {
    crowd: Crowd,
    yielded_ns: u64,
}

impl Courtesy {
    /// Idle time after which the thread should sleep, where it usually is `park_ns`.
    pub fn patience_ns(&self, park_ns: u64, now_ns: u64) -> u64 {
        match self.crowd.is_here(now_ns) {
            true => park_ns.min(CROWDED_PARK_NS),
            false => park_ns,
        }
    }

    /// Between two turns, of which the last was idle or not.
    pub fn pause(&mut self, idle: bool, now_ns: u64, clock: &dyn Clock) {
        let crowded = self.crowd.is_here(now_ns);
        if crowded || !(idle || now_ns.saturating_sub(self.yielded_ns) >= YIELD_EVERY_NS) {
            return;
        }
        std::thread::yield_now();
        self.yielded_ns = clock.now_ns();
        if self.yielded_ns.saturating_sub(now_ns) > SLOW_YIELD_NS {
            self.crowd.seen(self.yielded_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_the_core_once_is_soon_forgotten() {
        let mut crowd = Crowd::default();
        assert!(!crowd.is_here(0));
        for second in 1..5u64 {
            let now_ns = second * 1_000_000_000;
            crowd.seen(now_ns);
            assert!(crowd.is_here(now_ns + STAYS_NS.0 - 1) && !crowd.is_here(now_ns + STAYS_NS.0));
        }
    }

    #[test]
    fn who_takes_the_core_again_and_again_is_taken_to_stay() {
        let (mut crowd, mut now_ns, mut yields) = (Crowd::default(), 0, 0);
        while now_ns < 10_000_000_000 {
            if crowd.is_here(now_ns) {
                now_ns += 1_000_000;
            } else {
                now_ns += 3_000_000;
                crowd.seen(now_ns);
                yields += 1;
            }
        }
        assert!(yields < 60, "{yields} yields in ten seconds");
    }

    #[test]
    fn beside_others_the_thread_sleeps_early_and_never_later_than_usual() {
        let mut courtesy = Courtesy::default();
        assert_eq!(courtesy.patience_ns(50_000, 10), 50_000);
        courtesy.crowd.seen(10);
        assert_eq!(courtesy.patience_ns(50_000, 10), CROWDED_PARK_NS);
        assert_eq!(courtesy.patience_ns(5_000, 10), 5_000);
    }
}
