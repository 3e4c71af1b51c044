//! The part of the configuration that says what clients may hold and how their tenants stand to each other.
//!
//! `[limits]` and `[class]` hold for everybody, a `[[tenant]]` entry for one tenant. Limits are nested: of a tenant, of
//! each uid in it, of each session. What an administrator sets while the daemon runs goes before all this, and is not
//! known here.

use serde::{Deserialize, Serialize};
use tensord_shm::control::{
    Class, DEVICE_TIME_MAX, Level, RESOURCE_COUNT, Resource, SessionLimits, WEIGHT_DEFAULT,
    WEIGHT_MAX,
};
use tensord_shm::segment::{SLOT_COUNT_DEFAULT, SLOT_COUNT_MAX, SLOT_COUNT_MIN};

use super::{ConfigError, in_range};
use crate::limits;

/// Limits on what clients may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Sessions in all. Default 4096, range 1 to 65536.
    pub sessions: u32,
    /// Sessions of one tenant. Default 4096, range 1 to 65536.
    pub tenant_sessions: u32,
    /// Sessions of one uid in a tenant. Default 4096, range 1 to 65536.
    pub uid_sessions: u32,
    /// Queues of one session. Default 16, range 1 to 64.
    pub queues: u32,
    /// Slots of 64 bytes of a ring that asks for no size. Default 256, a power of two from 32 to 65536.
    pub ring_slots: u32,
    /// Slots of the largest ring that a client may ask for. Default 4096, a power of two from 32 to 65536.
    pub ring_slots_max: u32,
    /// Staging bytes of one session. Default 1 GiB, range 4096 to 1 TiB.
    pub session_staging_bytes: u64,
    /// Staging bytes of one uid in a tenant. Default 8 GiB, range 4096 to 1 TiB.
    pub uid_staging_bytes: u64,
    /// Staging bytes of one tenant. Default 8 GiB, range 4096 to 1 TiB.
    pub tenant_staging_bytes: u64,
    /// Live handles of one session. Default 1048576, range 16 to 16777216.
    pub handles: u32,
    /// Live handles of one uid in a tenant. Default 1073741824 (no limit), range 16 to 1073741824.
    pub uid_handles: u32,
    /// Live handles of one tenant. Default 1073741824 (no limit), range 16 to 1073741824.
    pub tenant_handles: u32,
    /// Requests in flight of one session. Default 65536, range 1 to 1048576.
    pub requests_in_flight: u32,
    /// Requests in flight of one uid in a tenant. Default 1073741824 (no limit), range 1 to 1073741824.
    pub uid_requests_in_flight: u32,
    /// Requests in flight of one tenant. Default 1073741824 (no limit), range 1 to 1073741824.
    pub tenant_requests_in_flight: u32,
    /// Device bytes of one session. Default 1 TiB (the device's memory is the limit), range 4096 to 1 TiB.
    pub session_device_bytes: u64,
    /// Device bytes of one uid in a tenant. Default 1 TiB, range 4096 to 1 TiB.
    pub uid_device_bytes: u64,
    /// Device bytes of one tenant. Default 1 TiB, range 4096 to 1 TiB.
    pub tenant_device_bytes: u64,
    /// Device time of one session, milliseconds in each second. Default 1000 (no limit), range 1 to 1000.
    pub session_device_ms_per_s: u32,
    /// Device time of one uid in a tenant, milliseconds in each second. Default 1000 (no limit), range 1 to 1000.
    pub uid_device_ms_per_s: u32,
    /// Device time of one tenant, milliseconds in each second. Default 1000 (no limit), range 1 to 1000.
    pub tenant_device_ms_per_s: u32,
}

/// The best that a tenant's sessions may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassCeiling {
    /// Highest class: `idle`, `normal` or `realtime`. Default `normal`. Asking for more gives this.
    pub highest: String,
    /// Greatest weight. Default 1000, range 1 to 10000. Asking for more gives this.
    pub weight_max: u32,
}

/// What holds for one tenant. Absent fields are those of `[limits]` and `[class]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Its name, as `tensorctl ps` shows it: `uid:1000`, `name:web`, `cgroup:/user.slice`.
    pub name: String,
    /// Its weight among tenants. Default 100, range 1 to 10000.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Highest class of its sessions: `idle`, `normal` or `realtime`. Default: that of `[class]`.
    #[serde(default)]
    pub highest: Option<String>,
    /// Greatest weight of its sessions. Default: that of `[class]`. Range 1 to 10000.
    #[serde(default)]
    pub weight_max: Option<u32>,
    /// Limits of the tenant as a whole.
    #[serde(default)]
    pub limits: LevelCaps,
    /// Limits of each uid in it.
    #[serde(default)]
    pub uid: LevelCaps,
    /// Limits of each of its sessions.
    #[serde(default)]
    pub session: LevelCaps,
}

