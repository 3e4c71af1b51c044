//! `tensorctl nice`: class and weight of a session, a uid or a tenant, while it runs.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;
use tensord_shm::control::{Class, Request, Target, WEIGHT_MAX};

use crate::daemon::Connection;
use crate::units;

/// What `nice` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A session's number, uid:NUMBER, or tenant:NAME as `tensorctl ps` shows it.
    #[arg(value_parser = Target::parse)]
    target: Target,
    /// idle, normal or realtime: of a session its class, of a uid or a tenant the highest class of its sessions.
    #[arg(long, value_parser = class)]
    class: Option<Class>,
    /// 1 to 10000: of a session its weight, of a tenant (or a uid that is one) its weight among tenants.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(WEIGHT_MAX)))]
    weight: Option<u32>,
}

fn class(text: &str) -> Result<Class, String> {
    Class::from_name(text).ok_or_else(|| "idle, normal or realtime".to_owned())
}

/// See the file's head.
pub fn run(socket: Option<&Path>, as_json: bool, options: &Options) -> anyhow::Result<ExitCode> {
    if options.class.is_none() && options.weight.is_none() {
        bail!("nothing to change: say --class, --weight or both; `tensorctl ps` shows what holds");
    }
    let request = Request::Nice {
        target: options.target.clone(),
        class: options.class,
        weight: options.weight,
    };
    let (sessions, text) = Connection::open(socket)?.change(&request)?;
    tell(as_json, &options.target, sessions, &text)
}

/// Says what was done to whom.
pub fn tell(as_json: bool, target: &Target, sessions: u32, text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if as_json {
        let target = target.to_string();
        let done = json!({ "target": target, "sessions": sessions, "done": text });
        writeln!(out, "{done:#}")?;
    } else {
        let running = match (target, sessions) {
            (Target::Session(_), _) => String::new(),
            (_, 0) => " (no session of it runs now; it holds from the first one on)".to_owned(),
            (_, 1) => " (1 session runs)".to_owned(),
            (_, more) => format!(" ({} sessions run)", units::count(more.into())),
        };
        writeln!(out, "{text}{running}")?;
    }
    Ok(ExitCode::SUCCESS)
}
