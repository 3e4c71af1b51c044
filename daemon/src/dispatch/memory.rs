//! Device memory: blocks charged to sessions, kept for reuse by tenant, zeroed before they change tenants, moved to host memory where
//! the device has no room for all.
//!
//! # Invariants
//! - A block belongs to one tenant from allocation to release. It goes back to that tenant's free list, and from there to the
//!   device only after it was zeroed: nobody ever reads what another tenant wrote, padding included.
//! - Charges are values: a [`Block`] that is dropped takes its charge back. A charge does not know where its block lies: what a
//!   session may hold does not depend on what others need.
//! - A pinned block is not moved.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use tensord_plan::{Backend, BufferId, DeviceFault, SealedMemory};
use tensord_shm::CHECKED;
use tensord_shm::error::Code;

pub use super::block::{Block, Pinned};
use super::block::{FreedList, Holder, NewBlock};
use super::host::HostMemory;
use super::pressure::Movement;
use super::transfer::bytes_of;
use super::victims::{Standing, first_to_leave};
pub use crate::account::{Account, Charge};
use crate::engine_process::TenantId;
use crate::graph::value::Value;
use crate::map::Map;

/// Bytes of free blocks that a tenant keeps for reuse.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Alignment of all blocks.
const ALIGN: u64 = 64;
/// Blocks that are looked at for each one that leaves, so that looking costs less than moving.
const LOOKS_EACH: usize = 64;

#[derive(Default)]
struct TenantPool {
    free: Map<u64, Vec<BufferId>>,
    free_bytes: u64,
}

/// Why a block is not on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A limit, or a device that failed.
    Refused(Code),
    /// There is no room beside what launches use.
    Room,
}

impl From<Code> for Lack {
    fn from(code: Code) -> Lack {
        Lack::Refused(code)
    }
}

/// Says of planned work what it reads: calls back with each value's block and how much work comes before.
pub type Upcoming<'a> = &'a dyn Fn(&mut dyn FnMut(&Block, u64));

/// Who leaves for what comes.
#[derive(Clone, Copy)]
pub enum Leaving<'a> {
    /// Nobody.
    Nobody,
    /// What no planned work reads.
    Unnamed(Upcoming<'a>),
    /// Whose next use is farthest.
    Anybody(Upcoming<'a>),
}

/// Bytes moved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// To host memory.
    pub out_bytes: u64,
    /// Back to the device.
    pub in_bytes: u64,
    /// Left the device, whether it was copied then or before.
    pub left_bytes: u64,
}

impl Moved {
    /// What was moved since then.
    pub fn since(self, before: Moved) -> Movement {
        let out_bytes = self.out_bytes - before.out_bytes;
        let in_bytes = self.in_bytes - before.in_bytes;
        Movement {
            in_bytes,
            left_bytes: self.left_bytes - before.left_bytes,
            copied_bytes: in_bytes + out_bytes,
        }
    }
}

/// All blocks of a device.
#[derive(Default)]
pub struct Memory {
    pools: Map<TenantId, TenantPool>,
    freed: FreedList,
    blocks: Vec<Weak<Block>>,
    vacant: Vec<u32>,
    host: HostMemory,
    /// Who leaves next, and how many more may before the order is made anew.
    victims: std::collections::VecDeque<Standing>,
    looks: u64,
    /// Nothing could leave, and nothing has changed since: for something new, and for what there is.
    stuck: [bool; 2],
    capacity: u64,
    sealed_in_place: bool,
    /// The time of this turn.
    pub now_ns: u64,
    /// Bytes of blocks on the device, adopted memory included.
    pub bytes: u64,
    /// The most that was on the device at any time.
    pub bytes_max: u64,
    /// Bytes of blocks that are in host memory alone.
    pub spilled_bytes: u64,
    /// What was moved.
    pub moved: Moved,
}

/// Sizes are rounded so that few of them recur: to 64 bytes, and from 4 KiB on to an eighth of the next power of two.
pub fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(1);
    let step = (bytes.next_power_of_two() / 8).max(ALIGN);
    bytes.next_multiple_of(if bytes >= 4096 { step } else { ALIGN })
}

impl Memory {
    /// Memory of a device, with so many bytes of host memory for what it has no room for.
    pub fn new(backend: &dyn Backend, spill_bytes: u64) -> Memory {
        Memory {
            host: HostMemory::new(spill_bytes),
            capacity: backend.info().memory_bytes,
            sealed_in_place: backend.adopts_in_place(),
            ..Memory::default()
        }
    }