fn default_weight() -> u32 {
    WEIGHT_DEFAULT
}

/// Some limits of a session, a uid or a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelCaps {
    /// Sessions; not of a session. Range 1 to 65536.
    pub sessions: Option<u64>,
    /// Staging bytes. Range 4096 to 1 TiB.
    pub staging_bytes: Option<u64>,
    /// Live handles. Range 16 to 1073741824; of a session to 16777216.
    pub handles: Option<u64>,
    /// Requests in flight. Range 1 to 1073741824.
    pub requests_in_flight: Option<u64>,
    /// Device bytes. Range 4096 to 1 TiB.
    pub device_bytes: Option<u64>,
    /// Device time, milliseconds in each second. Range 1 to 1000, which is no limit.
    pub device_ms_per_s: Option<u64>,
}

/// All limits of a session, a uid or a tenant, by [`Resource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps([u64; RESOURCE_COUNT]);

impl Default for Caps {
    /// No limits at all.
    fn default() -> Caps {
        let mut caps = Caps([u64::MAX; RESOURCE_COUNT]);
        caps.set(Resource::DeviceTime, DEVICE_TIME_MAX);
        caps
    }
}

impl Caps {
    /// The limit of a resource.
    pub fn get(&self, resource: Resource) -> u64 {
        self.0[resource as usize]
    }

    /// Sets the limit of a resource.
    pub fn set(&mut self, resource: Resource, limit: u64) {
        self.0[resource as usize] = limit;
    }

    /// Puts the limits that are named there in place of these.
    pub fn overlay(&mut self, some: &LevelCaps) {
        for resource in Resource::ALL {
            if let Some(limit) = some.get(resource) {
                self.set(resource, limit);
            }
        }
    }

    /// The lower of both, for each limit that is named there.
    pub fn lower(&mut self, some: &LevelCaps) {
        for resource in Resource::ALL {
            if let Some(limit) = some.get(resource) {
                self.set(resource, limit.min(self.get(resource)));
            }
        }
    }
}

/// The limits under which a session stands, at each level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quotas {
    /// Its own.
    pub session: Caps,
    /// Those of its uid in its tenant.
    pub uid: Caps,
    /// Those of its tenant.
    pub tenant: Caps,
}

impl LevelCaps {
    /// The limit of a resource, if it is named.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Sessions => self.sessions,
            Resource::Staging => self.staging_bytes,
            Resource::Handles => self.handles,
            Resource::Requests => self.requests_in_flight,
            Resource::DeviceMemory => self.device_bytes,
            Resource::DeviceTime => self.device_ms_per_s,
        }
    }

    /// Names a limit, or no longer.
    pub fn set(&mut self, resource: Resource, limit: Option<u64>) {
        *match resource {
            Resource::Sessions => &mut self.sessions,
            Resource::Staging => &mut self.staging_bytes,
            Resource::Handles => &mut self.handles,
            Resource::Requests => &mut self.requests_in_flight,
            Resource::DeviceMemory => &mut self.device_bytes,
            Resource::DeviceTime => &mut self.device_ms_per_s,
        } = limit;
    }

    /// Are none named?
    pub fn is_empty(&self) -> bool {
        *self == LevelCaps::default()
    }

    fn check(&self, of: &str, level: Level) -> Result<(), ConfigError> {
        for resource in Resource::ALL {
            if let Some(limit) = self.get(resource) {
                let field = format!("{of}.{}", field_name(resource));
                if resource == Resource::Sessions && level == Level::Session {
                    return Err(ConfigError::Other(format!(
                        "{field}: a session has no such limit; take it out"
                    )));
                }
                in_range(&field, limit, range_of(resource, level))?;
            }
        }
        Ok(())
    }
}

/// The least and the greatest limit of a resource at a level.
pub fn range_of(resource: Resource, level: Level) -> (u64, u64) {
    match (resource, level) {
        // A session's table of handles has room for its limit.
        (Resource::Handles, Level::Session) => (16, limits::HANDLES_MAX.into()),
        _ => resource.range(),
    }
}

fn field_name(resource: Resource) -> &'static str {
    match resource {
        Resource::Sessions => "sessions",
        Resource::Staging => "staging_bytes",
        Resource::Handles => "handles",
        Resource::Requests => "requests_in_flight",
        Resource::DeviceMemory => "device_bytes",
        Resource::DeviceTime => "device_ms_per_s",
    }
}

