//! `tensorctl sim`: the engine in virtual time, on a device that is not there. Needs no daemon.
//!
//! Seeds look for broken rules and end with exit status 1 at the first; scenarios give figures of the scheduler, with exit status 1
//! where one is not what it should be; a recording of one client is played by many, to see what a device would make of them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tensord_daemon::schedule::PolicyName;
use tensord_sim::Model;
use tensord_simulator::recording::Recording;
use tensord_simulator::replay::{self, Played};
use tensord_simulator::scenario::{Bench, Figure, SCENARIOS, Scenario};
use tensord_simulator::seed::{self, Broken, Sum};

use crate::table::{self, Align};
use crate::units::{self, significant};

const HEAD: [(&str, Align); 5] = [
    ("FIGURE", Align::Left),
    ("VALUE", Align::Right),
    ("UNIT", Align::Left),
    ("WANTED", Align::Left),
    ("", Align::Left),
];
/// Characters of a progress bar.
const BAR: u64 = 40;

/// What to simulate.
#[derive(Args, Debug)]
pub struct Options {
    /// How many seeds to run; for a scenario that counts over many, of that.
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// The first seed.
    #[arg(long, value_name = "S", default_value_t = 0)]
    from: u64,
    /// The device: sim:h100, sim:small, with values of its own as in sim:h100,processors=66. Without it seeds choose, and scenarios take
    /// the H100.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Tells everything that happens in the first seed.
    #[arg(short, long)]
    verbose: bool,
    /// Runs a scenario, or `all`, and prints its figures. `--list` names them.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Names the scenarios and runs nothing.
    #[arg(long)]
    list: bool,
    /// Plays a recording, by as many clients as --clients says, and tells what the device would be busy with.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "record"])]
    trace: Option<PathBuf>,
    /// Clients that play the recording.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    clients: u16,
    /// Writes a recording of the first client of the seed that --from names.
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    record: Option<PathBuf>,
    /// Turns of a scenario: fair, or fifo for first come, first served.
    #[arg(long, value_name = "POLICY", value_parser = policy, default_value = "fair")]
    policy: PolicyName,
    /// Longest slice of a launch in a scenario, in microseconds.
    #[arg(long, value_name = "US", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    slice_us: u64,
}

fn policy(text: &str) -> Result<PolicyName, String> {
    match text {
        "fair" => Ok(PolicyName::Fair),
        "fifo" => Ok(PolicyName::Fifo),
        _ => Err("there are fair and fifo".to_owned()),
    }
}

