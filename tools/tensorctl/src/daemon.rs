//! Finds the daemon and asks it what runs.
//!
//! Asking needs no session: a connection that never says hello may send `stat`, so watching costs the daemon no ring and
//! the watcher does not appear among what it watches.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tensord_shm::address;
use tensord_shm::control::{RESEND_AFTER, Reply, Request};
use tensord_shm::control_socket::ControlSocket;
use tensord_shm::error::Code;

use crate::stat::Stat;

/// How long a daemon may take to answer: it gives its engines a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// No answer is longer: 65,536 sessions of less than a KiB each.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Nothing listens.
#[derive(Debug)]
pub struct NoDaemon {
    /// Where it would.
    pub socket: PathBuf,
    why: io::Error,
}

impl std::fmt::Display for NoDaemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = self.socket.display();
        write!(
            f,
            "no daemon listens on {socket} ({}); start one: systemctl start tensord, or tensord --socket {socket}",
            self.why
        )
    }
}

impl std::error::Error for NoDaemon {}

/// A connection to a running daemon.
pub struct Connection {
    socket: ControlSocket,
    /// The socket that was taken.
    pub path: PathBuf,
    sequence: u64,
}

/// Where to look: the named socket alone, or what the search finds, with the administration socket beside it first.
pub fn candidates(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let found = address::find_socket().unwrap_or_else(address::default_socket);
    vec![address::admin_beside(&found), found]
}

impl Connection {
    /// Connects to the first candidate that lets this user in.
    pub fn open(named: Option<&Path>) -> anyhow::Result<Connection> {
        let mut candidates = candidates(named).into_iter().peekable();
        while let Some(path) = candidates.next() {
            let error = match ControlSocket::connect(&path) {
                Ok(socket) => {
                    return Ok(Connection {
                        socket,
                        path,
                        sequence: 0,
                    });
                }
                Err(error) => error,
            };
            if candidates.peek().is_some() {
                continue;
            }
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    Err(NoDaemon { socket: path, why: error }.into())
                }
                io::ErrorKind::PermissionDenied => Err(error).context(format!(
                    "{}: this user may not connect; ask whoever runs the daemon, or use another --socket",
                    path.display()
                )),
                _ => Err(error).context(path.display().to_string()),
            };
        }
        bail!("no socket to try");
    }

    /// Asks what runs.
    pub fn stat(&mut self) -> anyhow::Result<Stat> {
        Stat::parse(&self.report(&Request::Stat)?)
    }

    /// Asks for limits and what of them is used.
    pub fn limits(&mut self) -> anyhow::Result<Value> {
        let text = self.report(&Request::Limits)?;
        serde_json::from_str(&text).context("the daemon's answer is not JSON")
    }

    fn report(&mut self, request: &Request) -> anyhow::Result<String> {
        match self.ask(request)? {
            (Reply::Stat { bytes }, mut fds) => {
                let memory = fds
                    .pop()
                    .context("the daemon answered without its counters")?;
                read(File::from(memory), bytes)
            }
            (other, _) => bail!("the daemon answered {request:?} with {other:?}"),
        }
    }

    /// Has limits, class or weight changed. Gives how many sessions that concerns, and what was done.
    pub fn change(&mut self, request: &Request) -> anyhow::Result<(u32, String)> {
        match self.ask(request)? {
            (Reply::Changed { sessions, text }, _) => Ok((sessions, text)),
            (other, _) => bail!("the daemon answered {request:?} with {other:?}"),
        }
    }

    /// Has something done.
    pub fn order(&mut self, request: &Request) -> anyhow::Result<()> {
        match self.ask(request)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => bail!("the daemon answered {request:?} with {other:?}"),
        }
    }

    /// Returns when the daemon has hung up.
    pub fn wait_for_end(&mut self) {
        while self.socket.receive(Some(RESEND_AFTER)).is_ok() {}
    }

    /// Asks something. A request without an answer is sent again, as the protocol wants it.
    fn ask(&mut self, request: &Request) -> anyhow::Result<(Reply, Vec<OwnedFd>)> {
        self.sequence += 1;
        let until = Instant::now() + ANSWER_WITHIN;
        self.socket.send(self.sequence, request)?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "the daemon on {} took the question and gave no answer within {} s; its log says why, SIGTERM ends it",
                    self.path.display(),
                    ANSWER_WITHIN.as_secs()
                );
            }
            let Some((message, fds)) = self.socket.receive(Some(left.min(RESEND_AFTER)))? else {
                self.socket.send(self.sequence, request)?;
                continue;
            };
            match message.body {
                Reply::Error(error) if error.code == Code::NotAdministrator => {
                    let admin = address::admin_beside(&self.path);
                    return Err(error).context(format!(
                        "{} is a tenants' socket; try --socket {}",
                        self.path.display(),
                        admin.display()
                    ));
                }
                Reply::Error(error) => return Err(error.into()),
                reply if message.sequence == self.sequence => return Ok((reply, fds)),
                _ => {}
            }
        }
    }
}

fn read(mut memory: File, bytes: u64) -> anyhow::Result<String> {
    if bytes > ANSWER_BYTES_MAX {
        bail!("the daemon's answer has {bytes} bytes; at most {ANSWER_BYTES_MAX} are expected");
    }
    memory.rewind()?;
    let mut text = String::new();
    memory.take(bytes).read_to_string(&mut text)?;
    Ok(text)
}