impl Default for Limits {
    fn default() -> Limits {
        let no_time_limit = DEVICE_TIME_MAX as u32;
        Limits {
            sessions: limits::SESSIONS_DEFAULT,
            tenant_sessions: limits::SESSIONS_DEFAULT,
            uid_sessions: limits::SESSIONS_DEFAULT,
            queues: limits::QUEUES_DEFAULT,
            ring_slots: SLOT_COUNT_DEFAULT,
            ring_slots_max: 4_096,
            session_staging_bytes: limits::SESSION_STAGING_BYTES_DEFAULT,
            uid_staging_bytes: limits::TENANT_STAGING_BYTES_DEFAULT,
            tenant_staging_bytes: limits::TENANT_STAGING_BYTES_DEFAULT,
            handles: limits::HANDLES_DEFAULT,
            uid_handles: limits::COUNT_UNLIMITED,
            tenant_handles: limits::COUNT_UNLIMITED,
            requests_in_flight: limits::REQUESTS_DEFAULT,
            uid_requests_in_flight: limits::COUNT_UNLIMITED,
            tenant_requests_in_flight: limits::COUNT_UNLIMITED,
            session_device_bytes: limits::DEVICE_BYTES_DEFAULT,
            uid_device_bytes: limits::DEVICE_BYTES_DEFAULT,
            tenant_device_bytes: limits::DEVICE_BYTES_DEFAULT,
            session_device_ms_per_s: no_time_limit,
            uid_device_ms_per_s: no_time_limit,
            tenant_device_ms_per_s: no_time_limit,
        }
    }
}

impl Limits {
    /// The limits of a level, for everybody.
    pub fn of(&self, level: Level) -> Caps {
        let mut caps = Caps::default();
        let (staging, device) = match level {
            Level::Session => (self.session_staging_bytes, self.session_device_bytes),
            Level::Uid => (self.uid_staging_bytes, self.uid_device_bytes),
            Level::Tenant => (self.tenant_staging_bytes, self.tenant_device_bytes),
            Level::Daemon => (u64::MAX, u64::MAX),
        };
        let unlimited = limits::COUNT_UNLIMITED;
        let (sessions, handles, requests, ms_per_s) = match level {
            Level::Session => (
                limits::SESSIONS_MAX,
                self.handles,
                self.requests_in_flight,
                self.session_device_ms_per_s,
            ),
            Level::Uid => (
                self.uid_sessions,
                self.uid_handles,
                self.uid_requests_in_flight,
                self.uid_device_ms_per_s,
            ),
            Level::Tenant => (
                self.tenant_sessions,
                self.tenant_handles,
                self.tenant_requests_in_flight,
                self.tenant_device_ms_per_s,
            ),
            Level::Daemon => (self.sessions, unlimited, unlimited, DEVICE_TIME_MAX as u32),
        };
        caps.set(Resource::Staging, staging);
        caps.set(Resource::DeviceMemory, device);
        caps.set(Resource::Sessions, sessions.into());
        caps.set(Resource::Handles, handles.into());
        caps.set(Resource::Requests, requests.into());
        caps.set(Resource::DeviceTime, ms_per_s.into());
        caps
    }

