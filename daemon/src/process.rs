//! The command line, and which of the three processes this one is.
//!
//! `main.rs` and the tests enter here, with the engine that they bring.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tensord_shm::CHECKED;

use crate::engine_process::MakeEngine;
use crate::sandbox::{self, Role};
use crate::supervisor::{self, Options};
use crate::{broker, engine_process, log};

/// tensord: an operating-system service for tensors.
#[derive(Debug, Parser)]
#[command(name = "tensord", version, about)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Path of the socket on which clients connect.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Device: cpu, cuda:N or sim[:MODEL].
    #[arg(long)]
    device: Option<String>,
    /// Log filter, as tracing directives: info, warn,tensord_daemon::broker=debug.
    #[arg(long, env = log::LOG_VARIABLE, value_name = "FILTER")]
    log: Option<String>,
    /// End by itself after so many seconds without a session.
    #[arg(long, value_name = "SECONDS")]
    exit_idle_s: Option<u32>,
    /// Which process this is; the supervisor says so to its children.
    #[arg(long, hide = true, value_enum, default_value = "supervisor")]
    role: Role,
    /// Confine this process as that role is, try what it has no business with, and print what became of it.
    #[arg(long, hide = true, value_enum, value_name = "ROLE")]
    self_test_sandbox: Option<Role>,
}

/// Has to be 1 for a build that checks nothing to start.
const UNCHECKED_VARIABLE: &str = "TENSORD_UNCHECKED_BENCHMARK";

/// Runs the process that the command line asks for.
pub fn main(make: MakeEngine) -> ExitCode {
    let arguments = Arguments::parse();
    log::start(arguments.log.as_deref(), "info");
    if !CHECKED && arguments.role == Role::Supervisor {
        if !is_meant(std::env::var_os(UNCHECKED_VARIABLE)) {
            tracing::error!(
                "this build checks nothing that clients send and must not serve any: it is for measuring what checks cost. \
                 {UNCHECKED_VARIABLE}=1 starts it all the same"
            );
            return ExitCode::FAILURE;
        }
        tracing::warn!(
            "UNCHECKED BUILD, FOR A BENCHMARK ONLY: clients are believed, memory is not zeroed between tenants, no process is confined"
        );
    }
    let done = match (arguments.self_test_sandbox, arguments.role) {
        (Some(role), _) => self_test(role),
        (None, Role::Supervisor) => supervisor::run(&Options {
            config_path: arguments.config,
            socket: arguments.socket,
            device: arguments.device,
            log: arguments.log,
            exit_idle_s: arguments.exit_idle_s,
        }),
        (None, Role::Broker) => broker::run(),
        (None, Role::Engine) => engine_process::run(make),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}: {error:#}", arguments.role.name());
            ExitCode::FAILURE
        }
    }
}

/// Does whoever starts an unchecked build know what it is?
fn is_meant(variable: Option<OsString>) -> bool {
    variable.is_some_and(|value| value == "1")
}

/// Prints one line for each attempt; fails if one was let through.
fn self_test(role: Role) -> anyhow::Result<()> {
    sandbox::confine(role)?;
    let mut let_through = Vec::new();
    for probe in sandbox::probe() {
        match probe.outcome {
            Err(nix::Error::EPERM | nix::Error::EACCES) => println!("refused: {}", probe.what),
            other => {
                println!("let through: {} ({other:?})", probe.what);
                let_through.push(probe.what);
            }
        }
    }
    anyhow::ensure!(
        let_through.is_empty(),
        "the sandbox of the {} let through: {let_through:?}",
        role.name()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_was_not_asked_for_anything_checks() {
        const { assert!(CHECKED, "the feature is nobody's default") };
    }

    #[test]
    fn an_unchecked_build_starts_only_for_who_says_so() {
        assert!(!is_meant(None) && !is_meant(Some("".into())) && !is_meant(Some("yes".into())));
        assert!(is_meant(Some("1".into())));
    }
}
