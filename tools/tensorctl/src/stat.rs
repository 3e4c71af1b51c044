//! The daemon's answer to `stat`: what scripts may rely on, whichever daemon answered.
//!
//! Every field that is promised is there; one that the daemon did not tell is `null` and never a number. Fields that this
//! build does not know are passed on.

use std::fs;

use anyhow::Context;
use serde_json::{Map, Value};

/// Counters that each engine has.
pub const COUNTERS: [&str; 15] = [
    "requests_accepted",
    "requests_ok",
    "requests_failed",
    "requests_cancelled",
    "requests_lost",
    "ops",
    "launches",
    "ops_fused",
    "instances_batched",
    "cross_session_launches",
    "plan_hits",
    "plan_misses",
    "compiles",
    "device_bytes",
    "shared_bytes_saved",
];
/// What an engine's thread may be at, in the order in which a request meets it; every nanosecond is one of these.
pub const STAGES: [&str; 12] = [
    "ingest",
    "graph",
    "transfer",
    "lookup",
    "schedule",
    "dispatch",
    "execution",
    "completion",
    "wake",
    "control",
    "polling",
    "parked",
];
const ENGINE_FIELDS: [&str; 5] = ["device", "uuid", "epoch", "busy_us", "pool_ns"];
/// What only an engine knows of a session.
const ENGINE_FIGURES: [&str; 5] = [
    "device_us",
    "wait_us",
    "requests",
    "requests_in_flight",
    "device_bytes",
];
const SESSION_FIELDS: [&str; 8] = [
    "id", "pid", "uid", "tenant", "command", "name", "class", "weight",
];

/// One answer.
#[derive(Clone, Debug)]
pub struct Stat(pub Value);

impl Stat {
    /// Reads it and fills in what is missing.
    pub fn parse(text: &str) -> anyhow::Result<Stat> {
        let mut all: Value =
            serde_json::from_str(text).context("the daemon's answer is not JSON")?;
        let root = all
            .as_object_mut()
            .context("the daemon's answer is no JSON object")?;
        let mut silent = false;
        for engine in rows_mut(root, "engines") {
            fill(engine, &ENGINE_FIELDS);
            silent |= engine.get("responding") == Some(&Value::Bool(false));
            if let Some(counters) = engine
                .entry("counters")
                .or_insert_with(|| Map::new().into())
                .as_object_mut()
            {
                fill(counters, &COUNTERS);
            }
            if let Some(stages) = engine
                .entry("stages_ns")
                .or_insert_with(|| Map::new().into())
                .as_object_mut()
            {
                fill(stages, &STAGES);
            }
        }
        for session in rows_mut(root, "sessions") {
            fill(session, &SESSION_FIELDS);
            fill(session, &ENGINE_FIGURES);
            // The broker writes 0 for what no engine told it, which is true only if every engine answered.
            if silent {
                for name in ENGINE_FIGURES {
                    if session[name].as_u64() == Some(0) {
                        session.insert(name.into(), Value::Null);
                    }
                }
            }
        }
        Ok(Stat(all))
    }

    /// The engines.
    pub fn engines(&self) -> &[Value] {
        self.0["engines"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The sessions that may be seen.
    pub fn sessions(&self) -> &[Value] {
        self.0["sessions"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Device time of uids in tenants, over all sessions and restarts.
    pub fn accounts(&self) -> &[Value] {
        self.0["accounts"].as_array().map_or(&[], Vec::as_slice)
    }

    /// A counter summed over the engines; `None` where one of them did not tell it.
    pub fn total(&self, counter: &str) -> Option<u64> {
        self.engines()
            .iter()
            .map(|engine| engine["counters"][counter].as_u64())
            .sum()
    }

    /// Nanoseconds that the engines' threads were at a stage, summed; `None` where one of them did not tell.
    pub fn stage_ns(&self, stage: &str) -> Option<u64> {
        self.engines()
            .iter()
            .map(|engine| engine["stages_ns"][stage].as_u64())
            .sum()
    }

    /// Nanoseconds that launches ran on other threads than their engine's, summed.
    pub fn pool_ns(&self) -> Option<u64> {
        self.engines()
            .iter()
            .map(|engine| engine["pool_ns"].as_u64())
            .sum()
    }

    /// Time that the devices were busy, microseconds, summed.
    pub fn busy_us(&self) -> Option<u64> {
        self.engines()
            .iter()
            .map(|engine| engine["busy_us"].as_u64())
            .sum()
    }

    /// Seconds since the supervisor started. It is the parent of the engines, whose pids the administration socket tells,
    /// and `/proc` knows its start; `None` where either cannot be seen.
    pub fn uptime_s(&self) -> Option<u64> {
        let engine = self
            .engines()
            .iter()
            .find_map(|engine| engine["pid"].as_u64())?;
        let parent = process_fields(engine)?.get(1)?.parse::<u64>().ok()?;
        if fs::read_to_string(format!("/proc/{parent}/comm"))
            .ok()?
            .trim_end()
            != "tensord"
        {
            return None;
        }
        // Field 22 of proc_pid_stat(5), in clock ticks after boot; the list here begins with field 3.
        let start: f64 = process_fields(parent)?.get(19)?.parse().ok()?;
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        let uptime = fs::read_to_string("/proc/uptime").ok()?;
        let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        Some((now - start / ticks as f64).max(0.0) as u64)
    }
}

/// The fields of `/proc/PID/stat` behind the command, which may itself hold spaces and brackets.
fn process_fields(pid: u64) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn rows_mut<'a>(
    root: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let rows = root
        .entry(name)
        .or_insert_with(|| Vec::<Value>::new().into());
    rows.as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn fill(row: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        row.entry(*name).or_insert(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_is_null() {
        let stat = Stat::parse(
            r#"{"engines":[{"device":"cpu","responding":false,"new":1}],"sessions":[{"id":1,"requests":0,"device_us":7}]}"#,
        )
        .unwrap();
        let engine = &stat.engines()[0];
        assert_eq!(
            (engine["uuid"].clone(), engine["new"].clone()),
            (Value::Null, 1.into())
        );
        assert_eq!(
            engine["counters"].as_object().unwrap().len(),
            COUNTERS.len()
        );
        assert_eq!(
            (stat.total("ops"), stat.busy_us(), stat.uptime_s()),
            (None, None, None)
        );
        let session = &stat.sessions()[0];
        assert_eq!(
            (session["requests"].clone(), session["device_us"].clone()),
            (Value::Null, 7.into())
        );
        assert!(session.as_object().unwrap().contains_key("tenant"));
    }

    #[test]
    fn counters_are_summed_over_engines() {
        let stat = Stat::parse(
            r#"{"engines":[{"busy_us":1,"counters":{"ops":2}},{"busy_us":3,"counters":{"ops":5}}]}"#,
        )
        .unwrap();
        assert_eq!(
            (stat.total("ops"), stat.busy_us(), stat.sessions().len()),
            (Some(7), Some(4), 0)
        );
        assert!(Stat::parse("[]").is_err() && Stat::parse("{").is_err());
    }
}
