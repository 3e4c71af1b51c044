//! Control messages: what a client and the broker say to each other over the Unix socket.
//!
//! Every message is one `SOCK_SEQPACKET` datagram of exactly [`MESSAGE_BYTES`]. The header carries the size of the
//! structure that its sender knew; what lies beyond is zero, and zero is the default of every field, so a daemon
//! and a client of one major version understand each other. A request carries a sequence number of the client's
//! choosing, at least 1 and rising; the answer carries it back. Requests are idempotent: a client that heard nothing
//! for [`RESEND_AFTER`] sends the same bytes again and gets the same answer. Notices, which nobody asked for,
//! carry sequence 0.
//!
//! What can be said stands in this file, how it looks as bytes in `wire` and `fields`. Sending and receiving, with file
//! descriptors, stands in [`crate::control_socket`].

mod fields;
mod limit;
mod wire;

use std::time::Duration;

pub use fields::sequence_of;
pub use limit::{
    Change, Changes, DEVICE_TIME_MAX, Level, LimitReached, RESOURCE_COUNT, Resource, Target,
};

use crate::error::Code;

/// Size of every control message, in bytes.
pub const MESSAGE_BYTES: usize = 256;
/// Bytes of the header that stands before each body.
pub const HEADER_BYTES: usize = 24;
const BODY_BYTES: usize = MESSAGE_BYTES - HEADER_BYTES;
/// "TNSD", little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TNSD");
/// The oldest protocol version that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest protocol version that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// A client that heard no answer for this long sends its request again. Nobody sleeps longer than this without
/// looking at the socket.
pub const RESEND_AFTER: Duration = Duration::from_millis(250);
/// Longest name of a session, in bytes of UTF-8; longer ones are cut at a character.
pub const NAME_BYTES: usize = 48;
/// Longest name of a tenant that a command can say, in bytes of UTF-8.
pub const TENANT_BYTES: usize = 96;
/// Longest text of an error or a cause, in bytes of UTF-8.
pub const TEXT_BYTES: usize = 192;
/// At most this many file descriptors come with one message from the daemon. Clients send none.
pub const FDS_MAX: usize = 4;

/// How urgent a session's work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Class {
    /// Runs when nothing else wants the device.
    Idle = 1,
    /// The default.
    #[default]
    Normal = 2,
    /// Before all others; a tenant's ceiling may refuse it.
    Realtime = 3,
}

impl Class {
    /// Every class, from the least urgent.
    pub const ALL: [Class; 3] = [Class::Idle, Class::Normal, Class::Realtime];

    /// From its wire number; 0 is the default.
    pub fn from_wire(number: u8) -> Option<Class> {
        match number {
            0 | 2 => Some(Class::Normal),
            1 => Some(Class::Idle),
            3 => Some(Class::Realtime),
            _ => None,
        }
    }

    /// As configuration, tools and Python write it.
    pub fn name(self) -> &'static str {
        match self {
            Class::Idle => "idle",
            Class::Normal => "normal",
            Class::Realtime => "realtime",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// Default weight of a session within its class.
pub const WEIGHT_DEFAULT: u32 = 100;
/// Greatest weight; the least is 1.
pub const WEIGHT_MAX: u32 = 10_000;

/// The first message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version that the client speaks.
    pub version_min: u16,
    /// Newest protocol version that the client speaks.
    pub version_max: u16,
    /// Number of operation codes that the client knows: 0 to this, exclusive. Informational.
    pub operation_count: u32,
    /// Index of the wanted device; [`DEVICE_ANY`] leaves the choice to the daemon.
    pub device: u32,
    /// Class of the session's work.
    pub class: Class,
    /// Weight within the class, 1 to [`WEIGHT_MAX`]; 0 on the wire means the default.
    pub weight: u32,
    /// Whether operations of this session may be fused.
    pub fuse: bool,
    /// Whether requests of this session may share launches with others.
    pub batch: bool,
    /// Whether the first queue comes with a notice, for a client that sleeps in epoll.
    pub notify: bool,
    /// Wanted slots of the first queue's ring; 0 leaves it to the daemon, which also rounds and bounds it.
    pub slot_count: u32,
    /// Name of the session, for people.
    pub name: String,
}

/// Hello's `device` when any will do.
pub const DEVICE_ANY: u32 = u32::MAX;

impl Default for Hello {
    fn default() -> Hello {
        Hello {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            operation_count: 0,
            device: DEVICE_ANY,
            class: Class::Normal,
            weight: WEIGHT_DEFAULT,
            fuse: true,
            batch: true,
            notify: false,
            slot_count: 0,
            name: String::new(),
        }
    }
}

/// Asks for a further queue.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct QueueRequest {
    /// Wanted slots of the ring; 0 leaves it to the daemon, which also rounds and bounds it.
    pub slot_count: u32,
    /// Whether the queue comes with a notice, for a client that sleeps in epoll.
    pub notify: bool,
}

