//! Measures what the tests here can measure, at full counts, and prints one line for each figure.
//!
//! `figures [TEST...]` runs the named tests, or all; each goes through cargo, so that the printed command is what was run.
//! Ends with 1 if one of them failed; its figures are then missing, and a line says so.

use std::process::{Command, ExitCode, Stdio};

/// Tests with the counts that the documentation states.
const TESTS: &[(&str, &[(&str, &str)])] = &[
    ("merged_alone", &[("PROGRAMS", "100000")]),
    ("plans", &[]),
    (
        "crashes",
        &[
            ("CLIENT_KILLS", "500"),
            ("ENGINE_KILLS", "50"),
            ("BROKER_KILLS", "50"),
        ],
    ),
    ("tenants", &[]),
    ("spilling", &[("PROGRAMS", "20000"), ("ROUNDS", "20")]),
    ("limits", &[("LIMIT_SEEDS", "20")]),
    ("billing", &[]),
    ("hostile", &[]),
];

/// Runs one test program; true if it passed.
fn run(name: &str, counts: &[(&str, &str)]) -> bool {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "test",
            "--release",
            "-q",
            "-p",
            "tensord-tests",
            "--test",
            name,
        ])
        .args(["--", "--nocapture", "--test-threads", "1"])
        .envs(counts.iter().copied())
        .stdin(Stdio::null());
    let output = match cargo.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("cargo: {error}");
            return false;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in text.lines() {
        if let Some(at) = line.find("figure: ") {
            println!("{}", &line[at..]);
        } else if line.contains("SKIPPED") {
            println!("{line}");
        }
    }
    let shown: Vec<String> = counts.iter().map(|(k, v)| format!("{k}={v} ")).collect();
    let command = format!(
        "{}cargo test --release -p tensord-tests --test {name}",
        shown.concat()
    );
    if output.status.success() {
        println!("figure: {name}: every promise held ({command})");
    } else {
        eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        println!("figure: {name}: FAILED ({command})");
    }
    output.status.success()
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let chosen = TESTS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name));
    let failed = chosen.filter(|(name, counts)| !run(name, counts)).count();
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
