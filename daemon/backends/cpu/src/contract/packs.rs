//! Constants in the layout that the kernels like best, kept between launches and shared by all.
//!
//! A pack is found by the buffer it was made from and by how the operand lies in it. It goes when its buffer is freed, or when
//! the budget is exceeded and it was used longest ago.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt};
use tensord_plan::BufferId;
use tensord_shm::dtype::{DType, Scalar};

use super::groups::Group;
use super::layout::OperandLayout;
use super::scratch::Lines;

/// Forms of which it is remembered how they run alone.
const ALONE_MAX: usize = 4096;

/// A whole operand as panels: for each batch position, each block of k, each panel: `k` rows of `nr` elements.
#[derive(Debug)]
pub(super) struct Packed {
    pub lines: Lines,
    /// When it was used last, on the packs' clock.
    used: AtomicU64,
}

/// What a pack was made from, beside the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// Name of the form and whether m runs along lanes: equal ones have equal dtypes, layouts and counts.
    pub form: (u64, bool),
    pub byte_offset: u64,
    pub dtype: DType,
    pub layout: &'a OperandLayout,
    pub counts: [usize; 3],
    pub fill: Scalar,
    pub nr: usize,
}

struct Entry {
    /// Of the key that found it last.
    form: (u64, bool),
    byte_offset: u64,
    dtype: DType,
    layout: OperandLayout,
    counts: [usize; 3],
    fill: Scalar,
    nr: usize,
    packed: Arc<Packed>,
}

impl Entry {
    fn used(&self) -> u64 {
        self.packed.used.load(Ordering::Relaxed)
    }

    fn is(&self, key: &Key<'_>) -> bool {
        self.byte_offset == key.byte_offset
            && self.fill == key.fill
            && self.nr == key.nr
            && (self.form == key.form
                || self.dtype == key.dtype
                    && self.counts == key.counts
                    && self.layout == *key.layout)
    }
}

/// How a form runs that is alone in its launch, with these constants.
struct Alone {
    constants: Constants,
    groups: Arc<[Group]>,
}

/// Buffer and byte offset of each operand, where it is a constant.
pub(super) type Constants = [Option<(BufferId, u64)>; 2];

/// The packs of one backend.
pub struct Packs {
    entries: HashMap<BufferId, Vec<Entry>>,
    /// By the name of the form. What is here may hold packs: it goes before any of them does.
    alone: HashMap<u64, Alone>,
    bytes: u64,
    bytes_max: u64,
    clock: u64,
}

impl Packs {
    /// Keeps at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Packs {
        Packs {
            entries: HashMap::new(),
            alone: HashMap::new(),
            bytes: 0,
            bytes_max,
            clock: 0,
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Drops every pack made from a buffer: call it when the buffer is freed.
    pub fn forget(&mut self, buffer: BufferId) {
        let Some(entries) = self.entries.remove(&buffer) else {
            return;
        };
        self.alone.clear();
        for entry in entries {
            self.bytes -= entry.packed.lines.bytes();
        }
    }

    /// What was kept of a form that runs alone.
    pub(super) fn alone(&mut self, form: u64, constants: &Constants) -> Option<Arc<[Group]>> {
        let alone = self.alone.get(&form)?;
        if alone.constants != *constants {
            return None;
        }
        self.clock += 1;
        for packed in alone
            .groups
            .iter()
            .filter_map(|group| group.packed.as_ref())
        {
            packed.used.store(self.clock, Ordering::Relaxed);
        }
        Some(alone.groups.clone())
    }

    /// Keeps how a form runs alone.
    pub(super) fn keep_alone(&mut self, form: u64, constants: Constants, groups: Arc<[Group]>) {
        if self.alone.len() >= ALONE_MAX {
            self.alone.clear();
        }
        self.alone.insert(form, Alone { constants, groups });
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
            entry.packed.used.store(clock, Ordering::Relaxed);
            entry.form = key.form;
            return Some(entry.packed.clone());
        }
        if bytes > self.bytes_max {
            return None;
        }
        self.make_room(bytes);
        let packed = Arc::new(Packed {
            lines: make(),
            used: AtomicU64::new(clock),
        });
        self.bytes += packed.lines.bytes();
        self.entries.entry(buffer).or_default().push(Entry {
            form: key.form,
            byte_offset: key.byte_offset,
            dtype: key.dtype,
            layout: key.layout.clone(),
            counts: key.counts,
            fill: key.fill,
            nr: key.nr,
            packed: packed.clone(),
        });
        Some(packed)
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.bytes_max {
            self.alone.clear();
            let oldest = self
                .entries
                .iter()
                .flat_map(|(buffer, entries)| entries.iter().map(move |e| (e.used(), *buffer)))
                .min();
            let Some((used, buffer)) = oldest else {
                return;
            };
            if let Some(entries) = self.entries.get_mut(&buffer) {
                let freed = &mut self.bytes;
                entries.retain(|entry| {
                    let keep = entry.used() != used;
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