/// Changes a session while it runs. Absent fields stay.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Set {
    /// 0: the sender's own session. Others on the administration socket only.
    pub session: u64,
    /// New name.
    pub name: Option<String>,
    /// New class; on a tenant's socket only downwards.
    pub class: Option<Class>,
    /// New weight; on a tenant's socket only downwards.
    pub weight: Option<u32>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Opens the session. Answered by [`Reply::Welcome`].
    Hello(Hello),
    /// A further queue. Answered by [`Reply::Queue`].
    Queue(QueueRequest),
    /// A staging arena of at least so many bytes. Answered by [`Reply::Staging`].
    Staging {
        /// Wanted size in bytes.
        bytes: u64,
    },
    /// What runs. Answered by [`Reply::Stat`]. Needs no hello.
    Stat,
    /// Changes name, class or weight. Answered by [`Reply::Done`].
    Set(Set),
    /// Ends the session. Answered by [`Reply::Done`], then the daemon closes.
    Goodbye,
    /// Administration: take nothing new, finish what was accepted, end. Answered by [`Reply::Done`] at once.
    Drain,
    /// Administration: ends a session. Answered by [`Reply::Done`].
    Kill {
        /// Which one.
        session: u64,
    },
    /// Changes limits. Answered by [`Reply::Changed`]. Of the sender's own session: only downwards, and what is then changed
    /// to [`Change::Default`] is no longer lowered. Of others: administration.
    Limit {
        /// Whose.
        target: Target,
        /// Which, to what.
        changes: Changes,
    },
    /// Administration: changes class and weight. Answered by [`Reply::Changed`]. Of a session its own; of a tenant the highest
    /// class of its sessions and its weight among tenants; of a uid the highest class of its sessions, and its weight
    /// among tenants where it is one, or else the weight of each of its sessions.
    Nice {
        /// Whose.
        target: Target,
        /// New class.
        class: Option<Class>,
        /// New weight.
        weight: Option<u32>,
    },
    /// Limits of sessions, uids and tenants and what of them is used. Answered by [`Reply::Stat`]. On a tenant's socket those of the
    /// sender's session, uid and tenant. Needs no hello.
    Limits,
}

/// Limits that hold for a session, told at hello so that the client library can say at the call what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SessionLimits {
    /// Queues at once.
    pub queues: u32,
    /// Live tensor handles; a handle's index is below this.
    pub handles: u32,
    /// Requests accepted and not yet ended.
    pub requests_in_flight: u32,
    /// Staging arenas at once.
    pub staging_arenas: u32,
    /// Staging memory of the session, bytes.
    pub staging_bytes: u64,
    /// Device memory of the session, bytes.
    pub device_bytes: u64,
}

/// A queue and the size of its shared memory, which comes by message and never out of shared memory.
///
/// File descriptors, in this order: submission segment, completion segment, doorbell eventfd, and the receiving
/// end of the notice where one was asked for (see [`crate::doorbell`]). In [`Reply::Epoch`] only the first two: the
/// others stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueueGrant {
    /// The queue's number in its session, from 0.
    pub queue: u32,
    /// Slots of the submission ring, a power of two; see [`crate::segment`].
    pub slot_count: u32,
    /// The engine's epoch that these segments belong to.
    pub epoch: u32,
}

/// The answer to hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version that both speak from here on.
    pub version: u16,
    /// Operation codes that the daemon knows: 0 to this, exclusive.
    pub operation_count: u32,
    /// The session's number, which tools show.
    pub session: u64,
    /// Number of devices that the daemon has.
    pub device_count: u32,
    /// Index of the device of this session.
    pub device: u32,
    /// Class granted: the asked one, or the tenant's ceiling.
    pub class: Class,
    /// Weight granted.
    pub weight: u32,
    /// Limits of the session.
    pub limits: SessionLimits,
    /// The first queue.
    pub queue: QueueGrant,
    /// The device, as configuration writes it: `cpu`.
    pub device_name: String,
}

