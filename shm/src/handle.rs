//! How a client names a tensor.

/// A tensor's name in its session: the index of a slot and the generation of its use. The epoch stands
/// in the queue, not in each handle: a queue belongs to one epoch for its whole life.
///
/// On the wire one u64: index in the low half, generation in the high half. Zero is no handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Handle {
    /// Slot in the session's table. Chosen by the client, bounded by the session's handle limit.
    pub index: u32,
    /// Use of that slot; at least 1, and higher at each reuse.
    pub generation: u32,
}

impl Handle {
    /// From the wire; `None` for generation 0.
    #[inline]
    pub fn from_wire(word: u64) -> Option<Handle> {
        let handle = Handle {
            index: word as u32,
            generation: (word >> 32) as u32,
        };
        (handle.generation != 0).then_some(handle)
    }

    /// As it stands in a record.
    #[inline]
    pub fn wire(self) -> u64 {
        u64::from(self.index) | u64::from(self.generation) << 32
    }
}
