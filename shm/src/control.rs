//! Control messages: what a client and the broker say to each other over the Unix socket.
//!
//! Every message is one `SOCK_SEQPACKET` datagram of exactly [`MESSAGE_BYTES`]. The header carries the size of the
//! structure that its sender knew; what lies beyond is zero, and zero is the default of every field, so a daemon
//! and a client of one major version understand each other. A request carries a sequence number of the client's
//! choosing, at least 1 and rising; the answer carries it back. Requests are idempotent: a client that heard nothing
//! for [`RESEND_AFTER`] sends the same bytes again and gets the same answer. Notices, which nobody asked for,
//! carry sequence 0.
//!
//! Sending and receiving, with file descriptors, stands in [`crate::control_socket`]. This file knows only bytes.

use std::time::Duration;

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
        [Class::Idle, Class::Normal, Class::Realtime]
            .into_iter()
            .find(|class| class.name() == name)
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

mod kind {
    pub const HELLO: u16 = 1;
    pub const QUEUE: u16 = 2;
    pub const STAGING: u16 = 3;
    pub const STAT: u16 = 4;
    pub const SET: u16 = 5;
    pub const GOODBYE: u16 = 6;
    pub const DRAIN: u16 = 7;
    pub const KILL: u16 = 8;
    pub const WELCOME: u16 = 129;
    pub const QUEUE_GRANT: u16 = 130;
    pub const STAGING_GRANT: u16 = 131;
    pub const STAT_REPLY: u16 = 132;
    pub const DONE: u16 = 133;
    pub const ERROR: u16 = 134;
    pub const ENGINE_LOST: u16 = 135;
    pub const EPOCH: u16 = 136;
    pub const DRAINING: u16 = 137;
}

const FLAG_FUSE_OFF: u8 = 1;
const FLAG_BATCH_OFF: u8 = 2;
const FLAG_NOTIFY: u8 = 4;
const SET_NAME: u8 = 1;
const SET_CLASS: u8 = 2;
const SET_WEIGHT: u8 = 4;

/// The sequence number of a message that may otherwise be nonsense, so that its sender can be answered.
pub fn sequence_of(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.get(8..16)) {
        (Some(magic), Some(sequence)) if u32::from_le_bytes(*magic) == MAGIC => {
            u64::from_le_bytes(sequence.try_into().expect("eight bytes were taken"))
        }
        _ => 0,
    }
}

impl Message<Request> {
    /// As bytes.
    pub fn encode(&self) -> MessageBytes {
        let mut out = Writer::default();
        let kind = match &self.body {
            Request::Hello(hello) => {
                hello.write(&mut out);
                kind::HELLO
            }
            Request::Queue(queue) => {
                out.u32(queue.slot_count);
                out.u8(if queue.notify { FLAG_NOTIFY } else { 0 });
                kind::QUEUE
            }
            Request::Staging { bytes } => {
                out.u64(*bytes);
                kind::STAGING
            }
            Request::Stat => kind::STAT,
            Request::Set(set) => {
                set.write(&mut out);
                kind::SET
            }
            Request::Goodbye => kind::GOODBYE,
            Request::Drain => kind::DRAIN,
            Request::Kill { session } => {
                out.u64(*session);
                kind::KILL
            }
        };
        out.finish(kind, self.sequence)
    }

    /// From bytes as a client sent them: nothing is taken on trust.
    pub fn decode(bytes: &[u8]) -> Result<Message<Request>, Malformed> {
        let (kind, sequence, mut body) = Reader::open(bytes)?;
        if sequence == 0 {
            return Err(Malformed::Sequence);
        }
        let body = match kind {
            kind::HELLO => Request::Hello(Hello::read(&mut body)?),
            kind::QUEUE => {
                let slot_count = body.u32();
                Request::Queue(QueueRequest {
                    slot_count,
                    notify: body.u8() & FLAG_NOTIFY != 0,
                })
            }
            kind::STAGING => Request::Staging { bytes: body.u64() },
            kind::STAT => Request::Stat,
            kind::SET => Request::Set(Set::read(&mut body)?),
            kind::GOODBYE => Request::Goodbye,
            kind::DRAIN => Request::Drain,
            kind::KILL => Request::Kill {
                session: body.u64(),
            },
            other => return Err(Malformed::Kind(other)),
        };
        Ok(Message { sequence, body })
    }
}

