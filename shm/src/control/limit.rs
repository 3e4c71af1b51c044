//! What can be limited, of whom, and a set of such limits.
//!
//! Limits are nested: a tenant, the uids in it, their sessions. The order of [`Resource`] is the wire format.

use super::TENANT_BYTES;

/// Something that a session, a uid or a tenant holds or uses, and that a limit can bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Resource {
    /// Sessions at once. A session itself has no such limit.
    Sessions = 0,
    /// Staging memory, bytes.
    Staging = 1,
    /// Live tensor handles.
    Handles = 2,
    /// Requests accepted and not yet ended.
    Requests = 3,
    /// Device memory, bytes.
    DeviceMemory = 4,
    /// Device time, milliseconds in each second; [`DEVICE_TIME_MAX`] is no limit.
    DeviceTime = 5,
}

/// Number of resources.
pub const RESOURCE_COUNT: usize = 6;
/// The greatest device time, milliseconds in each second: no limit.
pub const DEVICE_TIME_MAX: u64 = 1_000;

impl Resource {
    /// Every resource.
    pub const ALL: [Resource; RESOURCE_COUNT] = [
        Resource::Sessions,
        Resource::Staging,
        Resource::Handles,
        Resource::Requests,
        Resource::DeviceMemory,
        Resource::DeviceTime,
    ];

    /// The resource of that wire number.
    pub fn from_wire(number: u8) -> Option<Resource> {
        Resource::ALL.get(usize::from(number)).copied()
    }

    /// As tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Sessions => "sessions",
            Resource::Staging => "staging",
            Resource::Handles => "handles",
            Resource::Requests => "requests",
            Resource::DeviceMemory => "device-memory",
            Resource::DeviceTime => "device-time",
        }
    }

    /// The resource of that name.
    pub fn from_name(name: &str) -> Option<Resource> {
        Resource::ALL
            .into_iter()
            .find(|resource| resource.name() == name)
    }

    /// For messages: what is counted, with its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Sessions => "sessions",
            Resource::Staging => "bytes of staging memory",
            Resource::Handles => "tensor handles",
            Resource::Requests => "requests in flight",
            Resource::DeviceMemory => "bytes of device memory",
            Resource::DeviceTime => "ms of device time per second",
        }
    }

    /// The least and the greatest limit that can be set.
    pub fn range(self) -> (u64, u64) {
        match self {
            Resource::Sessions => (1, 65_536),
            Resource::Staging | Resource::DeviceMemory => (4_096, 1 << 40),
            Resource::Handles => (16, 1 << 30),
            Resource::Requests => (1, 1 << 30),
            Resource::DeviceTime => (1, DEVICE_TIME_MAX),
        }
    }
}

/// Whose limits, nested in this order from the outside: a tenant, the uids in it, their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// A session.
    Session = 1,
    /// All sessions of a uid in a tenant.
    Uid = 2,
    /// All sessions of a tenant.
    Tenant = 3,
    /// All sessions.
    Daemon = 4,
}

impl Level {
    /// The level of that wire number.
    pub fn from_wire(number: u8) -> Option<Level> {
        match number {
            1 => Some(Level::Session),
            2 => Some(Level::Uid),
            3 => Some(Level::Tenant),
            4 => Some(Level::Daemon),
            _ => None,
        }
    }

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Level::Session => "session",
            Level::Uid => "uid",
            Level::Tenant => "tenant",
            Level::Daemon => "daemon",
        }
    }
}

/// Which limit refused a request, in the one word of an error entry (see PROTOCOL.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// Whose it is.
    pub level: Level,
    /// Of what.
    pub resource: Resource,
    /// The limit, below 2^48.
    pub limit: u64,
}

impl LimitReached {
    const LIMIT_BITS: u32 = 48;

    /// As a word: level in the highest byte, then the resource, then the limit. Never below 2^56.
    pub fn to_word(self) -> u64 {
        let limit = self.limit.min((1 << Self::LIMIT_BITS) - 1);
        (self.level as u64) << 56 | (self.resource as u64) << Self::LIMIT_BITS | limit
    }

    /// From such a word; `None` where it says something else.
    pub fn from_word(word: u64) -> Option<LimitReached> {
        Some(LimitReached {
            level: Level::from_wire((word >> 56) as u8)?,
            resource: Resource::from_wire((word >> Self::LIMIT_BITS) as u8)?,
            limit: word & ((1 << Self::LIMIT_BITS) - 1),
        })
    }
}

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whose, limit, what) = (self.level.name(), self.limit, self.resource.unit());
        write!(f, "the {whose}'s limit of {limit} {what} is reached")
    }
}

