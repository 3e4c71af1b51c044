//! Memory of this process alone, for values too large to stay in staging.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Zeroed memory at a page's start, in large pages where the kernel has them: what faults in page by page takes longer than
/// what is written there.
#[derive(Debug)]
pub struct PrivateMemory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone and may be used and unmapped from any thread.
unsafe impl Send for PrivateMemory {}
// SAFETY: shared references only read.
unsafe impl Sync for PrivateMemory {}

impl PrivateMemory {
    /// So many bytes, all zero. The error is the kernel's: there is not so much memory.
    pub fn new(len: usize) -> nix::Result<PrivateMemory> {
        let size = NonZeroUsize::new(len).unwrap_or(NonZeroUsize::MIN);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let kind = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, size, access, kind) }?;
        // SAFETY: the range is the new mapping; the advice changes no content. A kernel without large pages refuses it.
        let _ = unsafe { madvise(base, size.get(), MmapAdvise::MADV_HUGEPAGE) };
        let base = base.cast();
        Ok(PrivateMemory { base, len })
    }

    /// The address, for whoever keeps books of memory by himself; [`PrivateMemory::from_raw`] takes it back.
    pub fn into_raw(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).base
    }

    /// What [`PrivateMemory::into_raw`] gave out.
    ///
    /// # Safety
    /// `base` came from a `PrivateMemory` of `len` bytes, and nobody else uses that memory or takes it back.
    pub unsafe fn from_raw(base: NonNull<u8>, len: usize) -> PrivateMemory {
        PrivateMemory { base, len }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped readable as long as this value lives, and written only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes are mapped writable as long as this value lives, and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for PrivateMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and no reference outlives it.
        let unmapped = unsafe { munmap(self.base.cast(), self.len.max(1)) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_and_keeps_what_is_written() {
        for len in [0, 1, 4096, 5 << 20] {
            let mut memory = PrivateMemory::new(len).expect("there is memory");
            assert!(memory.as_slice().len() == len && memory.as_slice().iter().all(|&b| b == 0));
            memory.as_mut_slice().fill(7);
            assert!(memory.as_slice().iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(PrivateMemory::new(usize::MAX / 2).is_err());
    }
}
