//! The memory of one value: on the device, in host memory, or both.
//!
//! A value keeps its block whatever becomes of its place; what a launch reads or writes is held on the device by a [`Pinned`].
//!
//! # Invariant
//! A copy in host memory is the block's content: whoever writes to the device's part lets the copy go first
//! ([`Block::take_copy`]). Values do not change, so a block that was copied out once need not be copied out again.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::{BufferId, Operand, SealedMemory};

use super::host::HostBytes;
use super::memory::{Account, Charge};
use crate::account::Payers;
use crate::engine_process::TenantId;

/// Who holds a block, to tell holders apart and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder(usize);

impl Holder {
    /// The holder whose account it is.
    pub fn of(account: &Rc<Account>) -> Holder {
        Holder(Rc::as_ptr(account) as usize)
    }

    /// Of what no session holds.
    pub const NOBODY: Holder = Holder(0);
}

/// What a dropped block leaves behind.
pub(super) struct Freed {
    pub(super) buffer: Option<BufferId>,
    pub(super) copy: Option<HostBytes>,
    pub(super) bytes: u64,
    pub(super) tenant: TenantId,
    pub(super) sealed: bool,
    pub(super) slot: u32,
}

pub(super) type FreedList = Rc<RefCell<Vec<Freed>>>;

/// Memory of one value.
pub struct Block {
    /// Usable bytes.
    pub bytes: u64,
    /// Whose content it holds.
    pub tenant: TenantId,
    /// Which uids pay for it, where it is shared content.
    pub payers: Payers,
    pub(super) holder: Holder,
    /// The content of a constant, which the device only reads.
    pub(super) sealed: Option<Arc<dyn SealedMemory>>,
    pub(super) buffer: Cell<Option<BufferId>>,
    pub(super) copy: RefCell<Option<HostBytes>>,
    pins: Cell<u32>,
    pub(super) used_ns: Cell<u64>,
    /// Until a planned work reads it, by a look at the plans of this number.
    pub(super) next_use: Cell<(u64, u64)>,
    /// Its place among all blocks.
    pub slot: u32,
    _charge: Option<Charge>,
    freed: FreedList,
}

/// What a block is made from.
pub(super) struct NewBlock {
    pub(super) bytes: u64,
    pub(super) tenant: TenantId,
    pub(super) holder: Holder,
    pub(super) sealed: Option<Arc<dyn SealedMemory>>,
    pub(super) buffer: Option<BufferId>,
    pub(super) copy: Option<HostBytes>,
    pub(super) charge: Option<Charge>,
}

impl Block {
    pub(super) fn new(new: NewBlock, slot: u32, now_ns: u64, freed: &FreedList) -> Rc<Block> {
        Rc::new(Block {
            bytes: new.bytes,
            tenant: new.tenant,
            payers: Payers::default(),
            holder: new.holder,
            sealed: new.sealed,
            buffer: Cell::new(new.buffer),
            copy: RefCell::new(new.copy),
            pins: Cell::new(0),
            used_ns: Cell::new(now_ns),
            next_use: Cell::new((0, 0)),
            slot,
            _charge: new.charge,
            freed: Rc::clone(freed),
        })
    }

    /// Is it on the device?
    pub fn is_resident(&self) -> bool {
        self.buffer.get().is_some()
    }

    /// Is it sealed memory that the backend only reads?
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Does a launch use it?
    pub fn is_pinned(&self) -> bool {
        self.pins.get() > 0
    }

    /// Lets the copy in host memory go: the device's part is about to be written.
    pub(super) fn take_copy(&self) -> Option<HostBytes> {
        self.copy.take()
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block")
            .field("bytes", &self.bytes)
            .field("tenant", &self.tenant)
            .field("buffer", &self.buffer.get())
            .field("pins", &self.pins.get())
            .finish_non_exhaustive()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.freed.borrow_mut().push(Freed {
            buffer: self.buffer.get(),
            copy: self.copy.take(),
            bytes: self.bytes,
            tenant: self.tenant,
            sealed: self.sealed.is_some(),
            slot: self.slot,
        });
    }
}

/// A block that stays where it is as long as this lives.
#[derive(Debug)]
pub struct Pinned(Rc<Block>);

impl Pinned {
    /// Keeps a block where it is.
    pub fn new(block: Rc<Block>) -> Pinned {
        block.pins.set(block.pins.get() + 1);
        Pinned(block)
    }

    /// The block itself, for one more reference.
    pub fn block(&self) -> &Rc<Block> {
        &self.0
    }

    /// As an operand of a launch; `None` while it is not on the device.
    pub fn operand(&self, constant: bool) -> Option<Operand> {
        Some(Operand {
            buffer: self.0.buffer.get()?,
            offset: 0,
            constant,
        })
    }
}

impl Deref for Pinned {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pins.set(self.0.pins.get() - 1);
    }
}
