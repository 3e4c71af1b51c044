//! Host memory for what does not fit the device: copies of blocks, within a bound.
//!
//! # Invariant
//! What is given out and what is kept for reuse never exceed the bound together. A piece that is used again is written as a whole
//! before it can be read, so what another tenant left in it is never seen.
//! A part is kept back from what is new, so that what is there can always change places with what is on the device.

use tensord_shm::private::PrivateMemory;

use crate::map::Map;

/// Pieces from here on are pages of their own, large ones where the kernel has them.
const PAGED_MIN: u64 = 1 << 20;
/// Bytes of free pieces that are kept for reuse: fresh pages cost more than what is copied there.
const KEPT_BYTES_MAX: u64 = 64 << 20;
/// The part of the bound that is for changing places alone.
const PLACES: u64 = 16;

/// A piece of host memory.
#[derive(Debug)]
pub enum HostBytes {
    /// From the process's heap.
    Heap(Vec<u8>),
    /// Pages of its own.
    Pages(PrivateMemory),
}

impl HostBytes {
    fn new(bytes: u64) -> Option<HostBytes> {
        let len = usize::try_from(bytes).ok()?;
        match bytes >= PAGED_MIN {
            true => Some(HostBytes::Pages(PrivateMemory::new(len).ok()?)),
            false => Some(HostBytes::Heap(vec![0; len])),
        }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        match self {
            HostBytes::Heap(bytes) => bytes,
            HostBytes::Pages(pages) => pages.as_slice(),
        }
    }

    /// The content, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            HostBytes::Heap(bytes) => bytes,
            HostBytes::Pages(pages) => pages.as_mut_slice(),
        }
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }
}

/// What may be taken of the host's memory.
#[derive(Debug, Default)]
pub struct HostMemory {
    limit: u64,
    used: u64,
    /// Is it for something new?
    for_new: bool,
    kept: Map<u64, Vec<HostBytes>>,
    kept_bytes: u64,
}

impl HostMemory {
    /// At most so many bytes; 0 gives nothing.
    pub fn new(limit: u64) -> HostMemory {
        HostMemory {
            limit,
            ..HostMemory::default()
        }
    }

    /// Is there none at all?
    pub fn is_off(&self) -> bool {
        self.limit == 0
    }

    /// Bytes given out.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Says whether what is asked for from now on is new, and not only another place for what there is.
    pub fn set_for_new(&mut self, for_new: bool) {
        self.for_new = for_new;
    }

    /// Is what is asked for new?
    pub fn is_for_new(&self) -> bool {
        self.for_new
    }

    /// Is there room for so many bytes, if what is kept for reuse is let go?
    pub fn has_room(&self, bytes: u64) -> bool {
        self.used
            .checked_add(bytes)
            .is_some_and(|sum| sum <= self.limit - u64::from(self.for_new) * (self.limit / PLACES))
    }

    /// Exactly so many bytes of any content, to be written as a whole; `None` where there is no room.
    pub fn take(&mut self, bytes: u64) -> Option<HostBytes> {
        if !self.has_room(bytes) {
            return None;
        }
        let kept = self.kept.get_mut(&bytes).and_then(Vec::pop);
        let piece = match kept {
            Some(piece) => {
                self.kept_bytes -= bytes;
                piece
            }
            None => {
                if self.used + bytes + self.kept_bytes > self.limit {
                    self.let_go();
                }
                HostBytes::new(bytes)?
            }
        };
        self.used += bytes;
        Some(piece)
    }

    /// Takes a piece back.
    pub fn give_back(&mut self, piece: HostBytes) {
        let bytes = piece.len();
        self.used -= bytes;
        if self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept.entry(bytes).or_default().push(piece);
        }
    }

    /// Gives what is kept for reuse back to the system.
    pub fn let_go(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_out_stays_within_the_bound_and_comes_back() {
        let mut host = HostMemory::new(10_000);
        let first = host.take(6_000).expect("there is room");
        assert_eq!(first.bytes().len(), 6_000);
        assert!(host.take(5_000).is_none() && host.take(u64::MAX).is_none());
        host.give_back(first);
        assert_eq!(host.used(), 0);
        let other = host.take(9_000).expect("what was kept is let go");
        assert_eq!((host.used(), host.kept_bytes), (9_000, 0));
        host.give_back(other);
        assert!(HostMemory::new(0).take(1).is_none());
    }

    #[test]
    fn large_pieces_are_pages() {
        let mut host = HostMemory::new(4 << 20);
        let mut piece = host.take(2 << 20).expect("there is room");
        piece.bytes_mut().fill(3);
        assert!(matches!(piece, HostBytes::Pages(_)));
        assert_eq!(piece.bytes().len(), 2 << 20);
    }
}
