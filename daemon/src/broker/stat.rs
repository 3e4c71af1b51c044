//! What runs, as JSON: the engines' counters with the broker's sessions, as far as the asker may see them.
//!
//! Engines are asked in rounds: whoever asks while a round is out waits for the next, so a client that asks in a loop
//! costs an engine one answer at a time. On a tenant's socket the sessions of its own tenant are listed, and all
//! others appear as one sum.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Map, Value, json};
use tensord_shm::control::{Class, ControlError, Level, Reply, Resource};
use tensord_shm::error::Code;

use super::Broker;
use super::quotas::Done;
use super::session::Session;
use crate::account::Account;
use crate::config::Caps;
use crate::limits::STAT_WAIT_MS;
use crate::link::{EngineOrder, FromBroker};

/// A session's own figures, which the engine knows; absent ones are zero.
const FIGURES: [&str; 6] = [
    "device_us",
    "wait_us",
    "requests",
    "requests_in_flight",
    "device_bytes",
    "throttled_us",
];

/// Who waits for an answer, and what has come so far.
#[derive(Default)]
pub(super) struct StatRound {
    token: u64,
    asking: Vec<Asker>,
    next: Vec<Asker>,
    missing: HashSet<u32>,
    answers: HashMap<u32, Value>,
    bills: Bills,
    deadline: Option<Instant>,
}

/// A session, the number of its request, and what it asked.
type Asker = (u64, u64, Asked);

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// What runs.
    Stat,
    /// Limits and what of them is used.
    Limits,
    /// To be told once engines have heard what was changed: they answer in order.
    Changed(Done),
}

/// What the supervisor says of device time. It is asked after the engines, which report to it before they answer.
#[derive(Default)]
struct Bills {
    asked: bool,
    complete: bool,
    /// Tenant, uid, ns.
    accounts: Vec<(String, u32, u64)>,
    /// Session, ns.
    sessions: HashMap<u64, u64>,
}

impl StatRound {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Is this request waiting for its answer?
    pub(super) fn waits(&self, session: u64, sequence: u64) -> bool {
        let mut waiting = self.next.iter().chain(&self.asking);
        waiting.any(|asker| (asker.0, asker.1) == (session, sequence))
    }

    pub(super) fn forget(&mut self, session: u64) {
        self.asking.retain(|(id, ..)| *id != session);
        self.next.retain(|(id, ..)| *id != session);
    }

    /// A part of what the supervisor says of device time.
    pub(super) fn bills(
        &mut self,
        token: u64,
        last: bool,
        accounts: Vec<(String, u32, u64)>,
        sessions: Vec<(u64, u64)>,
    ) {
        if token == self.token {
            self.bills.accounts.extend(accounts);
            self.bills.sessions.extend(sessions);
            self.bills.complete |= last;
        }
    }

    pub(super) fn engine_went(&mut self, engine: u32) {
        self.missing.remove(&engine);
    }

    pub(super) fn answer(&mut self, engine: u32, token: u64, mut fds: Vec<OwnedFd>) {
        let Some(memory) = fds.pop().filter(|_| token == self.token) else {
            return;
        };
        match read_json(memory) {
            Ok(value) => drop(self.answers.insert(engine, value)),
            Err(error) => tracing::warn!(engine, "an engine's counters cannot be read: {error}"),
        }
        self.missing.remove(&engine);
    }
}

/// The figures of an engine's account, by tenant and uid; a tenant's own has no uid.
type AccountFigures<'a> = HashMap<(u64, Option<u64>), &'a Value>;