impl Message<Reply> {
    /// As bytes.
    pub fn encode(&self) -> MessageBytes {
        let mut out = Writer::default();
        let kind = match &self.body {
            Reply::Welcome(welcome) => {
                welcome.write(&mut out);
                kind::WELCOME
            }
            Reply::Queue(grant) => {
                grant.write(&mut out);
                kind::QUEUE_GRANT
            }
            Reply::Staging(grant) => {
                out.u32(grant.index);
                out.u64(grant.bytes);
                kind::STAGING_GRANT
            }
            Reply::Stat { bytes } => {
                out.u64(*bytes);
                kind::STAT_REPLY
            }
            Reply::Done => kind::DONE,
            Reply::Error(error) => {
                out.u32(error.code as u32);
                out.text(&error.text, TEXT_BYTES);
                kind::ERROR
            }
            Reply::EngineLost(lost) => {
                out.u32(lost.epoch);
                out.u64(lost.lost);
                out.u8(u8::from(lost.blamed));
                out.text(&lost.cause, TEXT_BYTES);
                kind::ENGINE_LOST
            }
            Reply::Epoch(grant) => {
                grant.write(&mut out);
                kind::EPOCH
            }
            Reply::Draining => kind::DRAINING,
        };
        out.finish(kind, self.sequence)
    }

    /// From bytes as the daemon sent them.
    pub fn decode(bytes: &[u8]) -> Result<Message<Reply>, Malformed> {
        let (kind, sequence, mut body) = Reader::open(bytes)?;
        let body = match kind {
            kind::WELCOME => Reply::Welcome(Welcome::read(&mut body)?),
            kind::QUEUE_GRANT => Reply::Queue(QueueGrant::read(&mut body)),
            kind::STAGING_GRANT => {
                let index = body.u32();
                Reply::Staging(StagingGrant {
                    index,
                    bytes: body.u64(),
                })
            }
            kind::STAT_REPLY => Reply::Stat { bytes: body.u64() },
            kind::DONE => Reply::Done,
            kind::ERROR => {
                let number = body.u32();
                // A newer daemon may know more codes: its text still says what is wrong.
                let code = Code::from_wire(number).unwrap_or(Code::Internal);
                Reply::Error(ControlError {
                    code,
                    text: body.text("text", TEXT_BYTES)?,
                })
            }
            kind::ENGINE_LOST => {
                let epoch = body.u32();
                let lost = body.u64();
                let blamed = body.u8() != 0;
                Reply::EngineLost(EngineLost {
                    epoch,
                    lost,
                    blamed,
                    cause: body.text("cause", TEXT_BYTES)?,
                })
            }
            kind::EPOCH => Reply::Epoch(QueueGrant::read(&mut body)),
            kind::DRAINING => Reply::Draining,
            other => return Err(Malformed::Kind(other)),
        };
        Ok(Message { sequence, body })
    }
}

