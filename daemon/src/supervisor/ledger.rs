//! Device time that uids in tenants have used, over all sessions, engines and daemons: totals that only grow.
//!
//! Engines report what they charged, here it is added up and written to a file, which the next daemon begins with. A thread
//! of its own writes, so that a slow disk delays nobody: to a new file that is synced and renamed over the old one, so that
//! what is read is always what was once written. A file that is not is set aside, and never an error.
//!
//! What a daemon that is killed loses is what engines had not reported ([`BILL_EVERY_MS`](crate::limits::BILL_EVERY_MS)) and what
//! was not written ([`SAVE_EVERY`]).

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tensord_shm::address;

use crate::config::Config;
use crate::limits::BILLED_MAX;

/// The totals' file.
const FILE: &str = "device-time.json";
/// What is written before it takes the file's place.
const FILE_NEW: &str = "device-time.json.new";
/// Held by the daemon whose totals these are.
const LOCK: &str = "lock";
/// How often totals are written, at most.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How soon they are written after something changed, if nothing was written for a while.
const SAVE_AFTER: Duration = Duration::from_millis(100);
/// Where device time is booked once there are too many accounts.
const OTHERS: (&str, u32) = ("others", u32::MAX);

/// Nanoseconds by tenant and uid.
type Totals = BTreeMap<(String, u32), u64>;

/// The totals.
pub(super) struct Ledger {
    totals: Totals,
    due: Option<Instant>,
    saved: Option<Instant>,
    writer: Option<Writer>,
}

struct Writer {
    texts: Sender<String>,
    thread: JoinHandle<()>,
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// The sum of all accounts, by which a damaged file is known.
    sum_ns: u64,
    accounts: Vec<Account>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    tenant: String,
    uid: u32,
    device_ns: u64,
}

/// The folder for a daemon's totals, made where it is missing. A daemon on sockets of its own has none unless its
/// configuration or its service manager names one: two daemons must not share a folder.
pub(super) fn folder(config: &Config) -> Option<PathBuf> {
    let own = || (config.first_path() == address::default_socket()).then(default_folder)?;
    let folder = config
        .state_dir
        .clone()
        .or_else(state_directory)
        .or_else(own);
    let Some(folder) = folder else {
        tracing::debug!("totals of device time end with this daemon: no state_dir is configured");
        return None;
    };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder);
    match made {
        Ok(()) => Some(folder),
        Err(error) => {
            let folder = folder.display();
            tracing::warn!(
                "totals of device time end with this daemon: state_dir {folder}: {error}"
            );
            None
        }
    }
}

/// What systemd made for the service; of several folders the first.
fn state_directory() -> Option<PathBuf> {
    let folders = std::env::var("STATE_DIRECTORY").ok()?;
    let first = folders.split(':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(first))
}

fn default_folder() -> Option<PathBuf> {
    if nix::unistd::Uid::effective().is_root() {
        return Some(PathBuf::from("/var/lib/tensord"));
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|state| state.join("tensord"))
}

impl Ledger {
    /// The totals of a folder; without one they end with the daemon.
    pub(super) fn open(folder: Option<PathBuf>) -> Ledger {
        let mut ledger = Ledger {
            totals: BTreeMap::new(),
            due: None,
            saved: None,
            writer: None,
        };
        let Some(folder) = folder else {
            return ledger;
        };
        match Ledger::take_over(&folder) {
            Ok((totals, writer)) => {
                tracing::debug!(
                    accounts = totals.len(),
                    "totals of device time are kept in {}",
                    folder.display()
                );
                ledger.totals = totals;
                ledger.writer = Some(writer);
            }
            Err(error) => tracing::warn!(
                "totals of device time end with this daemon: {}: {error}",
                folder.display()
            ),
        }
        ledger
    }

    fn take_over(folder: &Path) -> io::Result<(Totals, Writer)> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::Error::other(
                "another daemon keeps its totals there; give this one a state_dir of its own",
            ),
            std::fs::TryLockError::Error(error) => error,
        })?;
        let totals = load(folder)?;
        let (texts, work) = channel();
        let folder = folder.to_owned();
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || write_all(&folder, &work))?;
        let writer = Writer {
            texts,
            thread,
            _lock: lock,
        };
        Ok((totals, writer))
    }

    /// Adds device time.
    pub(super) fn add(&mut self, tenant: &str, uid: u32, ns: u64) {
        let mut key = (tenant.to_owned(), uid);
        if self.totals.len() >= BILLED_MAX && !self.totals.contains_key(&key) {
            key = (OTHERS.0.to_owned(), OTHERS.1);
        }
        let total = self.totals.entry(key).or_default();
        *total = total.saturating_add(ns);
        if self.writer.is_some() && self.due.is_none() {
            let soon = Instant::now() + SAVE_AFTER;
            self.due = Some(
                self.saved
                    .map_or(soon, |saved| soon.max(saved + SAVE_EVERY)),
            );
        }
    }

    /// Tenant, uid and ns of each account.
    pub(super) fn accounts(&self) -> Vec<(String, u32, u64)> {
        self.totals
            .iter()
            .map(|((tenant, uid), ns)| (tenant.clone(), *uid, *ns))
            .collect()
    }

    /// When it wants to be saved.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Has the totals written, if it is time.
    pub(super) fn save_if_due(&mut self) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.saved = Some(now);
            self.save();
        }
    }

    fn save(&self) {
        if let Some(writer) = &self.writer {
            // A thread that has ended said why.
            let _ = writer.texts.send(self.text());
        }
    }

    fn text(&self) -> String {
        let accounts: Vec<Account> = self
            .totals
            .iter()
            .map(|((tenant, uid), ns)| Account {
                tenant: tenant.clone(),
                uid: *uid,
                device_ns: *ns,
            })
            .collect();
        let kept = Kept {
            version: 1,
            sum_ns: sum(&accounts),
            accounts,
        };
        serde_json::to_string(&kept).expect("records have string keys and no failing serializers")
    }

    /// Writes what is new, and returns when it is written.
    pub(super) fn close(&mut self) {
        if self.due.take().is_some() {
            self.save();
        }
        if let Some(writer) = self.writer.take() {
            drop(writer.texts);
            if writer.thread.join().is_err() {
                tracing::error!("the thread that writes totals of device time panicked");
            }
        }
    }
}

