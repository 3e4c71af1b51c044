//! The configuration: one TOML file, every field with its unit, default and range.
//!
//! An unknown field is an error, and so is a value outside its range; both name the field. `daemon/systemd/tensord.toml`
//! is an example with every field at its default, and a test holds it to that. What SIGHUP may change: `log`,
//! `drain_s`, `[[listen]]`, `[limits]`, `[class]` and `[[tenant]]`; everything else needs a restart and says so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensord_shm::address;
use tensord_sim::Model;

use crate::schedule::PolicyName;

mod quotas;

pub use quotas::{Caps, ClassCeiling, LevelCaps, Limits, Quotas, Tenant, range_of};

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Device: `cpu`, or `sim` with a model (`sim:h100`, `sim:small`): no compute, in the time that a model says. Default `cpu`.
    pub device: String,
    /// `device`: one engine, everything merges. `tenant`: an engine per tenant, nothing merges across tenants.
    pub isolation: Isolation,
    /// Log filter, as `tracing` directives: `info`, `warn,tensord_daemon::broker=debug`. Default `info`.
    pub log: String,
    /// Seconds that SIGTERM gives accepted work to finish. Default 10, range 0 to 3600.
    pub drain_s: u32,
    /// Seconds without a session after which the daemon ends by itself; 0 is never. Default 0, range 0 to 86400.
    pub exit_idle_s: u32,
    /// Listening sockets. Default: one, at the default path, tenant `uid`.
    pub listen: Vec<Listen>,
    /// Path of the administration socket. Default: `tensord-admin.sock` beside the first listening socket.
    pub admin_path: Option<PathBuf>,
    /// Folder where what has to outlive the daemon is kept: the totals of device time. Default: systemd's `STATE_DIRECTORY`, else
    /// `/var/lib/tensord` as root, else `$XDG_STATE_HOME/tensord` or `~/.local/state/tensord`. Needs a restart.
    pub state_dir: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
    /// Ceilings of class and weight that every tenant has.
    pub class: ClassCeiling,
    /// What holds for some tenants and not for others.
    pub tenant: Vec<Tenant>,
    /// The engine.
    pub engine: EngineConfig,
    /// Whether the processes confine themselves after start. Default true; false is for debugging alone.
    pub sandbox: bool,
}

/// How engines are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// One engine per device.
    #[default]
    Device,
    /// One engine per tenant and device.
    Tenant,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Path of the socket; absolute.
    pub path: PathBuf,
    /// Permission bits of the socket. Default 0o600, and 0o666 under root: identity is the peer's uid, not the bits.
    #[serde(default = "default_mode")]
    pub mode: u32,
    /// Which tenant a peer is: `uid`, `cgroup`, or `name:NAME` for everybody who connects here. Default `uid`.
    #[serde(default)]
    pub tenant: TenantRule,
}

/// How a listening socket names tenants.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TenantRule {
    /// The peer's uid.
    #[default]
    Uid,
    /// The peer's cgroup at the time when it connects.
    Cgroup,
    /// Everybody who connects here is this one tenant.
    Name(String),
}

impl TryFrom<String> for TenantRule {
    type Error = String;

    fn try_from(text: String) -> Result<TenantRule, String> {
        match text.as_str() {
            "uid" => Ok(TenantRule::Uid),
            "cgroup" => Ok(TenantRule::Cgroup),
            other => match other.strip_prefix("name:") {
                Some(name)
                    if !name.is_empty()
                        && name.len() <= 64
                        && name.chars().all(is_name_character) =>
                {
                    Ok(TenantRule::Name(name.to_owned()))
                }
                _ => Err(format!(
                    "tenant {text:?}: must be \"uid\", \"cgroup\" or \"name:NAME\" with 1 to 64 of a-z A-Z 0-9 . _ -"
                )),
            },
        }
    }
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "._-".contains(character)
}

impl From<TenantRule> for String {
    fn from(rule: TenantRule) -> String {
        match rule {
            TenantRule::Uid => "uid".to_owned(),
            TenantRule::Cgroup => "cgroup".to_owned(),
            TenantRule::Name(name) => format!("name:{name}"),
        }
    }
}

fn default_mode() -> u32 {
    if nix::unistd::Uid::effective().is_root() {
        0o666
    } else {
        0o600
    }
}

