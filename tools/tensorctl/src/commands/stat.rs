//! `tensorctl stat`: every counter, once or again and again with rates.
//!
//! Rates need two samples, so with `--interval` the first line comes after the first interval, complete.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::daemon::Connection;
use crate::stat::{COUNTERS, STAGES, Stat};
use crate::table::{self, Align};
use crate::units::{self, ratio, word};

/// Counters of amounts that go up and down: they have no rate.
const LEVELS: [&str; 2] = ["device_bytes", "shared_bytes_saved"];
/// How often the head of the table comes again.
const HEAD_EVERY: u64 = 20;

/// What `stat` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show rates every so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<Duration>,
    /// Show device time of each uid in each tenant, over all sessions and restarts.
    #[arg(long, conflicts_with = "interval")]
    accounts: bool,
    /// With --interval: end after so many lines.
    #[arg(long, value_name = "N", requires = "interval")]
    count: Option<u64>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("seconds from 0.01 to 86400".into()),
    }
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(socket)?;
    let mut out = io::stdout().lock();
    let Some(interval) = options.interval else {
        let stat = connection.stat()?;
        if as_json {
            writeln!(out, "{:#}", stat.0)?;
        } else if options.accounts {
            print_accounts(&mut out, &stat)?;
        } else {
            print_counters(&mut out, &stat)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let mut earlier = (connection.stat()?, Instant::now());
    let mut line = 0;
    while options.count.is_none_or(|count| line < count) {
        std::thread::sleep(interval);
        let now = (connection.stat()?, Instant::now());
        let elapsed = now.1.duration_since(earlier.1).as_secs_f64();
        let rates = rates(&earlier.0, &now.0, elapsed);
        if as_json {
            let mut whole = now.0.0.clone();
            whole["seconds"] = json!(elapsed);
            whole["rates"] = rates.into();
            writeln!(out, "{whole}")?;
        } else {
            print_rates(&mut out, &now.0, &rates, line % HEAD_EVERY == 0)?;
        }
        out.flush()?;
        earlier = now;
        line += 1;
    }
    Ok(ExitCode::SUCCESS)
}

/// All counters, a column for each engine.
fn print_counters(out: &mut impl Write, stat: &Stat) -> anyhow::Result<()> {
    let engines = stat.engines();
    let titles: Vec<String> = engines
        .iter()
        .map(|engine| word(&engine["device"]))
        .collect();
    let mut head = vec![("COUNTER", Align::Left)];
    head.extend(titles.iter().map(|title| (title.as_str(), Align::Right)));
    let shown = |value: &Value| value.as_u64().map_or_else(|| word(value), units::count);
    let row = |name: &str, of: &dyn Fn(&Value) -> String| {
        let mut cells = vec![name.to_owned()];
        cells.extend(engines.iter().map(of));
        cells
    };
    let mut rows = vec![
        row("epoch", &|engine| word(&engine["epoch"])),
        row("busy_us", &|engine| shown(&engine["busy_us"])),
    ];
    let known = COUNTERS.iter().map(|name| (*name).to_owned());
    // A daemon newer than this tool may count more.
    let more = engines
        .iter()
        .filter_map(|engine| engine["counters"].as_object())
        .flat_map(|counters| counters.keys().cloned())
        .filter(|name| !COUNTERS.contains(&name.as_str()));
    let mut names: Vec<String> = known.chain(more).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    rows.extend(
        names
            .iter()
            .map(|name| row(name, &|engine| shown(&engine["counters"][name]))),
    );
    table::print(out, &head, &rows)?;
    writeln!(out)?;
    print_stages(out, engines, &titles)?;
    let sessions = stat.sessions().len();
    writeln!(
        out,
        "{sessions} session{} (tensorctl ps)",
        if sessions == 1 { "" } else { "s" }
    )?;
    Ok(())
}

/// Device time that can be billed, most of it first.
fn print_accounts(out: &mut impl Write, stat: &Stat) -> anyhow::Result<()> {
    let head = [
        ("TENANT", Align::Left),
        ("UID", Align::Right),
        ("SESSIONS", Align::Right),
        ("DEVICE ms", Align::Right),
    ];
    let mut accounts = stat.accounts().to_vec();
    accounts.sort_by_key(|account| std::cmp::Reverse(account["device_us"].as_u64()));
    let rows: Vec<Vec<String>> = accounts
        .iter()
        .map(|account| {
            let time = account["device_us"].as_u64();
            vec![
                word(&account["tenant"]),
                word(&account["uid"]),
                word(&account["sessions"]),
                units::or_dash(time, units::milliseconds),
            ]
        })
        .collect();
    table::print(out, &head, &rows)?;
    if let Some(us) = stat.0["others"]["accounts_device_us"].as_u64() {
        writeln!(out, "and {} ms of other tenants", units::milliseconds(us))?;
    }
    Ok(())
}

/// Where the time of each engine's thread went since it started.
fn print_stages(out: &mut impl Write, engines: &[Value], titles: &[String]) -> io::Result<()> {
    let mut head = vec![("TIME IN", Align::Left)];
    for title in titles {
        head.extend([(title.as_str(), Align::Right), ("SHARE", Align::Right)]);
    }
    let rows: Vec<Vec<String>> = STAGES
        .iter()
        .map(|stage| {
            let mut cells = vec![(*stage).to_owned()];
            for engine in engines {
                let of = |name: &str| engine["stages_ns"][name].as_u64();
                let age: Option<u64> = STAGES.iter().map(|name| of(name)).sum();
                cells.push(units::or_dash(of(stage), |ns| {
                    format!("{} us", units::count(ns / 1_000))
                }));
                cells.push(units::or_dash(ratio(of(stage), age), |share| {
                    format!("{:.1} %", share * 100.0)
                }));
            }
            cells
        })
        .collect();
    table::print(out, &head, &rows)
}

/// What each counter gained a second; null where either sample lacks it, or where it went back because an engine or the
/// daemon was started anew in between.
fn rates(earlier: &Stat, now: &Stat, seconds: f64) -> Map<String, Value> {
    let rate = |before: Option<u64>, after: Option<u64>| match (before, after) {
        (Some(before), Some(after)) if after >= before && seconds > 0.0 => {
            json!((after - before) as f64 / seconds)
        }
        _ => Value::Null,
    };
    let mut rates: Map<String, Value> = COUNTERS
        .iter()
        .filter(|name| !LEVELS.contains(name))
        .map(|name| {
            (
                (*name).to_owned(),
                rate(earlier.total(name), now.total(name)),
            )
        })
        .collect();
    // Device time a second is the share of time that a device is busy.
    let busy = rate(earlier.busy_us(), now.busy_us());
    rates.insert(
        "busy".into(),
        busy.as_f64().map_or(Value::Null, |us| json!(us / 1e6)),
    );
    // Likewise the shares of time that the engines' threads were at each stage.
    let shares = STAGES.iter().map(|stage| {
        let share = rate(earlier.stage_ns(stage), now.stage_ns(stage));
        let share = share.as_f64().map_or(Value::Null, |ns| json!(ns / 1e9));
        ((*stage).to_owned(), share)
    });
    rates.insert("stages".into(), shares.collect::<Map<_, _>>().into());
    let gained = |name: &str| Some(now.total(name)?.saturating_sub(earlier.total(name)?));
    rates.insert(
        "ops_per_launch".into(),
        json!(ratio(gained("ops"), gained("launches"))),
    );
    rates
}

fn print_rates(
    out: &mut impl Write,
    stat: &Stat,
    rates: &Map<String, Value>,
    head: bool,
) -> anyhow::Result<()> {
    let columns = [
        ("requests/s", "requests_ok"),
        ("ops/s", "ops"),
        ("launches/s", "launches"),
        ("shared/s", "cross_session_launches"),
        ("failed/s", "requests_failed"),
    ];
    if head {
        let names: Vec<String> = columns
            .iter()
            .map(|(title, _)| format!("{title:>12}"))
            .collect();
        writeln!(
            out,
            "{}{:>12}{:>8}{:>12}",
            names.concat(),
            "ops/launch",
            "busy",
            "memory"
        )?;
    }
    let figure = |name: &str| rates.get(name).and_then(Value::as_f64);
    let mut line = String::new();
    for (_, name) in columns {
        line.push_str(&format!(
            "{:>12}",
            units::or_dash(figure(name), |rate| units::count(rate.round() as u64))
        ));
    }
    let per_launch = units::or_dash(figure("ops_per_launch"), |ratio| format!("{ratio:.1}"));
    let busy = units::or_dash(figure("busy"), |busy| format!("{:.1} %", busy * 100.0));
    let memory = units::or_dash(stat.total("device_bytes"), units::bytes);
    writeln!(out, "{line}{per_launch:>12}{busy:>8}{memory:>12}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ops: u64, launches: u64) -> Stat {
        let counters = json!({ "ops": ops, "launches": launches });
        Stat::parse(&json!({ "engines": [{ "busy_us": ops, "counters": counters }] }).to_string())
            .unwrap()
    }

    #[test]
    fn rates_need_both_samples_and_survive_a_restart() {
        let forward = rates(&sample(100, 10), &sample(500, 20), 2.0);
        assert_eq!(
            (&forward["ops"], &forward["launches"]),
            (&json!(200.0), &json!(5.0))
        );
        assert_eq!(
            (&forward["ops_per_launch"], &forward["requests_ok"]),
            (&json!(40.0), &Value::Null)
        );
        assert!(!forward.contains_key("device_bytes"));
        let back = rates(&sample(500, 20), &sample(3, 1), 2.0);
        assert_eq!((&back["ops"], &back["busy"]), (&Value::Null, &Value::Null));
    }
}
