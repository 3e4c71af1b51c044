//! A process that runs random programs, merged and alone, and compares: with each other bit for bit, and with the reference.
//!
//! `program-worker SOCKET DATA_SEED CHUNK FIRST COUNT`: for each chunk of seeds it says `ready` and waits for a line, so that
//! several of them submit the same programs at the same time. Says each difference, and ends with 1 if there were any.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use tensord_client::{Error, Fetched, Options, Session};
use tensord_tests::programs::Program;

fn connect(socket: &str, merged: bool) -> Result<Session, Error> {
    Session::connect(Options {
        socket: Some(socket.into()),
        autostart: false,
        fuse: merged,
        batch: merged,
        slot_count: 1_024,
        ..Options::default()
    })
}

/// Submits all programs, then reads all results.
fn run(session: &Session, programs: &[Program]) -> Result<Vec<Vec<Fetched>>, String> {
    let mut submitted = Vec::new();
    for program in programs {
        let tensors = program.submit(session);
        submitted
            .push(tensors.map_err(|error| format!("seed {}: {error}\n{program}", program.seed))?);
    }
    let fetch = |(program, tensors): (&Program, Vec<tensord_client::Tensor>)| {
        let all: Result<Vec<Fetched>, Error> =
            tensors.iter().map(|tensor| tensor.fetch()).collect();
        all.map_err(|error| format!("seed {}: {error}\n{program}", program.seed))
    };
    programs.iter().zip(submitted).map(fetch).collect()
}

fn work(arguments: &[String]) -> Result<(), String> {
    let [socket, data, chunk, first, count] = arguments else {
        return Err("program-worker SOCKET DATA_SEED CHUNK FIRST COUNT".to_owned());
    };
    let number = |text: &String| {
        text.parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    let (data, chunk, first, count) = (
        number(data)?,
        number(chunk)?,
        number(first)?,
        number(count)?,
    );
    let session = |merged| connect(socket, merged).map_err(|error| error.to_string());
    let (merged, alone) = (session(true)?, session(false)?);
    let mut differences = 0;
    let mut lines = std::io::stdin().lock().lines();
    for from in (first..first + count).step_by(chunk as usize) {
        let seeds = from..(from + chunk).min(first + count);
        let programs: Vec<Program> = seeds.map(|seed| Program::random(seed, data)).collect();
        println!("ready");
        std::io::stdout()
            .flush()
            .map_err(|error| error.to_string())?;
        lines.next();
        let together = run(&merged, &programs)?;
        let apart = run(&alone, &programs)?;
        for ((program, together), apart) in programs.iter().zip(&together).zip(&apart) {
            if let Err(why) = program.judge(together, apart) {
                eprintln!("{why}");
                differences += 1;
            }
        }
    }
    match differences {
        0 => Ok(()),
        some => Err(format!("{some} programs differed")),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match work(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
