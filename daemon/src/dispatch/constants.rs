//! Constants: values shared by content inside a tenant, in sealed memory that survives the engine.
//!
//! An upload marked constant is copied into sealed memory and can be used at once. A thread of its own hashes it (BLAKE3); when the
//! hash is known, equal content of the tenant is held once, whoever uploaded it. The hash that a client states is never
//! believed; it only finds what the engine hashed itself.
//!
//! # Invariant
//! The upload's request is finished only when its content is with the supervisor: a constant whose upload is done outlives the
//! engine.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tensord_plan::{Backend, SealedMemory};
use tensord_shm::control::{Level, Resource};
use tensord_shm::error::Code;
use tensord_shm::sealed::SealedMap;

use super::memory::{Block, Memory};
use super::transfer::Owner;
use crate::engine_process::{ConstantKey, TenantId};
use crate::graph::value::{State, Value};

/// How long a constant of an earlier epoch waits for its clients to bind it again.
const RETAINED_NS: u64 = 60_000_000_000;

struct Sealed(SealedMap);

impl SealedMemory for Sealed {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// A constant's place among those to be hashed, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

struct Held {
    block: Weak<Block>,
    bytes: u64,
}

struct Hashing {
    value: Weak<Value>,
    block: Weak<Block>,
    tenant: TenantId,
    fd: OwnedFd,
}

/// The constants of all tenants.
pub struct Constants {
    held: HashMap<ConstantKey, Held>,
    hashing: VecDeque<(Ticket, Hashing)>,
    retained: Vec<(Rc<Block>, u64)>,
    next_ticket: u64,
    hasher: Hasher,
    sealed: Vec<(ConstantKey, OwnedFd)>,
    unsealed: Vec<ConstantKey>,
    /// Bytes that would be held beside those that are, if nothing were shared.
    pub shared_bytes_saved: u64,
}

/// Who hashes; hashes come in the order in which content was given.
enum Hasher {
    Thread {
        to_hash: Sender<Arc<Sealed>>,
        hashed: Receiver<[u8; 32]>,
    },
    /// The engine's own thread, where what happens when must not depend on another.
    Inline(VecDeque<[u8; 32]>),
}

fn hash_of(memory: &Sealed) -> [u8; 32] {
    *blake3::hash(memory.bytes()).as_bytes()
}

impl Hasher {
    fn thread() -> Hasher {
        let (to_hash, work) = channel::<Arc<Sealed>>();
        let (done, hashed) = channel();
        // Without its thread constants are not shared, and nothing else is lost.
        let spawned = std::thread::Builder::new()
            .name("hash".into())
            .spawn(move || {
                for memory in work {
                    if done.send(hash_of(&memory)).is_err() {
                        return;
                    }
                }
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for hashing constants: equal constants are not shared");
        }
        Hasher::Thread { to_hash, hashed }
    }

    /// Gives it content; `None` where nobody hashes.
    fn give(&mut self, memory: Arc<Sealed>) -> Option<()> {
        match self {
            Hasher::Thread { to_hash, .. } => to_hash.send(memory).ok(),
            Hasher::Inline(hashed) => {
                hashed.push_back(hash_of(&memory));
                Some(())
            }
        }
    }

    fn take(&mut self) -> Option<[u8; 32]> {
        match self {
            Hasher::Thread { hashed, .. } => hashed.try_recv().ok(),
            Hasher::Inline(hashed) => hashed.pop_front(),
        }
    }
}

impl Constants {
    /// No constants yet; `inline` hashes them on the caller's thread.
    pub fn new(inline: bool) -> Constants {
        Constants {
            held: HashMap::new(),
            hashing: VecDeque::new(),
            retained: Vec::new(),
            next_ticket: 0,
            hasher: match inline {
                true => Hasher::Inline(VecDeque::new()),
                false => Hasher::thread(),
            },
            sealed: Vec::new(),
            unsealed: Vec::new(),
            shared_bytes_saved: 0,
        }
    }

    /// Seals the content that `fill` writes and makes it a block.
    pub fn create(
        &mut self,
        (memory, backend): (&mut Memory, &mut dyn Backend),
        owner: Owner<'_>,
        bytes: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Code>,
    ) -> Result<(Rc<Block>, PendingConstant), Code> {
        enum Error {
            Io,
            Code(Code),
        }
        impl From<std::io::Error> for Error {
            fn from(_: std::io::Error) -> Self {
                Error::Io
            }
        }
        let tenant = owner.1.at(Level::Tenant);
        let charge = tenant
            .charge(Resource::DeviceMemory, bytes)
            .map_err(|over| owner.1.refuse(over))?;
        let made = SealedMap::create(bytes, |to| fill(to).map_err(Error::Code));
        let (fd, map) = made.map_err(|error| match error {
            Error::Io => Code::OutOfMemory,
            Error::Code(code) => code,
        })?;
        let sealed = Arc::new(Sealed(map));
        let shared: Arc<dyn SealedMemory> = Arc::clone(&sealed) as _;
        let block = memory
            .adopt(backend, shared, owner.0, Some(charge))
            .map_err(|_| Code::DeviceFault)?;
        Ok((block, PendingConstant { sealed, fd }))
    }

