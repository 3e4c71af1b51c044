//! Sends and receives control messages, with file descriptors, over a `SOCK_SEQPACKET` Unix socket.
//!
//! Both sides use it: the client library and the broker. Sending never raises SIGPIPE and never blocks longer than
//! the socket's own mode; receiving installs file descriptors only where the caller says how many it takes, so
//! that descriptors which come uninvited are closed by the kernel before this process ever has them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    connect, recvmsg, sendmsg, socket,
};

use crate::control::{FDS_MAX, MESSAGE_BYTES, Malformed, Message, Reply, Request};

/// File descriptors that one internal message between the daemon's processes may carry. The kernel's own
/// maximum is 253.
pub const LINK_FDS_MAX: usize = 8;

/// One datagram as it came in.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes that fit the buffer.
    pub length: usize,
    /// Whether it was longer than the buffer.
    pub truncated: bool,
    /// Whether it carried file descriptors that were not taken; the kernel closed them.
    pub fds_refused: bool,
    /// The file descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Sends one datagram with its file descriptors. `WouldBlock` means that nothing was sent.
pub fn send_datagram(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_EOR,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            // Too many descriptors in flight: the receiver has to take some first, as with a full buffer.
            Err(Errno::ETOOMANYREFS) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one datagram. With `take_fds` false no descriptor is ever installed in this process. Length 0
/// is the peer's hang-up, or an empty datagram, which no message of ours is.
pub fn receive_datagram(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    take_fds: bool,
) -> io::Result<Datagram> {
    let mut space = cmsg_space!([i32; LINK_FDS_MAX]);
    loop {
        let control = take_fds.then_some(&mut space[..]);
        let mut slices = [IoSliceMut::new(buffer)];
        let received = match recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut slices,
            control,
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(received) => received,
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let mut fds = Vec::new();
        if take_fds {
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = message {
                    // SAFETY: the kernel has just installed these descriptors for this process, nobody else knows
                    // their numbers, and each is wrapped exactly once.
                    fds.extend(
                        raw.into_iter()
                            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                    );
                }
            }
        }
        return Ok(Datagram {
            length: received.bytes,
            truncated: received.flags.contains(MsgFlags::MSG_TRUNC),
            fds_refused: received.flags.contains(MsgFlags::MSG_CTRUNC),
            fds,
        });
    }
}

/// Why talking to the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlSocketError {
    /// The socket could not be reached or broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The daemon closed the connection.
    #[error("the daemon closed the connection")]
    Closed,
    /// The daemon sent something that is no message of this protocol.
    #[error("the daemon sent a malformed message: {0}")]
    Malformed(#[from] Malformed),
}

/// A message from the daemon with the file descriptors that came with it.
pub type Received = (Message<Reply>, Vec<OwnedFd>);

/// The client's end of the control socket.
#[derive(Debug)]
pub struct ControlSocket {
    socket: OwnedFd,
}

impl ControlSocket {
    /// Connects to a listening daemon.
    pub fn connect(path: &Path) -> io::Result<ControlSocket> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(ControlSocket { socket })
    }

    /// Sends one request.
    pub fn send(&self, sequence: u64, request: &Request) -> io::Result<()> {
        let message = Message {
            sequence,
            body: request.clone(),
        };
        send_datagram(self.socket.as_fd(), &message.encode(), &[])
    }

    /// The next message with its file descriptors, or `None` when none came within `timeout`
    /// (`None` waits for ever; zero only looks).
    pub fn receive(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<Received>, ControlSocketError> {
        if !self.readable(timeout)? {
            return Ok(None);
        }
        let mut buffer = [0; MESSAGE_BYTES];
        let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        let mut received = receive_datagram(self.socket.as_fd(), &mut buffer, true);
        if received.as_ref().is_err_and(reset) {
            // A daemon that hung up with something of ours unread: the kernel says so once, before it gives out the last
            // words, which are why it hung up.
            received = receive_datagram(self.socket.as_fd(), &mut buffer, true);
        }
        let datagram = match received {
            Ok(datagram) => datagram,
            Err(error) if reset(&error) => return Err(ControlSocketError::Closed),
            Err(error) => return Err(error.into()),
        };
        if datagram.length == 0 {
            return Err(ControlSocketError::Closed);
        }
        debug_assert!(datagram.fds.len() <= FDS_MAX);
        Ok(Some((
            Message::<Reply>::decode(&buffer[..datagram.length])?,
            datagram.fds,
        )))
    }

    /// Whether a message, or the daemon's hang-up, waits to be received.
    pub fn readable(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = match timeout {
            // Rounded up: a wait of 100 us must not become a busy loop.
            Some(timeout) => {
                PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000).min(60_000))
                    .expect("a minute in milliseconds fits")
            }
            None => PollTimeout::NONE,
        };
        loop {
            match poll(
                &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(count) => return Ok(count > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
