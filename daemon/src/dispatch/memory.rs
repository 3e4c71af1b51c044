//! Device memory: blocks charged to sessions, kept for reuse by tenant, zeroed before they change tenants.
//!
//! # Invariants
//! - A block belongs to one tenant from allocation to release. It goes back to that tenant's free list, and from there to the
//!   device only after it was zeroed: nobody ever reads what another tenant wrote, padding included.
//! - Charges are values: a [`Block`] that is dropped takes its charge back.

use std::cell::RefCell;
use std::rc::Rc;

use tensord_plan::{Backend, BufferId, DeviceFault, Operand};
use tensord_shm::CHECKED;
use tensord_shm::error::Code;

use crate::account::Payers;
pub use crate::account::{Account, Charge};
use crate::engine_process::TenantId;
use crate::map::Map;

/// Bytes of free blocks that a tenant keeps for reuse.
const KEPT_BYTES_MAX: u64 = 256 << 20;
/// Alignment of all blocks.
const ALIGN: u64 = 64;

#[derive(Debug)]
struct Freed {
    buffer: BufferId,
    bytes: u64,
    tenant: TenantId,
    adopted: bool,
}

/// Memory of one value.
#[derive(Debug)]
pub struct Block {
    /// The backend's name of it.
    pub buffer: BufferId,
    /// Usable bytes.
    pub bytes: u64,
    /// Whose content it holds.
    pub tenant: TenantId,
    /// Which uids pay for it, where it is shared content.
    pub payers: Payers,
    adopted: bool,
    _charge: Option<Charge>,
    freed: Rc<RefCell<Vec<Freed>>>,
}

impl Block {
    /// As an operand of a launch.
    pub fn operand(&self, constant: bool) -> Operand {
        Operand {
            buffer: self.buffer,
            offset: 0,
            constant,
        }
    }

    /// Is it sealed memory that the backend only reads?
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Block {
            buffer,
            bytes,
            tenant,
            adopted,
            ..
        } = *self;
        self.freed.borrow_mut().push(Freed {
            buffer,
            bytes,
            tenant,
            adopted,
        });
    }
}

#[derive(Default)]
struct TenantPool {
    free: Map<u64, Vec<BufferId>>,
    free_bytes: u64,
}

/// All blocks of a device.
#[derive(Default)]
pub struct Memory {
    pools: Map<TenantId, TenantPool>,
    freed: Rc<RefCell<Vec<Freed>>>,
    /// Bytes of blocks in use, adopted memory included.
    pub bytes: u64,
    /// The most that was in use at any time.
    pub bytes_max: u64,
}

/// Sizes are rounded so that few of them recur: to 64 bytes, and from 4 KiB on to an eighth of the next power of two.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(1);
    let step = (bytes.next_power_of_two() / 8).max(ALIGN);
    bytes.next_multiple_of(if bytes >= 4096 { step } else { ALIGN })
}

impl Memory {
    /// A block for `bytes` bytes with undefined content (of the same tenant, or zero), charged to `account`.
    pub fn alloc(
        &mut self,
        backend: &mut dyn Backend,
        (tenant, account): (TenantId, &Rc<Account>),
        bytes: u64,
    ) -> Result<Rc<Block>, Code> {
        let class = size_class(bytes);
        let charge = match CHECKED {
            true => Some(Charge::new(account, class)?),
            false => None,
        };
        self.collect(backend);
        let pool = self.pools.entry(tenant).or_default();
        let buffer = match pool.free.get_mut(&class).and_then(Vec::pop) {
            Some(buffer) => {
                pool.free_bytes -= class;
                buffer
            }
            None => self.take_from_device(backend, class)?,
        };
        self.bytes += class;
        self.bytes_max = self.bytes_max.max(self.bytes);
        Ok(self.block(buffer, class, tenant, false, charge))
    }

    /// A block over sealed memory that the backend has adopted, with what the tenant pays for it.
    pub fn adopted(
        &mut self,
        buffer: BufferId,
        bytes: u64,
        tenant: TenantId,
        charge: Option<Charge>,
    ) -> Rc<Block> {
        self.bytes += bytes;
        self.bytes_max = self.bytes_max.max(self.bytes);
        self.block(buffer, bytes, tenant, true, charge)
    }

    fn block(
        &self,
        buffer: BufferId,
        bytes: u64,
        tenant: TenantId,
        adopted: bool,
        charge: Option<Charge>,
    ) -> Rc<Block> {
        let freed = Rc::clone(&self.freed);
        Rc::new(Block {
            buffer,
            bytes,
            tenant,
            payers: Payers::default(),
            adopted,
            _charge: charge,
            freed,
        })
    }

    fn take_from_device(
        &mut self,
        backend: &mut dyn Backend,
        bytes: u64,
    ) -> Result<BufferId, Code> {
        match backend.alloc(bytes) {
            Ok(buffer) => Ok(buffer),
            Err(DeviceFault::OutOfMemory { .. }) => {
                // What tenants keep for reuse is nobody's: give it back and try once more.
                // In the same order whatever the map's.
                let mut tenants: Vec<TenantId> = self.pools.keys().copied().collect();
                tenants.sort_unstable();
                for tenant in tenants {
                    self.trim(backend, tenant, 0);
                }
                backend.alloc(bytes).map_err(|_| Code::OutOfMemory)
            }
            Err(_) => Err(Code::DeviceFault),
        }
    }

    /// Takes back what was dropped since the last call.
    pub fn collect(&mut self, backend: &mut dyn Backend) {
        loop {
            let Some(freed) = self.freed.borrow_mut().pop() else {
                return;
            };
            self.bytes -= freed.bytes;
            if freed.adopted {
                backend.free(freed.buffer);
                continue;
            }
            let pool = self.pools.entry(freed.tenant).or_default();
            pool.free.entry(freed.bytes).or_default().push(freed.buffer);
            pool.free_bytes += freed.bytes;
            if pool.free_bytes > KEPT_BYTES_MAX {
                self.trim(backend, freed.tenant, KEPT_BYTES_MAX / 2);
            }
        }
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
