//! The three kinds of shared segment: how they are created, sealed, checked on receipt and mapped.
//!
//! Everything here is a memfd that the broker made. A client's own fd is never mapped, so nobody can shrink a segment
//! under a reader (SIGBUS), and the sizes that bound every access come from configuration and are only compared with
//! what `fstat` says. What the words mean stands in `PROTOCOL.md`; who writes them is in the type of the map.
//!
//! # Invariants
//! A map exists only if the fd has exactly the expected size and carries the required seals. A map without `Mut` is
//! mapped `PROT_READ`.

use crate::sync::{HEADER_BYTES, LINE_BYTES, Ordering, Words};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Slots (64 bytes each) of a submission ring unless hello asks for another number.
pub const SLOT_COUNT_DEFAULT: u32 = 256;
/// The smallest ring: the longest record, and room beside it, so that a padded end never blocks for good.
pub const SLOT_COUNT_MIN: u32 = 32;
/// The largest ring: 4 MiB.
pub const SLOT_COUNT_MAX: u32 = 65_536;
/// Entries of the error ring in a completion segment.
pub const ERROR_COUNT: u32 = 1024;
/// Bytes of an entry of the error ring.
pub const ERROR_BYTES: usize = 32;
/// Bytes of a completion segment; only its header page is touched until the first failure.
pub const COMPLETION_BYTES: u64 = HEADER_BYTES as u64 + ERROR_COUNT as u64 * ERROR_BYTES as u64;
/// Alignment of the size of a staging segment.
pub const STAGING_GRANULE: u64 = 4096;
/// The largest staging segment: 1 TiB, so that offset arithmetic cannot overflow.
pub const STAGING_BYTES_MAX: u64 = 1 << 40;

/// Byte offsets of the control words in the header page of a submission segment. The client writes all of them.
pub(crate) mod submission_word {
    pub(crate) const TAIL: usize = 0;
    pub(crate) const RECORDS: usize = 8;
    pub(crate) const WANTED: usize = 128;
    pub(crate) const SLEEPING: usize = 136;
    pub(crate) const DEMANDED: usize = 144;
    pub(crate) const ERRORS_READ: usize = 256;
}

/// Byte offsets of the control words in the header page of a completion segment. The engine writes all of them.
pub(crate) mod completion_word {
    pub(crate) const TIMELINE: usize = 0;
    pub(crate) const HEAD: usize = 128;
    pub(crate) const NEED_WAKEUP: usize = 136;
    pub(crate) const WAKE: usize = 256;
    pub(crate) const STATE: usize = 384;
    pub(crate) const FAULT_CODE: usize = 388;
    pub(crate) const ERRORS_WRITTEN: usize = 392;
}

/// Seals of a submission or staging segment, and of a completion segment before the engine has mapped it, less
/// `F_SEAL_SEAL`.
const SIZE_SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
const SHARED_SEALS: i32 = SIZE_SEALS | libc::F_SEAL_SEAL;
#[cfg_attr(loom, allow(dead_code))]
const COMPLETION_SEALS: i32 = SHARED_SEALS | libc::F_SEAL_FUTURE_WRITE;

/// Why a segment could not be made or was refused.
#[derive(Debug, thiserror::Error)]
pub enum SegmentFault {
    /// The kernel refused a call.
    #[error("{call} on a shared segment: {source}")]
    Call {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A slot count that no ring may have.
    #[error(
        "a ring of {slot_count} slots: must be a power of two from {SLOT_COUNT_MIN} to {SLOT_COUNT_MAX}"
    )]
    SlotCount {
        /// The count asked for.
        slot_count: u32,
    },
    /// A staging size that no segment may have.
    #[error(
        "staging of {bytes} bytes: must be a positive multiple of {STAGING_GRANULE} up to {STAGING_BYTES_MAX}"
    )]
    StagingSize {
        /// The size asked for.
        bytes: u64,
    },
    /// The fd has another size than agreed.
    #[error("a segment of {found} bytes where {expected} were agreed")]
    Size {
        /// The size by private configuration.
        expected: u64,
        /// The size by `fstat`.
        found: u64,
    },
    /// The fd lacks seals, so its size or content could change under the reader.
    #[error("a segment with seals {found:#x} where {required:#x} are required")]
    Seals {
        /// The seals that this side relies on.
        required: i32,
        /// The seals by `F_GET_SEALS`.
        found: i32,
    },
}

fn checked(call: &'static str, rc: i32) -> Result<i32, SegmentFault> {
    if rc < 0 {
        let source = io::Error::last_os_error();
        return Err(SegmentFault::Call { call, source });
    }
    Ok(rc)
}

