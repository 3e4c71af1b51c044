//! Links between the daemon's own processes: messages with file descriptors over `SOCK_SEQPACKET` socket pairs.
//!
//! Messages are JSON: they are few, of trusted origin, and readable in a trace. Nothing on the path of a request
//! passes here. Sending never blocks: what the socket does not take waits in order, with duplicates of its file
//! descriptors, until the socket is writable again.
//!
//! The three conversations stand here together, because their order is the contract:
//! supervisor and broker ([`ToBroker`], [`FromBroker`]), supervisor and engine ([`ToEngine`], [`FromEngine`]), broker and
//! engine ([`EngineOrder`], [`EngineReport`]).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tensord_shm::control_socket::{receive_datagram, send_datagram};

use crate::bills::Charged;
use crate::config::{Config, LevelCaps, Quotas, TenantRule};
use crate::limits::{LINK_MESSAGE_BYTES, LIST_BYTES};

/// What the supervisor tells the broker. A new broker gets `Configure`, `Tenant`s, `Engine`s, for each kept connection
/// `Client` and its `Kept`s, and then `Ready`.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToBroker {
    /// The configuration, at start and after each reload.
    Configure(Box<Config>),
    /// A tenant that an earlier broker numbered.
    Tenant {
        /// Its number.
        id: u32,
        /// Its name: `uid:1000`.
        name: String,
    },
    /// An engine is up. Comes with the broker's end of the link to it.
    Engine {
        /// Which one it is, over all its epochs.
        engine: u32,
        /// Its device: `cpu`.
        device: String,
        /// The tenant that it serves, where engines are divided so.
        tenant: Option<u32>,
        /// Its epoch.
        epoch: u32,
        /// Its process.
        pid: i32,
    },
    /// An engine ended; its link is dead.
    EngineGone {
        /// Which one.
        engine: u32,
        /// The epoch that ended.
        epoch: u32,
        /// Why, for people.
        cause: String,
        /// The session whose work it ran alone, where the end was its own fault.
        blamed: Option<u64>,
        /// Whether another will follow by itself.
        restarts: bool,
    },
    /// A connection. Comes with its socket.
    Client {
        /// The session's number.
        session: u64,
        /// Whether it came over the administration socket.
        admin: bool,
        /// How its listening socket names tenants.
        rule: TenantRule,
        /// Whether an earlier broker had it already.
        known: bool,
    },
    /// Something that an earlier broker had kept.
    Kept {
        /// Of which session.
        session: u64,
        /// Under which key.
        key: u64,
        /// The broker's own record.
        record: String,
    },
    /// What an administrator has set of a uid or a tenant, as an earlier broker kept it.
    Steer {
        /// Whose.
        target: Steered,
        /// The broker's own record.
        record: String,
    },
    /// Device time in all, a part of it: answers [`FromBroker::Bills`].
    Bills {
        /// From the question.
        token: u64,
        /// Whether this is the last part.
        last: bool,
        /// Tenant, uid, ns: over all sessions, engines and daemons.
        accounts: Vec<(String, u32, u64)>,
        /// Session, ns: over all engines.
        sessions: Vec<(u64, u64)>,
    },
    /// All that was kept has been told.
    Ready,
    /// Take nothing new.
    Drain,
}

/// A uid or a tenant for which something is set while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Steered {
    /// A uid, in whichever tenants.
    Uid(u32),
    /// A tenant, by its name.
    Tenant(String),
}

/// What the broker tells the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromBroker {
    /// It serves.
    Ready,
    /// Keep a record and its file descriptors for a later broker, instead of what was kept under this key.
    Keep {
        /// Of which session.
        session: u64,
        /// Under which key.
        key: u64,
        /// The record.
        record: String,
    },
    /// Keep a tenant's number.
    Tenant {
        /// Its number.
        id: u32,
        /// Its name.
        name: String,
    },
    /// A tenant's last session ended: forget its constants, and end its engine where it has one.
    TenantGone {
        /// Its number.
        id: u32,
    },
    /// A session ended: close its socket and forget all that was kept.
    Forget {
        /// Which one.
        session: u64,
    },
    /// Keep what is set of a uid or a tenant; without a record nothing is set any more.
    Steer {
        /// Whose.
        target: Steered,
        /// The record.
        record: Option<String>,
    },
    /// How much device time was used in all?
    Bills {
        /// Comes back with the answer.
        token: u64,
    },
    /// A tenant needs an engine of its own.
    WantEngine {
        /// Its number.
        tenant: u32,
    },
    /// An administrator asked the daemon to drain and end.
    Drain,
}