    /// What a session is told of the limits under which it stands.
    pub fn told(&self, session: &Caps) -> SessionLimits {
        let count = |resource| u32::try_from(session.get(resource)).unwrap_or(u32::MAX);
        SessionLimits {
            queues: self.queues,
            handles: count(Resource::Handles).min(limits::HANDLES_MAX),
            requests_in_flight: count(Resource::Requests),
            staging_arenas: limits::STAGING_ARENAS_MAX,
            staging_bytes: session.get(Resource::Staging),
            device_bytes: session.get(Resource::DeviceMemory),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let slots = (u64::from(SLOT_COUNT_MIN), u64::from(SLOT_COUNT_MAX));
        in_range(
            "limits.queues",
            self.queues.into(),
            (1, limits::QUEUES_MAX.into()),
        )?;
        for (field, count) in [
            ("limits.ring_slots", self.ring_slots),
            ("limits.ring_slots_max", self.ring_slots_max),
        ] {
            in_range(field, count.into(), slots)?;
            if !count.is_power_of_two() {
                return Err(ConfigError::Other(format!(
                    "{field} is {count}; it must be a power of two"
                )));
            }
        }
        in_range(
            "limits.sessions",
            self.sessions.into(),
            Resource::Sessions.range(),
        )?;
        for (level, prefix) in [
            (Level::Session, "session_"),
            (Level::Uid, "uid_"),
            (Level::Tenant, "tenant_"),
        ] {
            let caps = self.of(level);
            for resource in Resource::ALL {
                let prefix = match (level, resource) {
                    (Level::Session, Resource::Handles | Resource::Requests) => "",
                    _ => prefix,
                };
                let range = match (level, resource) {
                    (Level::Session, Resource::Requests) => (1, 1 << 20),
                    _ => range_of(resource, level),
                };
                let field = format!("limits.{prefix}{}", field_name(resource));
                in_range(&field, caps.get(resource), range)?;
            }
        }
        Ok(())
    }
}

impl Default for ClassCeiling {
    fn default() -> ClassCeiling {
        ClassCeiling {
            highest: Class::Normal.name().to_owned(),
            weight_max: 1_000,
        }
    }
}

impl ClassCeiling {
    /// The highest class; `check` has made sure that the name is one.
    pub fn class(&self) -> Class {
        Class::from_name(&self.highest).unwrap_or_default()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let weights = (1, WEIGHT_MAX.into());
        in_range("class.weight_max", self.weight_max.into(), weights)?;
        check_class("class.highest", &self.highest)
    }
}

fn check_class(field: &str, name: &str) -> Result<(), ConfigError> {
    match Class::from_name(name) {
        Some(_) => Ok(()),
        None => Err(ConfigError::Other(format!(
            "{field} is {name:?}; it must be idle, normal or realtime"
        ))),
    }
}

impl Tenant {
    /// The highest class of its sessions, if the entry says one.
    pub fn class(&self) -> Option<Class> {
        self.highest.as_deref().and_then(Class::from_name)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let known = ["uid:", "name:", "cgroup:"];
        if !known
            .iter()
            .any(|prefix| self.name.len() > prefix.len() && self.name.starts_with(prefix))
        {
            return Err(ConfigError::Other(format!(
                "tenant.name is {:?}; it must be \"uid:NUMBER\", \"name:NAME\" or \"cgroup:PATH\", as `tensorctl ps` shows tenants",
                self.name
            )));
        }
        let of = |field: &str| format!("tenant {:?} {field}", self.name);
        let weights = (1, WEIGHT_MAX.into());
        in_range(&of("weight"), self.weight.into(), weights)?;
        if let Some(weight) = self.weight_max {
            in_range(&of("weight_max"), weight.into(), weights)?;
        }
        if let Some(highest) = &self.highest {
            check_class(&of("highest"), highest)?;
        }
        self.limits.check(&of("limits"), Level::Tenant)?;
        self.uid.check(&of("uid"), Level::Uid)?;
        self.session.check(&of("session"), Level::Session)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const ENTRY: &str = r#"
        [[tenant]]
        name = "name:web"
        weight = 300
        highest = "realtime"
        [tenant.limits]
        device_bytes = 1048576
        [tenant.session]
        device_ms_per_s = 250
    "#;

    #[test]
    fn a_tenants_entry_goes_before_what_holds_for_all() {
        let config: Config = toml::from_str(ENTRY).unwrap();
        config.check().unwrap();
        let entry = config.tenant("name:web").unwrap();
        assert_eq!((entry.weight, entry.class()), (300, Some(Class::Realtime)));
        let mut caps = config.limits.of(Level::Tenant);
        caps.overlay(&entry.limits);
        assert_eq!(caps.get(Resource::DeviceMemory), 1 << 20);
        assert_eq!(
            caps.get(Resource::Staging),
            config.limits.tenant_staging_bytes
        );
        assert!(config.tenant("name:other").is_none());
    }

    #[test]
    fn what_is_wrong_with_an_entry_is_named() {
        for (text, wanted) in [
            ("[[tenant]]\nname = \"web\"", "tenant.name is \"web\""),
            (
                "[[tenant]]\nname = \"uid:1\"\nweight = 0",
                "weight is 0; the range is 1 to 10000",
            ),
            (
                "[[tenant]]\nname = \"uid:1\"\n[tenant.session]\nsessions = 2",
                "a session has no such limit",
            ),
            (
                "[[tenant]]\nname = \"uid:1\"\n[tenant.uid]\ndevice_ms_per_s = 1001",
                "uid.device_ms_per_s is 1001; the range is 1 to 1000",
            ),
            (
                "[[tenant]]\nname = \"uid:1\"\n[[tenant]]\nname = \"uid:1\"",
                "two [[tenant]] entries",
            ),
            ("limits.uid_sessions = 0", "limits.uid_sessions is 0"),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let said = config.check().unwrap_err().to_string();
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }
}
