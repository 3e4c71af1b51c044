//! Every limit of the daemon, derived in one place, and the accounts that enforce them.
//!
//! A limit that an operator may choose has its default and its range here and its field in `config`. A charge is a
//! value: dropping it gives back what it took, so nothing is ever released twice or forgotten.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use tensord_shm::control::{FDS_MAX, MESSAGE_BYTES};
use tensord_shm::segment::{COMPLETION_BYTES, SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX, SLOT_COUNT_MIN};

/// Sessions in all, default.
pub const SESSIONS_DEFAULT: u32 = 4_096;
/// Sessions in all, greatest.
pub const SESSIONS_MAX: u32 = 65_536;
/// Queues of a session, default.
pub const QUEUES_DEFAULT: u32 = 16;
/// Queues of a session, greatest.
pub const QUEUES_MAX: u32 = 64;
/// Staging arenas of a session.
pub const STAGING_ARENAS_MAX: u32 = 64;
/// Staging bytes of a session, default.
pub const SESSION_STAGING_BYTES_DEFAULT: u64 = 1 << 30;
/// Staging bytes of a tenant, default.
pub const TENANT_STAGING_BYTES_DEFAULT: u64 = 8 << 30;
/// Handles of a session, default.
pub const HANDLES_DEFAULT: u32 = 1 << 20;
/// Handles of a session, greatest.
pub const HANDLES_MAX: u32 = 1 << 24;
/// A limit on a count that holds nobody back.
pub const COUNT_UNLIMITED: u32 = 1 << 30;
/// Requests in flight of a session, default.
pub const REQUESTS_DEFAULT: u32 = 65_536;
/// Device bytes of a session, default: no limit but the device's.
pub const DEVICE_BYTES_DEFAULT: u64 = 1 << 40;
/// File descriptors that the supervisor holds for one session with one queue: socket, submission, completion, doorbell,
/// and the two ends of a notice.
pub const FDS_PER_SESSION: u64 = 6;
/// File descriptors that a process needs beside those of sessions: links, listeners, standard streams, epoll, signals.
pub const FDS_SPARE: u64 = 128;
/// Constants of all tenants that the supervisor keeps for a new engine.
pub const CONSTANTS_KEPT_MAX: usize = 4_096;
/// Messages that wait for a client which does not read; one more and its session ends.
pub const REPLIES_WAITING_MAX: usize = 2 * QUEUES_MAX as usize + 16;
/// Messages of one client that the broker reads before it looks at the next.
pub const MESSAGES_PER_TURN: u32 = 16;
/// Connections that the supervisor accepts before it looks at anything else.
pub const ACCEPTS_PER_TURN: u32 = 64;
/// Longest message between the daemon's own processes, bytes.
pub const LINK_MESSAGE_BYTES: usize = 64 * 1024;
/// Longest record that the supervisor keeps for a session, bytes.
pub const KEPT_BYTES_MAX: usize = 8 * 1024;
/// Longest wait for an engine that was asked for its counters, milliseconds.
pub const STAT_WAIT_MS: u64 = 1_000;
/// Resident bytes that an idle session may cost, shared memory included.
pub const IDLE_SESSION_BYTES: u64 = 64 * 1024;

const HEADER_PAGE: u64 = 4_096;
const SLOT_BYTES: u64 = 64;
/// What one idle session holds in shared memory: a ring, all present, and the first page of the completion segment.
const IDLE_SHARED_BYTES: u64 = HEADER_PAGE + SLOT_COUNT_DEFAULT as u64 * SLOT_BYTES + HEADER_PAGE;

const _: () = assert!(
    IDLE_SHARED_BYTES * 2 < IDLE_SESSION_BYTES,
    "half of an idle session's room is for the processes"
);
const _: () = assert!(SLOT_COUNT_MIN <= SLOT_COUNT_DEFAULT && SLOT_COUNT_DEFAULT <= SLOT_COUNT_MAX);
const _: () = assert!(COMPLETION_BYTES >= HEADER_PAGE);
const _: () = assert!(QUEUES_DEFAULT <= QUEUES_MAX && HANDLES_DEFAULT <= HANDLES_MAX);
const _: () = assert!(
    REPLIES_WAITING_MAX * MESSAGE_BYTES < 64 * 1024,
    "what a silent client costs stays small"
);
const _: () = assert!(KEPT_BYTES_MAX * 2 < LINK_MESSAGE_BYTES);
const _: () = assert!(FDS_MAX <= tensord_shm::control_socket::LINK_FDS_MAX);

/// What may still be taken of something.
#[derive(Debug)]
pub struct Account {
    what: &'static str,
    used: Cell<u64>,
    limit: Cell<u64>,
}

/// A limit that stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct OverLimit {
    what: &'static str,
    used: u64,
    wanted: u64,
    limit: u64,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OverLimit {
            what,
            used,
            wanted,
            limit,
        } = self;
        write!(
            f,
            "{what}: {used} in use and {wanted} more wanted, the limit is {limit}"
        )
    }
}

impl Account {
    /// An account of `what` with a limit.
    pub fn new(what: &'static str, limit: u64) -> Rc<Account> {
        Rc::new(Account {
            what,
            used: Cell::new(0),
            limit: Cell::new(limit),
        })
    }

    /// What is in use.
    pub fn used(&self) -> u64 {
        self.used.get()
    }

    /// Changes the limit. What is in use beyond it stays; nothing more is given.
    pub fn set_limit(&self, limit: u64) {
        self.limit.set(limit);
    }

    /// Takes an amount until the charge is dropped.
    pub fn charge(self: &Rc<Account>, amount: u64) -> Result<Charge, OverLimit> {
        let (used, limit) = (self.used.get(), self.limit.get());
        match used.checked_add(amount) {
            Some(sum) if sum <= limit => {
                self.used.set(sum);
                Ok(Charge {
                    account: Rc::clone(self),
                    amount,
                })
            }
            _ => Err(OverLimit {
                what: self.what,
                used,
                wanted: amount,
                limit,
            }),
        }
    }

    /// Takes an amount whatever the limit says: for what another broker had granted before this one started.
    pub fn charge_anyway(self: &Rc<Account>, amount: u64) -> Charge {
        self.used.set(self.used.get().saturating_add(amount));
        Charge {
            account: Rc::clone(self),
            amount,
        }
    }
}

/// An amount taken from an account; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    account: Rc<Account>,
    amount: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let used = self.account.used.get();
        debug_assert!(
            used >= self.amount,
            "a charge was taken before it is given back"
        );
        self.account.used.set(used.saturating_sub(self.amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_when_it_is_dropped() {
        let account = Account::new("staging bytes of the session", 10);
        let first = account.charge(6).unwrap();
        let refused = account.charge(5).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "staging bytes of the session: 6 in use and 5 more wanted, the limit is 10"
        );
        let second = account.charge(4).unwrap();
        drop(first);
        assert_eq!(account.used(), 4);
        account.set_limit(2);
        assert!(account.charge(1).is_err());
        drop(second);
        assert!(account.charge(2).is_ok());
        assert!(account.charge(u64::MAX).is_err());
    }
}