/// The answer to a request for staging. Comes with the arena's memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StagingGrant {
    /// Index by which records name the arena.
    pub index: u32,
    /// Its size in bytes, at least what was asked.
    pub bytes: u64,
}

/// Tells that the session's engine ended. Everything beyond each queue's last timeline value is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLost {
    /// The epoch that ended.
    pub epoch: u32,
    /// Requests of this session that were lost with it, as the broker counted them.
    pub lost: u64,
    /// Whether this session's own work was running when it ended.
    pub blamed: bool,
    /// Why, for people.
    pub cause: String,
}

/// An error in answer to a request, or, with sequence 0, the reason why the daemon closes the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} [{code}]")]
pub struct ControlError {
    /// What kind of error.
    pub code: Code,
    /// What was wrong, with which values, and what to do.
    pub text: String,
}

impl ControlError {
    /// An error with a text of at most [`TEXT_BYTES`]; longer ones are cut.
    pub fn new(code: Code, text: impl Into<String>) -> ControlError {
        let mut text = text.into();
        text.truncate(cut_at_character(&text, TEXT_BYTES));
        ControlError { code, text }
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The session is open. Comes with the first queue's file descriptors.
    Welcome(Welcome),
    /// A further queue. Comes with its file descriptors.
    Queue(QueueGrant),
    /// A staging arena. Comes with its memfd.
    Staging(StagingGrant),
    /// What runs: JSON in a sealed memfd of so many bytes, which comes with it.
    Stat {
        /// Length of the JSON text.
        bytes: u64,
    },
    /// Done as asked.
    Done,
    /// Not done.
    Error(ControlError),
    /// Notice: the engine ended; an [`Reply::Epoch`] follows for each queue.
    EngineLost(EngineLost),
    /// Notice: a queue's new submission and completion segments in a new epoch. Comes with these two.
    Epoch(QueueGrant),
    /// Notice: the daemon takes nothing new and will end.
    Draining,
    /// Limits, class or weight changed.
    Changed {
        /// Number of running sessions that it concerns.
        sessions: u32,
        /// What was done to whom, for people.
        text: String,
    },
}

/// A message with its sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<T> {
    /// The request's number, which its answer repeats; 0 in notices.
    pub sequence: u64,
    /// What is said.
    pub body: T,
}

/// Why bytes are no control message. The text is for whoever sent them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another length than [`MESSAGE_BYTES`].
    #[error("a control message has {MESSAGE_BYTES} bytes, this one has {0}")]
    Length(usize),
    /// No magic number: some other protocol.
    #[error(
        "this socket speaks the tensord control protocol (SOCK_SEQPACKET, {MESSAGE_BYTES}-byte messages), not HTTP or text"
    )]
    Magic,
    /// A version outside of what this build speaks.
    #[error("protocol version {0}; this side speaks {VERSION_MIN} to {VERSION_MAX}")]
    Version(u16),
    /// The structure's size does not fit the message.
    #[error("header says {0} bytes of structure; at most {BODY_BYTES} fit")]
    Size(u16),
    /// Unknown type of message.
    #[error("unknown message type {0}")]
    Kind(u16),
    /// A request with sequence 0.
    #[error("a request's sequence number starts at 1")]
    Sequence,
    /// A field outside its range.
    #[error("field {field} is {value}, outside its range")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// Text that is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Text(&'static str),
}

impl Malformed {
    /// The code under which a client is told.
    pub fn code(&self) -> Code {
        match self {
            Malformed::Version(_) => Code::Version,
            _ => Code::BadMessage,
        }
    }
}

impl From<Malformed> for ControlError {
    fn from(malformed: Malformed) -> ControlError {
        ControlError::new(malformed.code(), malformed.to_string())
    }
}

/// The bytes of one message.
pub type MessageBytes = [u8; MESSAGE_BYTES];

/// The longest prefix of `text` of at most `bytes_max` bytes that ends at a character.
fn cut_at_character(text: &str, bytes_max: usize) -> usize {
    if text.len() <= bytes_max {
        return text.len();
    }
    (0..=bytes_max)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0)
}
