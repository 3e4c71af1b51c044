//! A daemon to test: the real program with a socket and a configuration of its own, looked at from outside.
//!
//! The program is `$TENSORD_DAEMON`, or `tensord` beside the build of the running test.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tensord_client::{Options, Session};
use tensord_shm::control::{RESEND_AFTER, Reply, Request};
use tensord_shm::control_socket::ControlSocket;

/// How long something may take to come true before a test gives up: it decides nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A number from the environment, for counts that figures raise.
pub fn count_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

/// Where the daemon's program is.
pub fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("TENSORD_DAEMON") {
        return named.into();
    }
    let own = std::env::current_exe().expect("a running program has a path");
    let found = own
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join("tensord"))
        .find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no tensord beside {}: build it (cargo build -p tensord-daemon) or set TENSORD_DAEMON",
            own.display()
        )
    })
}

/// A running daemon; killed when dropped, its folder removed.
pub struct Daemon {
    /// Its folder.
    pub folder: PathBuf,
    /// Its first socket.
    pub socket: PathBuf,
    process: Child,
}

impl Daemon {
    /// A daemon with a configuration. The socket is `tensord.sock` in its folder, unless the configuration names sockets.
    pub fn start(name: &str, config: &str) -> Daemon {
        Daemon::start_by(name, config, &[])
    }

    /// As `start`, by a command that runs it (`unshare -Ur`).
    pub fn start_by(name: &str, config: &str, command: &[&str]) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = format!("tensord-{}-{number}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(own);
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written to");
        let config_path = folder.join("tensord.toml");
        std::fs::write(
            &config_path,
            config.replace("FOLDER", &folder.display().to_string()),
        )
        .expect("the folder was just made");
        let socket = folder.join("tensord.sock");
        let log = File::create(folder.join("log")).expect("the folder was just made");
        let program = program();
        let mut run = match command {
            [] => Command::new(&program),
            [first, rest @ ..] => {
                let mut run = Command::new(first);
                run.args(rest).arg(&program);
                run
            }
        };
        run.args(["--log", "debug", "--config"]).arg(&config_path);
        if !config.contains("[[listen]]") {
            run.arg("--socket").arg(&socket);
        }
        let process = run
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut daemon = Daemon {
            folder,
            socket,
            process,
        };
        eventually("the daemon accepts", || {
            if let Some(status) = daemon.process.try_wait().expect("a child of this process") {
                panic!("the daemon ended with {status}:\n{}", daemon.log());
            }
            ControlSocket::connect(&daemon.socket).ok()
        });
        daemon
    }

    /// Its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Process of the supervisor.
    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Process of the child in a role, if there is one.
    pub fn child(&self, role: &str) -> Option<i32> {
        let role = format!("--role\0{role}\0");
        children(self.pid())
            .into_iter()
            .find(|(_, line)| line.contains(&role))
            .map(|(pid, _)| pid)
    }

    /// Sends SIGKILL to the child in a role; gives its process.
    pub fn kill(&self, role: &str) -> i32 {
        self.signal(role, Signal::SIGKILL)
    }

    /// Sends a signal to the child in a role; gives its process.
    pub fn signal(&self, role: &str, signal: Signal) -> i32 {
        let pid = eventually("there is such a child", || self.child(role));
        kill(Pid::from_raw(pid), signal).expect("it is a child of the daemon");
        pid
    }

    /// A session.
    pub fn session(&self) -> Session {
        Session::connect(self.options()).expect("the daemon serves")
    }

    /// Options that lead to this daemon.
    pub fn options(&self) -> Options {
        Options {
            socket: Some(self.socket.clone()),
            autostart: false,
            ..Options::default()
        }
    }

    /// What the administrator sees.
    pub fn stat(&self) -> Value {
        stat_of(&self.admin_socket())
    }

    /// The limits of all and what of them is used, as the administrator sees them.
    pub fn limits(&self) -> Value {
        report_of(&self.admin_socket(), &Request::Limits)
    }

