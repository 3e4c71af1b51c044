//! The broker and engine processes: started by exec of this very program, restarted when they die.
//!
//! A child gets one file descriptor, its link, as standard input; everything else comes over that. One that dies at
//! once, again and again, is started after a growing pause.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::link::Link;
use crate::log::LOG_VARIABLE;
use crate::sandbox::Role;

/// A process that lived shorter than this died at once.
const AT_ONCE: Duration = Duration::from_millis(150);
/// The first pause, after the second death at once.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A child that runs.
#[derive(Debug)]
pub(super) struct Running {
    process: Child,
    pub(super) link: Link,
    started: Instant,
}

impl Running {
    /// Starts a process in a role.
    pub(super) fn start(role: Role, log: Option<&str>) -> io::Result<Running> {
        let (own, child) = Link::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(format!("tensord: {}", role.name()))
            .args(["--role", role.name()])
            .env_clear()
            .stdin(Stdio::from(child))
            .stdout(Stdio::null())
            .current_dir("/")
            // A Ctrl-C in the terminal is for the supervisor, which drains. Children inherit its blocked signals too, so a
            // SIGTERM to the whole service does not end them before it has.
            .process_group(0);
        for name in ["RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(log) = log {
            command.env(LOG_VARIABLE, log);
        }
        let process = command.spawn()?;
        Ok(Running {
            process,
            link: Link::new(own)?,
            started: Instant::now(),
        })
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap_or(0)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Ends it for good.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself just now; then there is only the status to take.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn lived(&self) -> Duration {
        self.started.elapsed()
    }
}

/// How often a process died at once, and when it may be started again.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    at_once: u32,
    due: Option<Instant>,
}

impl Restarts {
    /// It died; the pause before the next start.
    pub(super) fn died(&mut self, running: &Running) -> Duration {
        self.at_once = if running.lived() < AT_ONCE {
            self.at_once + 1
        } else {
            0
        };
        self.wait()
    }

    /// It could not even be started.
    pub(super) fn failed(&mut self) -> Duration {
        self.at_once += 1;
        self.wait()
    }

    fn wait(&mut self) -> Duration {
        let pause = pause_after(self.at_once);
        self.due = Some(Instant::now() + pause);
        pause
    }

    /// When it may be started, if it waits for that.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time to start it; then it is not due again.
    pub(super) fn take_due(&mut self) -> bool {
        let is_due = self.due.is_some_and(|due| due <= Instant::now());
        if is_due {
            self.due = None;
        }
        is_due
    }
}

/// One death may be bad luck; from the second the pause doubles.
fn pause_after(at_once: u32) -> Duration {
    match at_once {
        0 | 1 => Duration::ZERO,
        more => PAUSE_FIRST
            .saturating_mul(1 << (more - 2).min(16))
            .min(PAUSE_MAX),
    }
}

/// For people: how a process ended.
pub(super) fn cause_of(role: Role, status: ExitStatus) -> String {
    let name = role.name();
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let signal_name = nix::sys::signal::Signal::try_from(signal)
                .map_or("unknown", |signal| signal.as_str());
            format!("the {name} was ended by signal {signal} ({signal_name})")
        }
        (None, Some(code)) => format!("the {name} ended with status {code}"),
        (None, None) => format!("the {name} ended"),
    }
}

/// Did a process end by itself, and not because somebody else wanted it to?
pub(super) fn is_own_fault(status: ExitStatus) -> bool {
    match status.signal() {
        Some(signal) => {
            ![libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP].contains(&signal)
        }
        None => !status.success(),
    }
}

/// Two ends of a link between two children.
pub(super) fn link_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Link::pair()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_from_the_second_death_at_once_and_is_bounded() {
        let pauses: Vec<u128> = [0, 1, 2, 3, 4, 8, 9, 1_000]
            .map(|n| pause_after(n).as_millis())
            .to_vec();
        assert_eq!(pauses, [0, 0, 50, 100, 200, 3_200, 5_000, 5_000]);
    }
}
