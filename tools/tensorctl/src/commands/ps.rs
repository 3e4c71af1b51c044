//! `tensorctl ps`: the sessions, those with the most device time first.

use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::daemon::Connection;
use crate::table::{self, Align};
use crate::units::{self, or_dash, word};

const HEAD: [(&str, Align); 13] = [
    ("SESSION", Align::Right),
    ("PID", Align::Right),
    ("UID", Align::Right),
    ("TENANT", Align::Left),
    ("CLASS", Align::Left),
    ("WEIGHT", Align::Right),
    ("DEVICE ms", Align::Right),
    ("WAIT ms", Align::Right),
    ("REQUESTS", Align::Right),
    ("IN FLIGHT", Align::Right),
    ("MEMORY", Align::Right),
    ("NAME", Align::Left),
    ("COMMAND", Align::Left),
];

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let stat = Connection::open(socket)?.stat()?;
    let mut sessions = stat.sessions().to_vec();
    sessions.sort_by_key(|session| {
        (
            Reverse(session["device_us"].as_u64()),
            session["id"].as_u64(),
        )
    });
    let others = &stat.0["others"];
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(
            out,
            "{:#}",
            json!({ "sessions": sessions, "others": others })
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = sessions.iter().map(row).collect();
    table::print(&mut out, &HEAD, &rows)?;
    if let Some(text) = others_text(others) {
        writeln!(out, "{text}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(session: &Value) -> Vec<String> {
    let figure = |name: &str, show: fn(u64) -> String| or_dash(session[name].as_u64(), show);
    vec![
        word(&session["id"]),
        word(&session["pid"]),
        word(&session["uid"]),
        word(&session["tenant"]),
        word(&session["class"]),
        word(&session["weight"]),
        figure("device_us", units::milliseconds),
        figure("wait_us", units::milliseconds),
        figure("requests", units::count),
        figure("requests_in_flight", units::count),
        figure("device_bytes", units::bytes),
        word(&session["name"]),
        word(&session["command"]),
    ]
}

/// On a tenant's socket all strangers are one sum.
pub fn others_text(others: &Value) -> Option<String> {
    let count = others["sessions"].as_u64().filter(|count| *count > 0)?;
    let figure = |name: &str, show: fn(u64) -> String| or_dash(others[name].as_u64(), show);
    Some(format!(
        "and {} of other tenants: {} ms of the device, {} requests, {}",
        if count == 1 {
            "1 session".to_owned()
        } else {
            format!("{count} sessions")
        },
        figure("device_us", units::milliseconds),
        figure("requests", units::count),
        figure("device_bytes", units::bytes),
    ))
}
