//! Time for what takes less than asking the system for it.
//!
//! A launch can be over in a hundred nanoseconds; two readings of the system's clock take some eighty. Where the processor counts
//! cycles of a constant rate in all states of rest (all x86-64 servers of the last fifteen years), the counter is read instead; its
//! rate is measured once.

use std::time::{Duration, Instant};

/// A source of times in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What the ticks of the clock of the system are counted from.
    origin: Instant,
    /// Nanoseconds in a tick of the processor's counter, if that is what is read.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    tick_ns: Option<f64>,
}

impl Clock {
    /// Looks at the processor; takes some 200 us where it counts.
    #[allow(
        clippy::new_without_default,
        reason = "a default that takes so long surprises"
    )]
    pub fn new() -> Clock {
        Clock {
            origin: Instant::now(),
            tick_ns: counter::tick_ns(),
        }
    }

    /// Ticks now.
    #[inline]
    pub fn now(&self) -> u64 {
        match self.tick_ns {
            Some(_) => counter::read(),
            None => self.origin.elapsed().as_nanos() as u64,
        }
    }

    /// Nanoseconds from one time to a later one.
    #[inline]
    pub fn ns_between(&self, from: u64, to: u64) -> u64 {
        let ticks = to.saturating_sub(from);
        match self.tick_ns {
            Some(tick_ns) => (ticks as f64 * tick_ns) as u64,
            None => ticks,
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    use super::{Duration, Instant};

    /// For how long the rate is measured.
    const MEASURED: Duration = Duration::from_micros(200);
    /// Ticks that a reading of the system's clock may take, for the pair to belong together.
    const APART_MAX: u64 = 2_000;
    /// After so many readings that took longer the system's clock it is.
    const TRIES: usize = 100;

    pub fn read() -> u64 {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { _rdtsc() }
    }

    /// Nanoseconds in a tick; `None` where the counter's rate is not constant.
    pub fn tick_ns() -> Option<f64> {
        // Leaf 0x8000_0007: bit 8 of EDX promises a constant rate in all states of rest.
        let constant =
            __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0;
        if !constant {
            return None;
        }
        let (time, ticks) = both()?;
        while time.elapsed() < MEASURED {
            std::hint::spin_loop();
        }
        let (later, more) = both()?;
        let tick_ns = (later - time).as_nanos() as f64 / more.checked_sub(ticks)? as f64;
        // From 100 MHz to 10 GHz; anything else is no counter of cycles.
        (0.1..10.0).contains(&tick_ns).then_some(tick_ns)
    }

    /// A reading of both clocks at once.
    fn both() -> Option<(Instant, u64)> {
        (0..TRIES).find_map(|_| {
            let before = read();
            let time = Instant::now();
            let after = read();
            (after.wrapping_sub(before) < APART_MAX).then_some((time, before / 2 + after / 2))
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub fn read() -> u64 {
        0
    }

    pub fn tick_ns() -> Option<f64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_is_never_negative() {
        let clock = Clock::new();
        let from = clock.now();
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(10) {
            std::hint::spin_loop();
        }
        assert!(clock.ns_between(from, clock.now()) > 0);
        assert_eq!(clock.ns_between(7, 3), 0);
    }
}