    /// Has the content of a new constant hashed; it is shared, and kept for the next epoch, once that is done.
    pub fn share(
        &mut self,
        value: &Rc<Value>,
        block: &Rc<Block>,
        pending: PendingConstant,
    ) -> Option<Ticket> {
        self.hasher.give(pending.sealed)?;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let hashing = Hashing {
            value: Rc::downgrade(value),
            block: Rc::downgrade(block),
            tenant: block.tenant,
            fd: pending.fd,
        };
        self.hashing.push_back((ticket, hashing));
        Some(ticket)
    }

    /// Is this constant hashed, and what came of it passed on?
    pub fn is_settled(&self, ticket: Ticket) -> bool {
        self.hashing.front().is_none_or(|(next, _)| ticket < *next)
    }

    /// A constant of this content, if the tenant holds one.
    pub fn find(&mut self, key: &ConstantKey, bytes: u64) -> Option<Rc<Block>> {
        let held = self.held.get(key).filter(|held| held.bytes == bytes)?;
        let block = held.block.upgrade()?;
        Some(block)
    }

    /// Is content of this tenant being hashed?
    pub fn is_hashing(&self, tenant: TenantId) -> bool {
        self.hashing
            .iter()
            .any(|(_, hashing)| hashing.tenant == tenant)
    }

    /// Is hashing under way?
    pub fn is_busy(&self) -> bool {
        !self.hashing.is_empty()
    }

    /// Takes in hashes that are done: equal content becomes one block. After a true answer the engine's turn has to end, so that what
    /// [`Constants::take_sealed`] gives is with the supervisor before a client can hear of it.
    pub fn collect(&mut self) -> bool {
        let mut any = false;
        while !self.hashing.is_empty()
            && let Some(hash) = self.hasher.take()
        {
            let Some((_, hashing)) = self.hashing.pop_front() else {
                break;
            };
            let Hashing {
                value,
                block,
                tenant,
                fd,
            } = hashing;
            any = true;
            let Some(block) = block.upgrade() else {
                continue;
            };
            let key = (tenant, hash);
            let known = self
                .find(&key, block.bytes)
                .filter(|known| !Rc::ptr_eq(known, &block));
            match (known, value.upgrade()) {
                (Some(known), Some(value)) => {
                    if let Some(reference) = &mut *value.charge.borrow_mut() {
                        reference.move_to(&known.payers);
                    }
                    value.set(State::Ready(known));
                    self.shared_bytes_saved += block.bytes;
                }
                (Some(_), None) => {}
                (None, _) => {
                    self.held.insert(
                        key,
                        Held {
                            block: Rc::downgrade(&block),
                            bytes: block.bytes,
                        },
                    );
                    self.sealed.push((key, fd));
                }
            }
        }
        any
    }

    /// Forgets constants that nobody holds. Linear in their number: for idle moments and the ends of sessions.
    pub fn sweep(&mut self, now_ns: u64) {
        self.retained.retain(|(_, until)| *until > now_ns);
        let unsealed = &mut self.unsealed;
        self.held.retain(|key, held| {
            let alive = held.block.strong_count() > 0;
            if !alive {
                unsealed.push(*key);
            }
            alive
        });
    }

    /// A constant that an earlier epoch sealed.
    pub fn restore(
        &mut self,
        (memory, backend): (&mut Memory, &mut dyn Backend),
        key: ConstantKey,
        fd: &OwnedFd,
        now_ns: u64,
    ) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let bytes = SealedMap::size_of(fd.as_fd())?;
        let map = SealedMap::open(fd.as_fd(), bytes)?;
        let block = memory
            .adopt(backend, Arc::new(Sealed(map)), key.0, None)
            .map_err(|fault| std::io::Error::other(fault.to_string()))?;
        self.held.insert(
            key,
            Held {
                block: Rc::downgrade(&block),
                bytes,
            },
        );
        self.retained.push((block, now_ns + RETAINED_NS));
        Ok(())
    }

    /// Newly sealed constants, for the next epoch.
    pub fn take_sealed(&mut self) -> Vec<(ConstantKey, OwnedFd)> {
        std::mem::take(&mut self.sealed)
    }

    /// Constants that nobody holds any more.
    pub fn take_unsealed(&mut self) -> Vec<ConstantKey> {
        std::mem::take(&mut self.unsealed)
    }

    /// Bytes of constants held, each once.
    pub fn bytes(&self) -> u64 {
        self.held
            .values()
            .filter(|held| held.block.strong_count() > 0)
            .map(|held| held.bytes)
            .sum()
    }
}

/// Sealed content that has not been hashed.
pub struct PendingConstant {
    sealed: Arc<Sealed>,
    fd: OwnedFd,
}
