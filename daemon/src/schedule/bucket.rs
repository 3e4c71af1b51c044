//! Device time per second, as a token bucket: who has used his waits until some has come back.
//!
//! Time flows in at the rate, up to the burst, and is charged after it was used. What is charged may go below zero, because
//! a slice that has begun runs to its end: the debt is at most what was under way, and is paid before the next one. Over
//! any interval of `t` ns that starts anywhere, what was allowed is at most `burst + rate * t`, and what was under way.
//!
//! It knows neither sessions nor clocks: `now_ns` comes from the caller. A time before the last one counts as the last one.

use tensord_shm::control::DEVICE_TIME_MAX;

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;
/// The burst is what flows in during this time.
const BURST_NS: u64 = SECOND_NS / 10;
/// And at least this, so that the lowest rates make progress in slices and not in crumbs.
const BURST_LEAST_NS: u64 = 100_000;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Nanoseconds of device time that flow in during a second; `None` is no limit.
    rate: Option<u64>,
    /// What may be used, in nanoseconds times [`SECOND_NS`], so that nothing is lost to rounding.
    level: i128,
    at_ns: u64,
}

impl Bucket {
    /// A full bucket of a rate in milliseconds per second; [`DEVICE_TIME_MAX`] and above is no limit.
    pub fn new(ms_per_s: u64, now_ns: u64) -> Bucket {
        let mut bucket = Bucket {
            rate: None,
            level: 0,
            at_ns: now_ns,
        };
        bucket.set_rate(ms_per_s, now_ns);
        bucket
    }

    /// Changes the rate. A debt stays; what was saved stays as far as the new burst allows.
    pub fn set_rate(&mut self, ms_per_s: u64, now_ns: u64) {
        let rate = (ms_per_s < DEVICE_TIME_MAX).then(|| ms_per_s.max(1) * 1_000_000);
        if rate == self.rate {
            return;
        }
        let was_limited = self.rate.is_some();
        self.flow(now_ns);
        self.rate = rate;
        let full = self.full();
        self.level = match was_limited {
            true => self.level.min(full),
            false => full,
        };
    }

    /// Is there a limit?
    pub fn is_limited(&self) -> bool {
        self.rate.is_some()
    }

    fn full(&self) -> i128 {
        let burst = self.rate.map_or(0, |rate| {
            (rate / (SECOND_NS / BURST_NS)).max(BURST_LEAST_NS)
        });
        i128::from(burst) * i128::from(SECOND_NS)
    }

    fn flow(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        if let Some(rate) = self.rate {
            let come = i128::from(passed_ns) * i128::from(rate);
            self.level = (self.level + come).min(self.full());
        }
    }

    /// May something run now?
    pub fn allows(&mut self, now_ns: u64) -> bool {
        self.flow(now_ns);
        self.rate.is_none() || self.level > 0
    }

    /// Takes what was used, also where there is not that much.
    pub fn charge(&mut self, used_ns: u64, now_ns: u64) {
        self.flow(now_ns);
        if self.rate.is_some() {
            self.level -= i128::from(used_ns) * i128::from(SECOND_NS);
        }
    }

    /// From when on something may run, as of the last look; in the past where it may now.
    pub fn next_ns(&self) -> u64 {
        match self.rate {
            Some(rate) if self.level <= 0 => {
                let missing = (1 - self.level) as u128;
                let wait_ns = missing.div_ceil(u128::from(rate));
                self.at_ns
                    .saturating_add(u64::try_from(wait_ns).unwrap_or(u64::MAX))
            }
            _ => self.at_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn without_a_limit_everything_may_run_at_any_time() {
        let mut bucket = Bucket::new(DEVICE_TIME_MAX, 0);
        bucket.charge(u64::MAX, 5);
        assert!(bucket.allows(5) && !bucket.is_limited());
        assert_eq!(bucket.next_ns(), 5);
    }

    #[test]
    fn a_full_bucket_gives_a_tenth_of_a_seconds_share_at_once() {
        let mut bucket = Bucket::new(500, 0);
        bucket.charge(49 * MS, 0);
        assert!(bucket.allows(0));
        bucket.charge(MS, 0);
        assert!(!bucket.allows(0), "50 ms are used up");
    }

    #[test]
    fn a_debt_is_paid_before_the_next_slice_and_next_ns_is_exact() {
        let mut bucket = Bucket::new(250, 0);
        // 25 ms are there, 35 are used: 10 ms of debt, which flow in within 40 ms at a quarter.
        bucket.charge(35 * MS, 0);
        let next_ns = bucket.next_ns();
        assert_eq!(next_ns, 40 * MS + 1);
        assert!(!bucket.allows(next_ns - 1));
        assert!(bucket.allows(next_ns));
    }

    #[test]
    fn what_is_not_used_is_saved_up_to_the_burst_and_no_further() {
        let mut bucket = Bucket::new(100, 0);
        assert!(bucket.allows(3600 * SECOND_NS));
        bucket.charge(10 * MS, 3600 * SECOND_NS);
        assert!(!bucket.allows(3600 * SECOND_NS), "10 ms and not 360 s");
    }

    #[test]
    fn the_lowest_rate_makes_progress() {
        let mut bucket = Bucket::new(1, 0);
        assert!(bucket.allows(0));
        bucket.charge(100_000, 0);
        assert!(!bucket.allows(0));
        assert!(bucket.allows(bucket.next_ns()));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let mut bucket = Bucket::new(500, 10 * SECOND_NS);
        bucket.charge(60 * MS, 10 * SECOND_NS);
        assert!(!bucket.allows(9 * SECOND_NS));
        assert!(!bucket.allows(10 * SECOND_NS + 20 * MS));
        assert!(bucket.allows(10 * SECOND_NS + 21 * MS));
    }

    #[test]
    fn a_changed_rate_keeps_the_debt_and_cuts_what_was_saved() {
        let mut bucket = Bucket::new(500, 0);
        bucket.charge(60 * MS, 0);
        bucket.set_rate(100, 0);
        assert_eq!(bucket.next_ns(), 100 * MS + 1, "10 ms of debt at a tenth");
        let mut saved = Bucket::new(500, 0);
        saved.set_rate(100, 0);
        saved.charge(10 * MS, 0);
        assert!(!saved.allows(0), "50 ms were saved, 10 are kept");
        let mut limited = Bucket::new(DEVICE_TIME_MAX, 0);
        limited.set_rate(100, 7);
        assert!(limited.allows(7), "a new limit begins with its burst");
    }

    #[test]
    fn over_any_time_the_share_holds_but_for_the_burst_and_one_slice() {
        for (ms_per_s, slice_ns) in [(500, MS), (250, 2 * MS), (30, 700_001), (999, 10 * MS)] {
            let mut bucket = Bucket::new(ms_per_s, 0);
            let (mut now_ns, mut used_ns) = (0, 0u64);
            while now_ns < 10 * SECOND_NS {
                if bucket.allows(now_ns) {
                    now_ns += slice_ns;
                    used_ns += slice_ns;
                    bucket.charge(slice_ns, now_ns);
                } else {
                    let next_ns = bucket.next_ns();
                    assert!(next_ns > now_ns, "a wait has an end and a length");
                    now_ns = next_ns;
                }
            }
            let share_ns = now_ns / 1000 * ms_per_s;
            let burst_ns = 100 * MS * ms_per_s / 1000;
            assert!(
                used_ns >= share_ns - slice_ns,
                "{ms_per_s}: nothing is withheld"
            );
            assert!(
                used_ns <= share_ns + burst_ns + slice_ns,
                "{ms_per_s}: {used_ns}"
            );
        }
    }
}