    /// What the administrator is answered.
    pub fn administrate(&self, request: &Request) -> Reply {
        answer_of(&self.admin_socket(), request).0
    }

    /// The administration socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.join("tensord-admin.sock")
    }

    /// Sends SIGKILL to the supervisor, and returns when all of the daemon is gone. Its folder stays.
    pub fn kill_all(&mut self) {
        let all = self.pids();
        self.process.kill().expect("it is a child of this process");
        self.process.wait().expect("it is a child of this process");
        eventually("its children end with it", || {
            let gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
            all.iter().all(gone).then_some(())
        });
    }

    /// A counter, over all engines.
    pub fn counter(&self, name: &str) -> u64 {
        counter_of(&self.stat(), name)
    }

    /// Number of sessions.
    pub fn session_count(&self) -> usize {
        self.stat()["sessions"].as_array().map_or(0, Vec::len)
    }

    /// Open file descriptors of each of its processes.
    pub fn fds(&self) -> BTreeMap<i32, usize> {
        let count = |pid: &i32| {
            let list = std::fs::read_dir(format!("/proc/{pid}/fd"));
            (*pid, list.map_or(0, Iterator::count))
        };
        self.pids().iter().map(count).collect()
    }

    /// Mappings of shared memory of each of its processes.
    pub fn shared_mappings(&self) -> BTreeMap<i32, usize> {
        let count = |pid: &i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            let shared = text.lines().filter(|line| line.contains("/memfd:"));
            (*pid, shared.count())
        };
        self.pids().iter().map(count).collect()
    }

    fn pids(&self) -> Vec<i32> {
        let mut pids = vec![self.pid()];
        pids.extend(children(self.pid()).into_iter().map(|(pid, _)| pid));
        pids
    }

    /// Ends it as an operator would: SIGTERM, and status 0.
    pub fn stop(mut self) {
        let status = self.terminate();
        assert_eq!(
            status.code(),
            Some(0),
            "SIGTERM drains and ends with 0:\n{}",
            self.log()
        );
    }

    fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("it is a child of this process");
        let process = &mut self.process;
        eventually("the daemon ends", || {
            process.try_wait().expect("a child of this process")
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6_000);
            eprintln!("--- log of the daemon\n{}", log.get(from..).unwrap_or(&log));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a socket's peers are told of the daemon.
pub fn stat_of(path: &Path) -> Value {
    report_of(path, &Request::Stat)
}

fn report_of(path: &Path, request: &Request) -> Value {
    let (reply, mut fds) = answer_of(path, request);
    let Reply::Stat { bytes } = reply else {
        panic!("{request:?} was answered by {reply:?}")
    };
    let file = File::from(fds.pop().expect("the answer's memory"));
    let mut text = vec![0; bytes as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut text, 0).expect("all of it");
    serde_json::from_slice(&text).expect("valid JSON")
}

/// Asks a socket, without a session.
pub fn answer_of(path: &Path, request: &Request) -> (Reply, Vec<OwnedFd>) {
    let accepts = || ControlSocket::connect(path).ok();
    let socket = eventually("the socket accepts", accepts);
    loop {
        socket.send(1, request).expect("the daemon takes requests");
        let answer = socket
            .receive(Some(RESEND_AFTER))
            .expect("the daemon answers");
        if let Some((message, fds)) = answer {
            return (message.body, fds);
        }
    }
}

/// A counter of a daemon's figures, over all engines.
pub fn counter_of(stat: &Value, name: &str) -> u64 {
    let engines = stat["engines"].as_array().into_iter().flatten();
    engines
        .map(|engine| {
            let value = engine["counters"][name].as_u64();
            value.unwrap_or_else(|| panic!("no counter {name} in {engine}"))
        })
        .sum()
}

/// Children of a process with their command lines.
fn children(parent: i32) -> Vec<(i32, String)> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let list = std::fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(|pid: i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            (pid, line.unwrap_or_default())
        })
        .collect()
}
