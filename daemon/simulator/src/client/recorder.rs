//! Writes down what a client does.

use crate::recording::{Action, Entry};

/// What it did so far.
#[derive(Debug, Default)]
pub struct Recorder {
    /// In order.
    pub entries: Vec<Entry>,
    last_ns: u64,
}

impl Recorder {
    /// The client did something now.
    pub fn note(&mut self, now_ns: u64, queue: usize, action: Action) {
        self.entries.push(Entry {
            pause_ns: now_ns.saturating_sub(self.last_ns),
            queue: queue as u32,
            action,
        });
        self.last_ns = now_ns;
    }

    /// What it waited for is there.
    pub fn went_on(&mut self, now_ns: u64) {
        self.last_ns = now_ns;
    }
}
