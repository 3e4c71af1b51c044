//! The `tensord` program: supervisor, broker or engine, by its role.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tensord_daemon::process::main(tensord_daemon::engine::make)
}
