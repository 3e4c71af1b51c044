//! Finds a daemon, or starts a private one for this uid.
//!
//! A private daemon ends by itself 60 s after its last session. Of several processes that find none at the same time,
//! the one that has the lock file starts it and the others wait for the lock.

use std::env;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use tensord_shm::address;
use tensord_shm::control_socket::ControlSocket;
use tensord_shm::error::Code;

use crate::error::Error;
use crate::session::Options;

/// Environment variable that names the daemon's executable.
pub const DAEMON_VARIABLE: &str = "TENSORD_DAEMON";
/// Environment variable that forbids, when 0, to start a private daemon.
pub const AUTOSTART_VARIABLE: &str = "TENSORD_AUTOSTART";
const DAEMON_NAME: &str = "tensord";
/// Seconds without a session after which a private daemon ends.
const EXIT_IDLE_S: u32 = 60;
/// How long a private daemon may take to accept.
const START_WITHIN: Duration = Duration::from_secs(20);

/// The daemon that this process has started, to be reaped when another is.
static STARTED: Mutex<Option<Child>> = Mutex::new(None);

/// A connected socket and its path.
pub(crate) fn connect(options: &Options) -> Result<(ControlSocket, PathBuf), Error> {
    if let Some(path) = &options.socket {
        let socket = ControlSocket::connect(path).map_err(|error| refused(path, &error))?;
        return Ok((socket, path.clone()));
    }
    let autostart = options.autostart && env::var_os(AUTOSTART_VARIABLE).is_none_or(|v| v != "0");
    let mut path = address::find_socket();
    if let Some(found) = &path {
        match ControlSocket::connect(found) {
            Ok(socket) => return Ok((socket, found.clone())),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(refused(found, &error)),
        }
    }
    let path = path
        .take()
        .filter(|_| env::var_os(address::SOCKET_VARIABLE).is_some());
    let path = path.unwrap_or_else(address::default_socket);
    if !autostart {
        return Err(none_there(&path));
    }
    start(&path)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn refused(path: &Path, error: &io::Error) -> Error {
    let path_text = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::new(
            Code::DaemonLost,
            format!(
                "no daemon listens on {path_text} ({error}); start one: tensord --socket {path_text}"
            ),
        ),
        io::ErrorKind::PermissionDenied => Error::new(
            Code::Denied,
            format!(
                "{path_text}: permission denied; ask whoever runs the daemon for access to its socket, or set TENSORD_SOCKET to another"
            ),
        ),
        _ => Error::new(Code::DaemonLost, format!("{path_text}: {error}")),
    }
}

fn none_there(path: &Path) -> Error {
    Error::new(
        Code::DaemonLost,
        format!(
            "no daemon is running and TENSORD_AUTOSTART=0 (or autostart=False) forbids to start one; start it: tensord --socket {}",
            path.display()
        ),
    )
}

/// Starts a private daemon, or waits for another process that is about to.
fn start(path: &Path) -> Result<(ControlSocket, PathBuf), Error> {
    let fault = |what: String| Error::new(Code::DaemonLost, what);
    let folder = path.parent().unwrap_or(Path::new("/"));
    make_folder(folder).map_err(|error| fault(format!("{}: {error}", folder.display())))?;
    let lock_path = path.with_extension("lock");
    let lock_file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(|error| fault(format!("{}: {error}", lock_path.display())))?;
    let _lock = Flock::lock(lock_file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| fault(format!("{}: {errno}", lock_path.display())))?;
    match ControlSocket::connect(path) {
        Ok(socket) => return Ok((socket, path.to_owned())),
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(refused(path, &error)),
    }
    let program = find_daemon()?;
    let log_path = path.with_extension("log");
    let log = File::create(&log_path).ok();
    let mut child = spawn(&program, path, log)
        .map_err(|error| fault(format!("starting {}: {error}", program.display())))?;
    let until = Instant::now() + START_WITHIN;
    let mut pause = Duration::from_millis(1);
    loop {
        match ControlSocket::connect(path) {
            Ok(socket) => {
                let mut started = STARTED.lock().unwrap_or_else(|p| p.into_inner());
                if let Some(mut earlier) = started.replace(child) {
                    // It has ended or belongs to another socket; what matters is that no zombie stays.
                    let _ = earlier.try_wait();
                }
                return Ok((socket, path.to_owned()));
            }
            Err(error) if !is_absent(&error) => return Err(refused(path, &error)),
            Err(_) => {}
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > until {
            let how = match ended {
                Some(status) => format!("ended at once with {status}"),
                None => format!("did not accept within {} s", START_WITHIN.as_secs()),
            };
            return Err(fault(format!(
                "the private daemon {} on {} {how}; its log is {}",
                program.display(),
                path.display(),
                log_path.display()
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if folder == address::temporary_folder() {
        return address::make_private(folder).map_err(io::Error::other);
    }
    std::fs::create_dir_all(folder)
}

fn spawn(program: &Path, socket: &Path, log: Option<File>) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg("--socket")
        .arg(socket)
        .arg("--exit-idle-s")
        .arg(EXIT_IDLE_S.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.map_or_else(Stdio::null, Stdio::from))
        // Not this terminal's: an interrupt there must not end it for others.
        .process_group(0);
    command.spawn()
}

/// The daemon's executable: as named, next to this library, next to this program, or on the path.
fn find_daemon() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os(DAEMON_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(named));
    }
    let beside = |file: PathBuf| Some(file.parent()?.join(DAEMON_NAME));
    let program = env::current_exe().ok();
    // An example or a test lies in a folder below its build's.
    let above = program
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_owned);
    let on_path = env::var_os("PATH").unwrap_or_default();
    own_library()
        .and_then(beside)
        .into_iter()
        .chain(program.and_then(beside))
        .chain(above.and_then(beside))
        .chain(env::split_paths(&on_path).map(|folder| folder.join(DAEMON_NAME)))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| {
            Error::new(
                Code::DaemonLost,
                "no daemon is running, and the program tensord is neither beside this library, nor beside this program, nor on PATH: install it, or \
                 set TENSORD_DAEMON to it, or TENSORD_SOCKET to a running daemon's socket",
            )
        })
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// The file that this code was loaded from, by the list of mappings: the extension module of a Python wheel, whose
/// folder has the daemon.
fn own_library() -> Option<PathBuf> {
    let address = own_library as *const () as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        if !(start..end).contains(&address) {
            return None;
        }
        rest.find('/').map(|at| PathBuf::from(&rest[at..]))
    })
}