    /// Bytes that the device may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of the device that a value takes while a launch uses it.
    pub fn takes(&self, value: &Value) -> u64 {
        match value.constant.get() && self.sealed_in_place {
            true => 0,
            false => size_class(bytes_of(&value.meta)),
        }
    }

    /// Bytes of host memory that hold copies: of what is there alone, and of what is on the device as well.
    pub fn host_bytes(&self) -> u64 {
        self.host.used()
    }

    // ------------------------------------------------------------------ making

    /// A block on the device for `bytes` bytes with undefined content (of the same tenant, or zero), charged to `account`. Others
    /// leave the device for it.
    pub fn alloc(
        &mut self,
        backend: &mut dyn Backend,
        (tenant, account): (TenantId, &Rc<Account>),
        bytes: u64,
        upcoming: Upcoming<'_>,
    ) -> Result<Rc<Block>, Lack> {
        let class = size_class(bytes);
        let charge = charge(account, class)?;
        self.collect(backend);
        self.host.set_for_new(true);
        let obtained = self.obtain(backend, tenant, class, Leaving::Anybody(upcoming));
        self.host.set_for_new(false);
        let buffer = obtained?;
        self.arrived(class);
        Ok(self.insert(NewBlock {
            bytes: class,
            tenant,
            holder: Holder::of(account),
            sealed: None,
            buffer: Some(buffer),
            copy: None,
            charge,
        }))
    }

    /// As `alloc`, but nobody leaves for it: where the device is full the block begins in host memory, as zeros.
    pub fn alloc_aside(
        &mut self,
        backend: &mut dyn Backend,
        (tenant, account): (TenantId, &Rc<Account>),
        bytes: u64,
    ) -> Result<Rc<Block>, Code> {
        let class = size_class(bytes);
        let charge = charge(account, class)?;
        self.collect(backend);
        let (buffer, copy) = match self.obtain(backend, tenant, class, Leaving::Nobody) {
            Ok(buffer) => (Some(buffer), None),
            Err(Lack::Refused(code)) => return Err(code),
            Err(Lack::Room) => {
                self.host.set_for_new(true);
                let taken = self.take_host(class);
                self.host.set_for_new(false);
                let mut copy = taken.ok_or(Code::OutOfMemory)?;
                copy.bytes_mut().fill(0);
                (None, Some(copy))
            }
        };
        match buffer {
            Some(_) => self.arrived(class),
            None => self.spilled_bytes += class,
        }
        Ok(self.insert(NewBlock {
            bytes: class,
            tenant,
            holder: Holder::of(account),
            sealed: None,
            buffer,
            copy,
            charge,
        }))
    }

    /// A block of sealed memory. It comes to the device when a launch reads it, or now if there is room.
    pub fn adopt(
        &mut self,
        backend: &mut dyn Backend,
        sealed: Arc<dyn SealedMemory>,
        tenant: TenantId,
        charge: Option<Charge>,
    ) -> Result<Rc<Block>, DeviceFault> {
        self.collect(backend);
        let bytes = sealed.bytes().len() as u64;
        let buffer = match backend.adopt(Arc::clone(&sealed)) {
            Ok(buffer) => Some(buffer),
            Err(DeviceFault::OutOfMemory { .. }) => None,
            Err(fault) => return Err(fault),
        };
        if buffer.is_some() {
            self.arrived(bytes);
        }
        Ok(self.insert(NewBlock {
            bytes,
            tenant,
            holder: Holder::NOBODY,
            sealed: Some(sealed),
            buffer,
            copy: None,
            charge,
        }))
    }

    fn insert(&mut self, new: NewBlock) -> Rc<Block> {
        let slot = self.vacant.pop().unwrap_or(self.blocks.len() as u32);
        let block = Block::new(new, slot, self.now_ns, &self.freed);
        let weak = Rc::downgrade(&block);
        match self.blocks.get_mut(slot as usize) {
            Some(vacant) => *vacant = weak,
            None => self.blocks.push(weak),
        }
        block
    }

    fn arrived(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(self.bytes);
    }

    /// A buffer of a size class.
    fn obtain(
        &mut self,
        backend: &mut dyn Backend,
        tenant: TenantId,
        class: u64,
        leaving: Leaving<'_>,
    ) -> Result<BufferId, Lack> {
        loop {
            let pool = self.pools.entry(tenant).or_default();
            if let Some(buffer) = pool.free.get_mut(&class).and_then(Vec::pop) {
                pool.free_bytes -= class;
                return Ok(buffer);
            }
            match backend.alloc(class) {
                Ok(buffer) => return Ok(buffer),
                Err(DeviceFault::OutOfMemory { .. }) => {}
                Err(_) => return Err(Lack::Refused(Code::DeviceFault)),
            }
            self.make_room(backend, class, leaving)?;
        }
    }

