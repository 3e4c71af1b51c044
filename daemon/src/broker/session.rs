//! What a session has: its socket, its queues, its arenas, and what is kept of them for a later broker.
//!
//! A queue's segments belong to one epoch; its doorbell and notice stay for the session's life. What the supervisor
//! keeps is one record for the session and one for each queue and arena, under keys made here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tensord_shm::control::{Message, QueueGrant, Reply, Resource, StagingGrant};
use tensord_shm::control_socket::send_datagram;

use super::Waiting;
use super::identity::Peer;
use crate::account::{Account, Charge};
use crate::limits::REPLIES_WAITING_MAX;
use crate::link::SessionRecord;

/// Key of the session's own record at the supervisor.
pub(super) const KEY_SESSION: u64 = 0;
const KEY_QUEUE: u64 = 1 << 32;
const KEY_ARENA: u64 = 2 << 32;

/// A connection, and the session that it opens with hello.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) socket: OwnedFd,
    pub(super) admin: bool,
    pub(super) tenant: u32,
    pub(super) record: SessionRecord,
    /// The engine that has the session attached, or had it when it ended.
    pub(super) engine: Option<u32>,
    pub(super) queues: Vec<Queue>,
    pub(super) arenas: Vec<Arena>,
    /// What it holds, below the accounts of its uid and its tenant.
    pub(super) account: Rc<Account>,
    /// Itself, among the sessions of its uid and its tenant.
    charge: Charge,
    waiting: Waiting,
}

/// A queue.
pub(super) struct Queue {
    pub(super) id: u32,
    pub(super) slot_count: u32,
    pub(super) doorbell: Rc<OwnedFd>,
    /// The engine's end and the client's.
    pub(super) notice: Option<(Rc<OwnedFd>, Rc<OwnedFd>)>,
    /// None between two epochs.
    pub(super) segments: Option<Segments>,
    /// Sequence of the request that made it, by which the same request is known again.
    pub(super) sequence: u64,
    /// The request to be answered once the engine has the queue.
    pub(super) answer: Option<u64>,
    /// The epoch in which it was made: in a later one the client has to hear of its new segments.
    pub(super) epoch_first: u32,
}

/// A queue's shared memory in one epoch.
pub(super) struct Segments {
    pub(super) epoch: u32,
    pub(super) submission: Rc<OwnedFd>,
    pub(super) completion: Rc<OwnedFd>,
    /// Whether the engine has mapped them and they are closed to other writers.
    pub(super) ready: bool,
}

/// A staging arena.
pub(super) struct Arena {
    pub(super) index: u32,
    pub(super) bytes: u64,
    pub(super) memory: Rc<OwnedFd>,
    pub(super) sequence: u64,
    pub(super) answer: Option<u64>,
    pub(super) ready: bool,
    pub(super) charge: Charge,
}

#[derive(Serialize, Deserialize)]
struct QueueRecord {
    id: u32,
    slot_count: u32,
    epoch: u32,
    epoch_first: u32,
    sequence: u64,
    notice: bool,
}

#[derive(Serialize, Deserialize)]
struct ArenaRecord {
    index: u32,
    bytes: u64,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
struct KeptSession {
    session: SessionRecord,
    engine: Option<u32>,
}

impl Session {
    pub(super) fn new(
        id: u64,
        socket: OwnedFd,
        admin: bool,
        tenant: u32,
        peer: Peer,
        (account, charge): (Rc<Account>, Charge),
    ) -> Session {
        let record = SessionRecord {
            id,
            tenant,
            pid: peer.pid,
            uid: peer.uid,
            command: peer.command,
            ..SessionRecord::default()
        };
        Session {
            id,
            socket,
            admin,
            tenant,
            record,
            engine: None,
            queues: Vec::new(),
            arenas: Vec::new(),
            account,
            charge,
            waiting: Waiting::new(),
        }
    }

    /// Moves it to other accounts, before anything but itself is charged.
    pub(super) fn seat(&mut self, account: Rc<Account>, charge: Charge) {
        self.account = account;
        self.charge = charge;
    }

