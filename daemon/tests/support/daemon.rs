//! Starts this very test program as a daemon, and looks at it from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use super::{Folder, eventually};

/// A running daemon; killed when dropped.
pub struct Daemon {
    pub folder: Folder,
    pub socket: PathBuf,
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// A daemon with a configuration; the socket is added to it.
    pub fn start(name: &str, config: &str) -> Daemon {
        let folder = Folder::new(name);
        let config_path = folder.0.join("tensord.toml");
        std::fs::write(&config_path, config).unwrap();
        let socket = folder.0.join("tensord.sock");
        let log = folder.0.join("log");
        let process = Command::new("/proc/self/exe")
            .args(["--log", "debug", "--config"])
            .arg(&config_path)
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let daemon = Daemon {
            folder,
            socket,
            process,
            log,
        };
        eventually("the daemon says that it serves", || {
            daemon.log().contains("tensord serves").then_some(())
        });
        daemon
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.0.join("tensord.toml")
    }

    pub fn admin(&self) -> PathBuf {
        self.folder.0.join("tensord-admin.sock")
    }

    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process of the child in that role, when there is one.
    pub fn child(&self, role: &str) -> Option<i32> {
        children(self.pid())
            .into_iter()
            .find(|(_, line)| line.contains(&format!("--role\0{role}\0")))
            .map(|(pid, _)| pid)
    }

    pub fn broker(&self) -> i32 {
        eventually("there is a broker", || self.child("broker"))
    }

    pub fn engine(&self) -> i32 {
        eventually("there is an engine", || self.child("engine"))
    }

    pub fn signal(&self, pid: i32, signal: Signal) {
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Kills the process in a role and waits until another has its place.
    pub fn kill_and_await(&self, role: &str) {
        let pid = eventually("there is such a child", || self.child(role));
        self.signal(pid, Signal::SIGKILL);
        eventually("another took its place", || {
            self.child(role).filter(|next| *next != pid)
        });
    }

    pub fn wait(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.process.try_wait().unwrap())
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    pub fn stat(&self) -> serde_json::Value {
        Client::bare(&self.admin()).stat()
    }

    pub fn session_count(&self) -> usize {
        self.stat()["sessions"].as_array().unwrap().len()
    }

    pub fn await_session_count(&self, count: usize) {
        eventually("as many sessions as are left", || {
            (self.session_count() == count).then_some(())
        });
    }

    /// Open file descriptors of each of the processes.
    pub fn fds(&self) -> BTreeMap<i32, usize> {
        self.pids()
            .into_iter()
            .map(|pid| {
                (
                    pid,
                    std::fs::read_dir(format!("/proc/{pid}/fd"))
                        .map(Iterator::count)
                        .unwrap_or(0),
                )
            })
            .collect()
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.pid()];
        pids.extend(children(self.pid()).into_iter().map(|(pid, _)| pid));
        pids
    }

    /// The same, once messages between the processes that carry descriptors have arrived: when many looks in a row agree.
    pub fn settled_fds(&self) -> BTreeMap<i32, usize> {
        let (mut last, mut equal) = (self.fds(), 0);
        eventually("the number of file descriptors settles", || {
            let now = self.fds();
            equal = if now == last { equal + 1 } else { 0 };
            last = now;
            (equal == 50).then_some(())
        });
        last
    }

    /// Lines of `/proc/PID/maps` of each of the processes.
    pub fn maps(&self) -> BTreeMap<i32, usize> {
        let count = |pid: i32| {
            std::fs::read_to_string(format!("/proc/{pid}/maps"))
                .map(|t| t.lines().count())
                .unwrap_or(0)
        };
        children(self.pid())
            .into_iter()
            .map(|(pid, _)| (pid, count(pid)))
            .collect()
    }

    /// Resident bytes of all processes together, shared ones counted by their share.
    pub fn resident_bytes(&self) -> u64 {
        self.pids()
            .into_iter()
            .map(|pid| field_kib(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:") * 1024)
            .sum()
    }

    /// Processor time used by all processes together, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        self.pids()
            .into_iter()
            .map(|pid| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let fields: Vec<&str> = text
                    .rsplit(')')
                    .next()
                    .unwrap_or("")
                    .split_whitespace()
                    .collect();
                [11, 12]
                    .iter()
                    .map(|&i| {
                        fields
                            .get(i)
                            .and_then(|f| f.parse::<u64>().ok())
                            .unwrap_or(0)
                    })
                    .sum::<u64>()
            })
            .sum()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log());
        }
    }
}

/// A figure in KiB of a file such as `/proc/PID/status`.
pub fn field_kib(path: &Path, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or("");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Children of a process with their command lines.
fn children(parent: i32) -> Vec<(i32, String)> {
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(|pid| {
            (
                pid,
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
            )
        })
        .collect()
}
