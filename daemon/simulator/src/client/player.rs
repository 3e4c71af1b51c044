//! A client that does again what was recorded.

use std::sync::Arc;

use tensord_daemon::engine_process::EngineCore;

use super::Finished;
use crate::checks::outcomes::Outcomes;
use crate::recording::{Action, Recording};
use crate::wire::Wire;

/// Records written before the engine is let in between.
const BURST: usize = 64;

/// How far a recording is played.
pub struct Player {
    recording: Arc<Recording>,
    next: usize,
    /// When the next entry is due.
    due_ns: u64,
    /// Queue and value that are waited for.
    waits: Option<(usize, u64)>,
    /// When the first record since the last wait was written, and how many.
    step: Option<(u64, u64)>,
}

impl Player {
    /// From the beginning.
    pub fn new(recording: Arc<Recording>, starts_ns: u64) -> Player {
        let first = recording.entries.first();
        Player {
            due_ns: starts_ns.saturating_add(first.map_or(0, |entry| entry.pause_ns)),
            recording,
            next: 0,
            waits: None,
            step: None,
        }
    }

    /// Is it at its end?
    pub fn is_over(&self) -> bool {
        self.next >= self.recording.entries.len() && self.waits.is_none()
    }

    fn go_on(&mut self, now_ns: u64) {
        self.next += 1;
        let pause_ns = self.recording.entries.get(self.next);
        self.due_ns = now_ns.saturating_add(pause_ns.map_or(0, |entry| entry.pause_ns));
    }

    /// Does what is due, and gives when it goes on. A queue that is full is given with its head.
    pub fn act(
        &mut self,
        wires: &mut [Wire],
        engine: &mut dyn EngineCore,
        now_ns: u64,
        full_at: &mut Option<(usize, u64)>,
    ) -> Option<u64> {
        let recording = Arc::clone(&self.recording);
        for _ in 0..BURST {
            let entry = recording.entries.get(self.next)?;
            if self.waits.is_some() {
                return None;
            }
            if self.due_ns > now_ns {
                return Some(self.due_ns);
            }
            let queue = entry.queue as usize;
            let wire = &mut wires[queue];
            match &entry.action {
                Action::Record(words) => {
                    let pushed = wire.push_words(words).is_ok();
                    wire.publish(engine);
                    if !pushed {
                        *full_at = Some((queue, wire.head()));
                        return None;
                    }
                    let (begun_ns, count) = self.step.unwrap_or((now_ns, 0));
                    self.step = Some((begun_ns, count + 1));
                }
                Action::Demand(value) => wire.demand(engine, *value),
                Action::Wait(value) => {
                    wire.demand(engine, *value);
                    self.waits = Some((queue, *value));
                    return None;
                }
            }
            self.go_on(now_ns);
        }
        Some(now_ns + 1)
    }

    /// Is what it waits for there?
    pub fn look(&mut self, outcomes: &[Outcomes], now_ns: u64) -> Option<Finished> {
        let (queue, value) = self.waits?;
        if outcomes[queue].timeline() < value {
            return None;
        }
        self.waits = None;
        let (begun_ns, requests) = self.step.take().unwrap_or((now_ns, 0));
        self.go_on(now_ns);
        Some(Finished {
            kind: Some(0),
            begun_ns,
            over_ns: now_ns,
            failure: outcomes[queue].failure(value, value),
            requests,
        })
    }

    /// When the next entry is due.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }
}
