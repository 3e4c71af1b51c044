//! Staging memory of a session: arenas that grow on demand up to a bound, and the regions taken from them.

use std::sync::{Mutex, PoisonError};

use tensord_shm::error::Code;
use tensord_shm::record::Region;
use tensord_shm::staging::{StagingArena, StagingRegion};

use crate::error::Error;
use crate::lane::Lane;

/// Size of the first arena.
const ARENA_BYTES_MIN: u64 = 1 << 20;
/// Arenas grow to this size, unless one value needs more.
const ARENA_BYTES_MAX: u64 = 32 << 20;
/// Beyond so much in all, values in transit are waited for before more is asked for.
const TRANSIT_BYTES_MAX: u64 = 64 << 20;

/// A region of one of the session's arenas.
pub(crate) struct Staged {
    arena: u32,
    region: StagingRegion,
}

impl Staged {
    /// As a record names it.
    pub(crate) fn wire(&self) -> Region {
        Region {
            arena: self.arena,
            offset: self.region.offset(),
            len: self.region.len(),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.region.as_slice()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.region.as_mut_slice()
    }
}

/// The arenas of a session.
#[derive(Default)]
pub(crate) struct Staging(Mutex<Vec<(u32, StagingArena)>>);

impl Staging {
    fn allocate(&self, len: u64) -> Option<Staged> {
        let arenas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arenas.iter().rev().find_map(|(arena, memory)| {
            let region = memory.allocate(len).ok()?;
            Some(Staged {
                arena: *arena,
                region,
            })
        })
    }

    fn bytes(&self) -> (u64, usize) {
        let arenas = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (arenas.iter().map(|(_, a)| a.size()).sum(), arenas.len())
    }

    pub(crate) fn add(&self, index: u32, arena: StagingArena) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((index, arena));
    }
}

impl Lane {
    /// A region of `len` bytes: free memory, else memory of finished requests of this queue, else a new arena, else
    /// memory of requests that have to be waited for.
    pub(crate) fn stage(&self, len: u64) -> Result<Staged, Error> {
        let core = self.core();
        let limits = &core.welcome.limits;
        loop {
            if let Some(region) = core.staging.allocate(len) {
                return Ok(region);
            }
            let in_transit = self.lock()?.reclaim_regions();
            if let Some(region) = core.staging.allocate(len) {
                return Ok(region);
            }
            let (have, arenas) = core.staging.bytes();
            // A region takes up to twice its length, rounded up to a power of two, and an arena whole pages.
            let need = len.next_multiple_of(4096).max(4096);
            let within = |more: u64| {
                arenas < limits.staging_arenas as usize && have + more <= limits.staging_bytes
            };
            let wanted = need.max(have.clamp(ARENA_BYTES_MIN, ARENA_BYTES_MAX));
            let grown = [wanted, need]
                .into_iter()
                .find(|&more| within(more))
                .filter(|more| in_transit.is_none() || have + more <= TRANSIT_BYTES_MAX);
            match (grown, in_transit) {
                (Some(bytes), _) => core.grow_staging(bytes)?,
                (None, Some(value)) => self.wait_passed(value)?,
                (None, None) => {
                    return Err(Error::new(
                        Code::Limit,
                        format!(
                            "staging: {len} bytes are needed, {have} of the {} bytes in {} arenas that this session may have are in use, and no \
                             request will return any: drop fetched values first",
                            limits.staging_bytes, limits.staging_arenas
                        ),
                    ));
                }
            }
        }
    }
}