/// What the supervisor tells an engine.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToEngine {
    /// The configuration, at start and after each reload.
    Configure(Box<Config>),
    /// Who this engine is. Comes once, after the first `Configure`, with its slate (see [`crate::slate`]).
    Start {
        /// Its number.
        engine: u32,
        /// Its epoch.
        epoch: u32,
        /// Its device.
        device: String,
    },
    /// A constant that was sealed in an earlier epoch. Comes with its memory.
    Constant {
        /// Whose.
        tenant: u32,
        /// BLAKE3 of its content.
        hash: [u8; 32],
    },
    /// A broker. Comes with the engine's end of the link to it, which replaces the one before.
    Broker,
    /// Take nothing new, finish what was accepted, report [`FromEngine::Drained`].
    Drain,
}

/// What an engine tells the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromEngine {
    /// It serves.
    Started,
    /// A newly sealed constant to keep for the next epoch. Comes with its memory.
    Sealed {
        /// Whose.
        tenant: u32,
        /// BLAKE3 of its content.
        hash: [u8; 32],
    },
    /// A sealed constant that nobody uses any more.
    Unsealed {
        /// Whose.
        tenant: u32,
        /// BLAKE3 of its content.
        hash: [u8; 32],
    },
    /// Device time charged since the last such report.
    Charged(Vec<Charged>),
    /// Everything accepted has its outcome.
    Drained,
}

/// What the broker orders of an engine.
#[derive(Debug, Serialize, Deserialize)]
pub enum EngineOrder {
    /// The sessions that this broker knows follow as `Known`, then `Resynced`; all others end.
    Resync,
    /// A session that goes on.
    Known {
        /// Which one.
        session: u64,
    },
    /// All have been named.
    Resynced,
    /// A session begins.
    Attach(Box<SessionRecord>),
    /// A queue begins. Comes with submission, completion, doorbell, and the sending end of the notice where there is one.
    AddQueue {
        /// Of which session.
        session: u64,
        /// Its number in the session.
        queue: u32,
        /// Slots of its ring.
        slot_count: u32,
    },
    /// A staging arena. Comes with its memfd.
    AddStaging {
        /// Of which session.
        session: u64,
        /// The index by which records name it.
        index: u32,
        /// Its size.
        bytes: u64,
    },
    /// A session's name, class or weight changed.
    Set(Box<SessionRecord>),
    /// A session ended.
    Detach {
        /// Which one.
        session: u64,
    },
    /// Report the counters.
    Stat {
        /// Comes back with the answer.
        token: u64,
    },
}

/// What an engine reports to the broker.
#[derive(Debug, Serialize, Deserialize)]
pub enum EngineReport {
    /// The engine has mapped the queue: its completion segment can be closed to other writers.
    QueueReady {
        /// Of which session.
        session: u64,
        /// Which queue.
        queue: u32,
    },
    /// The engine has mapped the arena.
    StagingReady {
        /// Of which session.
        session: u64,
        /// Which arena.
        index: u32,
    },
    /// The engine does not take a session, a queue or an arena.
    Refused {
        /// Of which session.
        session: u64,
        /// What was refused.
        what: Refused,
        /// Wire number of the code.
        code: u32,
        /// Why.
        text: String,
    },
    /// A session's rings broke a rule: it has to end.
    Fault {
        /// Which session.
        session: u64,
        /// Wire number of the code.
        code: u32,
        /// Which rule, with the numbers.
        text: String,
    },
    /// All of a session is freed.
    Detached {
        /// Which session.
        session: u64,
        /// What it had asked for in all.
        totals: Totals,
    },
    /// The counters: JSON in a memfd, which comes with it.
    Stat {
        /// From the order.
        token: u64,
    },
}

/// What an engine refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The whole session.
    Session,
    /// A queue.
    Queue(u32),
    /// A staging arena.
    Staging(u32),
}