    /// Gives the device something back: what tenants keep for reuse is nobody's and goes first, then blocks leave.
    fn make_room(
        &mut self,
        backend: &mut dyn Backend,
        bytes: u64,
        leaving: Leaving<'_>,
    ) -> Result<(), Lack> {
        let room = self.give_back(backend, bytes)
            || match leaving {
                Leaving::Nobody => false,
                Leaving::Unnamed(upcoming) => self.spill_one(backend, upcoming, false)?,
                Leaving::Anybody(upcoming) => self.spill_one(backend, upcoming, true)?,
            };
        room.then_some(()).ok_or(Lack::Room)
    }

    // ------------------------------------------------------------------ moving

    /// Brings a block to the device.
    pub fn bring(
        &mut self,
        backend: &mut dyn Backend,
        block: &Pinned,
        leaving: Leaving<'_>,
    ) -> Result<(), Lack> {
        block.used_ns.set(self.now_ns);
        if block.is_resident() {
            return Ok(());
        }
        self.collect(backend);
        if let Some(sealed) = &block.sealed {
            let buffer = loop {
                match backend.adopt(Arc::clone(sealed)) {
                    Ok(buffer) => break buffer,
                    Err(DeviceFault::OutOfMemory { .. }) => {
                        self.make_room(backend, block.bytes, leaving)?;
                    }
                    Err(_) => return Err(Lack::Refused(Code::DeviceFault)),
                }
            };
            block.buffer.set(Some(buffer));
        } else {
            let buffer = self.obtain(backend, block.tenant, block.bytes, leaving)?;
            let copy = block.copy.borrow();
            let content = copy.as_ref().ok_or(Lack::Refused(Code::Internal))?.bytes();
            let written = backend.write(buffer, 0, block.bytes, &mut |at, to| {
                to.copy_from_slice(&content[at as usize..at as usize + to.len()]);
            });
            written.map_err(|_| Lack::Refused(Code::DeviceFault))?;
            block.buffer.set(Some(buffer));
            self.spilled_bytes -= block.bytes;
        }
        self.moved.in_bytes += block.bytes;
        self.arrived(block.bytes);
        Ok(())
    }

    /// Moves the block whose turn it is off the device. False: none can leave.
    fn spill_one(
        &mut self,
        backend: &mut dyn Backend,
        upcoming: Upcoming<'_>,
        named: bool,
    ) -> Result<bool, Lack> {
        let purpose = usize::from(!self.host.is_for_new());
        if self.host.is_off() || self.stuck[purpose] {
            return Ok(false);
        }
        let mut fresh = false;
        loop {
            while let Some(next) = self.victims.pop_front() {
                if next.planned.is_some() && !named {
                    self.victims.clear();
                    return Ok(false);
                }
                let block = self.blocks.get(next.slot as usize).and_then(Weak::upgrade);
                // It may be another block by now, or have been used meanwhile.
                if let Some(block) = block.filter(|block| block.used_ns.get() == next.used_ns)
                    && self.may_leave(&block)
                    && self.spill(backend, &block)?
                {
                    return Ok(true);
                }
            }
            if fresh {
                self.stuck[purpose] = true;
                return Ok(false);
            }
            self.choose(upcoming);
            fresh = true;
        }
    }

    /// Something that kept blocks where they are is over.
    pub fn may_leave_again(&mut self) {
        self.stuck = [false; 2];
    }

    fn may_leave(&self, block: &Block) -> bool {
        // What the device reads where it lies takes no room there.
        let takes_room = !(block.is_sealed() && self.sealed_in_place);
        takes_room && block.is_resident() && !block.is_pinned()
    }

    /// Makes the order in which blocks leave: as many as were looked at for each that will.
    fn choose(&mut self, upcoming: Upcoming<'_>) {
        self.looks += 1;
        let look = self.looks;
        upcoming(&mut |block, before| {
            let nearest = match block.next_use.get() {
                (seen, earlier) if seen == look => earlier.min(before),
                _ => before,
            };
            block.next_use.set((look, nearest));
        });
        let blocks = self.blocks.iter().filter_map(Weak::upgrade);
        let standings: Vec<Standing> = blocks
            .filter(|block| self.may_leave(block))
            .map(|block| Standing {
                slot: block.slot,
                holder: block.holder,
                bytes: block.bytes,
                used_ns: block.used_ns.get(),
                planned: Some(block.next_use.get())
                    .filter(|(seen, _)| *seen == look)
                    .map(|(_, before)| before),
            })
            .collect();
        let most = standings.len().div_ceil(LOOKS_EACH);
        // With host memory full some cannot leave: then all are tried.
        let most = if self.host_is_full() {
            standings.len()
        } else {
            most
        };
        self.victims = first_to_leave(standings, most, self.capacity, self.now_ns).into();
    }