/// Bytes of a submission segment with `slot_count` slots, or why there is none.
pub fn submission_bytes(slot_count: u32) -> Result<u64, SegmentFault> {
    if !slot_count.is_power_of_two() || !(SLOT_COUNT_MIN..=SLOT_COUNT_MAX).contains(&slot_count) {
        return Err(SegmentFault::SlotCount { slot_count });
    }
    Ok(HEADER_BYTES as u64 + u64::from(slot_count) * LINE_BYTES as u64)
}

fn staging_bytes(bytes: u64) -> Result<u64, SegmentFault> {
    if bytes == 0 || !bytes.is_multiple_of(STAGING_GRANULE) || bytes > STAGING_BYTES_MAX {
        return Err(SegmentFault::StagingSize { bytes });
    }
    Ok(bytes)
}

/// Creates a submission segment, all of it present, with its final seals.
pub fn create_submission(slot_count: u32) -> Result<OwnedFd, SegmentFault> {
    let bytes = submission_bytes(slot_count)?;
    let fd = create(c"tensord-submission", bytes, bytes)?;
    add_seals(&fd, SHARED_SEALS)?;
    Ok(fd)
}

/// Creates a completion segment that the engine can still map writable; see [`seal_completion`].
pub fn create_completion() -> Result<OwnedFd, SegmentFault> {
    let fd = create(c"tensord-completion", COMPLETION_BYTES, HEADER_BYTES as u64)?;
    add_seals(&fd, SIZE_SEALS)?;
    Ok(fd)
}

/// Closes a completion segment to all writers but the engine, which has mapped it. Before the client gets the fd.
pub fn seal_completion(fd: &OwnedFd) -> Result<(), SegmentFault> {
    add_seals(fd, libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)
}

/// Creates a staging segment, all of it present, with its final seals.
pub fn create_staging(bytes: u64) -> Result<OwnedFd, SegmentFault> {
    let bytes = staging_bytes(bytes)?;
    let fd = create(c"tensord-staging", bytes, bytes)?;
    add_seals(&fd, SHARED_SEALS)?;
    Ok(fd)
}

/// Makes a memfd of `bytes`, of which the first `present` have their pages already: a page that cannot be had when it
/// is touched is SIGBUS.
fn create(name: &CStr, bytes: u64, present: u64) -> Result<OwnedFd, SegmentFault> {
    let plain = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string; the call has no other precondition.
    let mut raw = unsafe { libc::memfd_create(name.as_ptr(), plain | libc::MFD_NOEXEC_SEAL) };
    if raw < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
        // SAFETY: as above.
        raw = unsafe { libc::memfd_create(name.as_ptr(), plain) };
    }
    let raw = checked("memfd_create", raw)?;
    // SAFETY: a fresh fd that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let length = libc::off_t::try_from(bytes).expect("sizes are bounded far below i64::MAX");
    // SAFETY: plain call on an owned fd.
    checked("ftruncate", unsafe { libc::ftruncate(raw, length) })?;
    let length = libc::off_t::try_from(present).expect("sizes are bounded far below i64::MAX");
    loop {
        // SAFETY: plain call on an owned fd.
        let rc = unsafe { libc::fallocate(raw, 0, 0, length) };
        match checked("fallocate", rc) {
            Ok(_) => return Ok(fd),
            // A signal in the midst of a large one: what was had stays, and the rest is asked for again.
            Err(SegmentFault::Call { source, .. })
                if source.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
    }
}

fn add_seals(fd: &OwnedFd, seals: i32) -> Result<(), SegmentFault> {
    // SAFETY: F_ADD_SEALS takes an int and touches no memory of ours.
    checked("fcntl(F_ADD_SEALS)", unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals)
    })?;
    Ok(())
}

/// A shared mapping of a whole segment; unmapped when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an owned range of addresses, valid in every thread; what is in it is reached only as atomics or by raw
// copies.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

#[cfg_attr(loom, allow(dead_code))]
impl Mapping {
    /// Maps `fd` after checking that it has `bytes` bytes and at least the seals `required`.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        bytes: u64,
        required: i32,
        writable: bool,
    ) -> Result<Self, SegmentFault> {
        // SAFETY: F_GET_SEALS takes no argument and touches no memory of ours.
        let found = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        let found = checked("fcntl(F_GET_SEALS)", found)?;
        if found & required != required {
            return Err(SegmentFault::Seals { required, found });
        }
        // SAFETY: `stat` is plain data for which all zeroes is a value.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is writable for the length of the call.
        checked("fstat", unsafe {
            libc::fstat(fd.as_raw_fd(), &raw mut stat)
        })?;
        // The seals were checked first: the size that is read now is the size for good.
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found != bytes {
            return Err(SegmentFault::Size {
                expected: bytes,
                found,
            });
        }
        let len = usize::try_from(bytes).map_err(|_| SegmentFault::Size {
            expected: bytes,
            found,
        })?;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let source = io::Error::last_os_error();
            return Err(SegmentFault::Call {
                call: "mmap",
                source,
            });
        }
        let base =
            NonNull::new(base.cast::<u8>()).expect("mmap gives no null address unless asked to");
        Ok(Self { base, len })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nothing that borrows from it outlives the owner.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Maps a staging segment for either side; see `staging`.