/// Whom a command concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The sender's own session.
    Own,
    /// A session.
    Session(u64),
    /// A uid, in whichever tenants it has sessions.
    Uid(u32),
    /// A tenant, by its name; at most [`TENANT_BYTES`] of it can be said.
    Tenant(String),
}

impl Target {
    /// Reads what a command line says: `12`, `uid:1000`, `tenant:uid:1000`, `tenant:name:web`.
    pub fn parse(text: &str) -> Result<Target, String> {
        if let Some(name) = text.strip_prefix("tenant:") {
            return match name.len() {
                1..=TENANT_BYTES => Ok(Target::Tenant(name.to_owned())),
                length => Err(format!(
                    "a tenant's name has 1 to {TENANT_BYTES} bytes, {text:?} has {length}"
                )),
            };
        }
        let number = match text.strip_prefix("uid:") {
            Some(uid) => uid.parse().ok().map(Target::Uid),
            None => text.parse().ok().filter(|id| *id > 0).map(Target::Session),
        };
        number.ok_or_else(|| {
            format!(
                "{text:?} is neither a session's number (tensorctl ps), nor uid:NUMBER, nor tenant:NAME as `tensorctl ps` \
                 shows it (tenant:uid:1000, tenant:name:web)"
            )
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Own => f.write_str("this session"),
            Target::Session(id) => write!(f, "session {id}"),
            Target::Uid(uid) => write!(f, "uid {uid}"),
            Target::Tenant(name) => write!(f, "tenant {name}"),
        }
    }
}

/// What is said of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Change {
    /// Nothing.
    #[default]
    Keep,
    /// What the configuration says holds again.
    Default,
    /// This holds.
    To(u64),
}

/// What is said of each limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Changes([Change; RESOURCE_COUNT]);

impl Changes {
    /// What is said of a resource.
    pub fn get(&self, resource: Resource) -> Change {
        self.0[resource as usize]
    }

    /// Says something of a resource.
    pub fn set(&mut self, resource: Resource, change: Change) {
        self.0[resource as usize] = change;
    }

    /// These changes with one more.
    pub fn with(mut self, resource: Resource, limit: u64) -> Changes {
        self.set(resource, Change::To(limit));
        self
    }

    /// Is nothing said?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|change| *change == Change::Keep)
    }

    /// What is said, without what stays.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, Change)> + '_ {
        Resource::ALL
            .into_iter()
            .map(|resource| (resource, self.get(resource)))
            .filter(|(_, change)| *change != Change::Keep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_shown() {
        for (text, target) in [
            ("12", Some(Target::Session(12))),
            ("uid:1000", Some(Target::Uid(1000))),
            ("tenant:uid:1000", Some(Target::Tenant("uid:1000".into()))),
            ("tenant:name:web", Some(Target::Tenant("name:web".into()))),
            ("0", None),
            ("-1", None),
            ("uid:", None),
            ("uid:x", None),
            ("tenant:", None),
            ("name:web", None),
        ] {
            assert_eq!(Target::parse(text).ok(), target, "{text}");
        }
    }

    #[test]
    fn which_limit_was_reached_goes_in_a_word_and_a_source_position_is_none() {
        let reached = LimitReached {
            level: Level::Uid,
            resource: Resource::DeviceMemory,
            limit: 1 << 40,
        };
        assert_eq!(LimitReached::from_word(reached.to_word()), Some(reached));
        assert_eq!(LimitReached::from_word(u64::from(u32::MAX)), None);
        assert_eq!(
            reached.to_string(),
            "the uid's limit of 1099511627776 bytes of device memory is reached"
        );
        let huge = LimitReached {
            limit: u64::MAX,
            ..reached
        };
        let read = LimitReached::from_word(huge.to_word()).unwrap();
        assert_eq!((read.level, read.limit), (Level::Uid, (1 << 48) - 1));
    }

    #[test]
    fn resources_have_numbers_and_names() {
        for (number, resource) in (0u8..).zip(Resource::ALL) {
            assert_eq!(Resource::from_wire(number), Some(resource));
            assert_eq!(resource as u8, number);
            assert_eq!(Resource::from_name(resource.name()), Some(resource));
        }
        assert_eq!(Resource::from_wire(RESOURCE_COUNT as u8), None);
    }
}