fn read_json(memory: OwnedFd) -> anyhow::Result<Value> {
    let mut file = File::from(memory);
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

impl Broker {
    pub(super) fn ask_stat(&mut self, id: u64, sequence: u64) {
        self.ask((id, sequence, Asked::Stat));
    }

    pub(super) fn ask_limits(&mut self, id: u64, sequence: u64) {
        self.ask((id, sequence, Asked::Limits));
    }

    /// Answers once what was changed holds everywhere.
    pub(super) fn tell_changed(&mut self, id: u64, sequence: u64, done: Done) {
        self.ask((id, sequence, Asked::Changed(done)));
    }

    fn ask(&mut self, asker: Asker) {
        if !self.stat.waits(asker.0, asker.1) {
            self.stat.next.push(asker);
        }
        self.begin_stat();
    }

    fn begin_stat(&mut self) {
        if self.stat.deadline.is_some() || self.stat.next.is_empty() {
            return;
        }
        self.stat.token += 1;
        self.stat.asking = std::mem::take(&mut self.stat.next);
        self.stat.answers.clear();
        self.stat.bills = Bills::default();
        self.stat.deadline = Some(Instant::now() + Duration::from_millis(STAT_WAIT_MS));
        let token = self.stat.token;
        let engines: Vec<u32> = self.engines.keys().copied().collect();
        self.stat.missing = engines
            .into_iter()
            .filter(|engine| self.order(*engine, &EngineOrder::Stat { token }, &[]))
            .collect();
        self.finish_stat(false);
    }

    /// Answers when every engine has, or when the wait is over: an engine that does not answer is shown as such.
    pub(super) fn finish_stat(&mut self, now: bool) {
        let Some(deadline) = self.stat.deadline else {
            return;
        };
        let waits = !now && Instant::now() < deadline;
        if waits && !self.stat.missing.is_empty() {
            return;
        }
        if waits && !self.stat.bills.complete {
            if !std::mem::replace(&mut self.stat.bills.asked, true) {
                let token = self.stat.token;
                self.tell_supervisor(&FromBroker::Bills { token }, &[]);
            }
            return;
        }
        self.stat.deadline = None;
        for (id, sequence, asked) in std::mem::take(&mut self.stat.asking) {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let seen = if session.admin {
                None
            } else {
                Some(session.tenant)
            };
            let text = match asked {
                Asked::Changed((sessions, text)) => {
                    self.reply(id, sequence, Reply::Changed { sessions, text }, &[]);
                    continue;
                }
                Asked::Stat => self.stat_text(seen),
                Asked::Limits => self.limits_text((!session.admin).then_some(id)),
            };
            let (body, fds) = match sealed(&text) {
                Ok(memory) => (
                    Reply::Stat {
                        bytes: text.len() as u64,
                    },
                    vec![Rc::new(memory)],
                ),
                Err(error) => (
                    Reply::Error(ControlError::new(
                        Code::Limit,
                        format!("no memory for the answer: {error}"),
                    )),
                    Vec::new(),
                ),
            };
            self.reply(id, sequence, body, &fds);
        }
        self.begin_stat();
    }

    /// The whole answer; `seen` is the one tenant whose sessions are listed, or all.
    fn stat_text(&self, seen: Option<u32>) -> String {
        let figures = self.session_figures();
        let mut sessions = Vec::new();
        let mut others: HashMap<&str, u64> = HashMap::new();
        let mut open: Vec<&Session> = self
            .sessions
            .values()
            .filter(|session| session.record.open)
            .collect();
        open.sort_by_key(|session| session.id);
        for session in open {
            let figures = figures.get(&session.id);
            if seen.is_none_or(|tenant| tenant == session.tenant) {
                sessions.push(self.session_json(session, figures.copied()));
                continue;
            }
            *others.entry("sessions").or_default() += 1;
            for name in FIGURES {
                let value = figures
                    .and_then(|figures| figures.get(name))
                    .and_then(Value::as_u64)
                    .unwrap_or(0);
                let billed = self.stat.bills.sessions.get(&session.id);
                let value = match (name, billed) {
                    ("device_us", Some(ns)) => ns / 1000,
                    _ => value,
                };
                *others.entry(name).or_default() += value;
            }
        }
        let mut numbers: Vec<u32> = self.engines.keys().copied().collect();
        numbers.sort_unstable();
        let engines: Vec<Value> = numbers
            .into_iter()
            .filter(|number| {
                let tenant = self.engines[number].tenant;
                seen.is_none() || tenant.is_none() || tenant == seen
            })
            .map(|number| self.engine_json(number, seen.is_none()))
            .collect();
        let (accounts, others_ns) = self.accounts_json(seen);
        let mut daemon = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "draining": self.draining,
            "isolation": self.config.isolation,
        });
        if seen.is_none() {
            daemon["protocol_errors"] = self.faults.into();
            daemon["tenants"] = self.tenants.len().into();
            daemon["connections"] = self.sessions.len().into();
        }
        let mut all = json!({
            "engines": engines, "sessions": sessions, "accounts": accounts, "daemon": daemon
        });
        if seen.is_some() {
            all["others"] = json!(others);
            all["others"]["accounts_device_us"] = (others_ns / 1000).into();
        }
        all.to_string()
    }

    /// Device time of uids in tenants over all sessions, engines and daemons; that of strangers as one sum.
    fn accounts_json(&self, seen: Option<u32>) -> (Vec<Value>, u64) {
        let own = seen.map(|tenant| self.tenants.get(&tenant).map_or("", |t| &t.name));
        let mut open: HashMap<(&str, u32), u64> = HashMap::new();
        for session in self.sessions.values().filter(|s| s.record.open) {
            let record = &session.record;
            *open.entry((&record.tenant_name, record.uid)).or_default() += 1;
        }
        let mut accounts: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        for (tenant, uid, ns) in &self.stat.bills.accounts {
            *accounts.entry((tenant, *uid)).or_default() += ns;
        }
        for key in open.keys() {
            accounts.entry(*key).or_default();
        }
        let (mut rows, mut others_ns) = (Vec::new(), 0);
        for (key, ns) in accounts {
            if own.is_some_and(|own| own != key.0) {
                others_ns += ns;
                continue;
            }
            rows.push(json!({
                "tenant": key.0,
                "uid": key.1,
                "device_us": ns / 1000,
                "device_ns": ns,
                "sessions": open.get(&key).copied().unwrap_or(0),
            }));
        }
        (rows, others_ns)
    }

    /// What engines know of each session, by its number.
    fn session_figures(&self) -> HashMap<u64, &Map<String, Value>> {
        let lists = self
            .stat
            .answers
            .values()
            .filter_map(|answer| answer.get("sessions")?.as_array());
        lists
            .flatten()
            .filter_map(|session| Some((session.get("id")?.as_u64()?, session.as_object()?)))
            .collect()
    }

    fn session_json(&self, session: &Session, figures: Option<&Map<String, Value>>) -> Value {
        let record = &session.record;
        let mut row = figures.cloned().unwrap_or_default();
        for name in FIGURES {
            row.entry(name).or_insert_with(|| 0.into());
        }
        if let Some(ns) = self.stat.bills.sessions.get(&session.id) {
            row.insert("device_us".into(), (ns / 1000).into());
        }
        let staging: u64 = session.arenas.iter().map(|arena| arena.bytes).sum();
        let own = json!({
            "id": session.id,
            "pid": record.pid,
            "uid": record.uid,
            "tenant": self.tenants.get(&session.tenant).map_or("", |tenant| &tenant.name),
            "command": record.command,
            "name": record.name,
            "tenant_weight": record.tenant_weight,
            "class": Class::from_wire(record.class).unwrap_or_default().name(),
            "weight": record.weight,
            "queues": session.queues.len(),
            "staging_bytes": staging,
        });
        if let Value::Object(own) = own {
            row.extend(own);
        }
        Value::Object(row)
    }

    /// Limits and use of sessions, uids and tenants; with `seen` those alone that this session stands under.
    fn limits_text(&self, seen: Option<u64>) -> String {
        let figures = self.session_figures();
        let mut accounts = AccountFigures::new();
        for answer in self.stat.answers.values() {
            let list = answer.get("accounts").and_then(Value::as_array);
            for account in list.into_iter().flatten() {
                let tenant = account["tenant"].as_u64().unwrap_or(0);
                accounts.insert((tenant, account["uid"].as_u64()), account);
            }
        }
        let mut open: Vec<&Session> = self
            .sessions
            .values()
            .filter(|session| session.record.open && !session.admin)
            .filter(|session| seen.is_none_or(|id| id == session.id))
            .collect();
        open.sort_by_key(|session| (session.tenant, session.record.uid, session.id));
        let mut rows = Vec::new();
        let (mut tenant, mut uid) = (None, None);
        for session in open {
            let (record, account) = (&session.record, &session.account);
            let quotas = &record.quotas;
            let row = |level: Level, figures: Option<&Value>, caps: &Caps| {
                let at = account.at(level);
                json!({
                    "level": level.name(),
                    "tenant": record.tenant_name,
                    "uid": (level != Level::Tenant).then_some(record.uid),
                    "session": (level == Level::Session).then_some(session.id),
                    "limits": limits_json(level, at, figures, caps),
                })
            };
            if tenant.replace(session.tenant) != Some(session.tenant) {
                let figures = accounts.get(&(session.tenant.into(), None));
                rows.push(row(Level::Tenant, figures.copied(), &quotas.tenant));
                uid = None;
            }
            if uid.replace(record.uid) != Some(record.uid) {
                let key = (session.tenant.into(), Some(record.uid.into()));
                rows.push(row(Level::Uid, accounts.get(&key).copied(), &quotas.uid));
            }
            let own = figures
                .get(&session.id)
                .map(|own| Value::Object((*own).clone()));
            rows.push(row(Level::Session, own.as_ref(), &quotas.session));
        }
        json!({ "limits": rows }).to_string()
    }

    fn engine_json(&self, number: u32, all: bool) -> Value {
        let engine = &self.engines[&number];
        let mut row = match self.stat.answers.get(&number) {
            Some(Value::Object(answer)) => answer.clone(),
            _ => Map::new(),
        };
        row.remove("sessions");
        row.remove("accounts");
        row.insert(
            "responding".into(),
            self.stat.answers.contains_key(&number).into(),
        );
        row.insert("engine".into(), number.into());
        row.insert("epoch".into(), engine.epoch.into());
        row.entry("device")
            .or_insert_with(|| engine.device.clone().into());
        if all {
            row.insert("pid".into(), engine.pid.into());
            let last_end = engine.last_end.as_ref().map(|end| {
                json!({ "epoch": end.epoch, "cause": end.cause, "blamed_session": end.blamed })
            });
            row.insert("last_end".into(), last_end.into());
        }
        if let Value::Object(counters) = row.entry("counters").or_insert_with(|| json!({})) {
            // An engine's own losses are what it cannot count.
            let counted = counters
                .get("requests_lost")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            counters.insert("requests_lost".into(), (counted + engine.lost).into());
        }
        Value::Object(row)
    }
}

/// Limit and use of each resource of an account. What only an engine knows comes from its figures.
fn limits_json(level: Level, account: &Rc<Account>, figures: Option<&Value>, caps: &Caps) -> Value {
    let mut all = Map::new();
    for resource in Resource::ALL {
        if level == Level::Session && resource == Resource::Sessions {
            continue;
        }
        let figure = |name: &str| figures.and_then(|figures| figures.get(name)?.as_u64());
        let used = match resource {
            Resource::Sessions | Resource::Staging => Some(account.used(resource)),
            Resource::Handles => figure("handles"),
            Resource::Requests => figure("requests_in_flight"),
            Resource::DeviceMemory => figure("device_bytes"),
            // A share of time is used over time: `stat` has the totals.
            Resource::DeviceTime => None,
        };
        let limit = json!({ "limit": caps.get(resource), "used": used });
        all.insert(resource.name().to_owned(), limit);
    }
    Value::Object(all)
}

/// Text in memory that its reader cannot change, nor can anybody else.
fn sealed(text: &str) -> std::io::Result<OwnedFd> {
    let memory = memfd_create(
        c"tensord-stat",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?;
    let mut file = File::from(memory);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
