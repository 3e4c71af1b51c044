//! `tensorctl limit`: the limits of sessions, uids and tenants with what of them is used, or their change.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tensord_shm::control::{Change, Changes, DEVICE_TIME_MAX, Request, Resource, Target};

use super::nice::tell;
use crate::daemon::Connection;
use crate::table::{self, Align};
use crate::units::{self, word};

/// What `limit` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Limits: sessions, staging, handles, requests (in flight), device-memory, device-time.
Sizes take K, M, G or T (of 1024); device-time is a share of each second (50% or 500ms); `default` is what
the configuration says. Without assignments the limits are shown. Examples:
  tensorctl limit
  tensorctl limit 12 device-memory=2G requests=100
  tensorctl limit uid:1000 sessions=8 device-time=50%
  tensorctl limit tenant:name:web device-time=default"
)]
pub struct Options {
    /// A session's number, uid:NUMBER, or tenant:NAME as `tensorctl ps` shows it.
    #[arg(value_parser = Target::parse)]
    target: Option<Target>,
    /// LIMIT=VALUE, as often as wanted.
    #[arg(value_parser = assignment, value_name = "LIMIT=VALUE")]
    assignments: Vec<(Resource, Change)>,
}

/// Reads `device-memory=2G`.
fn assignment(text: &str) -> Result<(Resource, Change), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("LIMIT=VALUE, as in device-memory=2G")?;
    let resource = Resource::from_name(name).ok_or_else(|| {
        let names = Resource::ALL.map(Resource::name).join(", ");
        format!("{name:?} is no limit; there are {names}")
    })?;
    if value == "default" {
        return Ok((resource, Change::Default));
    }
    let limit = match resource {
        Resource::Staging | Resource::DeviceMemory => size(value),
        Resource::DeviceTime => share(value),
        Resource::Sessions | Resource::Handles | Resource::Requests => value.parse().ok(),
    };
    limit
        .map(|limit| (resource, Change::To(limit)))
        .ok_or_else(|| {
            let wanted = match resource {
                Resource::Staging | Resource::DeviceMemory => "a size, as in 512M or 2G",
                Resource::DeviceTime => "a share of each second, as in 50% or 500ms",
                _ => "a number",
            };
            format!("{value:?} is not {wanted}, nor `default`")
        })
}

