//! Opens idle sessions for `bench/figures`: `figure-sessions SOCKET COUNT`.
//!
//! Prints the seconds that it took to connect all of them, one after the other, and holds them until its input ends.

#![forbid(unsafe_code)]

use std::io::Read;
use std::time::Instant;

use tensord_client::{Error, Options, Session};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: figure-sessions SOCKET COUNT".into());
    };
    let count: usize = count.parse()?;
    let start = Instant::now();
    let sessions: Result<Vec<Session>, Error> = (0..count)
        .map(|_| {
            Session::connect(Options {
                socket: Some((&socket).into()),
                autostart: false,
                ..Options::default()
            })
        })
        .collect();
    let sessions = sessions?;
    println!("{}", start.elapsed().as_secs_f64());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(sessions);
    Ok(())
}
