//! The shared words and how they are touched: atomics, fences and futexes, real or modelled.
//!
//! The ring and the completion page are written against [`Words`] alone. In a build it is a shared mapping and the
//! kernel's futex; under `cfg(loom)` it is a set of modelled atomics and a modelled futex, so that the model checker
//! runs the very code that ships.
//!
//! # Invariants
//! The only references ever formed into shared memory are to atomic words, which another process may change at any
//! time. Every access is inside the mapping whatever the memory holds: header offsets are constants below
//! [`HEADER_BYTES`], and line ranges are checked against the private length.

use std::time::Duration;

#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    thread::yield_now,
};

/// Bytes of the page of control words that every submission and completion segment begins with.
pub const HEADER_BYTES: usize = 4096;

/// Words of 64 bits in one line: a cache line, and the unit in which records are measured.
pub const LINE_WORDS: usize = 8;

/// Bytes of one line.
pub const LINE_BYTES: usize = LINE_WORDS * 8;

/// One line of shared memory, as atomics.
pub(crate) type Line = [AtomicU64; LINE_WORDS];

/// How a futex wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(loom, allow(dead_code))]
pub(crate) enum FutexWait {
    /// Woken, or the word had already changed: look again.
    Woken,
    /// The time given has passed.
    TimedOut,
    /// A signal arrived; the caller may have to handle it.
    Interrupted,
}

#[cfg(not(loom))]
mod real {
    use super::*;
    use crate::segment::Mapping;
    use std::sync::Arc;

    /// The words of one mapped segment.
    #[derive(Clone)]
    pub(crate) struct Words {
        base: *const u8,
        line_count: usize,
        /// Keeps `base` mapped.
        _mapping: Arc<Mapping>,
    }

    // SAFETY: `base` points into a mapping that lives as long as `_mapping` and is reached only as atomics.
    unsafe impl Send for Words {}
    // SAFETY: as for Send; every access through a shared reference is an atomic one.
    unsafe impl Sync for Words {}

    impl Words {
        /// Takes over a mapping of a header page and at least nothing more.
        pub(crate) fn new(mapping: Mapping) -> Self {
            assert!(
                mapping.len() >= HEADER_BYTES,
                "a segment is created with its header page"
            );
            Self {
                base: mapping.base(),
                line_count: mapping.len() / LINE_BYTES,
                _mapping: Arc::new(mapping),
            }
        }

        /// The 64-bit header word at byte `offset`.
        #[inline(always)]
        pub(crate) fn header64(&self, offset: usize) -> &AtomicU64 {
            assert!(offset.is_multiple_of(8) && offset + 8 <= HEADER_BYTES);
            // SAFETY: in the mapping (checked here and in `new`), aligned as mappings begin on a page, and atomics
            // may be changed by others at any time. Mapped read-only, it is only ever loaded (see PROTOCOL.md).
            unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
        }

        /// The 32-bit header word at byte `offset`.
        #[inline(always)]
        pub(crate) fn header32(&self, offset: usize) -> &AtomicU32 {
            assert!(offset.is_multiple_of(4) && offset + 4 <= HEADER_BYTES);
            // SAFETY: as in `header64`.
            unsafe { &*self.base.add(offset).cast::<AtomicU32>() }
        }

        /// `count` lines from line `first` after the header page.
        #[inline(always)]
        pub(crate) fn lines(&self, first: usize, count: usize) -> &[Line] {
            let start = HEADER_BYTES / LINE_BYTES + first;
            assert!(start <= self.line_count && count <= self.line_count - start);
            // SAFETY: the range is inside the mapping (checked above), aligned as in `header64`, and consists of
            // atomics, of which `Line` is a plain array.
            unsafe { std::slice::from_raw_parts(self.base.cast::<Line>().add(start), count) }
        }