/// `2G`, `2GiB`, `1.5M`, `4096`.
fn size(text: &str) -> Option<u64> {
    let text = text
        .strip_suffix("iB")
        .or(text.strip_suffix('B'))
        .unwrap_or(text);
    let (number, shift) = match text.char_indices().last()? {
        (at, 'K' | 'k') => (&text[..at], 10),
        (at, 'M') => (&text[..at], 20),
        (at, 'G') => (&text[..at], 30),
        (at, 'T') => (&text[..at], 40),
        _ => (text, 0),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let scaled = number.parse::<f64>().ok()? * (1u64 << shift) as f64;
    (shift > 0 && scaled.is_finite() && (0.0..1e15).contains(&scaled)).then_some(scaled as u64)
}

/// `50%`, `12.5%`, `500ms`: milliseconds of each second.
fn share(text: &str) -> Option<u64> {
    let ms = match (text.strip_suffix('%'), text.strip_suffix("ms")) {
        (Some(percent), _) => percent.parse::<f64>().ok()? * 10.0,
        (None, Some(ms)) => ms.parse::<f64>().ok()?,
        (None, None) => return None,
    };
    (ms.is_finite() && (0.0..1e6).contains(&ms)).then_some(ms.round() as u64)
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(socket)?;
    let (Some(target), false) = (&options.target, options.assignments.is_empty()) else {
        return show(&mut connection, as_json, options.target.as_ref());
    };
    let mut changes = Changes::default();
    for (resource, change) in &options.assignments {
        changes.set(*resource, *change);
    }
    let request = Request::Limit {
        target: target.clone(),
        changes,
    };
    let (sessions, text) = connection.change(&request)?;
    tell(as_json, target, sessions, &text)
}

fn show(
    connection: &mut Connection,
    as_json: bool,
    target: Option<&Target>,
) -> anyhow::Result<ExitCode> {
    let mut answer = connection.limits()?;
    let rows = answer["limits"]
        .as_array_mut()
        .context("the daemon's answer has no limits")?;
    if let Some(target) = target {
        rows.retain(|row| concerns(row, target));
        if rows.is_empty() {
            bail!(
                "no session of {target} is to be seen on {}",
                connection.path.display()
            );
        }
    }
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{:#}", json!({ "limits": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let titles = Resource::ALL.map(|resource| resource.name().to_uppercase());
    let mut head = vec![
        ("LIMITS OF", Align::Left),
        ("TENANT", Align::Left),
        ("UID", Align::Right),
        ("SESSION", Align::Right),
    ];
    head.extend(titles.iter().map(|title| (title.as_str(), Align::Right)));
    let cells = |row: &Value| {
        let mut cells = ["level", "tenant", "uid", "session"]
            .map(|name| word(&row[name]))
            .to_vec();
        cells.extend(Resource::ALL.map(|resource| cell(resource, &row["limits"][resource.name()])));
        cells
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::print(&mut out, &head, &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn concerns(row: &Value, target: &Target) -> bool {
    match target {
        Target::Own => false,
        Target::Session(id) => row["session"] == *id,
        Target::Uid(uid) => row["uid"] == *uid,
        Target::Tenant(name) => row["tenant"] == *name,
    }
}

/// Use and limit: `12 of 100`; the use alone where no limit is felt.
fn cell(resource: Resource, limit: &Value) -> String {
    let show = match resource {
        Resource::Staging | Resource::DeviceMemory => units::bytes,
        Resource::DeviceTime => |ms| format!("{}%", ms as f64 / 10.0),
        _ => units::count,
    };
    let used = limit["used"].as_u64().map(show);
    let greatest = match resource {
        Resource::DeviceTime => DEVICE_TIME_MAX,
        _ => resource.range().1,
    };
    let limit = limit["limit"].as_u64().filter(|limit| *limit < greatest);
    match (used, limit.map(show)) {
        (Some(used), Some(limit)) => format!("{used} of {limit}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => units::UNKNOWN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_with_their_units() {
        for (text, wanted) in [
            (
                "device-memory=2G",
                Some((Resource::DeviceMemory, Change::To(2 << 30))),
            ),
            (
                "staging=1.5MiB",
                Some((Resource::Staging, Change::To(3 << 19))),
            ),
            ("staging=4096", Some((Resource::Staging, Change::To(4096)))),
            ("requests=100", Some((Resource::Requests, Change::To(100)))),
            (
                "device-time=50%",
                Some((Resource::DeviceTime, Change::To(500))),
            ),
            (
                "device-time=12.5%",
                Some((Resource::DeviceTime, Change::To(125))),
            ),
            (
                "device-time=30ms",
                Some((Resource::DeviceTime, Change::To(30))),
            ),
            (
                "handles=default",
                Some((Resource::Handles, Change::Default)),
            ),
            ("handles=2G", None),
            ("device-memory=1e3", None),
            ("device-memory=", None),
            ("device-memory=-1G", None),
            ("device-memory=99999999999T", None),
            ("device-time=50", None),
            ("memory=2G", None),
            ("requests", None),
        ] {
            assert_eq!(assignment(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn a_limit_that_nobody_feels_is_not_shown() {
        let limit = |limit: u64, used: u64| json!({ "limit": limit, "used": used });
        assert_eq!(cell(Resource::Requests, &limit(100, 12)), "12 of 100");
        assert_eq!(cell(Resource::Requests, &limit(1 << 30, 12)), "12");
        let time = json!({ "limit": 125, "used": null });
        assert_eq!(cell(Resource::DeviceTime, &time), "12.5%");
        let time = json!({ "limit": 1000, "used": null });
        assert_eq!(cell(Resource::DeviceTime, &time), "-");
    }
}
