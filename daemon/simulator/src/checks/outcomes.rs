//! Every accepted request of a queue has exactly one outcome, and in order.

use std::collections::BTreeMap;

use tensord_daemon::engine_process::SessionTotals;

use super::{Check, Violation};

/// What a client saw of one queue.
#[derive(Debug, Default)]
pub struct Outcomes {
    written: u64,
    timeline: u64,
    /// Failures up to here were all told before this was seen.
    settled: u64,
    /// Timeline value and code of each failure.
    failures: BTreeMap<u64, u32>,
}

impl Outcomes {
    /// Requests up to this timeline value are written.
    pub fn wrote(&mut self, value: u64) {
        self.written = value;
    }

    /// The timeline was seen at a value. Failures that are there are told next, and then [`Outcomes::settle`].
    pub fn saw(&mut self, timeline: u64) -> Result<(), Violation> {
        if timeline < self.timeline {
            return Err(wrong(format!(
                "the timeline went back from {} to {timeline}",
                self.timeline
            )));
        }
        if timeline > self.written {
            return Err(wrong(format!(
                "the timeline is at {timeline}, of {} requests written",
                self.written
            )));
        }
        self.timeline = timeline;
        Ok(())
    }

    /// A failure is told.
    pub fn failed(&mut self, value: u64, code: u32) -> Result<(), Violation> {
        if value == 0 || value > self.written {
            return Err(wrong(format!(
                "request {value} failed, of {} written",
                self.written
            )));
        }
        if value <= self.settled {
            return Err(wrong(format!(
                "request {value} was over when the timeline passed {}, and fails afterwards",
                self.settled
            )));
        }
        if let Some(first) = self.failures.insert(value, code) {
            return Err(wrong(format!(
                "request {value} failed twice, with {first} and with {code}"
            )));
        }
        Ok(())
    }

    /// All failures that were there when the timeline was seen are told.
    pub fn settle(&mut self) {
        self.settled = self.timeline;
    }

    /// The first failure from `first` to `last`.
    pub fn failure(&self, first: u64, last: u64) -> Option<(u64, u32)> {
        let mut range = self.failures.range(first..=last);
        range.next().map(|(&value, &code)| (value, code))
    }

    /// Where the timeline was last seen.
    pub fn timeline(&self) -> u64 {
        self.timeline
    }

    /// Requests written, and failures told.
    pub fn counts(&self) -> (u64, u64) {
        (self.written, self.failures.len() as u64)
    }
}

/// The engine's account of a session that ended, against what its client saw of all its queues. A session that ended early may
/// have requests that were never accepted.
pub fn compare(
    totals: &SessionTotals,
    accepted: u64,
    queues: &[Outcomes],
    early: bool,
) -> Result<(), Violation> {
    let ended = totals.ok + totals.failed + totals.cancelled;
    if ended != accepted {
        return Err(wrong(format!(
            "{accepted} requests were accepted; {} ok, {} failed and {} cancelled are {ended}",
            totals.ok, totals.failed, totals.cancelled
        )));
    }
    let (written, failed) = queues.iter().fold((0, 0), |(written, failed), queue| {
        let counts = queue.counts();
        (written + counts.0, failed + counts.1)
    });
    if early && accepted <= written {
        return Ok(());
    }
    if accepted != written || failed != totals.failed + totals.cancelled {
        return Err(wrong(format!(
            "the client wrote {written} requests and was told of {failed} failures; the engine accepted {accepted} and counts {} \
             failed, {} cancelled",
            totals.failed, totals.cancelled
        )));
    }
    Ok(())
}

fn wrong(text: String) -> Violation {
    Violation::new(Check::OneOutcome, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(written: u64, timeline: u64) -> Outcomes {
        let mut queue = Outcomes::default();
        queue.wrote(written);
        queue.saw(timeline).expect("in range");
        queue
    }

    #[test]
    fn a_timeline_goes_forward_and_not_beyond_what_was_written() {
        assert!(queue(10, 5).saw(4).is_err());
        assert!(queue(10, 5).saw(11).is_err());
        assert!(queue(10, 5).saw(10).is_ok());
    }

    #[test]
    fn a_second_outcome_is_seen() {
        let mut queue = queue(10, 5);
        queue.failed(5, 1).expect("told with the timeline");
        assert!(queue.failed(5, 1).is_err(), "twice");
        queue.settle();
        assert!(queue.failed(4, 1).is_err(), "was ok already");
        assert!(queue.failed(6, 1).is_ok(), "told ahead of the timeline");
        assert!(queue.failed(11, 1).is_err(), "never written");
        assert_eq!(queue.failure(6, 9), Some((6, 1)));
    }

    #[test]
    fn totals_must_be_what_the_client_saw() {
        let totals = SessionTotals {
            ok: 8,
            failed: 1,
            cancelled: 1,
            ..SessionTotals::default()
        };
        let mut seen = queue(10, 10);
        seen.failed(3, 1).expect("one");
        assert!(compare(&totals, 10, &[seen], false).is_err(), "one untold");
        let mut seen = queue(10, 10);
        seen.failed(3, 1).expect("one");
        seen.failed(4, 1).expect("another");
        assert!(compare(&totals, 10, &[seen], false).is_ok());
        assert!(
            compare(&totals, 11, &[queue(11, 3)], true).is_err(),
            "one without outcome"
        );
        assert!(compare(&totals, 10, &[queue(12, 3)], true).is_ok());
    }
}
