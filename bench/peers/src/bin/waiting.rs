//! Many small clients on few cores: `waiting SOCKET CLIENTS MILLISECONDS`.
//!
//! Every client is a process. It submits a chain of eight operations on 64 elements, waits for its value, and begins again. Prints one
//! JSON object: the steps of each client, and the 99th percentile of a step in microseconds, of the client where it is
//! greatest. What clients and engine do while they wait was chosen by these figures, for 1 to 128 clients, with foreign load and without.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tensord_client::{Elementwise, Options, Session};

type Failure = Box<dyn Error>;

const OPERATIONS: usize = 8;
const WARM_UP: usize = 100;

/// Says "ready", starts when a line comes, and prints its steps and the 99th percentile.
fn client(socket: &str, run_for: Duration) -> Result<(), Failure> {
    let session = Session::connect(Options {
        socket: Some(PathBuf::from(socket)),
        name: "waiting".into(),
        autostart: false,
        ..Options::default()
    })?;
    let x = session.tensor(&[1.0f32; 64], &[64])?;
    let step = || -> Result<(), Failure> {
        let mut y = x.clone();
        for _ in 0..OPERATIONS {
            y = y.scalar(Elementwise::Mul, 1.0001)?;
        }
        Ok(y.wait()?)
    };
    for _ in 0..WARM_UP {
        step()?;
    }
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let (start, mut took) = (Instant::now(), Vec::with_capacity(1 << 16));
    while start.elapsed() < run_for {
        let begun = Instant::now();
        step()?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    let late = took[(took.len() - 1) * 99 / 100];
    println!("{} {}", took.len(), late.as_secs_f64() * 1e6);
    Ok(())
}

fn line(from: &mut BufReader<ChildStdout>) -> Result<String, Failure> {
    let mut text = String::new();
    match from.read_line(&mut text)? {
        0 => Err("a client ended early; its words are above".into()),
        _ => Ok(text),
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, clients, milliseconds, role @ ..] = &words[..] else {
        return Err("usage: waiting SOCKET CLIENTS MILLISECONDS".into());
    };
    if !role.is_empty() {
        return client(socket, Duration::from_millis(milliseconds.parse()?));
    }
    let own = std::env::current_exe()?;
    let start = || -> Result<(Child, BufReader<ChildStdout>), Failure> {
        let mut child = Command::new(&own)
            .args([socket, "1", milliseconds, "client"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("its output was piped")?);
        Ok((child, out))
    };
    let mut running = (0..clients.parse()?)
        .map(|_: usize| start())
        .collect::<Result<Vec<_>, _>>()?;
    for (_, out) in &mut running {
        line(out)?;
    }
    for (child, _) in &mut running {
        let stdin = child.stdin.as_mut().ok_or("its input was piped")?;
        writeln!(stdin, "go")?;
    }
    let (mut steps, mut late) = (Vec::new(), 0f64);
    for (child, out) in &mut running {
        let text = line(out)?;
        let (count, p99) = text.trim().split_once(' ').ok_or("two numbers")?;
        steps.push(count.parse::<u64>()?);
        late = late.max(p99.parse()?);
        child.wait()?;
    }
    println!("{}", json!({ "steps": steps, "p99_us": late }));
    Ok(())
}
