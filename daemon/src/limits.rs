//! Every limit of the daemon, derived in one place.
//!
//! A limit that an operator may choose has its default and its range here and its field in `config`; accounts (see
//! [`crate::account`]) enforce them.

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
/// Uids and tenants for which an administrator may have set something while the daemon runs.
pub const STEERED_MAX: usize = 4_096;
/// Uids and tenants with totals of their own; what further ones use goes into one total.
pub const BILLED_MAX: usize = 65_536;
/// Bytes of names and numbers in one message of a longer list: escaping may make more of them.
pub const LIST_BYTES: usize = LINK_MESSAGE_BYTES / 8;
/// How often an engine reports what it charged, at most, milliseconds.
pub const BILL_EVERY_MS: u64 = 100;
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
