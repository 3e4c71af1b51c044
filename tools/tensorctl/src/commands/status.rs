//! `tensorctl status`: one screen that answers "is it well, and does it gain anything".

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::commands::ps::others_text;
use crate::daemon::Connection;
use crate::stat::Stat;
use crate::units::{self, or_dash, ratio, word};

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(socket)?;
    let stat = connection.stat()?;
    let status = summary(&stat, &connection.path);
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{status:#}")?;
    } else {
        print(&mut out, &status)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Everything that `status` shows, as JSON; what cannot be had is null.
fn summary(stat: &Stat, socket: &Path) -> Value {
    let total = |name: &str| stat.total(name);
    let in_flight: Option<u64> = stat
        .sessions()
        .iter()
        .map(|session| session["requests_in_flight"].as_u64())
        .sum();
    json!({
        "running": true,
        "socket": socket.display().to_string(),
        "version": stat.0["daemon"]["version"],
        "uptime_s": stat.uptime_s(),
        "isolation": stat.0["daemon"]["isolation"],
        "draining": stat.0["daemon"]["draining"],
        "degraded": degraded(stat),
        "engines": stat.engines().iter().map(|engine| json!({
            "device": engine["device"],
            "uuid": engine["uuid"],
            "epoch": engine["epoch"],
            "responding": engine["responding"],
            "busy_us": engine["busy_us"],
        })).collect::<Vec<_>>(),
        "sessions": stat.sessions().len(),
        "others": stat.0["others"],
        "requests_in_flight": in_flight,
        "requests_ok": total("requests_ok"),
        "requests_failed": total("requests_failed"),
        "requests_lost": total("requests_lost"),
        "launches": total("launches"),
        "ops_per_launch": ratio(total("ops"), total("launches")),
        "instances_per_launch": ratio(total("instances"), total("launches")),
        "fused_share": ratio(total("ops_fused"), total("ops")),
        "cross_session_launches": total("cross_session_launches"),
        "device_bytes": total("device_bytes"),
        "shared_bytes_saved": total("shared_bytes_saved"),
    })
}

/// What is not as it should be.
fn degraded(stat: &Stat) -> Vec<String> {
    let mut found = Vec::new();
    if stat.0["daemon"]["draining"] == true {
        found.push("the daemon is draining and takes nothing new".to_owned());
    }
    if stat.engines().is_empty() && !stat.sessions().is_empty() {
        found.push("no engine runs; sessions wait for the next".to_owned());
    }
    for engine in stat.engines() {
        if engine["responding"] == false {
            found.push(format!(
                "the engine of {} does not answer",
                word(&engine["device"])
            ));
        }
    }
    found
}

fn print(out: &mut impl Write, status: &Value) -> io::Result<()> {
    let number = |name: &str| status[name].as_u64();
    let fraction = |name: &str, show: fn(f64) -> String| or_dash(status[name].as_f64(), show);
    let two = |value: f64| format!("{value:.2}");
    let health = match status["degraded"].as_array() {
        Some(found) if !found.is_empty() => "degraded",
        _ => "well",
    };
    let up = or_dash(number("uptime_s"), units::duration);
    let mut line = |name: &str, text: String| writeln!(out, "{name:<11}{text}");
    line(
        "daemon",
        format!(
            "{health}, version {}, up {up}, {}",
            word(&status["version"]),
            word(&status["socket"])
        ),
    )?;
    for fault in status["degraded"].as_array().into_iter().flatten() {
        line("", word(fault))?;
    }
    for engine in status["engines"].as_array().into_iter().flatten() {
        let busy = or_dash(engine["busy_us"].as_u64(), |us| {
            units::duration(us / 1_000_000)
        });
        let text = format!(
            "{}, epoch {}, busy for {busy} in all",
            word(&engine["device"]),
            word(&engine["epoch"])
        );
        line("engine", text)?;
    }
    line("isolation", word(&status["isolation"]))?;
    let flight = or_dash(number("requests_in_flight"), units::count);
    line(
        "sessions",
        format!(
            "{}, {flight} requests in flight",
            or_dash(number("sessions"), units::count)
        ),
    )?;
    if let Some(text) = others_text(&status["others"]) {
        line("", text)?;
    }
    let requests = ["requests_ok", "requests_failed", "requests_lost"]
        .map(|name| or_dash(number(name), units::count));
    line(
        "requests",
        format!(
            "{} ok, {} failed, {} lost",
            requests[0], requests[1], requests[2]
        ),
    )?;
    line(
        "launches",
        format!(
            "{}; {} operations and {} instances each; {} shared by sessions",
            or_dash(number("launches"), units::count),
            fraction("ops_per_launch", two),
            fraction("instances_per_launch", two),
            or_dash(number("cross_session_launches"), units::count),
        ),
    )?;
    line(
        "memory",
        format!(
            "{} on the device; {} saved by sharing equal constants",
            or_dash(number("device_bytes"), units::bytes),
            or_dash(number("shared_bytes_saved"), units::bytes),
        ),
    )
}
