//! Tells a process from its forked children, for the price of one relaxed load.
//!
//! A child inherits its parent's mappings, sockets and locks, and must touch none of them. Whoever owns such things
//! remembers the generation in which they were made and compares it at each use.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often this process descends by fork from the one that first called [`watch`].
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Result of the one registration, as an errno.
static WATCHED: OnceLock<i32> = OnceLock::new();

extern "C" fn in_child() {
    // The only thread of the child runs this, before fork returns in it.
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// Begins to count forks; later calls do nothing. Fails only where memory for the handler cannot be had.
pub fn watch() -> io::Result<()> {
    let errno = *WATCHED.get_or_init(|| {
        // SAFETY: the handler is a plain function that lives as long as the process and only touches an atomic.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) }
    });
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Which generation of forks this process is; 0 where [`watch`] came first and nobody forked since.
#[inline(always)]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}