/// A session as broker and engine name it to each other.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its number.
    pub id: u64,
    /// Its tenant's number.
    pub tenant: u32,
    /// Its tenant's name.
    pub tenant_name: String,
    /// Its tenant's weight among tenants.
    pub tenant_weight: u32,
    /// The limits under which it stands.
    pub quotas: Quotas,
    /// The peer's process, as the kernel named it when it connected.
    pub pid: i32,
    /// The peer's uid.
    pub uid: u32,
    /// The peer's command.
    pub command: String,
    /// Its name.
    pub name: String,
    /// Class, by its wire number.
    pub class: u8,
    /// Weight.
    pub weight: u32,
    /// Class that it asked for, by its wire number.
    pub class_asked: u8,
    /// Weight that it asked for.
    pub weight_asked: u32,
    /// Class that an administrator gave it, by its wire number.
    pub class_fixed: Option<u8>,
    /// Weight that an administrator gave it.
    pub weight_fixed: Option<u32>,
    /// Limits that an administrator gave it.
    pub limits_set: LevelCaps,
    /// Limits that it gave itself.
    pub limits_own: LevelCaps,
    /// The most handles that it was ever told it may have: indices that it may use.
    pub handles_told: u32,
    /// Whether its operations may be fused.
    pub fuse: bool,
    /// Whether its requests may share launches.
    pub batch: bool,
    /// Whether the hello was answered.
    pub open: bool,
    /// Sequence of the hello.
    pub hello_sequence: u64,
}

/// What became of a session's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Ended well.
    pub ok: u64,
    /// Ended with an error.
    pub failed: u64,
    /// Accepted and never launched.
    pub cancelled: u64,
    /// Ended by an engine's end.
    pub lost: u64,
}

/// A message that came in, with its file descriptors; `None`: the other side is gone.
pub type Incoming<T> = Option<(T, Vec<OwnedFd>)>;

/// A list in parts, each small enough for one message.
pub fn in_parts<T>(items: Vec<T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let bytes = bytes_of(&item);
        match parts.last_mut() {
            Some(part) if bytes <= room => part.push(item),
            _ => {
                room = LIST_BYTES;
                parts.push(vec![item]);
            }
        }
        room = room.saturating_sub(bytes);
    }
    parts
}

/// One end of a link.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Room for one incoming message.
    buffer: Vec<u8>,
}

impl Link {
    /// Two ends.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            flags,
        )?)
    }

    /// Takes over an end.
    pub fn new(socket: OwnedFd) -> io::Result<Link> {
        // An end that came as standard input may share its flags with nobody, but it may have been made blocking.
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Link {
            socket,
            waiting: VecDeque::new(),
            buffer: vec![0; LINK_MESSAGE_BYTES],
        })
    }

    /// Sends in order, now or when the socket takes it. An error means that the other side is gone.
    pub fn send<T: Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)
            .expect("messages have string keys and no failing serializers");
        if bytes.len() > LINK_MESSAGE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a link message is too long",
            ));
        }
        if self.waiting.is_empty() {
            match send_datagram(self.socket.as_fd(), &bytes, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        let fds = fds
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<io::Result<Vec<_>>>()?;
        self.waiting.push_back((bytes, fds));
        Ok(())
    }

    /// Sends what waits; true when nothing waits any more.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match send_datagram(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends what waits, however long the other side takes. Only towards a process that never waits for this one.
    pub fn flush_waiting(&mut self) -> io::Result<()> {
        while !self.flush()? {
            match poll(
                &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)],
                PollTimeout::from(100u8),
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next message, `WouldBlock` when there is none.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Incoming<T>> {
        let datagram = match receive_datagram(self.socket.as_fd(), &mut self.buffer, true) {
            Ok(datagram) => datagram,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        if datagram.length == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.buffer[..datagram.length])?;
        Ok(Some((message, datagram.fds)))
    }

    /// All messages that are there. The flag says that the other side is still there.
    pub fn receive_all<T: DeserializeOwned>(&mut self) -> (Vec<(T, Vec<OwnedFd>)>, bool) {
        let mut messages = Vec::new();
        loop {
            match self.receive() {
                Ok(Some(message)) => messages.push(message),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (messages, true),
                Ok(None) => return (messages, false),
                Err(error) => {
                    tracing::warn!("a link between the daemon's processes broke: {error}");
                    return (messages, false);
                }
            }
        }
    }

    /// For registering with a poll.
    pub fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