fn sum(accounts: &[Account]) -> u64 {
    accounts
        .iter()
        .fold(0, |sum, account| sum.wrapping_add(account.device_ns))
}

/// What an earlier daemon wrote; nothing where it wrote nothing, or where that is damaged.
fn load(folder: &Path) -> io::Result<Totals> {
    let path = folder.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    match parse(&bytes) {
        Ok(totals) => Ok(totals),
        Err(error) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let aside = folder.join(format!(
                "{FILE}.damaged-{}",
                since.unwrap_or_default().as_nanos()
            ));
            std::fs::rename(&path, &aside)?;
            tracing::warn!(
                "{} is damaged ({error}); it is kept as {}, and totals begin anew",
                path.display(),
                aside.display()
            );
            Ok(BTreeMap::new())
        }
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<Totals> {
    let kept: Kept = serde_json::from_slice(bytes)?;
    anyhow::ensure!(kept.version == 1, "its version is {}, not 1", kept.version);
    let found = sum(&kept.accounts);
    anyhow::ensure!(
        found == kept.sum_ns,
        "its accounts are {found} ns together, and it says {}",
        kept.sum_ns
    );
    let totals = kept.accounts.into_iter();
    Ok(totals
        .map(|account| ((account.tenant, account.uid), account.device_ns))
        .collect())
}

/// Writes the newest text whenever there is one.
fn write_all(folder: &Path, texts: &Receiver<String>) {
    let mut failed = false;
    while let Ok(mut text) = texts.recv() {
        while let Ok(newer) = texts.try_recv() {
            text = newer;
        }
        match write(folder, &text) {
            Ok(()) => failed = false,
            // Once until it works again: a full disk says so again and again.
            Err(error) if !std::mem::replace(&mut failed, true) => tracing::error!(
                "totals of device time cannot be written to {}: {error}",
                folder.display()
            ),
            Err(_) => {}
        }
    }
}

fn write(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join(FILE_NEW);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("ledger-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn open(&self) -> Ledger {
            Ledger::open(Some(self.0.clone()))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn row(tenant: &str, uid: u32, ns: u64) -> (String, u32, u64) {
        (tenant.to_owned(), uid, ns)
    }

    #[test]
    fn totals_go_on_where_the_last_daemon_ended() {
        let folder = Folder::new("on");
        let mut first = folder.open();
        first.add("uid:1", 1, 5);
        first.add("name:web", 1, 7);
        first.add("uid:1", 1, 1);
        assert!(first.due().is_some());
        first.close();
        let mut second = folder.open();
        assert!(second.due().is_none(), "nothing is new");
        second.add("uid:1", 1, 4);
        let wanted = [row("name:web", 1, 7), row("uid:1", 1, 10)];
        assert_eq!(second.accounts(), wanted);
        second.close();
        assert_eq!(folder.open().accounts(), wanted);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_totals_begin_anew() {
        for (name, damage) in [
            ("cut", "{\"version\":1,"),
            ("version", "{\"version\":2,\"sum_ns\":0,\"accounts\":[]}"),
            (
                "sum",
                "{\"version\":1,\"sum_ns\":9,\"accounts\":[{\"tenant\":\"a\",\"uid\":1,\"device_ns\":8}]}",
            ),
            ("bytes", "\u{0}\u{1}"),
        ] {
            let folder = Folder::new(name);
            std::fs::write(folder.0.join(FILE), damage).unwrap();
            let mut ledger = folder.open();
            assert!(ledger.accounts().is_empty());
            ledger.add("uid:1", 1, 5);
            ledger.close();
            let names: Vec<String> = std::fs::read_dir(&folder.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert!(
                names.iter().any(|name| name.contains("damaged")),
                "{names:?}"
            );
            assert_eq!(folder.open().accounts(), [row("uid:1", 1, 5)]);
        }
    }

    #[test]
    fn a_folder_belongs_to_one_daemon() {
        let folder = Folder::new("one");
        let mut first = folder.open();
        let mut second = folder.open();
        second.add("uid:2", 2, 9);
        assert!(second.due().is_none(), "it keeps nothing");
        second.close();
        first.add("uid:1", 1, 5);
        first.close();
        assert_eq!(folder.open().accounts(), [row("uid:1", 1, 5)]);
    }

    #[test]
    fn too_many_accounts_share_one() {
        let mut ledger = Ledger::open(None);
        for uid in 0..BILLED_MAX as u32 + 10 {
            ledger.add("name:web", uid, 1);
        }
        assert_eq!(ledger.accounts().len(), BILLED_MAX + 1);
        let sum: u64 = ledger.accounts().iter().map(|(.., ns)| ns).sum();
        assert_eq!(sum, BILLED_MAX as u64 + 10);
    }
}
