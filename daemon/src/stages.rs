//! Where an engine's time goes: each nanosecond of its thread belongs to exactly one stage.
//!
//! The clock is read where one stage hands over to another, so a turn reads it a few times and an operation never: this is always
//! on. What one loop does for many records is one stage. A turn that finds nothing reads nothing.
//!
//! # What is not told apart
//! Copying a record out of its ring and recognising it are both [`Stage::Ingest`]: they take turns every few nanoseconds. The first record that
//! is recognised behind one that was not is still counted as [`Stage::Graph`], with its copy.

use crate::clock::Clock;

macro_rules! stages {
    ($($(#[doc = $doc:literal])* $stage:ident = $name:literal,)*) => {
        /// What an engine's thread does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage { $($(#[doc = $doc])* $stage,)* }

        impl Stage {
            /// All of them, in the order in which a request meets them.
            pub const ALL: &'static [Stage] = &[$(Stage::$stage,)*];

            /// As `stat` names it.
            pub fn name(self) -> &'static str {
                match self { $(Stage::$stage => $name,)* }
            }
        }
    };
}

stages! {
    /// Records copied out of rings and recognised as what came before.
    Ingest = "ingest",
    /// Records that were not recognised: copied out, decoded, inferred, built.
    Graph = "graph",
    /// Values copied between staging and device memory.
    Transfer = "transfer",
    /// What is wanted found as a plan known before, or planned.
    Lookup = "lookup",
    /// What runs next, and what runs with it.
    Schedule = "schedule",
    /// Results placed in memory, launches handed to the backend.
    Dispatch = "dispatch",
    /// Launches that ran on the engine's own thread.
    Execution = "execution",
    /// Outcomes, and timelines that move on.
    Completion = "completion",
    /// Clients that sleep, looked for and woken.
    Wake = "wake",
    /// Links, doorbells, sessions that come and go, between two turns.
    Control = "control",
    /// Looking for work and finding none, yielding, waiting for launches of the pool.
    Polling = "polling",
    /// Asleep until a doorbell rings.
    Parked = "parked",
}

/// The time of each stage since the engine started, in ticks of its clock.
#[derive(Clone, Debug)]
pub struct Stages {
    ticks: [u64; Stage::ALL.len()],
    at: Stage,
    since: u64,
}

impl Stages {
    /// An engine that starts now.
    pub fn new(clock: &dyn Clock) -> Stages {
        Stages {
            ticks: [0; Stage::ALL.len()],
            at: Stage::Control,
            since: clock.ticks(),
        }
    }

    /// What the engine is at.
    #[inline]
    pub fn at(&self) -> Stage {
        self.at
    }

    /// A turn begins, at the time that this gives in ticks. Until it finds something to do it polls.
    #[inline]
    pub fn begin(&mut self, clock: &dyn Clock) -> u64 {
        self.change(Stage::Polling, clock.ticks());
        self.since
    }

    /// From here on it is this stage. A turn that finds its first work has looked for that since it began: no need for the clock.
    #[inline]
    pub fn enter(&mut self, stage: Stage, clock: &dyn Clock) {
        if self.at == Stage::Polling {
            self.at = stage;
        } else if self.at != stage {
            self.read(stage, clock);
        }
    }

    /// Kept out of the loops that enter a stage.
    #[cold]
    #[inline(never)]
    fn read(&mut self, stage: Stage, clock: &dyn Clock) {
        self.change(stage, clock.ticks());
    }

    #[inline]
    fn change(&mut self, stage: Stage, now: u64) {
        self.ticks[self.at as usize] += now.saturating_sub(self.since);
        self.since = now.max(self.since);
        self.at = stage;
    }

    /// Launches were found to be over that took so long. What was dispatched just now ran on this thread.
    pub fn finished(&mut self, busy_ns: u64, clock: &dyn Clock) {
        if self.at == Stage::Dispatch {
            let now = clock.ticks();
            let passed = now.saturating_sub(self.since);
            // The launch was measured in nanoseconds.
            let passed_ns = clock.ns_of(passed).max(1);
            let share = busy_ns.min(passed_ns) as f64 / passed_ns as f64;
            let busy = ((passed as f64 * share) as u64).min(passed);
            self.ticks[Stage::Execution as usize] += busy;
            self.since += busy;
            self.change(Stage::Completion, now);
        } else {
            self.enter(Stage::Completion, clock);
        }
    }

    /// The engine's thread is about to sleep, after a turn that found nothing.
    pub fn park(&mut self) {
        self.at = Stage::Parked;
    }

    /// The engine's thread slept, and is awake.
    pub fn awake(&mut self, clock: &dyn Clock) {
        self.change(Stage::Control, clock.ticks());
    }

    /// Nanoseconds of each stage up to now, in the order of [`Stage::ALL`]: together the engine's age.
    pub fn told_ns(&self, clock: &dyn Clock) -> [u64; Stage::ALL.len()] {
        let mut all = self.clone();
        all.change(Stage::Control, clock.ticks());
        all.ticks.map(|ticks| clock.ns_of(ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Manual;

    fn told(stages: &Stages, clock: &Manual) -> Vec<(&'static str, u64)> {
        let all = Stage::ALL.iter().map(|stage| stage.name());
        let some = all.zip(stages.told_ns(clock)).filter(|(_, ns)| *ns > 0);
        some.collect()
    }

    #[test]
    fn each_nanosecond_is_in_one_stage() {
        let clock = Manual::default();
        let mut stages = Stages::new(&clock);
        // Started within 5 ns; the first turn finds a record at once.
        clock.advance_ns(5);
        stages.begin(&clock);
        clock.advance_ns(7);
        stages.enter(Stage::Graph, &clock);
        clock.advance_ns(10);
        stages.enter(Stage::Graph, &clock);
        clock.advance_ns(20);
        stages.enter(Stage::Lookup, &clock);
        clock.advance_ns(100);
        stages.enter(Stage::Control, &clock);
        clock.advance_ns(1_000);
        stages.begin(&clock);
        clock.advance_ns(10_000);
        let expected = [
            ("graph", 37),
            ("lookup", 100),
            ("control", 1_005),
            ("polling", 10_000),
        ];
        assert_eq!(told(&stages, &clock), expected);
        assert_eq!(stages.told_ns(&clock).iter().sum::<u64>(), clock.now_ns());
    }

    #[test]
    fn a_launch_on_this_thread_is_taken_out_of_its_dispatch() {
        let clock = Manual::default();
        let mut stages = Stages::new(&clock);
        stages.begin(&clock);
        stages.enter(Stage::Dispatch, &clock);
        clock.advance_ns(50);
        stages.finished(40, &clock);
        clock.advance_ns(1);
        assert_eq!(
            told(&stages, &clock),
            [("dispatch", 10), ("execution", 40), ("completion", 1)]
        );
    }

    #[test]
    fn a_launch_of_the_pool_is_no_time_of_this_thread() {
        let clock = Manual::default();
        let mut stages = Stages::new(&clock);
        stages.begin(&clock);
        clock.advance_ns(3);
        stages.finished(1_000_000, &clock);
        clock.advance_ns(2);
        assert_eq!(told(&stages, &clock), [("completion", 5)]);
    }

    #[test]
    fn what_is_told_between_turns_never_goes_back() {
        let clock = Manual::default();
        let mut stages = Stages::new(&clock);
        let mut earlier = stages.told_ns(&clock);
        for turn in 0..100u64 {
            clock.advance_ns(turn * 7 % 5);
            stages.begin(&clock);
            clock.advance_ns(turn * 5 % 3);
            match turn % 4 {
                0 => {}
                1 => stages.park(),
                _ => {
                    stages.enter(Stage::Dispatch, &clock);
                    clock.advance_ns(turn * 3 % 4);
                    // Sometimes more than passed here: it ran elsewhere.
                    stages.finished(2, &clock);
                    stages.enter(Stage::Control, &clock);
                }
            }
            clock.advance_ns(turn * 3 % 4);
            let now = stages.told_ns(&clock);
            assert!(
                now.iter()
                    .zip(&earlier)
                    .all(|(now, earlier)| now >= earlier),
                "turn {turn}"
            );
            assert_eq!(now.iter().sum::<u64>(), clock.now_ns());
            earlier = now;
        }
    }
}
