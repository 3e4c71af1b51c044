//! Listening sockets: taken from the service manager or made here, and removed again.
//!
//! A path where a live daemon listens is refused; a dead one's socket is replaced. The permission bits are there from
//! the first moment, by umask, so that nobody slips in between.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, listen,
    socket,
};
use nix::sys::stat::{Mode, umask};
use tensord_shm::address;

use crate::config::{Config, Listen, TenantRule};

/// A socket on which clients connect.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    pub(super) path: PathBuf,
    pub(super) rule: TenantRule,
    pub(super) admin: bool,
    /// Whether the file is this daemon's to remove.
    ours: bool,
}

impl Listener {
    pub(super) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next connection; `WouldBlock` when there is none. A std listener accepts whatever type its socket has.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.ours {
            // Whoever replaced the file meanwhile loses it: two daemons on one path is an error of its own.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Everything that the configuration names, with what the service manager passed in its place.
pub(super) fn open_all(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut passed = passed_listeners()?;
    let mut listeners = Vec::new();
    for entry in config.sockets() {
        let taken = passed
            .iter()
            .position(|(path, admin, _)| !admin && *path == entry.path);
        match taken {
            Some(index) => {
                let (path, _, socket) = passed.remove(index);
                listeners.push(Listener {
                    socket,
                    path,
                    rule: entry.tenant,
                    admin: false,
                    ours: false,
                });
            }
            // A unit that passes sockets at other paths than the configuration names means those.
            None if !passed.is_empty() && config.listen.is_empty() => {}
            None => listeners.push(open(&entry, false)?),
        }
    }
    for (path, admin, socket) in passed {
        tracing::info!(path = %path.display(), admin, "listening socket from the service manager");
        listeners.push(Listener {
            socket,
            path,
            rule: TenantRule::Uid,
            admin,
            ours: false,
        });
    }
    if !listeners.iter().any(|listener| listener.admin) {
        let path = match (&config.admin_path, listeners.first()) {
            (None, Some(first)) => address::admin_beside(&first.path),
            _ => config.admin_socket(),
        };
        listeners.push(open(
            &Listen {
                path,
                mode: 0o600,
                tenant: TenantRule::Uid,
            },
            true,
        )?);
    }
    Ok(listeners)
}

/// Sockets that the service manager passed, with their paths. One named `admin`, or with the administration socket's
/// file name, is that.
fn passed_listeners() -> anyhow::Result<Vec<(PathBuf, bool, UnixListener)>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let (family, kind) = (nix::libc::AF_UNIX, nix::libc::SOCK_SEQPACKET);
        let socket: OwnedFd = passed
            .take_custom(index, family, kind, "a SOCK_SEQPACKET Unix socket")
            .with_context(|| {
                format!("socket {index} of LISTEN_FDS; the unit needs ListenSequentialPacket=")
            })?
            .with_context(|| format!("socket {index} of LISTEN_FDS is missing"))?;
        nix::fcntl::fcntl(
            &socket,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let path = address
            .path()
            .map(Path::to_owned)
            .with_context(|| format!("socket {index} of LISTEN_FDS has no path"))?;
        let admin = names.get(index) == Some(&"admin")
            || path.file_name() == Some(address::ADMIN_SOCKET_NAME.as_ref());
        let socket = UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        listeners.push((path, admin, socket));
    }
    Ok(listeners)
}

/// Makes one socket.
pub(super) fn open(entry: &Listen, admin: bool) -> anyhow::Result<Listener> {
    let path = &entry.path;
    prepare_folder(path)?;
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if answers(path) {
            anyhow::bail!(
                "a daemon listens on {} already; stop it, or choose another path with --socket",
                path.display()
            );
        }
        std::fs::remove_file(path)
            .with_context(|| format!("removing the stale socket {}", path.display()))?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let address = UnixAddr::new(path).with_context(|| format!("socket path {}", path.display()))?;
    let before = umask(Mode::from_bits_truncate(0o777 & !entry.mode));
    let bound = bind(socket.as_raw_fd(), &address);
    umask(before);
    bound.with_context(|| format!("binding {}", path.display()))?;
    // The kernel cuts this to net.core.somaxconn.
    listen(&socket.as_fd(), Backlog::MAXALLOWABLE)?;
    tracing::info!(path = %path.display(), admin, "listening");
    Ok(Listener {
        socket: UnixListener::from(socket),
        path: path.clone(),
        rule: entry.tenant.clone(),
        admin,
        ours: true,
    })
}

/// Makes the folder where it is one of the default places; all others are the operator's.
fn prepare_folder(path: &Path) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    if folder == address::temporary_folder() {
        address::make_private(folder)?;
    } else if folder == Path::new(address::SYSTEM_FOLDER) && !folder.exists() {
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    Ok(())
}

fn answers(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (Ok(socket), Ok(address)) = (
        socket(AddressFamily::Unix, SockType::SeqPacket, flags, None),
        UnixAddr::new(path),
    ) else {
        return false;
    };
    // A full backlog is a live daemon too.
    !matches!(
        connect(socket.as_raw_fd(), &address),
        Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT)
    )
}
