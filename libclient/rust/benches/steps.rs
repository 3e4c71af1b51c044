//! Steps of many clients on few cores: each submits a chain of fifty operations, waits for its value, and begins again.
//!
//! `TENSORD_BIN=... cargo bench -p tensord-client --bench steps`; without `TENSORD_BIN` the daemon beside this build. It
//! is what the constants in `patience.rs` were chosen by: every client is a process, as in life.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tensord_client::{DType, Elementwise, Operand, Options, Scalar, Session, Site};

const OPERATIONS: usize = 50;
const RUN_FOR: Duration = Duration::from_secs(2);

fn connect(socket: &str) -> Session {
    loop {
        let options = Options {
            socket: Some(PathBuf::from(socket)),
            ..Options::default()
        };
        match Session::connect(options) {
            Ok(session) => return session,
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn client(socket: &str) {
    let session = connect(socket);
    let x = session.tensor(&[1.0f32; 64], &[64]).expect("it fits");
    let scale = Operand::Immediate(DType::F32, Scalar::from_f64(1.0001, DType::F32));
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < RUN_FOR {
        let step = Instant::now();
        let mut y = x.clone();
        for _ in 0..OPERATIONS {
            y = session
                .elementwise(Elementwise::Mul, &[Operand::Tensor(&y), scale], Site(1))
                .expect("it fits");
        }
        y.wait().expect("nothing fails");
        times.push(step.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{} {} {}", times.len(), at(0.5), at(0.99));
}

/// Nanoseconds an operation of a chain of 64, submitted one by one, with its result read back.
fn chain(socket: &str) {
    let session = connect(socket);
    for count in [64usize, 1024, 16_384] {
        let x = session
            .tensor(&vec![1.0f32; count], &[count as u64])
            .expect("it fits");
        let mut best = f64::INFINITY;
        for _ in 0..3000 {
            let start = Instant::now();
            let mut y = x.clone();
            for k in 0..64u32 {
                let number = 1.0 + f64::from(k) * 1e-6;
                let scale = Operand::Immediate(DType::F32, Scalar::from_f64(number, DType::F32));
                y = session
                    .elementwise(Elementwise::Mul, &[Operand::Tensor(&y), scale], Site(1))
                    .expect("it fits");
            }
            let fetched = y.fetch().expect("nothing fails");
            assert_eq!(fetched.len(), count * 4);
            best = best.min(start.elapsed().as_nanos() as f64 / 64.0);
        }
        println!("chain of 64 over {count} f32, read back: {best:.0} ns an operation at best");
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("client") {
        return client(&arguments.next().expect("a socket"));
    }
    let own = std::env::current_exe().expect("a program has a path");
    let beside = own
        .ancestors()
        .nth(2)
        .expect("target/release/deps")
        .join("tensord");
    let program = std::env::var_os("TENSORD_BIN").map_or(beside, PathBuf::from);
    let socket = std::env::temp_dir().join(format!("tensord-steps-{}.sock", std::process::id()));
    let mut daemon = Command::new(&program)
        .arg("--socket")
        .arg(&socket)
        .args(["--log", "error"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    chain(&socket.to_string_lossy());
    for clients in [1, 8, 32] {
        let children: Vec<_> = (0..clients)
            .map(|_| {
                let mut command = Command::new(&own);
                command.arg("client").arg(&socket).stdout(Stdio::piped());
                command.spawn().expect("this program runs")
            })
            .collect();
        let (mut steps, mut middle, mut late) = (0u64, Vec::new(), 0);
        for child in children {
            let output = child.wait_with_output().expect("it ends");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let numbers: Vec<u64> = text
                .split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect();
            let [count, p50, p99] = numbers[..] else {
                panic!("a client failed: {text}")
            };
            steps += count;
            middle.push(p50);
            late = late.max(p99);
        }
        middle.sort_unstable();
        println!(
            "{clients:2} clients: {:.0} k steps/s, p50 {:.1} us, worst p99 {:.1} us",
            steps as f64 / RUN_FOR.as_secs_f64() / 1000.0,
            middle[middle.len() / 2] as f64 / 1000.0,
            late as f64 / 1000.0
        );
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
    let _ = std::fs::remove_file(&socket);
}
