//! Watches and steers a running tensord.
//!
//! One file per command under `commands/`; each reads through [`daemon::Connection`] and prints for people, or, with
//! `--json`, for scripts. Exit status: 0 done, 1 something is wrong, 2 the command line is, 3 no daemon.

#![forbid(unsafe_code)]

mod bench;
mod checks;
mod commands;
mod daemon;
mod stat;
mod table;
mod units;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use daemon::NoDaemon;

/// Exit status where no daemon answers.
const NO_DAEMON: u8 = 3;

/// Watches and steers a running tensord.
#[derive(Debug, Parser)]
#[command(name = "tensorctl", version, about)]
struct Arguments {
    /// Socket of the daemon. Without it the usual places are searched, and the administration socket is preferred.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// JSON in place of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One screen: daemon, engines, sessions, memory, what fusing and batching gain.
    Status,
    /// The sessions, those with the most device time first.
    Ps,
    /// Every counter.
    Stat(commands::stat::Options),
    /// Changes class and weight of a session, a uid or a tenant while it runs.
    Nice(commands::nice::Options),
    /// Shows the limits of sessions, uids and tenants, or changes them.
    Limit(commands::limit::Options),
    /// Ends sessions.
    Kill(commands::kill::Options),
    /// Has the daemon take nothing new, finish what it has accepted, and end.
    Drain(commands::drain::Options),
    /// Checks this machine and says what to do.
    Doctor,
    /// What this daemon does in a second, measured by one client.
    Bench(commands::bench::Options),
    /// Runs the engine in virtual time on a modelled device: seeds that look for broken rules, and scenarios. Needs no daemon.
    Sim(commands::sim::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let socket = arguments.socket.as_deref();
    let done = match &arguments.command {
        Command::Status => commands::status::run(socket, arguments.json),
        Command::Ps => commands::ps::run(socket, arguments.json),
        Command::Stat(options) => commands::stat::run(socket, arguments.json, options),
        Command::Nice(options) => commands::nice::run(socket, arguments.json, options),
        Command::Limit(options) => commands::limit::run(socket, arguments.json, options),
        Command::Kill(options) => commands::kill::run(socket, arguments.json, options),
        Command::Drain(options) => commands::drain::run(socket, arguments.json, options),
        Command::Doctor => commands::doctor::run(socket, arguments.json),
        Command::Bench(options) => commands::bench::run(socket, arguments.json, options),
        Command::Sim(options) => commands::sim::run(arguments.json, options),
    };
    let error = match done {
        Ok(code) => return code,
        Err(error) => error,
    };
    // Whoever reads the output through a pipe may stop reading; that is no fault.
    if error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    {
        return ExitCode::SUCCESS;
    }
    let absent = error.downcast_ref::<NoDaemon>();
    if arguments.json {
        let socket = absent.map(|absent| absent.socket.display().to_string());
        println!(
            "{}",
            json!({ "running": absent.is_none(), "socket": socket, "error": format!("{error:#}") })
        );
    } else {
        eprintln!("tensorctl: {error:#}");
    }
    ExitCode::from(if absent.is_some() { NO_DAEMON } else { 1 })
}
