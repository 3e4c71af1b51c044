//! Where the daemon's socket is, by default: one search, shared by clients and daemon.
//!
//! `$TENSORD_SOCKET`, else `$XDG_RUNTIME_DIR/tensord.sock`, else `/run/tensord/tensord.sock`, else
//! `/tmp/tensord-UID/tensord.sock`. Everybody can make folders in `/tmp`, so that last folder counts only when it is a
//! folder, not a link, of this uid, closed to others.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Uid, mkdir};

/// Environment variable that names the socket and ends the search.
pub const SOCKET_VARIABLE: &str = "TENSORD_SOCKET";
/// File name of a tenants' socket.
pub const SOCKET_NAME: &str = "tensord.sock";
/// File name of the administration socket, in the folder of the first tenants' socket.
pub const ADMIN_SOCKET_NAME: &str = "tensord-admin.sock";
/// Folder of the system's daemon.
pub const SYSTEM_FOLDER: &str = "/run/tensord";

/// Why a private folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Not a folder, or a symbolic link.
    #[error(
        "{0} is not a folder of its own (a file, or a symbolic link); remove it, or set TENSORD_SOCKET"
    )]
    NotAFolder(PathBuf),
    /// Somebody else's.
    #[error(
        "{path} belongs to uid {owner}, not to uid {wanted}; set TENSORD_SOCKET to a path in a folder of yours"
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Who has it.
        owner: u32,
        /// Who should.
        wanted: u32,
    },
    /// Open to others.
    #[error("{path} has mode {mode:04o}: others may write to it; run chmod 700 {path}")]
    Mode {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something else.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The administration socket that stands beside a tenants' socket.
pub fn admin_beside(socket: &Path) -> PathBuf {
    socket.with_file_name(ADMIN_SOCKET_NAME)
}

/// `/tmp/tensord-UID` of this process's uid.
pub fn temporary_folder() -> PathBuf {
    PathBuf::from(format!("/tmp/tensord-{}", Uid::effective()))
}

/// The socket that a client should connect to: the named one, or the first of the default places where a socket is.
/// `None` when no daemon has one there.
pub fn find_socket() -> Option<PathBuf> {
    if let Some(named) = named_socket() {
        return Some(named);
    }
    let runtime = runtime_folder().map(|folder| folder.join(SOCKET_NAME));
    let system = Path::new(SYSTEM_FOLDER).join(SOCKET_NAME);
    if let Some(found) = runtime
        .into_iter()
        .chain([system])
        .find(|path| is_socket(path))
    {
        return Some(found);
    }
    let folder = temporary_folder();
    let socket = folder.join(SOCKET_NAME);
    (check_private(&folder).is_ok() && is_socket(&socket)).then_some(socket)
}

/// The socket that a daemon of this uid should create when nothing names one: the first place that it may write to.
/// The system's folder is root's.
pub fn default_socket() -> PathBuf {
    if let Some(named) = named_socket() {
        return named;
    }
    if let Some(folder) = runtime_folder() {
        return folder.join(SOCKET_NAME);
    }
    if Uid::effective().is_root() {
        return Path::new(SYSTEM_FOLDER).join(SOCKET_NAME);
    }
    temporary_folder().join(SOCKET_NAME)
}

/// Makes sure that the folder of the temporary place exists, is this uid's and is closed to others.
pub fn make_private(folder: &Path) -> Result<(), FolderError> {
    match mkdir(folder, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => check_private(folder),
        Err(errno) => Err(FolderError::Io {
            path: folder.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Checks a folder without following a link at its end: it is opened first, and what was opened is looked at.
pub fn check_private(folder: &Path) -> Result<(), FolderError> {
    let opened = open(
        folder,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let status = match opened.and_then(fstat) {
        Ok(status) => status,
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return Err(FolderError::NotAFolder(folder.to_owned()));
        }
        Err(errno) => {
            return Err(FolderError::Io {
                path: folder.to_owned(),
                source: errno.into(),
            });
        }
    };
    let wanted = Uid::effective().as_raw();
    if status.st_uid != wanted {
        return Err(FolderError::Owner {
            path: folder.to_owned(),
            owner: status.st_uid,
            wanted,
        });
    }
    let mode = status.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FolderError::Mode {
            path: folder.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn named_socket() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// `$XDG_RUNTIME_DIR`, when it is a folder of this uid; a stale or foreign value is passed over.
fn runtime_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)?;
    let metadata = std::fs::metadata(&folder).ok()?;
    (metadata.is_dir() && metadata.uid() == Uid::effective().as_raw()).then_some(folder)
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