    /// Takes back what an earlier broker had kept under a key.
    pub(super) fn restore(
        &mut self,
        key: u64,
        record: &str,
        fds: Vec<OwnedFd>,
    ) -> anyhow::Result<()> {
        let mut fds = fds.into_iter().map(Rc::new);
        let mut fd = || {
            fds.next()
                .ok_or_else(|| anyhow::anyhow!("a file descriptor is missing under key {key:#x}"))
        };
        match key & !u64::from(u32::MAX) {
            KEY_QUEUE => {
                let kept: QueueRecord = serde_json::from_str(record)?;
                let (submission, completion) = (fd()?, fd()?);
                self.queues.push(Queue {
                    id: kept.id,
                    slot_count: kept.slot_count,
                    doorbell: fd()?,
                    notice: if kept.notice {
                        Some((fd()?, fd()?))
                    } else {
                        None
                    },
                    segments: Some(Segments {
                        epoch: kept.epoch,
                        submission,
                        completion,
                        ready: true,
                    }),
                    sequence: kept.sequence,
                    answer: None,
                    epoch_first: kept.epoch_first,
                });
            }
            KEY_ARENA => {
                let kept: ArenaRecord = serde_json::from_str(record)?;
                self.arenas.push(Arena {
                    index: kept.index,
                    bytes: kept.bytes,
                    memory: fd()?,
                    sequence: kept.sequence,
                    answer: None,
                    ready: true,
                    charge: self.account.charge_anyway(Resource::Staging, kept.bytes),
                });
            }
            _ => {
                let kept: KeptSession = serde_json::from_str(record)?;
                // The tenant is what this broker made of the peer, unless its cgroup has changed since.
                self.tenant = kept.session.tenant;
                self.record = kept.session;
                self.engine = kept.engine;
            }
        }
        Ok(())
    }

    /// The session's own record, to be kept.
    pub(super) fn kept(&self) -> String {
        let kept = KeptSession {
            session: self.record.clone(),
            engine: self.engine,
        };
        serde_json::to_string(&kept).expect("records have string keys and no failing serializers")
    }

    /// Sends a message behind those that wait. An error means that the session has to end.
    pub(super) fn send(
        &mut self,
        message: &Message<Reply>,
        fds: &[Rc<OwnedFd>],
    ) -> std::io::Result<()> {
        if self.waiting.len() >= REPLIES_WAITING_MAX {
            return Err(std::io::Error::other("the client does not read"));
        }
        self.waiting.push_back((message.encode(), fds.to_vec()));
        self.flush()
    }

    /// Sends what waits, as far as the client takes it.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
            match send_datagram(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // An idle session keeps no room for messages.
        self.waiting.shrink_to_fit();
        Ok(())
    }

    /// All that was charged, and the engine that has to free something first; `None` where no engine had it.
    pub(super) fn into_charges(self) -> Option<(u32, Vec<Charge>)> {
        let mut charges = vec![self.charge];
        charges.extend(self.arenas.into_iter().map(|arena| arena.charge));
        self.engine.map(|engine| (engine, charges))
    }
}

impl Queue {
    /// What its client is told of it; `None` between two epochs.
    pub(super) fn grant(&self) -> Option<QueueGrant> {
        let segments = self.segments.as_ref().filter(|segments| segments.ready)?;
        Some(QueueGrant {
            queue: self.id,
            slot_count: self.slot_count,
            epoch: segments.epoch,
        })
    }

    /// What comes with the grant. `all`: with doorbell and notice, which do not change over epochs.
    pub(super) fn grant_fds(&self, all: bool) -> Vec<Rc<OwnedFd>> {
        let Some(segments) = &self.segments else {
            return Vec::new();
        };
        let mut fds = vec![
            Rc::clone(&segments.submission),
            Rc::clone(&segments.completion),
        ];
        if all {
            fds.push(Rc::clone(&self.doorbell));
            fds.extend(
                self.notice
                    .as_ref()
                    .map(|(_, receiver)| Rc::clone(receiver)),
            );
        }
        fds
    }

    /// Key and record at the supervisor, and what is kept with it.
    pub(super) fn kept(&self) -> Option<(u64, String, Vec<Rc<OwnedFd>>)> {
        let segments = self.segments.as_ref()?;
        let record = QueueRecord {
            id: self.id,
            slot_count: self.slot_count,
            epoch: segments.epoch,
            epoch_first: self.epoch_first,
            sequence: self.sequence,
            notice: self.notice.is_some(),
        };
        let record = serde_json::to_string(&record)
            .expect("records have string keys and no failing serializers");
        let mut fds = vec![
            Rc::clone(&segments.submission),
            Rc::clone(&segments.completion),
            Rc::clone(&self.doorbell),
        ];
        fds.extend(
            self.notice
                .iter()
                .flat_map(|(sender, receiver)| [Rc::clone(sender), Rc::clone(receiver)]),
        );
        Some((KEY_QUEUE | u64::from(self.id), record, fds))
    }
}

impl Arena {
    /// What its client is told of it.
    pub(super) fn grant(&self) -> StagingGrant {
        StagingGrant {
            index: self.index,
            bytes: self.bytes,
        }
    }

    /// Key and record at the supervisor.
    pub(super) fn kept(&self) -> (u64, String) {
        let record = ArenaRecord {
            index: self.index,
            bytes: self.bytes,
            sequence: self.sequence,
        };
        let record = serde_json::to_string(&record)
            .expect("records have string keys and no failing serializers");
        (KEY_ARENA | u64::from(self.index), record)
    }
}
