//! `tensorctl bench`: what this daemon does in a second, measured by one client.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde_json::json;
use tensord_client::Session;

use crate::bench::profile::Profile;
use crate::bench::{Bench, CASES, Case, Line, Measure, median};
use crate::daemon::Connection;
use crate::table::{self, Align};
use crate::units::{self, significant};

const HEAD: [(&str, Align); 7] = [
    ("CASE", Align::Left),
    ("WHAT", Align::Left),
    ("MEDIAN", Align::Right),
    ("LEAST", Align::Right),
    ("MOST", Align::Right),
    ("UNIT", Align::Left),
    ("BESIDE", Align::Left),
];

const PROFILE_HEAD: [(&str, Align); 5] = [
    ("WHO", Align::Left),
    ("AT WHAT", Align::Left),
    ("NS", Align::Right),
    ("SHARE", Align::Right),
    ("", Align::Left),
];
/// Characters of a bar as long as the time on the wall.
const BAR: f64 = 40.0;

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Cases to run; all without any. `--list` names them.
    cases: Vec<String>,
    /// Names the cases and measures nothing.
    #[arg(long)]
    list: bool,
    /// Repetitions that the median is taken of.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Milliseconds for one repetition.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    ms: u64,
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if options.list {
        let rows: Vec<Vec<String>> = CASES
            .iter()
            .map(|case| vec![case.name.to_owned(), case.about.to_owned()])
            .collect();
        table::print(&mut out, &[HEAD[0], HEAD[1]], &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cases = chosen(&options.cases)?;
    // Where no daemon is, this says so as every command does.
    Connection::open(socket)?;
    let session = Session::connect(tensord_client::Options {
        socket: socket.map(Path::to_owned),
        name: "tensorctl bench".into(),
        autostart: false,
        ..tensord_client::Options::default()
    })?;
    let bench = Bench {
        session,
        runs: options.runs.into(),
        run_for: Duration::from_millis(options.ms),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
    };
    let (mut lines, mut profiles) = (Vec::new(), Vec::new());
    for (number, case) in cases.iter().enumerate() {
        progress(&format!(
            "{} of {}: {}",
            number + 1,
            cases.len(),
            case.about
        ));
        match case.run {
            Measure::Lines(run) => {
                let measured = run(&bench);
                progress("");
                lines.extend(measured?.into_iter().map(|line| (case.name, line)));
            }
            Measure::Profiles(run) => {
                let measured = run(&bench);
                progress("");
                profiles.extend(measured?.into_iter().map(|profile| (case.name, profile)));
            }
        }
    }
    if as_json {
        let lines: Vec<_> = lines.iter().map(|(case, line)| line.json(case)).collect();
        let profiles: Vec<_> = profiles
            .iter()
            .map(|(case, profile)| profile.json(case))
            .collect();
        let text = json!({ "runs": options.runs, "run_ms": options.ms, "lines": lines, "profiles": profiles });
        writeln!(out, "{text:#}")?;
        return Ok(ExitCode::SUCCESS);
    }
    if !lines.is_empty() {
        let rows: Vec<Vec<String>> = lines.iter().map(|(case, line)| row(case, line)).collect();
        table::print(&mut out, &HEAD, &rows)?;
    }
    for (number, (_, profile)) in profiles.iter().enumerate() {
        if number > 0 || !lines.is_empty() {
            writeln!(out)?;
        }
        print_profile(&mut out, profile)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One run's parts, with bars, and what adds up to what.
fn print_profile(out: &mut impl Write, profile: &Profile) -> io::Result<()> {
    let Some(run) = profile.middle() else {
        return Ok(());
    };
    writeln!(
        out,
        "{}: {} ns an operation, {} between two waits; {} submitted, {} executed in {} launches",
        profile.name,
        significant(run.each(run.wall_ns)),
        profile.operations,
        units::count(run.operations),
        units::count(run.executed),
        units::count(run.launches),
    )?;
    let rows: Vec<Vec<String>> = run
        .parts()
        .iter()
        .map(|part| {
            let length = (part.share * BAR).round().clamp(0.0, 2.0 * BAR) as usize;
            vec![
                part.side.to_owned(),
                part.name.to_owned(),
                significant(part.ns),
                format!("{:.1} %", part.share * 100.0),
                "#".repeat(length),
            ]
        })
        .collect();
    table::print(out, &PROFILE_HEAD, &rows)?;
    let how = if run.many {
        "The engine takes records in (ingest, graph) while the client submits: both count, so all shares together may pass 100 %."
    } else {
        "The client waits for each round: submitting, the engine's stages up to completion, and the crossing follow one another."
    };
    writeln!(out, "{how}")
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Case>> {
    for name in names {
        if !CASES.iter().any(|case| case.name == name) {
            let known: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            bail!("no case {name:?}; there are {}", known.join(", "));
        }
    }
    let wanted = |case: &&Case| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(CASES.iter().filter(wanted).collect())
}

/// What is being measured, in a terminal; erased by an empty text.
fn progress(text: &str) {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[2K{text}");
        let _ = terminal.flush();
    }
}

fn row(case: &str, line: &Line) -> Vec<String> {
    let least = line.runs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = line.runs.iter().copied().fold(0.0, f64::max);
    let beside = match (&line.limit, line.ratio()) {
        (Some(limit), Some(ratio)) => format!(
            "{ratio:.2} of {} ({})",
            limit.name,
            significant(median(&limit.runs))
        ),
        _ => String::new(),
    };
    vec![
        case.to_owned(),
        line.name.clone(),
        significant(median(&line.runs)),
        significant(least),
        significant(most),
        line.unit.to_owned(),
        beside,
    ]
}