        /// Asks for a line that will be written soon, so that its way from the reader's cache is not waited for.
        #[inline(always)]
        pub(crate) fn prefetch_for_write(&self, line: usize) {
            let line = self.lines(line, 1).as_ptr();
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch changes nothing and never faults; processors without this one take it for none.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a prefetch changes nothing and never faults.
            unsafe {
                std::arch::asm!("prfm pstl1keep, [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            let _ = line;
        }

        /// Asks for a line that will be read soon.
        #[inline(always)]
        pub(crate) fn prefetch(&self, line: usize) {
            let line = self.lines(line, 1).as_ptr();
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch changes nothing and never faults.
            unsafe {
                std::arch::asm!("prefetcht0 [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(target_arch = "aarch64")]
            // SAFETY: a prefetch changes nothing and never faults.
            unsafe {
                std::arch::asm!("prfm pldl1keep, [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            let _ = line;
        }

        /// Sleeps while the word at `offset` is `expected`, for at most `timeout`.
        pub(crate) fn futex_wait(
            &self,
            offset: usize,
            expected: u32,
            timeout: Duration,
        ) -> FutexWait {
            let limit = libc::timespec {
                tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            };
            // SAFETY: the word is a mapped, aligned u32 and `limit` outlives the call. Not FUTEX_PRIVATE: the waker
            // is another process.
            let rc = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.header32(offset).as_ptr(),
                    libc::FUTEX_WAIT,
                    expected,
                    &raw const limit,
                )
            };
            if rc == 0 {
                return FutexWait::Woken;
            }
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::ETIMEDOUT) => FutexWait::TimedOut,
                Some(libc::EINTR) => FutexWait::Interrupted,
                _ => FutexWait::Woken,
            }
        }

        /// Wakes at most `count` sleepers of the word at `offset`; a read-only mapping is enough.
        pub(crate) fn futex_wake(&self, offset: usize, count: i32) {
            // SAFETY: the word is a mapped, aligned u32; FUTEX_WAKE does not write it.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.header32(offset).as_ptr(),
                    libc::FUTEX_WAKE,
                    count,
                );
            }
        }
    }
}

#[cfg(loom)]
mod modelled {
    use super::*;
    use loom::sync::{Condvar, Mutex};
    use std::sync::Arc;

    struct Memory {
        header64: Vec<(usize, AtomicU64)>,
        header32: Vec<(usize, AtomicU32)>,
        lines: Vec<Line>,
        /// The kernel's queue of sleepers. One for all words: each model has one futex word.
        sleepers: Mutex<()>,
        woken: Condvar,
    }

    /// The modelled words of one segment.
    #[derive(Clone)]
    pub(crate) struct Words(Arc<Memory>);

    impl Words {
        pub(crate) fn modelled(header64: &[usize], header32: &[usize], line_count: usize) -> Self {
            Self(Arc::new(Memory {
                header64: header64
                    .iter()
                    .map(|&offset| (offset, AtomicU64::new(0)))
                    .collect(),
                header32: header32
                    .iter()
                    .map(|&offset| (offset, AtomicU32::new(0)))
                    .collect(),
                lines: (0..line_count)
                    .map(|_| std::array::from_fn(|_| AtomicU64::new(0)))
                    .collect(),
                sleepers: Mutex::new(()),
                woken: Condvar::new(),
            }))
        }

        pub(crate) fn header64(&self, offset: usize) -> &AtomicU64 {
            let word = self.0.header64.iter().find(|word| word.0 == offset);
            &word
                .expect("every header word is listed where the model is made")
                .1
        }

        pub(crate) fn header32(&self, offset: usize) -> &AtomicU32 {
            let word = self.0.header32.iter().find(|word| word.0 == offset);
            &word
                .expect("every header word is listed where the model is made")
                .1
        }

        pub(crate) fn lines(&self, first: usize, count: usize) -> &[Line] {
            &self.0.lines[first..first + count]
        }

        pub(crate) fn prefetch_for_write(&self, _line: usize) {}

        pub(crate) fn prefetch(&self, _line: usize) {}

        /// Sleeps without a limit, so that a lost wake-up is a deadlock, which the checker reports.
        pub(crate) fn futex_wait(
            &self,
            offset: usize,
            expected: u32,
            _timeout: Duration,
        ) -> FutexWait {
            let guard = self
                .0
                .sleepers
                .lock()
                .expect("no thread of a model panics while it holds the lock");
            if self.header32(offset).load(Ordering::SeqCst) == expected {
                drop(
                    self.0
                        .woken
                        .wait(guard)
                        .expect("no thread of a model panics while it holds the lock"),
                );
            }
            FutexWait::Woken
        }

        pub(crate) fn futex_wake(&self, _offset: usize, _count: i32) {
            let _guard = self
                .0
                .sleepers
                .lock()
                .expect("no thread of a model panics while it holds the lock");
            self.0.woken.notify_all();
        }
    }
}

#[cfg(loom)]
pub(crate) use modelled::Words;
#[cfg(not(loom))]
pub(crate) use real::Words;
