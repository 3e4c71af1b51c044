//! Constants in the layout that the kernels like best, kept between launches and shared by all.
//!
//! A pack is found by the buffer it was made from and by how the operand lies in it. It goes when its buffer is freed, or when
//! the budget is exceeded and it was used longest ago.

use std::collections::HashMap;
use std::sync::Arc;

use tensord_plan::BufferId;
use tensord_shm::dtype::{DType, Scalar};

use super::layout::OperandLayout;
use super::recent::Recent;
use super::scratch::Lines;

/// A whole operand as panels: for each batch position, each block of k, each panel: `k` rows of `nr` elements.
pub(super) struct Packed {
    pub lines: Lines,
}

/// What a pack was made from, beside the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub byte_offset: u64,
    pub dtype: DType,
    pub layout: &'a OperandLayout,
    pub counts: [usize; 3],
    pub fill: Scalar,
    pub nr: usize,
}

struct Entry {
    byte_offset: u64,
    dtype: DType,
    layout: OperandLayout,
    counts: [usize; 3],
    fill: Scalar,
    nr: usize,
    packed: Arc<Packed>,
    used: u64,
}

impl Entry {
    fn is(&self, key: &Key<'_>) -> bool {
        self.byte_offset == key.byte_offset
            && self.dtype == key.dtype
            && self.counts == key.counts
            && self.fill == key.fill
            && self.nr == key.nr
            && self.layout == *key.layout
    }
}

/// The packs of one backend, and the shapes of its latest launches.
pub struct Packs {
    entries: HashMap<BufferId, Vec<Entry>>,
    bytes: u64,
    bytes_max: u64,
    clock: u64,
    pub(super) recent: Recent,
}

impl Packs {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Packs {
        Packs {
            entries: HashMap::new(),
            bytes: 0,
            bytes_max,
            clock: 0,
            recent: Recent::default(),
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops every pack made from a buffer: call it when the buffer is freed.
    pub fn forget(&mut self, buffer: BufferId) {
        for entry in self.entries.remove(&buffer).into_iter().flatten() {
            self.bytes -= entry.packed.lines.bytes();
        }
    }

    /// The pack for `key`, made by `make` where there is none; `None` where its `bytes` do not fit the budget.
    pub(super) fn find(
        &mut self,
        buffer: BufferId,
        key: &Key<'_>,
        bytes: u64,
        make: impl FnOnce() -> Lines,
    ) -> Option<Arc<Packed>> {
        self.clock += 1;
        let clock = self.clock;
        if let Some(entry) = self
            .entries
            .get_mut(&buffer)
            .and_then(|entries| entries.iter_mut().find(|entry| entry.is(key)))
        {
            entry.used = clock;
            return Some(entry.packed.clone());
        }
        if bytes > self.bytes_max {
            return None;
        }
        self.make_room(bytes);
        let packed = Arc::new(Packed { lines: make() });
        self.bytes += packed.lines.bytes();
        self.entries.entry(buffer).or_default().push(Entry {
            byte_offset: key.byte_offset,
            dtype: key.dtype,
            layout: key.layout.clone(),
            counts: key.counts,
            fill: key.fill,
            nr: key.nr,
            packed: packed.clone(),
            used: clock,
        });
        Some(packed)
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.bytes_max {
            let oldest = self
                .entries
                .iter()
                .flat_map(|(buffer, entries)| entries.iter().map(move |e| (e.used, *buffer)))
                .min();
            let Some((used, buffer)) = oldest else {
                return;
            };
            if let Some(entries) = self.entries.get_mut(&buffer) {
                let freed = &mut self.bytes;
                entries.retain(|entry| {
                    let keep = entry.used != used;
                    if !keep {
                        *freed -= entry.packed.lines.bytes();
                    }
                    keep
                });
                if entries.is_empty() {
                    self.entries.remove(&buffer);
                }
            }
        }
    }
}

impl std::fmt::Debug for Packs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packs({} of {} bytes)", self.bytes, self.bytes_max)
    }
}