/// How many instances of a plan run together in a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Merge {
    /// As many as are ready, but for plans of which it was measured that fewer are quicker.
    #[default]
    Measured,
    /// As many as are ready: to see what the measuring is worth.
    Always,
}

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineConfig {
    /// Microseconds without work after which the engine sleeps. Default 50, range 0 to 100000.
    pub park_us: u32,
    /// Microseconds of a producer's silence after which its work is ready. Default 100, range 0 to 100000.
    pub quiet_us: u32,
    /// Microseconds that ready work may at most be held for partners. Default 200, range 0 to 100000.
    pub hold_us: u32,
    /// How many instances of a plan run together. Default `measured`.
    pub merge: Merge,
    /// Whose turn it is: `fair` (weighted fair sharing among tenants, and among the sessions of each) or `fifo` (first come,
    /// first served). Default `fair`.
    pub policy: PolicyName,
    /// Microseconds after which the scheduler chooses again: a launch holds the device no longer. Default 500, range 50 to 1000000.
    pub slice_us: u32,
    /// Threads that a long launch runs on; 0 is as many as there are cores. Default 0, range 0 to 1024.
    pub threads: u32,
    /// Instruction set: `auto`, `avx512`, `avx2`, `neon` or `portable`. Default `auto`.
    pub simd: String,
    /// Bytes of memory that the device may hold; 0 is three quarters of the machine's, of a simulated device its model's. Default 0.
    pub device_bytes: u64,
    /// Bytes of host memory for tensors that the device has no room for; 0 is none. Default: half of the machine's memory, and of a
    /// device in the machine's memory what is left of seven eighths.
    pub spill_bytes: Option<u64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            device: "cpu".to_owned(),
            isolation: Isolation::Device,
            log: "info".to_owned(),
            drain_s: 10,
            exit_idle_s: 0,
            listen: Vec::new(),
            admin_path: None,
            state_dir: None,
            limits: Limits::default(),
            class: ClassCeiling::default(),
            tenant: Vec::new(),
            engine: EngineConfig::default(),
            sandbox: true,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            park_us: 50,
            quiet_us: 100,
            hold_us: 200,
            merge: Merge::Measured,
            policy: PolicyName::Fair,
            slice_us: 500,
            threads: 0,
            simd: "auto".to_owned(),
            device_bytes: 0,
            spill_bytes: None,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a field that is unknown or of the wrong type.
    #[error("configuration {path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A number outside its range.
    #[error("configuration: {field} is {value}; the range is {least} to {greatest}")]
    Range {
        /// Which field.
        field: String,
        /// What it held.
        value: u64,
        /// The least that may stand there.
        least: u64,
        /// The greatest that may stand there.
        greatest: u64,
    },
    /// Anything else.
    #[error("configuration: {0}")]
    Other(String),
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Config = toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Where the first tenants' socket stands.
    pub fn first_path(&self) -> PathBuf {
        self.listen
            .first()
            .map_or_else(address::default_socket, |listen| listen.path.clone())
    }

    /// The listening sockets, the default one where none is named.
    pub fn sockets(&self) -> Vec<Listen> {
        if self.listen.is_empty() {
            vec![Listen {
                path: address::default_socket(),
                mode: default_mode(),
                tenant: TenantRule::Uid,
            }]
        } else {
            self.listen.clone()
        }
    }

    /// Makes `path` the first tenants' socket, as `--socket` asks.
    pub fn set_socket(&mut self, path: PathBuf) {
        match self.listen.first_mut() {
            Some(first) => first.path = path,
            None => self.listen.push(Listen {
                path,
                mode: default_mode(),
                tenant: TenantRule::Uid,
            }),
        }
    }

    /// Where the administration socket stands.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_path
            .clone()
            .unwrap_or_else(|| address::admin_beside(&self.first_path()))
    }

    /// Checks every range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let engine = &self.engine;
        let ranges: [(&str, u64, u64, u64); 6] = [
            ("drain_s", self.drain_s.into(), 0, 3_600),
            ("exit_idle_s", self.exit_idle_s.into(), 0, 86_400),
            ("engine.park_us", engine.park_us.into(), 0, 100_000),
            ("engine.quiet_us", engine.quiet_us.into(), 0, 100_000),
            ("engine.hold_us", engine.hold_us.into(), 0, 100_000),
            ("engine.slice_us", engine.slice_us.into(), 50, 1_000_000),
        ];
        for (field, value, least, greatest) in ranges {
            in_range(field, value, (least, greatest))?;
        }
        self.limits.check()?;
        self.class.check()?;
        self.check_tenants()?;
        self.check_words()
    }

    fn check_tenants(&self) -> Result<(), ConfigError> {
        for (at, tenant) in self.tenant.iter().enumerate() {
            tenant.check()?;
            if self.tenant[..at]
                .iter()
                .any(|other| other.name == tenant.name)
            {
                return Err(ConfigError::Other(format!(
                    "two [[tenant]] entries have the name {:?}; make them one",
                    tenant.name
                )));
            }
        }
        Ok(())
    }

    /// The entry of a tenant, if it has one.
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenant.iter().find(|tenant| tenant.name == name)
    }

    fn check_words(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError::Other(text));
        if self.engine.threads > 1_024 {
            return refuse(format!(
                "engine.threads is {}; the range is 0 to 1024",
                self.engine.threads
            ));
        }
        if !["auto", "avx512", "avx2", "neon", "portable"].contains(&self.engine.simd.as_str()) {
            return refuse(format!(
                "engine.simd is {:?}; it must be auto, avx512, avx2, neon or portable",
                self.engine.simd
            ));
        }
        if let Some(folder) = self.state_dir.as_ref().filter(|f| !f.is_absolute()) {
            return refuse(format!("state_dir {folder:?} must be absolute"));
        }
        for listen in &self.listen {
            if !listen.path.is_absolute() {
                return refuse(format!("listen.path {:?} must be absolute", listen.path));
            }
            if listen.mode > 0o777 {
                return refuse(format!(
                    "listen.mode is 0o{:o}; the range is 0 to 0o777",
                    listen.mode
                ));
            }
        }
        check_device(&self.device)
    }
}

