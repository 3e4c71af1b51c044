//! Opens a session on the socket named by its argument; ends with 1 and the reason if it is refused.

use std::process::ExitCode;

use tensord_client::{Options, Session};

fn main() -> ExitCode {
    let options = Options {
        socket: std::env::args_os().nth(1).map(Into::into),
        autostart: false,
        ..Options::default()
    };
    match Session::connect(options) {
        Ok(_) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
