//! What happened, for two readers: a digest that two runs of a seed must share, and the last events for people.

use std::collections::VecDeque;
use std::fmt;

/// Events that are kept.
const KEPT: usize = 40;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    /// A session came.
    Came { session: u64 },
    /// A session went, and whether its client died.
    Went { session: u64, died: bool },
    /// The engine accepted so many requests and is left with so many launches under way.
    Accepted { requests: u64 },
    /// A launch is over.
    Launched {
        launch: u64,
        instances: u32,
        operations: u32,
        handed_ns: u64,
        busy_ns: u64,
        slices: u32,
    },
    /// A job is over, with the code of its failure or 0.
    Finished {
        session: u64,
        requests: u64,
        took_ns: u64,
        code: u32,
    },
    /// A fault was made.
    Fault { what: &'static str },
    /// The engine slept.
    Parked,
}

/// Everything that happened, in short.
#[derive(Debug)]
pub struct Story {
    digest: u64,
    last: VecDeque<(u64, Event)>,
    kept: usize,
}

impl Event {
    fn words(self) -> [u64; 7] {
        match self {
            Event::Came { session } => [1, session, 0, 0, 0, 0, 0],
            Event::Went { session, died } => [2, session, died.into(), 0, 0, 0, 0],
            Event::Accepted { requests } => [3, requests, 0, 0, 0, 0, 0],
            Event::Launched {
                launch,
                instances,
                operations,
                handed_ns,
                busy_ns,
                slices,
            } => {
                let counts = u64::from(instances) << 32 | u64::from(operations);
                [4, launch, counts, handed_ns, busy_ns, slices.into(), 0]
            }
            Event::Finished {
                session,
                requests,
                took_ns,
                code,
            } => [5, session, requests, took_ns, code.into(), 0, 0],
            Event::Fault { what } => [6, what.len() as u64, 0, 0, 0, 0, 0],
            Event::Parked => [7, 0, 0, 0, 0, 0, 0],
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Event::Came { session } => write!(f, "session {session} came"),
            Event::Went { session, died } => {
                let how = if died { "died" } else { "went" };
                write!(f, "session {session} {how}")
            }
            Event::Accepted { requests } => write!(f, "{requests} requests accepted"),
            Event::Launched {
                launch,
                instances,
                operations,
                handed_ns,
                busy_ns,
                slices,
            } => write!(
                f,
                "launch {launch} over: {instances} of {operations} operations, handed over at {handed_ns}, busy for {busy_ns} ns \
                 in {slices}"
            ),
            Event::Finished {
                session,
                requests,
                took_ns,
                code,
            } => write!(
                f,
                "session {session}: {requests} requests over after {took_ns} ns{}",
                if code == 0 { "" } else { ", with a failure" }
            ),
            Event::Fault { what } => f.write_str(what),
            Event::Parked => f.write_str("the engine sleeps"),
        }
    }
}

impl Story {
    /// Nothing happened yet; `whole` keeps all that will.
    pub fn new(whole: bool) -> Story {
        Story {
            // The offset basis of FNV-1a.
            digest: 0xcbf2_9ce4_8422_2325,
            last: VecDeque::with_capacity(KEPT),
            kept: if whole { usize::MAX } else { KEPT },
        }
    }

    /// Something happened.
    pub fn add(&mut self, now_ns: u64, event: Event) {
        for word in [now_ns].into_iter().chain(event.words()) {
            for byte in word.to_le_bytes() {
                self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        self.last.push_back((now_ns, event));
    }

    /// Of everything so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last events, or all, one in a line.
    pub fn tail(&self) -> Vec<String> {
        let line = |(ns, event): &(u64, Event)| format!("{:>12.3} us  {event}", *ns as f64 / 1e3);
        self.last.iter().map(line).collect()
    }
}
