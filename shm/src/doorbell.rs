//! The two signals between sleepers that poll file descriptors: the client's doorbell and the engine's notice.
//!
//! The doorbell is an eventfd that the engine watches edge-triggered and never reads, because the client shares its file
//! description and could change what a read does. For the same reason the notice is *not* an eventfd: a client could
//! fill its counter and clear `O_NONBLOCK`, and the engine's write would block. It is a pair of sockets, whose ends have
//! descriptions of their own, and it is sent with `MSG_DONTWAIT`.

use crate::completion::Reader;
use crate::segment::SubmissionMapMut;
use crate::sync::{Ordering, fence};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The eventfd with which a client wakes a parked engine. Either side's end.
pub struct Doorbell {
    fd: OwnedFd,
    /// The park for which this side has rung already.
    rung_for: u64,
}

impl Doorbell {
    /// Makes one; the broker sends the fd to both sides.
    pub fn create() -> io::Result<Self> {
        // SAFETY: plain call without pointers.
        let raw = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh fd that nobody else owns.
        Ok(Self::new(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Takes over an end that was received.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, rung_for: 0 }
    }

    /// Forgets what was rung for: in a new epoch the engine counts its parks from the start.
    pub fn begin_epoch(&mut self) {
        self.rung_for = 0;
    }

    /// Rings if the engine is parked and has not been rung for this park; call it after each `Producer::publish`. True
    /// if it rang.
    #[inline]
    pub fn ring_if_parked(&mut self, reader: &Reader) -> bool {
        let must_ring = must_ring(reader, &mut self.rung_for);
        if must_ring {
            self.ring();
        }
        must_ring
    }

    /// Says which timeline value is about to be waited for, and rings if the engine is parked: before every wait, after
    /// the last `Producer::publish`. True if it rang.
    #[inline]
    pub fn demand(&mut self, reader: &Reader, submission: &SubmissionMapMut, value: u64) -> bool {
        reader.demand(submission, value);
        self.ring_if_parked(reader)
    }

    /// Rings in any case.
    #[cold]
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // A full counter (EAGAIN) is the work of the client that shares it, and nothing else can fail here.
        // SAFETY: writes eight bytes from a live buffer.
        unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the engine sleeps without having been rung for this park. `rung_for` is the caller's memory of that.
#[inline]
pub fn must_ring(reader: &Reader, rung_for: &mut u64) -> bool {
    // SYNC: pairs with `completion::parking_fence`: either the engine sees the tail just published and the
    // value just demanded, or we see it parked.
    fence(Ordering::SeqCst);
    let park_count = reader.park_count();
    if park_count.is_multiple_of(2) || park_count == *rung_for {
        return false;
    }
    *rung_for = park_count;
    true
}

/// The engine's end of a notice: says "look" to a client that sleeps in epoll.
pub struct NoticeSender(OwnedFd);

/// The client's end of a notice: readable when there is something to look at.
pub struct NoticeReceiver(OwnedFd);

/// Makes a notice; the broker sends one end to each side.
pub fn notice_pair() -> io::Result<(NoticeSender, NoticeReceiver)> {
    let mut raw = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `raw` has room for the two fds.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, raw.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two fresh fds that nobody else owns.
    let [sender, receiver] = raw.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    // The client has nothing to say here, and what nobody reads is not to pile up.
    // SAFETY: plain call on an owned fd.
    if unsafe { libc::shutdown(sender.as_raw_fd(), libc::SHUT_RD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((NoticeSender(sender), NoticeReceiver(receiver)))
}

impl NoticeSender {
    /// Takes over an end that was received from the broker.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one notice, never waiting. Where the client has not read the earlier ones its end is readable anyway, and
    /// where it is gone nobody waits.
    pub fn send(&self) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: sends one byte from a live buffer.
        unsafe { libc::send(self.0.as_raw_fd(), [1u8].as_ptr().cast(), 1, flags) };
    }
}

impl AsFd for NoticeSender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl NoticeReceiver {
    /// Takes over an end that was received from the broker.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Takes all notices, never waiting; true if there were any. False for good once the engine is gone, so look at
    /// the socket then.
    pub fn drain(&self) -> bool {
        let mut any = false;
        let mut byte = [0u8; 8];
        loop {
            // SAFETY: receives into a live buffer of that length.
            let got = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    byte.as_mut_ptr().cast(),
                    byte.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if got <= 0 {
                return any;
            }
            any = true;
        }
    }
}

impl AsFd for NoticeReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