    fn host_is_full(&self) -> bool {
        !self.host.has_room(self.capacity / LOOKS_EACH as u64)
    }

    /// Moves one block off the device. False: there is no host memory for it.
    fn spill(&mut self, backend: &mut dyn Backend, block: &Rc<Block>) -> Result<bool, Lack> {
        let Some(buffer) = block.buffer.get() else {
            return Ok(false);
        };
        if block.is_sealed() {
            self.moved.left_bytes += block.bytes;
            backend.free(buffer);
            block.buffer.set(None);
            self.bytes -= block.bytes;
            return Ok(true);
        }
        if block.copy.borrow().is_none() {
            let Some(mut copy) = self.take_host(block.bytes) else {
                return Ok(false);
            };
            let to = copy.bytes_mut();
            let read = backend.read(buffer, 0, block.bytes, &mut |at, piece| {
                to[at as usize..at as usize + piece.len()].copy_from_slice(piece);
            });
            if read.is_err() {
                self.host.give_back(copy);
                return Err(Lack::Refused(Code::DeviceFault));
            }
            *block.copy.borrow_mut() = Some(copy);
            self.moved.out_bytes += block.bytes;
        }
        self.moved.left_bytes += block.bytes;
        block.buffer.set(None);
        self.bytes -= block.bytes;
        self.spilled_bytes += block.bytes;
        self.pool(backend, block.tenant, buffer, block.bytes);
        Ok(true)
    }

    /// Host memory; copies of what is on the device as well make room for it.
    fn take_host(&mut self, bytes: u64) -> Option<super::host::HostBytes> {
        if !self.host.has_room(bytes) {
            let spare: u64 = self.copies().map(|block| block.bytes).sum();
            if !self.host.has_room(bytes.saturating_sub(spare)) {
                return None;
            }
            // The copies that are not needed soonest are those of what was used last.
            let mut copies: Vec<Rc<Block>> = self.copies().collect();
            copies.sort_by_key(|block| (std::cmp::Reverse(block.used_ns.get()), block.slot));
            let least = copies.len().div_ceil(LOOKS_EACH);
            for (count, block) in copies.into_iter().enumerate() {
                if count >= least && self.host.has_room(bytes) {
                    break;
                }
                if let Some(copy) = block.take_copy() {
                    self.host.give_back(copy);
                }
            }
        }
        self.host.take(bytes)
    }

    /// Blocks that are on the device and have a copy beside.
    fn copies(&self) -> impl Iterator<Item = Rc<Block>> {
        let blocks = self.blocks.iter().filter_map(Weak::upgrade);
        blocks.filter(|block| block.is_resident() && block.copy.borrow().is_some())
    }

    // ------------------------------------------------------------------ content