/// See the file's head.
pub fn run(as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    let model = options
        .device
        .as_deref()
        .map(Model::of_device)
        .transpose()?;
    let mut out = io::stdout().lock();
    if options.list {
        let rows: Vec<Vec<String>> = SCENARIOS
            .iter()
            .map(|scenario| vec![scenario.name.to_owned(), scenario.about.to_owned()])
            .collect();
        let head = [("SCENARIO", Align::Left), ("WHAT", Align::Left)];
        table::print(&mut out, &head, &rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &options.record {
        return record(&mut out, (path, model), options.from);
    }
    if let Some(path) = &options.trace {
        return play(&mut out, as_json, (path, model), options);
    }
    match &options.scenario {
        Some(name) => scenarios(&mut out, as_json, (name, model), options),
        None => seeds(&mut out, as_json, model, options),
    }
}

// ---------------------------------------------------------------------- seeds

fn seeds(
    out: &mut impl Write,
    as_json: bool,
    model: Option<Model>,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let count = options.seeds.unwrap_or(1_000);
    let mut chosen = seed::Options {
        model,
        ..seed::Options::default()
    };
    if options.verbose && count > 0 && !as_json {
        chosen.whole_story = true;
        let outcome = seed::run(options.from, &chosen);
        if let Ok(outcome) = &outcome {
            outcome
                .story
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))?;
        }
        chosen.whole_story = outcome.is_err() && count == 1;
    }
    let range = options.from..options.from.saturating_add(count);
    let (begin, shown) = (Instant::now(), AtomicU64::new(0));
    let ran = seed::run_many(range, &chosen, &|done| bar(done, count, &shown));
    erase();
    let seconds = begin.elapsed().as_secs_f64();
    if as_json {
        writeln!(out, "{:#}", seeds_json(&ran, options, seconds))?;
    }
    match ran {
        Ok(sum) => {
            if !as_json {
                print_sum(out, &sum, seconds)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(broken) => {
            if !as_json {
                writeln!(out, "{}", broken.failure)?;
                writeln!(out, "seed {}: {}", broken.seed, broken.failure.violation)?;
                writeln!(out, "again: {}", again(&broken, options))?;
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print_sum(out: &mut impl Write, sum: &Sum, seconds: f64) -> io::Result<()> {
    writeln!(
        out,
        "{} seeds, no violation: {} requests in {} launches, {} of virtual time in {seconds:.1} s",
        units::count(sum.seeds),
        units::count(sum.requests),
        units::count(sum.launches),
        virtual_time(sum.virtual_ns),
    )
}

fn virtual_time(ns: u64) -> String {
    match ns {
        0..1_000_000_000 => format!("{} ms", significant(ns as f64 / 1e6)),
        _ => format!("{} s", significant(ns as f64 / 1e9)),
    }
}

/// The command that shows a broken seed again.
fn again(broken: &Broken, options: &Options) -> String {
    let device = options.device.as_deref();
    let device = device.map_or(String::new(), |device| format!(" --device {device}"));
    format!("tensorctl sim --seeds 1 --from {}{device} -v", broken.seed)
}

fn seeds_json(ran: &Result<Sum, Broken>, options: &Options, seconds: f64) -> Value {
    let sum = ran.as_ref().copied().unwrap_or_default();
    let violation = ran.as_ref().err().map(|broken| {
        json!({
            "seed": broken.seed,
            "rule": broken.failure.violation.check.to_string(),
            "text": broken.failure.violation.text,
            "at_ns": broken.failure.at_ns,
            "story": broken.failure.story,
            "replay": again(broken, options),
        })
    });
    json!({
        "from": options.from,
        "seeds": sum.seeds,
        "device": options.device,
        "requests": sum.requests,
        "launches": sum.launches,
        "virtual_ns": sum.virtual_ns,
        "seconds": seconds,
        "violation": violation,
    })
}

/// How far it is, in a terminal.
fn bar(done: u64, of: u64, shown: &AtomicU64) {
    let mut terminal = io::stderr();
    let part = done * BAR / of.max(1);
    // One line for each step that can be seen, or a hundredth.
    let step = done * 100 / of.max(1) + 1;
    if shown.swap(step, Ordering::Relaxed) == step || !terminal.is_terminal() {
        return;
    }
    let (full, rest) = ("#".repeat(part as usize), ".".repeat((BAR - part) as usize));
    let _ = write!(terminal, "\r\x1b[2K[{full}{rest}] {done} of {of} seeds");
    let _ = terminal.flush();
}

fn erase() {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[2K");
        let _ = terminal.flush();
    }
}

// ---------------------------------------------------------------------- recordings

fn record(
    out: &mut impl Write,
    (path, model): (&Path, Option<Model>),
    seed: u64,
) -> anyhow::Result<ExitCode> {
    let recording =
        replay::record(seed, model).map_err(|failure| anyhow::anyhow!("seed {seed}: {failure}"))?;
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    recording.write(&mut file)?;
    file.flush()?;
    let entries = units::count(recording.entries.len() as u64);
    writeln!(
        out,
        "{entries} entries of seed {seed} in {}",
        path.display()
    )?;
    Ok(ExitCode::SUCCESS)
}

fn play(
    out: &mut impl Write,
    as_json: bool,
    (path, model): (&Path, Option<Model>),
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let name = || path.display().to_string();
    let mut file = BufReader::new(File::open(path).with_context(name)?);
    let recording = Recording::read(&mut file).with_context(name)?;
    let model = model.unwrap_or_default();
    let device = format!("sim:{}", model.name);
    let clients = usize::from(options.clients);
    let played = replay::play(&Arc::new(recording), clients, model, options.from)
        .map_err(|failure| anyhow::anyhow!("{}: {failure}", path.display()))?;
    if as_json {
        writeln!(out, "{:#}", played_json(&played, &device))?;
    } else {
        print_played(out, &played, &device)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn percentiles(played: &Played) -> [(&'static str, Option<u64>); 4] {
    let all = &played.latencies_ns;
    let at = |share: f64| all.get(((all.len() as f64 * share) as usize).min(all.len().max(1) - 1));
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)]
        .map(|(name, share)| (name, at(share).copied()))
}

fn played_json(played: &Played, device: &str) -> Value {
    let latency: serde_json::Map<_, _> = percentiles(played)
        .into_iter()
        .map(|(name, ns)| (name.to_owned(), json!(ns)))
        .collect();
    json!({
        "device": device,
        "clients": played.clients,
        "virtual_ns": played.took_ns,
        "device_busy": played.busy,
        "launches": played.launches,
        "instances_per_launch": played.instances_each,
        "requests": played.requests,
        "requests_failed_steps": played.failed,
        "requests_per_s_least": played.requests_per_s.0,
        "requests_per_s_most": played.requests_per_s.1,
        "step_latency_ns": latency,
    })
}

fn print_played(out: &mut impl Write, played: &Played, device: &str) -> io::Result<()> {
    let mut line = |name: &str, text: String| writeln!(out, "{name:<14}{text}");
    let took = virtual_time(played.took_ns);
    line(
        "clients",
        format!("{} on {device}, done after {took}", played.clients),
    )?;
    line("device busy", format!("{:.1} %", played.busy * 100.0))?;
    line(
        "launches",
        format!(
            "{}, {} instances each",
            units::count(played.launches),
            significant(played.instances_each)
        ),
    )?;
    let latency = percentiles(played).map(|(name, ns)| {
        let us = units::or_dash(ns, |ns| significant(ns as f64 / 1e3));
        format!("{name} {us} us")
    });
    line("step latency", latency.join(", "))?;
    let (least, most) = played.requests_per_s;
    line(
        "requests/s",
        format!(
            "{} to {} for each client; {} requests in all, {} steps with a failure",
            significant(least),
            significant(most),
            units::count(played.requests),
            units::count(played.failed)
        ),
    )
}

// ---------------------------------------------------------------------- scenarios

fn scenarios(
    out: &mut impl Write,
    as_json: bool,
    (name, model): (&str, Option<Model>),
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| name == "all" || scenario.name == name)
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        bail!(
            "no scenario {name:?}; there are {}, and all",
            known.join(", ")
        );
    }
    let mut bench = Bench {
        seed: options.from,
        policy: options.policy,
        slice_ns: options.slice_us * 1000,
        ..Bench::default()
    };
    bench.model = model.unwrap_or(bench.model);
    bench.seeds = options.seeds.unwrap_or(bench.seeds);
    let (mut holds, mut all) = (true, Vec::new());
    for scenario in chosen {
        let figures = (scenario.run)(&bench)
            .map_err(|failure| anyhow::anyhow!("scenario {}: {failure}", scenario.name))?;
        holds &= figures.iter().all(Figure::holds);
        if as_json {
            all.push(scenario_json(scenario, &figures));
        } else {
            writeln!(out, "{}: {}", scenario.name, scenario.about)?;
            let rows: Vec<Vec<String>> = figures.iter().map(row).collect();
            table::print(out, &HEAD, &rows)?;
            writeln!(out)?;
        }
    }
    if as_json {
        writeln!(
            out,
            "{:#}",
            json!({ "device": format!("sim:{}", bench.model.name), "scenarios": all })
        )?;
    }
    Ok(ExitCode::from(u8::from(!holds)))
}

fn scenario_json(scenario: &Scenario, figures: &[Figure]) -> Value {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            json!({
                "what": figure.what,
                "value": figure.value,
                "unit": figure.unit,
                "wanted": figure.wanted.map(|wanted| wanted.to_string()),
                "holds": figure.holds(),
            })
        })
        .collect();
    json!({ "name": scenario.name, "about": scenario.about, "figures": figures })
}

fn row(figure: &Figure) -> Vec<String> {
    vec![
        figure.what.clone(),
        significant(figure.value),
        figure.unit.to_owned(),
        figure
            .wanted
            .map_or(String::new(), |wanted| wanted.to_string()),
        if figure.holds() { "" } else { "missed" }.to_owned(),
    ]
}
