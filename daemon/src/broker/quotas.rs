//! Under which limits a session stands, and what of class and weight it is granted.
//!
//! What holds follows anew, whenever something changes, from the configuration, from what an administrator has set of the
//! tenant, the uid and the session, and from what the client has lowered for itself. Nothing is derived from what held
//! before, so the order in which things were said does not matter. What was set lives as long as the daemon: the
//! supervisor keeps it for a later broker.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use tensord_shm::control::{
    Change, Changes, Class, ControlError, Level, Resource, Target, WEIGHT_DEFAULT,
};
use tensord_shm::error::Code;

use super::Broker;
use super::session::KEY_SESSION;
use crate::account::Account;
use crate::config::{Config, LevelCaps, Quotas, Tenant, range_of};
use crate::limits::STEERED_MAX;
use crate::link::{EngineOrder, FromBroker, SessionRecord, Steered};

/// What an administrator has set of a uid or a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Steering {
    highest: Option<u8>,
    weight: Option<u32>,
    limits: LevelCaps,
}

/// What was done, to how many running sessions.
pub(super) type Done = (u32, String);

/// Everything that a session's standing follows from, beside its own record.
struct Standing<'a> {
    config: &'a Config,
    entry: Option<&'a Tenant>,
    tenant: Option<&'a Steering>,
    uid: Option<&'a Steering>,
}

impl Standing<'_> {
    fn quotas(&self, record: &SessionRecord) -> Quotas {
        let limits = &self.config.limits;
        let mut quotas = Quotas {
            session: limits.of(Level::Session),
            uid: limits.of(Level::Uid),
            tenant: limits.of(Level::Tenant),
        };
        if let Some(entry) = self.entry {
            quotas.session.overlay(&entry.session);
            quotas.uid.overlay(&entry.uid);
            quotas.tenant.overlay(&entry.limits);
        }
        if let Some(steering) = self.tenant {
            quotas.tenant.overlay(&steering.limits);
        }
        if let Some(steering) = self.uid {
            quotas.uid.overlay(&steering.limits);
        }
        quotas.session.overlay(&record.limits_set);
        quotas.session.lower(&record.limits_own);
        quotas
    }

    fn tenant_weight(&self) -> u32 {
        let set = self.tenant.and_then(|steering| steering.weight);
        set.or(self.entry.map(|entry| entry.weight))
            .unwrap_or(WEIGHT_DEFAULT)
    }

    fn highest(&self) -> Class {
        let set = |steering: Option<&Steering>| steering.and_then(|s| s.highest);
        let tenant = set(self.tenant)
            .and_then(Class::from_wire)
            .or(self.entry.and_then(Tenant::class))
            .unwrap_or_else(|| self.config.class.class());
        match set(self.uid).and_then(Class::from_wire) {
            Some(uid) => tenant.min(uid),
            None => tenant,
        }
    }

    fn weight_max(&self) -> u32 {
        self.entry
            .and_then(|entry| entry.weight_max)
            .unwrap_or(self.config.class.weight_max)
    }

    /// Fills in what follows; the rest of the record stays.
    fn apply(&self, record: &mut SessionRecord) {
        record.tenant_weight = self.tenant_weight();
        record.quotas = self.quotas(record);
        let handles = record.quotas.session.get(Resource::Handles);
        let handles = u32::try_from(handles).unwrap_or(u32::MAX);
        record.handles_told = record.handles_told.max(handles);
        let asked = Class::from_wire(record.class_asked).unwrap_or_default();
        record.class = record
            .class_fixed
            .unwrap_or(asked.min(self.highest()) as u8);
        record.weight = record
            .weight_fixed
            .unwrap_or(record.weight_asked.min(self.weight_max()));
    }
}

