//! `tensorctl drain`: the daemon takes nothing new, finishes what it has accepted, and ends.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use tensord_shm::control::Request;

use crate::daemon::Connection;

/// What `drain` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Return when the daemon has ended, and not when it has begun.
    #[arg(long)]
    wait: bool,
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    let mut connection = Connection::open(socket)?;
    connection.order(&Request::Drain)?;
    if options.wait {
        connection.wait_for_end();
    }
    let mut out = io::stdout().lock();
    if as_json {
        let answer = json!({ "draining": true, "ended": options.wait });
        writeln!(out, "{answer:#}")?;
    } else if options.wait {
        writeln!(out, "drained; the daemon has ended")?;
    } else {
        writeln!(
            out,
            "draining: nothing new is taken; the daemon ends when what it accepted is done, or after drain_s"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