    /// Lets `take` see bytes `at..at + len` of a block, wherever they lie, in pieces with their distance from `at`.
    pub fn read(
        &self,
        backend: &mut dyn Backend,
        block: &Block,
        (at, len): (u64, u64),
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<(), DeviceFault> {
        if let Some(buffer) = block.buffer.get() {
            return backend.read(buffer, at, len, take);
        }
        let copy = block.copy.borrow();
        let content = match (&block.sealed, copy.as_ref()) {
            (Some(sealed), _) => sealed.bytes(),
            (None, Some(copy)) => copy.bytes(),
            (None, None) => &[],
        };
        let piece = at
            .checked_add(len)
            .and_then(|end| content.get(at as usize..end as usize))
            .ok_or_else(|| beyond(block, at, len))?;
        take(0, piece);
        Ok(())
    }

    /// Lets `fill` write bytes `at..at + len` of a block that no launch reads yet, wherever it lies.
    pub fn write(
        &mut self,
        backend: &mut dyn Backend,
        block: &Block,
        (at, len): (u64, u64),
        fill: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<(), DeviceFault> {
        if let Some(buffer) = block.buffer.get() {
            self.will_write(block);
            return backend.write(buffer, at, len, fill);
        }
        let mut copy = block.copy.borrow_mut();
        let content = copy.as_mut().map(|copy| copy.bytes_mut());
        let piece = at
            .checked_add(len)
            .and_then(|end| content?.get_mut(at as usize..end as usize))
            .ok_or_else(|| beyond(block, at, len))?;
        fill(0, piece);
        Ok(())
    }

    /// Fills a new block with zeros; one in host memory begins so.
    pub fn zero(&mut self, backend: &mut dyn Backend, block: &Block) -> Result<(), DeviceFault> {
        match block.buffer.get() {
            Some(buffer) => backend.zero(buffer, 0, block.bytes),
            None => Ok(()),
        }
    }

    /// The device's part of a block is about to be written.
    pub fn will_write(&mut self, block: &Block) {
        if let Some(copy) = block.take_copy() {
            self.host.give_back(copy);
        }
    }

    // ------------------------------------------------------------------ giving back

    /// Takes back what was dropped since the last call.
    pub fn collect(&mut self, backend: &mut dyn Backend) {
        loop {
            let Some(freed) = self.freed.borrow_mut().pop() else {
                return;
            };
            self.stuck = [false; 2];
            self.blocks[freed.slot as usize] = Weak::new();
            self.vacant.push(freed.slot);
            if let Some(copy) = freed.copy {
                self.host.give_back(copy);
            }
            match freed.buffer {
                None if freed.sealed => {}
                None => self.spilled_bytes -= freed.bytes,
                Some(buffer) => {
                    self.bytes -= freed.bytes;
                    match freed.sealed {
                        true => backend.free(buffer),
                        false => self.pool(backend, freed.tenant, buffer, freed.bytes),
                    }
                }
            }
        }
    }

    fn pool(&mut self, backend: &mut dyn Backend, tenant: TenantId, buffer: BufferId, bytes: u64) {
        let pool = self.pools.entry(tenant).or_default();
        pool.free.entry(bytes).or_default().push(buffer);
        pool.free_bytes += bytes;
        if pool.free_bytes > KEPT_BYTES_MAX {
            self.trim(backend, tenant, KEPT_BYTES_MAX / 2);
        }
    }

    /// Gives at least so many free bytes back to the device, if tenants keep any. False: none do.
    fn give_back(&mut self, backend: &mut dyn Backend, bytes: u64) -> bool {
        let mut left = bytes;
        let mut tenants: Vec<(u64, TenantId)> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.free_bytes > 0)
            .map(|(tenant, pool)| (pool.free_bytes, *tenant))
            .collect();
        let any = !tenants.is_empty();
        tenants.sort_unstable_by(|a, b| b.cmp(a));
        for (has, tenant) in tenants {
            if left == 0 {
                break;
            }
            self.trim(backend, tenant, has.saturating_sub(left));
            let has_now = self.pools.get(&tenant).map_or(0, |pool| pool.free_bytes);
            left = left.saturating_sub(has - has_now);
        }
        any
    }

    /// Gives free blocks of a tenant back to the device, zeroed, the largest first, until at most `keep` bytes are left.
    fn trim(&mut self, backend: &mut dyn Backend, tenant: TenantId, keep: u64) {
        let Some(pool) = self.pools.get_mut(&tenant) else {
            return;
        };
        let mut classes: Vec<u64> = pool.free.keys().copied().collect();
        classes.sort_unstable_by(|a, b| b.cmp(a));
        for class in classes {
            let list = pool
                .free
                .get_mut(&class)
                .map(std::mem::take)
                .unwrap_or_default();
            let mut list = list.into_iter();
            while pool.free_bytes > keep {
                let Some(buffer) = list.next() else { break };
                // A device that cannot zero has failed; its memory is not handed on.
                if !CHECKED || backend.zero(buffer, 0, class).is_ok() {
                    backend.free(buffer);
                }
                pool.free_bytes -= class;
            }
            match list.len() {
                0 => drop(pool.free.remove(&class)),
                _ => drop(pool.free.insert(class, list.collect())),
            }
        }
    }

    /// Forgets a tenant that has no sessions: all its free blocks go back, zeroed.
    pub fn forget_tenant(&mut self, backend: &mut dyn Backend, tenant: TenantId) {
        self.collect(backend);
        self.trim(backend, tenant, 0);
        self.pools.remove(&tenant);
    }
}

fn beyond(block: &Block, at: u64, len: u64) -> DeviceFault {
    let have = block.bytes;
    DeviceFault::Invalid(format!("bytes {at}..+{len} of a block of {have} bytes"))
}

/// What a session pays for a block.
fn charge(account: &Rc<Account>, bytes: u64) -> Result<Option<Charge>, Code> {
    match CHECKED {
        true => Charge::new(account, bytes).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests;