impl Broker {
    fn standing(&self, tenant: &str, uid: u32) -> Standing<'_> {
        Standing {
            config: &self.config,
            entry: self.config.tenant(tenant),
            tenant: self.steering.get(&Steered::Tenant(tenant.to_owned())),
            uid: self.steering.get(&Steered::Uid(uid)),
        }
    }

    /// The account of a uid in a tenant, with the limits that hold.
    pub(super) fn uid_account(&mut self, tenant: u32, uid: u32) -> Rc<Account> {
        let Some(found) = self.tenants.get(&tenant) else {
            return Account::new(Level::Uid, Some(&self.root));
        };
        if let Some(account) = found.uids.get(&uid).and_then(std::rc::Weak::upgrade) {
            return account;
        }
        let quotas = self
            .standing(&found.name, uid)
            .quotas(&SessionRecord::default());
        let account = Account::new(Level::Uid, Some(&found.account));
        account.set_limits(&quotas.uid, 0);
        found.account.set_limits(&quotas.tenant, 0);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.uids.retain(|_, account| account.strong_count() > 0);
            tenant.uids.insert(uid, Rc::downgrade(&account));
        }
        account
    }

    /// Works out where a session stands. True if that is not where it stood.
    pub(super) fn stand(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        let name = self
            .tenants
            .get(&session.tenant)
            .map_or("", |tenant| &tenant.name);
        let mut record = session.record.clone();
        record.tenant_name = name.to_owned();
        self.standing(name, record.uid).apply(&mut record);
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        if !session.admin {
            session.account.set_limits(&record.quotas.session, 0);
            let uid = session.account.at(Level::Uid);
            uid.set_limits(&record.quotas.uid, 0);
            uid.at(Level::Tenant).set_limits(&record.quotas.tenant, 0);
        }
        let changed = session.record != record;
        session.record = record;
        changed
    }

    /// Works out anew where sessions stand; what changed is kept, and engines are told. `told`: their records say something new,
    /// even where nothing follows from it yet. Gives how many were looked at.
    pub(super) fn restand(&mut self, told: bool, concerns: impl Fn(&SessionRecord) -> bool) -> u32 {
        let ids: Vec<u64> = self
            .sessions
            .values()
            .filter(|session| !session.admin && concerns(&session.record))
            .map(|session| session.id)
            .collect();
        for &id in &ids {
            if self.stand(id) || told {
                self.keep_record(id);
            }
        }
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }

    /// Has a session's record kept, and tells its engine of it.
    pub(super) fn keep_record(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let (record, engine, kept) = (session.record.clone(), session.engine, session.kept());
        if record.open {
            let key = KEY_SESSION;
            self.tell_supervisor(
                &FromBroker::Keep {
                    session: id,
                    key,
                    record: kept,
                },
                &[],
            );
        }
        if let Some(number) = engine {
            self.order(number, &EngineOrder::Set(Box::new(record)), &[]);
        }
    }

    /// What is set of a uid or a tenant, to be changed.
    fn steer(
        &mut self,
        target: Steered,
        change: impl FnOnce(&mut Steering),
    ) -> Result<(), ControlError> {
        if let Steered::Tenant(name) = &target
            && !["uid:", "name:", "cgroup:"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        {
            let text = format!(
                "there is no tenant {name:?}; tenants are named uid:N, name:NAME or cgroup:PATH (tensorctl ps shows them)"
            );
            return Err(ControlError::new(Code::Attribute, text));
        }
        if !self.steering.contains_key(&target) && self.steering.len() >= STEERED_MAX {
            let text = format!(
                "{STEERED_MAX} uids and tenants have settings of their own; write this one into the configuration"
            );
            return Err(ControlError::new(Code::Limit, text));
        }
        let steering = self.steering.entry(target.clone()).or_default();
        change(steering);
        let record = (*steering != Steering::default()).then(|| {
            serde_json::to_string(steering)
                .expect("records have string keys and no failing serializers")
        });
        if record.is_none() {
            self.steering.remove(&target);
        }
        self.tell_supervisor(&FromBroker::Steer { target, record }, &[]);
        Ok(())
    }

    /// What an earlier broker had kept of a uid or a tenant.
    pub(super) fn restore_steering(&mut self, target: Steered, record: &str) -> anyhow::Result<()> {
        self.steering.insert(target, serde_json::from_str(record)?);
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ limits

    /// Changes limits, as a client or an administrator asks.
    pub(super) fn limit(
        &mut self,
        id: u64,
        target: Target,
        changes: &Changes,
    ) -> Result<Done, ControlError> {
        let admin = self.sessions.get(&id).is_some_and(|session| session.admin);
        let target = match target {
            Target::Own if admin => return Err(names_nobody()),
            Target::Own => Target::Session(id),
            other => other,
        };
        let level = match &target {
            Target::Own | Target::Session(_) => Level::Session,
            Target::Uid(_) => Level::Uid,
            Target::Tenant(_) => Level::Tenant,
        };
        check(changes, level)?;
        let set = |caps: &mut LevelCaps| {
            for (resource, change) in changes.iter() {
                caps.set(
                    resource,
                    match change {
                        Change::To(limit) => Some(limit),
                        Change::Default | Change::Keep => None,
                    },
                );
            }
        };
        let sessions = match &target {
            Target::Own | Target::Session(_) => {
                let session = match target {
                    Target::Session(session) => session,
                    _ => id,
                };
                if !admin {
                    self.only_downwards(session, changes)?;
                }
                let record = self.open_record(session)?;
                set(match admin {
                    true => &mut record.limits_set,
                    false => &mut record.limits_own,
                });
                self.restand(true, |record| record.id == session)
            }
            Target::Uid(uid) => {
                self.steer(Steered::Uid(*uid), |steering| set(&mut steering.limits))?;
                self.restand(false, |record| record.uid == *uid)
            }
            Target::Tenant(name) => {
                let steered = Steered::Tenant(name.clone());
                self.steer(steered, |steering| set(&mut steering.limits))?;
                self.restand(false, |record| record.tenant_name == *name)
            }
        };
        let said = changes.iter().map(|(resource, change)| match change {
            Change::To(limit) => format!("{} {limit}", resource.name()),
            _ => format!("{} as configured", resource.name()),
        });
        let said = said.collect::<Vec<_>>().join(", ");
        let text = format!("{target}: {said}");
        if admin {
            self.log_steering(id, "limits were changed", &text);
        } else {
            crate::client_log!(debug, session = id, "limits were lowered: {said}");
        }
        Ok((sessions, text))
    }

    fn only_downwards(&self, id: u64, changes: &Changes) -> Result<(), ControlError> {
        let Some(session) = self.sessions.get(&id) else {
            return Err(super::requests::no_such_session(id));
        };
        for (resource, change) in changes.iter() {
            let holds = session.record.quotas.session.get(resource);
            if let Change::To(limit) = change
                && limit > holds
            {
                let text = format!(
                    "limits can only go down here; {} of this session is {holds}, not to be {limit}; ask an administrator",
                    resource.name()
                );
                return Err(ControlError::new(Code::NotAdministrator, text));
            }
        }
        Ok(())
    }

    /// The record of a session that has said hello, to be changed.
    fn open_record(&mut self, id: u64) -> Result<&mut SessionRecord, ControlError> {
        self.sessions
            .get_mut(&id)
            .map(|session| &mut session.record)
            .filter(|record| record.open)
            .ok_or_else(|| super::requests::no_such_session(id))
    }

    // ------------------------------------------------------------------------------------------ nice

    /// Changes class and weight, as an administrator asks.
    pub(super) fn nice(
        &mut self,
        id: u64,
        target: Target,
        class: Option<Class>,
        weight: Option<u32>,
    ) -> Result<Done, ControlError> {
        let (sessions, text) = match target {
            Target::Own => return Err(names_nobody()),
            Target::Session(session) => self.nice_session(session, class, weight)?,
            Target::Uid(uid) => self.nice_uid(uid, class, weight)?,
            Target::Tenant(name) => self.nice_tenant(name, class, weight)?,
        };
        self.log_steering(id, "class or weight was changed", &text);
        Ok((sessions, text))
    }

    fn nice_session(
        &mut self,
        id: u64,
        class: Option<Class>,
        weight: Option<u32>,
    ) -> Result<Done, ControlError> {
        let record = self.open_record(id)?;
        record.class_fixed = class.map(|class| class as u8).or(record.class_fixed);
        record.weight_fixed = weight.or(record.weight_fixed);
        let sessions = self.restand(true, |record| record.id == id);
        let record = self.open_record(id)?;
        let class = Class::from_wire(record.class).unwrap_or_default();
        let text = format!(
            "session {id}: class {}, weight {}",
            class.name(),
            record.weight
        );
        Ok((sessions, text))
    }

    fn nice_uid(
        &mut self,
        uid: u32,
        class: Option<Class>,
        weight: Option<u32>,
    ) -> Result<Done, ControlError> {
        let own = format!("uid:{uid}");
        let mut said = Vec::new();
        if let Some(class) = class {
            self.steer(Steered::Uid(uid), |steering| {
                steering.highest = Some(class as u8);
            })?;
            said.push(format!("highest class {}", class.name()));
        }
        if let Some(weight) = weight {
            let inside = |record: &SessionRecord| record.tenant_name != own;
            let (mut others, mut is_tenant) = (0, false);
            for session in self.sessions.values_mut() {
                let record = &mut session.record;
                if session.admin || record.uid != uid {
                    continue;
                }
                is_tenant |= !inside(record);
                if inside(record) {
                    record.weight_fixed = Some(weight);
                    others += 1;
                }
            }
            if is_tenant || others == 0 {
                let tenant = Steered::Tenant(own.clone());
                self.steer(tenant, |steering| steering.weight = Some(weight))?;
                said.push(format!("weight {weight} among tenants"));
            }
            if others > 0 {
                said.push(format!(
                    "weight {weight} of {others} sessions in other tenants"
                ));
            }
        }
        let sessions = self.unfix_class(class, |record| record.uid == uid);
        Ok((sessions, format!("uid {uid}: {}", said.join(", "))))
    }

    fn nice_tenant(
        &mut self,
        name: String,
        class: Option<Class>,
        weight: Option<u32>,
    ) -> Result<Done, ControlError> {
        self.steer(Steered::Tenant(name.clone()), |steering| {
            steering.highest = class.map(|class| class as u8).or(steering.highest);
            steering.weight = weight.or(steering.weight);
        })?;
        let class_said = class.map(|class| format!("highest class {}", class.name()));
        let weight_said = weight.map(|weight| format!("weight {weight} among tenants"));
        let said: Vec<String> = class_said.into_iter().chain(weight_said).collect();
        let sessions = self.unfix_class(class, |record| record.tenant_name == name);
        Ok((sessions, format!("tenant {name}: {}", said.join(", "))))
    }

    /// A new ceiling of class goes before what was set of single sessions earlier.
    fn unfix_class(
        &mut self,
        class: Option<Class>,
        concerns: impl Fn(&SessionRecord) -> bool,
    ) -> u32 {
        if class.is_some() {
            for session in self.sessions.values_mut() {
                if concerns(&session.record) {
                    session.record.class_fixed = None;
                }
            }
        }
        self.restand(true, concerns)
    }

    /// Who steered, as the kernel named him, and what he did.
    pub(super) fn log_steering(&self, id: u64, what: &str, text: &str) {
        let (uid, pid) = self.sessions.get(&id).map_or((u32::MAX, 0), |session| {
            (session.record.uid, session.record.pid)
        });
        tracing::info!(uid, pid, "{what}: {text}");
    }
}

fn names_nobody() -> ControlError {
    ControlError::new(
        Code::Attribute,
        "an administrator has to say whose: a session, a uid or a tenant",
    )
}

fn check(changes: &Changes, level: Level) -> Result<(), ControlError> {
    if changes.is_empty() {
        return Err(ControlError::new(
            Code::Attribute,
            "no limit is named; see `tensorctl limit --help`",
        ));
    }
    for (resource, change) in changes.iter() {
        let refuse = |text: String| Err(ControlError::new(Code::Attribute, text));
        if resource == Resource::Sessions && level == Level::Session {
            return refuse("a session has no limit of sessions; name its uid or tenant".to_owned());
        }
        let (least, greatest) = range_of(resource, level);
        if let Change::To(limit) = change
            && !(least..=greatest).contains(&limit)
        {
            return refuse(format!(
                "{} is {limit}; the range is {least} to {greatest}",
                resource.name()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SessionRecord {
        SessionRecord {
            class_asked: Class::Realtime as u8,
            weight_asked: 5_000,
            ..SessionRecord::default()
        }
    }

    fn set(resource: Resource, limit: u64) -> LevelCaps {
        let mut caps = LevelCaps::default();
        caps.set(resource, Some(limit));
        caps
    }

    #[test]
    fn what_is_set_goes_before_the_entry_and_that_before_what_holds_for_all() {
        let config: Config = toml::from_str(
            "[limits]\ntenant_handles = 50\nuid_handles = 40\n[[tenant]]\nname = \"uid:1\"\nweight = 7\n\
             highest = \"realtime\"\nweight_max = 3000\n[tenant.limits]\nhandles = 30",
        )
        .unwrap();
        let steering = Steering {
            highest: Some(Class::Idle as u8),
            weight: Some(9),
            limits: set(Resource::Handles, 20),
        };
        let stands = |entry: bool, tenant: bool, uid: bool| {
            let mut record = record();
            Standing {
                config: &config,
                entry: config.tenant("uid:1").filter(|_| entry),
                tenant: Some(&steering).filter(|_| tenant),
                uid: Some(&steering).filter(|_| uid),
            }
            .apply(&mut record);
            let of = |caps: &crate::config::Caps| caps.get(Resource::Handles);
            let handles = (of(&record.quotas.tenant), of(&record.quotas.uid));
            let class = Class::from_wire(record.class).unwrap();
            (record.tenant_weight, class, record.weight, handles)
        };
        assert_eq!(
            stands(false, false, false),
            (100, Class::Normal, 1_000, (50, 40))
        );
        assert_eq!(
            stands(true, false, false),
            (7, Class::Realtime, 3_000, (30, 40))
        );
        assert_eq!(stands(true, true, false), (9, Class::Idle, 3_000, (20, 40)));
        assert_eq!(stands(true, false, true), (7, Class::Idle, 3_000, (30, 20)));
    }

    #[test]
    fn a_client_lowers_what_is_set_for_it_and_never_raises_it() {
        let config = Config::default();
        let standing = Standing {
            config: &config,
            entry: None,
            tenant: None,
            uid: None,
        };
        let mut record = record();
        record.limits_set = set(Resource::Requests, 100);
        for (own, holds) in [(Some(50), 50), (Some(500), 100), (None, 100)] {
            record.limits_own.set(Resource::Requests, own);
            standing.apply(&mut record);
            assert_eq!(record.quotas.session.get(Resource::Requests), holds);
        }
        record.limits_set = set(Resource::Handles, 16);
        standing.apply(&mut record);
        assert_eq!(
            record.handles_told, config.limits.handles,
            "what it was told it may use as an index"
        );
    }
}