impl Hello {
    fn write(&self, out: &mut Writer) {
        out.u16(self.version_min);
        out.u16(self.version_max);
        out.u32(self.operation_count);
        out.u32(self.device);
        out.u8(self.class as u8);
        let mut flags = 0;
        for (set, flag) in [
            (!self.fuse, FLAG_FUSE_OFF),
            (!self.batch, FLAG_BATCH_OFF),
            (self.notify, FLAG_NOTIFY),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.u8(flags);
        out.u32(self.weight);
        out.u32(self.slot_count);
        out.text(&self.name, NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Hello, Malformed> {
        let version_min = body.u16();
        let version_max = body.u16();
        let operation_count = body.u32();
        let device = body.u32();
        let class = body.class()?;
        let flags = body.u8();
        let weight = body.weight()?;
        let slot_count = body.u32();
        Ok(Hello {
            version_min,
            version_max,
            operation_count,
            device,
            class,
            weight,
            fuse: flags & FLAG_FUSE_OFF == 0,
            batch: flags & FLAG_BATCH_OFF == 0,
            notify: flags & FLAG_NOTIFY != 0,
            slot_count,
            name: body.text("name", NAME_BYTES)?,
        })
    }
}

impl Set {
    fn write(&self, out: &mut Writer) {
        out.u64(self.session);
        let mut present = 0;
        for (set, flag) in [
            (self.name.is_some(), SET_NAME),
            (self.class.is_some(), SET_CLASS),
            (self.weight.is_some(), SET_WEIGHT),
        ] {
            present |= if set { flag } else { 0 };
        }
        out.u8(present);
        out.u8(self.class.unwrap_or_default() as u8);
        out.u32(self.weight.unwrap_or(0));
        out.text(self.name.as_deref().unwrap_or(""), NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Set, Malformed> {
        let session = body.u64();
        let present = body.u8();
        let class = body.class()?;
        let weight = body.weight()?;
        let name = body.text("name", NAME_BYTES)?;
        Ok(Set {
            session,
            name: (present & SET_NAME != 0).then_some(name),
            class: (present & SET_CLASS != 0).then_some(class),
            weight: (present & SET_WEIGHT != 0).then_some(weight),
        })
    }
}

impl QueueGrant {
    fn write(&self, out: &mut Writer) {
        out.u32(self.queue);
        out.u32(self.slot_count);
        out.u32(self.epoch);
    }

    fn read(body: &mut Reader<'_>) -> QueueGrant {
        QueueGrant {
            queue: body.u32(),
            slot_count: body.u32(),
            epoch: body.u32(),
        }
    }
}

impl Welcome {
    fn write(&self, out: &mut Writer) {
        out.u16(self.version);
        out.u32(self.operation_count);
        out.u64(self.session);
        out.u32(self.device_count);
        out.u32(self.device);
        out.u8(self.class as u8);
        out.u32(self.weight);
        out.u32(self.limits.queues);
        out.u32(self.limits.handles);
        out.u32(self.limits.requests_in_flight);
        out.u32(self.limits.staging_arenas);
        out.u64(self.limits.staging_bytes);
        out.u64(self.limits.device_bytes);
        self.queue.write(out);
        out.text(&self.device_name, NAME_BYTES);
    }

    fn read(body: &mut Reader<'_>) -> Result<Welcome, Malformed> {
        Ok(Welcome {
            version: body.u16(),
            operation_count: body.u32(),
            session: body.u64(),
            device_count: body.u32(),
            device: body.u32(),
            class: body.class()?,
            weight: body.weight()?,
            limits: SessionLimits {
                queues: body.u32(),
                handles: body.u32(),
                requests_in_flight: body.u32(),
                staging_arenas: body.u32(),
                staging_bytes: body.u64(),
                device_bytes: body.u64(),
            },
            queue: QueueGrant::read(body),
            device_name: body.text("device_name", NAME_BYTES)?,
        })
    }
}

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

/// Puts fields one behind another, without padding, little-endian.
struct Writer {
    bytes: MessageBytes,
    end: usize,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer {
            bytes: [0; MESSAGE_BYTES],
            end: HEADER_BYTES,
        }
    }
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.end..self.end + field.len()].copy_from_slice(field);
        self.end += field.len();
    }

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// A text field takes its full room, so that what follows it has a fixed place.
    fn text(&mut self, text: &str, room: usize) {
        let length = cut_at_character(text, room);
        self.u16(u16::try_from(length).expect("texts are shorter than a message"));
        let start = self.end;
        self.put(&text.as_bytes()[..length]);
        self.end = start + room;
    }

    fn finish(mut self, kind: u16, sequence: u64) -> MessageBytes {
        let size =
            u16::try_from(self.end - HEADER_BYTES).expect("a message is shorter than 64 KiB");
        self.bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        self.bytes[4..6].copy_from_slice(&VERSION_MAX.to_le_bytes());
        self.bytes[6..8].copy_from_slice(&kind.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.bytes[16..18].copy_from_slice(&size.to_le_bytes());
        self.bytes
    }
}

/// Takes fields in the order in which [`Writer`] put them. Beyond the sender's structure everything reads as zero.
struct Reader<'a> {
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the header; gives type, sequence and the body.
    fn open(bytes: &'a [u8]) -> Result<(u16, u64, Reader<'a>), Malformed> {
        // The magic first: somebody who speaks HTTP should hear so, and not a complaint about lengths.
        if bytes.first_chunk::<4>() != Some(&MAGIC.to_le_bytes()) {
            return Err(if bytes.len() < 4 {
                Malformed::Length(bytes.len())
            } else {
                Malformed::Magic
            });
        }
        if bytes.len() != MESSAGE_BYTES {
            return Err(Malformed::Length(bytes.len()));
        }
        let mut header = Reader {
            body: &bytes[4..HEADER_BYTES],
        };
        let version = header.u16();
        let kind = header.u16();
        let sequence = header.u64();
        let size = header.u16();
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(Malformed::Version(version));
        }
        if usize::from(size) > BODY_BYTES {
            return Err(Malformed::Size(size));
        }
        Ok((
            kind,
            sequence,
            Reader {
                body: &bytes[HEADER_BYTES..HEADER_BYTES + usize::from(size)],
            },
        ))
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let present = N.min(self.body.len());
        field[..present].copy_from_slice(&self.body[..present]);
        self.body = &self.body[present..];
        field
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn class(&mut self) -> Result<Class, Malformed> {
        let number = self.u8();
        Class::from_wire(number).ok_or(Malformed::Field {
            field: "class",
            value: u64::from(number),
        })
    }

    fn weight(&mut self) -> Result<u32, Malformed> {
        match self.u32() {
            0 => Ok(WEIGHT_DEFAULT),
            weight if weight <= WEIGHT_MAX => Ok(weight),
            weight => Err(Malformed::Field {
                field: "weight",
                value: u64::from(weight),
            }),
        }
    }

    fn text(&mut self, field: &'static str, room: usize) -> Result<String, Malformed> {
        let length = usize::from(self.u16());
        if length > room {
            return Err(Malformed::Field {
                field,
                value: length as u64,
            });
        }
        let present = room.min(self.body.len());
        let (text, rest) = self.body.split_at(present);
        self.body = rest;
        // A structure that ends inside its text was cut by its sender.
        let text = text.get(..length).ok_or(Malformed::Field {
            field,
            value: length as u64,
        })?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed::Text(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Hello(Hello {
                name: "n".repeat(NAME_BYTES),
                fuse: false,
                notify: true,
                ..Hello::default()
            }),
            Request::Queue(QueueRequest {
                slot_count: 4096,
                notify: true,
            }),
            Request::Staging { bytes: 1 << 40 },
            Request::Stat,
            Request::Set(Set {
                session: 3,
                name: Some("ä".into()),
                class: Some(Class::Idle),
                weight: None,
            }),
            Request::Goodbye,
            Request::Drain,
            Request::Kill { session: 7 },
        ]
    }

    fn replies() -> Vec<Reply> {
        let queue = QueueGrant {
            queue: 1,
            slot_count: 32,
            epoch: 6,
        };
        vec![
            Reply::Welcome(Welcome {
                version: 1,
                operation_count: 99,
                session: 12,
                device_count: 1,
                device: 0,
                class: Class::Realtime,
                weight: 10,
                limits: SessionLimits {
                    queues: 1,
                    handles: 2,
                    requests_in_flight: 3,
                    staging_arenas: 4,
                    staging_bytes: 5,
                    device_bytes: 6,
                },
                queue,
                device_name: "cpu".into(),
            }),
            Reply::Queue(queue),
            Reply::Staging(StagingGrant { index: 1, bytes: 2 }),
            Reply::Stat { bytes: 9 },
            Reply::Done,
            Reply::Error(ControlError::new(Code::Limit, "x".repeat(TEXT_BYTES + 9))),
            Reply::EngineLost(EngineLost {
                epoch: 1,
                lost: 2,
                blamed: true,
                cause: "signal 9".into(),
            }),
            Reply::Epoch(queue),
            Reply::Draining,
        ]
    }

    #[test]
    fn every_message_survives_its_bytes() {
        for (body, sequence) in requests().into_iter().zip(1..) {
            let message = Message { sequence, body };
            assert_eq!(Message::<Request>::decode(&message.encode()), Ok(message));
        }
        for (body, sequence) in replies().into_iter().zip(0..) {
            let message = Message { sequence, body };
            assert_eq!(Message::<Reply>::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn what_an_older_sender_did_not_know_reads_as_default() {
        let mut bytes = Message {
            sequence: 1,
            body: Request::Hello(Hello::default()),
        }
        .encode();
        bytes[16..18].copy_from_slice(&4u16.to_le_bytes());
        bytes[HEADER_BYTES + 4..].fill(0xff);
        let Ok(Message {
            body: Request::Hello(hello),
            ..
        }) = Message::<Request>::decode(&bytes)
        else {
            panic!()
        };
        assert_eq!(
            (
                hello.version_max,
                hello.weight,
                hello.fuse,
                hello.name.as_str()
            ),
            (1, WEIGHT_DEFAULT, true, "")
        );
    }

    #[test]
    fn nonsense_is_named() {
        let good = Message {
            sequence: 1,
            body: Request::Hello(Hello::default()),
        }
        .encode();
        let with = |at: usize, field: &[u8]| {
            let mut bytes = good;
            bytes[at..at + field.len()].copy_from_slice(field);
            Message::<Request>::decode(&bytes).unwrap_err()
        };
        assert_eq!(Message::<Request>::decode(b""), Err(Malformed::Length(0)));
        assert_eq!(
            Message::<Request>::decode(&good[..255]),
            Err(Malformed::Length(255))
        );
        assert_eq!(
            Message::<Request>::decode(b"GET / HTTP/1.1\r\n\r\n"),
            Err(Malformed::Magic)
        );
        assert_eq!(with(4, &[9, 0]), Malformed::Version(9));
        assert_eq!(with(6, &[99, 0]), Malformed::Kind(99));
        assert_eq!(with(8, &[0; 8]), Malformed::Sequence);
        assert_eq!(with(16, &[0xff, 0xff]), Malformed::Size(0xffff));
        assert_eq!(
            with(HEADER_BYTES + 12, &[77]),
            Malformed::Field {
                field: "class",
                value: 77
            }
        );
        assert_eq!(
            with(HEADER_BYTES + 14, &[0xff; 4]),
            Malformed::Field {
                field: "weight",
                value: 0xffff_ffff
            }
        );
        assert_eq!(
            with(HEADER_BYTES + 22, &[3, 0, 0xff, 0xfe, 0xfd]),
            Malformed::Text("name")
        );
    }
}
