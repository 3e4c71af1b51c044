//! Memory that was written once and can never change: constants, kept over an engine's end.
//!
//! # Invariant
//! A [`SealedMap`] maps a memfd with all of the seals SHRINK, GROW, WRITE and SEAL, checked on the descriptor itself. Nobody
//! can write to it any more, so a reference into it is sound even where the descriptor came from another process.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const NAME: &CStr = c"tensord-constant";

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL
}

/// Immutable bytes in shared memory.
#[derive(Debug)]
pub struct SealedMap {
    base: NonNull<u8>,
    len: usize,
    mapped: usize,
}

// SAFETY: the memory is immutable (see the invariant) and the mapping is owned by this value alone.
unsafe impl Send for SealedMap {}
// SAFETY: as above: shared reads of immutable memory.
unsafe impl Sync for SealedMap {}

impl SealedMap {
    /// Makes sealed memory of `len` bytes with the content that `fill` writes; it starts out zero.
    pub fn create<E: From<io::Error>>(
        len: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(OwnedFd, SealedMap), E> {
        let fd = memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(io::Error::from)?;
        nix::unistd::ftruncate(&fd, len as i64).map_err(io::Error::from)?;
        {
            let mut writable = SealedMap::map(
                fd.as_fd(),
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            )?;
            // SAFETY: the descriptor has not left this function, so nobody else maps the memory; `len` bytes are mapped
            // writable and this is the only reference to them.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(writable.base.as_mut(), writable.len) };
            fill(bytes)?;
        }
        fcntl(&fd, FcntlArg::F_ADD_SEALS(all_seals())).map_err(io::Error::from)?;
        let map = SealedMap::open(fd.as_fd(), len)?;
        Ok((fd, map))
    }

    /// Maps memory that another process sealed.
    pub fn open(fd: BorrowedFd<'_>, len: u64) -> io::Result<SealedMap> {
        let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS)?);
        let size = nix::sys::stat::fstat(fd)?.st_size;
        if !seals.contains(all_seals()) || u64::try_from(size) != Ok(len) {
            let text =
                format!("memory of {size} bytes with seals {seals:?} is not {len} sealed bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        SealedMap::map(fd, len, ProtFlags::PROT_READ)
    }

    /// Size of sealed memory in bytes.
    pub fn size_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
        let size = nix::sys::stat::fstat(fd)?.st_size;
        u64::try_from(size)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("size {size}")))
    }

    fn map(fd: BorrowedFd<'_>, len: u64, prot: ProtFlags) -> io::Result<SealedMap> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapped = len.max(1);
        let size = std::num::NonZeroUsize::new(mapped).expect("at least 1");
        if len == 0 {
            // An empty memfd cannot be touched: a page of nothing stands for it.
            // SAFETY: a new private mapping, overlapping nothing.
            let base = unsafe {
                nix::sys::mman::mmap_anonymous(
                    None,
                    size,
                    ProtFlags::PROT_READ,
                    MapFlags::MAP_PRIVATE,
                )
            }?;
            return Ok(SealedMap {
                base: base.cast(),
                len,
                mapped,
            });
        }
        // SAFETY: a new mapping of a file of at least `len` bytes that cannot shrink below it (sealed, or private to
        // `create`), overlapping nothing.
        let base = unsafe { mmap(None, size, prot, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(SealedMap {
            base: base.cast(),
            len,
            mapped,
        })
    }

    /// The content; page-aligned.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped readable as long as `self` lives, and never change.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for SealedMap {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that this value made; references into it borrow `self` and have ended.
        let result = unsafe { munmap(self.base.cast(), self.mapped) };
        debug_assert!(result.is_ok(), "an own mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_keeps_its_content_and_refuses_writers() {
        let filled: Result<_, io::Error> = SealedMap::create(5, |bytes| {
            bytes.copy_from_slice(b"shape");
            Ok(())
        });
        let (fd, map) = filled.expect("memory");
        assert_eq!(map.bytes(), b"shape");
        assert!(nix::unistd::write(&fd, b"x").is_err());
        let again = SealedMap::open(fd.as_fd(), 5).expect("sealed");
        assert_eq!(again.bytes(), b"shape");
        assert!(SealedMap::open(fd.as_fd(), 6).is_err());
    }

    #[test]
    fn unsealed_memory_is_not_opened() {
        let fd =
            memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
        nix::unistd::ftruncate(&fd, 8).expect("room");
        assert!(SealedMap::open(fd.as_fd(), 8).is_err());
    }
}