/// Checks one number.
fn in_range(field: &str, value: u64, (least, greatest): (u64, u64)) -> Result<(), ConfigError> {
    if (least..=greatest).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range {
        field: field.to_owned(),
        value,
        least,
        greatest,
    })
}

/// Whether this build has the device. The message says what to do where it has not.
pub fn check_device(device: &str) -> Result<(), ConfigError> {
    let text = match device.split_once(':').map_or(device, |(kind, _)| kind) {
        "cpu" if device == "cpu" => return Ok(()),
        "cuda" => format!(
            "device {device:?}: this build has the cpu backend only and cannot use a GPU; \
             start with --device cpu, or ask `tensorctl doctor` what of CUDA this machine has"
        ),
        "sim" => match Model::of_device(device) {
            Ok(_) => return Ok(()),
            Err(error) => format!("device {device:?}: {error}"),
        },
        _ => format!("device {device:?} is unknown; this build has: cpu, sim:h100, sim:small"),
    };
    Err(ConfigError::Other(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_states_every_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/tensord.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Config::read(&path).unwrap(), Config::default());
        let every = toml::Table::try_from(Config::default()).unwrap();
        let written: toml::Table = toml::from_str(&text).unwrap();
        for (field, value) in every
            .iter()
            .filter(|(field, _)| !["listen", "tenant"].contains(&field.as_str()))
        {
            assert_eq!(written.get(field), Some(value), "field {field}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str| match toml::from_str::<Config>(text) {
            Ok(config) => config.check().unwrap_err().to_string(),
            Err(error) => error.message().to_string(),
        };
        for (text, wanted) in [
            ("colour = 3", "unknown field `colour`"),
            ("[limits]\nsession = 3", "unknown field `session`"),
            ("drain_s = 4000", "drain_s is 4000; the range is 0 to 3600"),
            (
                "limits.ring_slots = 100",
                "limits.ring_slots is 100; it must be a power of two",
            ),
            ("device = \"cuda:0\"", "this build has the cpu backend only"),
            ("device = \"sim:a100\"", "there are h100 and small"),
            ("device = \"tpu\"", "device \"tpu\" is unknown"),
            (
                "class.highest = \"best\"",
                "must be idle, normal or realtime",
            ),
            ("[[listen]]\npath = \"x.sock\"", "must be absolute"),
            (
                "[[listen]]\npath = \"/x.sock\"\ntenant = \"name:a b\"",
                "tenant \"name:a b\": must be",
            ),
        ] {
            let message = check(text);
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }
}
