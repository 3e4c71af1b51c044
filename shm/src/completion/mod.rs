//! The completion page: how far a queue has come, what failed, and who has to be woken.
//!
//! The engine writes it through one [`Writer`]; the client and the broker read it through a [`Reader`] whose mapping
//! can never become writable. Success is the timeline alone. Failures go to a bounded ring of which the engine reserves
//! a slot when it accepts a request, so nothing overflows and a client that never reads its failures stalls only itself.
//!
//! # Invariants
//! Both sleeps follow one pattern: write what the other waits for, fence (SeqCst), read the other's flag; against: write
//! the flag, fence (SeqCst), read what is waited for. Of the two fences one is first, so at least one side sees the other.

mod reader;
mod writer;

pub use reader::{Reader, SpinPolicy, Waited};
pub use writer::{Woken, Writer};

use crate::segment::ERROR_BYTES;
use crate::sync::{LINE_BYTES, Ordering, fence};

/// The longest sleep without a look at the socket.
pub const SLEEP_MS_MAX: u64 = 250;

const ERROR_WORDS: usize = ERROR_BYTES / 8;
const ERRORS_PER_LINE: usize = LINE_BYTES / ERROR_BYTES;

/// How the client waits: its word `sleeping`.
const AWAKE: u32 = 0;
const SLEEPS_ON_FUTEX: u32 = 1;
const WANTS_NOTICE: u32 = 2;
const SLEEPS_FOR_ROOM: u32 = 3;

/// What became of a queue, in the word `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum QueueState {
    /// Records are taken.
    Open = 0,
    /// The client broke the protocol; nothing more is taken. `Reader::fault_code` says how.
    Frozen = 1,
    /// The engine has ended the queue in order; the timeline will not move again.
    Ended = 2,
}

/// One failed or cancelled request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Timeline value of the request.
    pub value: u64,
    /// Wire code of the outcome.
    pub code: u32,
    /// The caller's source position, as the record carried it.
    pub site: u32,
    /// Timeline value of the request that failed first, where this one only inherited the failure.
    pub origin: u64,
    /// One number more, by code.
    pub detail: u64,
}

/// Stands between `set_need_wakeup(true)` of any number of rings and the last look at their tails.
#[inline]
pub fn parking_fence() {
    // SYNC: pairs with the fence in `Doorbell::ring_if_parked`: either the client sees the flag, or we see its tail.
    fence(Ordering::SeqCst);
}