pub(crate) fn map_staging(fd: BorrowedFd<'_>, bytes: u64) -> Result<Mapping, SegmentFault> {
    Mapping::new(fd, staging_bytes(bytes)?, SHARED_SEALS, true)
}

/// A submission segment as the engine and the broker see it: read-only, and not to be believed.
#[derive(Clone)]
pub struct SubmissionMap {
    pub(crate) words: Words,
    pub(crate) slot_count: u32,
}

/// A submission segment as its client sees it.
#[derive(Clone)]
pub struct SubmissionMapMut {
    pub(crate) words: Words,
    pub(crate) slot_count: u32,
}

/// A completion segment as the client and the broker see it: read-only.
#[derive(Clone)]
pub struct CompletionMap {
    pub(crate) words: Words,
}

/// A completion segment as its engine sees it. Not `Clone`: there is one writer.
pub struct CompletionMapMut {
    pub(crate) words: Words,
}

#[cfg(not(loom))]
impl SubmissionMap {
    /// Maps a submission segment of `slot_count` slots, a number from private configuration.
    pub fn map(fd: BorrowedFd<'_>, slot_count: u32) -> Result<Self, SegmentFault> {
        let mapping = Mapping::new(fd, submission_bytes(slot_count)?, SHARED_SEALS, false)?;
        Ok(Self {
            words: Words::new(mapping),
            slot_count,
        })
    }
}

impl SubmissionMap {
    /// Slots of the ring, from private configuration.
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }

    /// What the client says it has published, in slots: unchecked, for counting what was lost.
    pub fn tail(&self) -> u64 {
        self.words
            .header64(submission_word::TAIL)
            .load(Ordering::Acquire)
    }

    /// The requests that an ended engine lost, whose last timeline value is given: those published and not passed, as
    /// the client says, but never more than a ring and the accepted ones can be.
    pub fn lost_count(&self, timeline: u64) -> u64 {
        let published = self
            .words
            .header64(submission_word::RECORDS)
            .load(Ordering::Relaxed);
        let possible = u64::from(self.slot_count) + u64::from(ERROR_COUNT);
        published.saturating_sub(timeline).min(possible)
    }
}

#[cfg(not(loom))]
impl SubmissionMapMut {
    /// Maps a submission segment of `slot_count` slots, the number that hello agreed on.
    pub fn map(fd: BorrowedFd<'_>, slot_count: u32) -> Result<Self, SegmentFault> {
        let mapping = Mapping::new(fd, submission_bytes(slot_count)?, SHARED_SEALS, true)?;
        Ok(Self {
            words: Words::new(mapping),
            slot_count,
        })
    }
}

#[cfg(not(loom))]
impl CompletionMap {
    /// Maps a completion segment, which must be closed to further writers.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, SegmentFault> {
        let mapping = Mapping::new(fd, COMPLETION_BYTES, COMPLETION_SEALS, false)?;
        Ok(Self {
            words: Words::new(mapping),
        })
    }
}

#[cfg(not(loom))]
impl CompletionMapMut {
    /// Maps a completion segment writable, before the broker closes it.
    pub fn map(fd: BorrowedFd<'_>) -> Result<Self, SegmentFault> {
        let mapping = Mapping::new(fd, COMPLETION_BYTES, SIZE_SEALS, true)?;
        Ok(Self {
            words: Words::new(mapping),
        })
    }
}

/// Modelled segments for the model checker.
#[cfg(loom)]
pub mod model {
    use super::*;

    /// Both views of one modelled submission segment.
    pub fn submission(slot_count: u32) -> (SubmissionMapMut, SubmissionMap) {
        use submission_word::{DEMANDED, ERRORS_READ, RECORDS, SLEEPING, TAIL, WANTED};
        let words = Words::modelled(
            &[TAIL, RECORDS, WANTED, DEMANDED, ERRORS_READ],
            &[SLEEPING],
            slot_count as usize,
        );
        (
            SubmissionMapMut {
                words: words.clone(),
                slot_count,
            },
            SubmissionMap { words, slot_count },
        )
    }

    /// Both views of one modelled completion segment, with room for two error entries.
    pub fn completion() -> (CompletionMapMut, CompletionMap) {
        use completion_word::{
            ERRORS_WRITTEN, FAULT_CODE, HEAD, NEED_WAKEUP, STATE, TIMELINE, WAKE,
        };
        let words = Words::modelled(
            &[TIMELINE, HEAD, NEED_WAKEUP, ERRORS_WRITTEN],
            &[WAKE, STATE, FAULT_CODE],
            1,
        );
        (
            CompletionMapMut {
                words: words.clone(),
            },
            CompletionMap { words },
        )
    }
}
