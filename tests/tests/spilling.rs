//! Memory beyond the device: what has no room on it waits in host memory and comes back, with the same bits, charged to whoever holds it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tensord_client::{Code, Elementwise, Fetched, Options, Reduction, Session, Tensor};
use tensord_tests::daemon::{Daemon, count_from_env, counter_of, eventually};
use tensord_tests::figures::figure;
use tensord_tests::programs::Program;

const MIB: u64 = 1 << 20;

/// A daemon with a small device.
fn small(name: &str, device_bytes: u64, more: &str) -> Daemon {
    let config =
        format!("[engine]\ndevice_bytes = {device_bytes}\nspill_bytes = 1073741824\n{more}");
    Daemon::start(name, &config)
}

/// Sessions that work through their tensors one after the other, each in a process of its own.
struct Workers(Vec<Worker>);

struct Worker {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Workers {
    /// Starts them; gives them when all have their tensors.
    fn start(
        daemon: &Daemon,
        how: &str,
        count: u64,
        (tensors, elements, rounds): (u64, u64, u64),
    ) -> Workers {
        let start = |seed: u64| {
            let mut child = Command::new(env!("CARGO_BIN_EXE_memory-worker"))
                .arg(&daemon.socket)
                .arg(how)
                .args([seed, tensors, elements, rounds].map(|number| number.to_string()))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it was built with this test");
            let said = BufReader::new(child.stdout.take().expect("piped"));
            Worker { child, said }
        };
        let mut workers = Workers((1..=count).map(start).collect());
        let ready = workers.0.iter_mut().map(Worker::hear);
        ready.for_each(|line| assert_eq!(line, "ready"));
        workers
    }

    /// Lets them work; gives the seconds of the slowest, and what the bits of each one's results come to.
    fn work(&mut self) -> (f64, Vec<String>) {
        self.0.iter_mut().for_each(Worker::go_on);
        let mut seconds = 0f64;
        let bits = self.0.iter_mut().map(|worker| {
            let line = worker.hear();
            let (took, bits) = line.split_once(' ').expect("seconds and bits");
            seconds = seconds.max(took.parse().expect("a number"));
            bits.to_owned()
        });
        let bits = bits.collect();
        (seconds, bits)
    }

    fn end(mut self) {
        self.0.iter_mut().for_each(Worker::go_on);
        for worker in &mut self.0 {
            let status = worker.child.wait().expect("a child of this process");
            assert!(status.success());
        }
    }

    fn kill(mut self) {
        for worker in &mut self.0 {
            worker.child.kill().expect("a child of this process");
            worker.child.wait().expect("a child of this process");
        }
    }
}

impl Worker {
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a pipe");
        line.trim_end().to_owned()
    }

    fn go_on(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"go\n").expect("it reads");
    }
}

fn nothing_is_held(daemon: &Daemon) {
    eventually("everything is given back", || {
        let stat = daemon.stat();
        let held = ["device_bytes", "spilled_bytes", "spill_host_bytes"];
        held.iter()
            .all(|name| counter_of(&stat, name) == 0)
            .then_some(())
    });
}

fn session_of(stat: &Value, id: u64) -> Value {
    let sessions = stat["sessions"].as_array().into_iter().flatten();
    let mut own = sessions.filter(|session| session["id"] == id);
    own.next().cloned().expect("the session is there")
}

/// Results of many programs at once, so that their tensors are there at the same time.
fn results(session: &Session, programs: &[Program]) -> Vec<Vec<Fetched>> {
    let submit = |program: &Program| program.submit(session).expect("it fits");
    let submitted: Vec<Vec<Tensor>> = programs.iter().map(submit).collect();
    let fetch = |tensor: &Tensor| tensor.fetch();
    submitted
        .iter()
        .zip(programs)
        .map(|(tensors, program)| {
            let all: Result<Vec<Fetched>, _> = tensors.iter().map(fetch).collect();
            all.unwrap_or_else(|error| panic!("seed {}: {error}\n{program}", program.seed))
        })
        .collect()
}

#[test]
fn random_programs_give_the_same_bits_on_a_tiny_device() {
    let count = count_from_env("PROGRAMS", 400);
    let tiny = small("tiny", 256 << 10, "");
    let large = Daemon::start("large", "");
    let threads = [1u64, 2].map(|data| {
        let (tiny, large) = (tiny.options(), large.options());
        std::thread::spawn(move || {
            let options = |options: Options| Options {
                slot_count: 1_024,
                ..options
            };
            let tiny = Session::connect(options(tiny)).expect("served");
            let large = Session::connect(options(large)).expect("served");
            for first in (0..count / 2).step_by(100) {
                let seeds = first..(first + 100).min(count / 2);
                let programs: Vec<Program> =
                    seeds.map(|seed| Program::random(seed, data)).collect();
                let pairs = results(&tiny, &programs)
                    .into_iter()
                    .zip(results(&large, &programs));
                for (program, (tiny, large)) in programs.iter().zip(pairs) {
                    program
                        .judge(&tiny, &large)
                        .unwrap_or_else(|why| panic!("{why}"));
                }
            }
        })
    });
    for thread in threads {
        thread.join().expect("no difference was found");
    }
    let stat = tiny.stat();
    let counter = |name| counter_of(&stat, name);
    assert!(counter("spill_out_bytes") > 0, "{stat}");
    assert!(counter("spill_in_bytes") > 0, "{stat}");
    nothing_is_held(&tiny);
    figure(
        "random programs on a device of 256 KiB and on a large one without a difference",
        count,
        "PROGRAMS=20000 cargo test --release -p tensord-tests --test spilling -- --nocapture",
    );
    tiny.stop();
}

#[test]
fn sessions_that_together_need_four_times_the_device_finish_with_the_same_bits() {
    let sessions = 8;
    let rounds = count_from_env("ROUNDS", 4);
    let (tensors, elements) = (16, 1 << 17);
    let device_bytes = sessions * tensors * elements * 4 / 4;
    let daemon = small("four-times", device_bytes, "");
    let shape = (tensors, elements, rounds);
    let mut workers = Workers::start(&daemon, "kept", sessions, shape);
    let before = daemon.stat();
    let held = counter_of(&before, "spilled_bytes") + counter_of(&before, "device_bytes");
    assert_eq!(held, 4 * device_bytes, "{before}");
    let (seconds, bits) = workers.work();
    let stat = daemon.stat();
    workers.end();
    nothing_is_held(&daemon);
    let mut workers = Workers::start(&daemon, "by-hand", sessions, shape);
    let (by_hand_seconds, by_hand) = workers.work();
    workers.end();
    assert_eq!(bits, by_hand);
    assert!(counter_of(&stat, "spill_in_bytes") > 0, "{stat}");
    assert!(
        counter_of(&stat, "device_bytes_max") <= device_bytes,
        "{stat}"
    );
    let command =
        "ROUNDS=100 cargo test --release -p tensord-tests --test spilling four -- --nocapture";
    figure(
        "eight sessions that need 4x the device: as fast as dropping and uploading by hand, times",
        format!("{:.2}", by_hand_seconds / seconds),
        command,
    );
    figure(
        "seconds of it, kept and by hand",
        format!("{seconds:.2} and {by_hand_seconds:.2}"),
        command,
    );
    for name in ["spill_in_bytes", "spill_out_bytes", "throttled_us"] {
        figure(&format!("{name} of it"), counter_of(&stat, name), command);
    }
    daemon.stop();
}

#[test]
fn killed_sessions_leave_nothing_in_host_memory() {
    let daemon = small("killed", MIB, "");
    let idle = Workers::start(&daemon, "kept", 3, (32, 1 << 15, 1));
    assert!(daemon.counter("spilled_bytes") > 0);
    idle.kill();
    nothing_is_held(&daemon);
    let mut working = Workers::start(&daemon, "kept", 3, (32, 1 << 15, 100_000));
    working.0.iter_mut().for_each(Worker::go_on);
    eventually("they work", || {
        (daemon.counter("spill_in_bytes") > 8 * MIB).then_some(())
    });
    working.kill();
    nothing_is_held(&daemon);
    daemon.stop();
}

#[test]
fn a_limit_counts_what_is_held_wherever_it_lies() {
    let limits = format!("[limits]\nsession_device_bytes = {}\n", 4 * MIB);
    let daemon = small("limit", MIB, &limits);
    let session = daemon.session();
    let piece = |value: f64| session.full(&[1 << 16], value, tensord_client::DType::F32);
    let held: Vec<Tensor> = (0..16)
        .map(|k| {
            let piece = piece(f64::from(k)).expect("submitted");
            piece.wait().expect("within the limit");
            piece
        })
        .collect();
    let stat = daemon.stat();
    let id = session.info().welcome.session;
    assert_eq!(session_of(&stat, id)["device_bytes"], 4 * MIB, "{stat}");
    assert!(counter_of(&stat, "spilled_bytes") >= 3 * MIB, "{stat}");
    let more = piece(0.5).expect("submitted").wait().expect_err("over it");
    assert_eq!(more.code(), Code::OutOfMemory, "{more}");
    for (k, held) in held.iter().enumerate() {
        let least = held.reduce(Reduction::Min, None, false);
        assert_eq!(
            least.and_then(|least| least.item::<f32>()).ok(),
            None,
            "a result is over it as well"
        );
        assert_eq!(
            held.to_vec::<f32>().expect("what is held is read"),
            vec![k as f32; 1 << 16]
        );
    }
    drop((held, session));
    nothing_is_held(&daemon);
    daemon.stop();
}

#[test]
fn what_can_never_fit_is_refused_and_the_rest_goes_on() {
    let daemon = Daemon::start(
        "never",
        "[engine]\ndevice_bytes = 1048576\nspill_bytes = 2097152\n",
    );
    let session = daemon.session();
    let full = |count: u64| session.full(&[count], 1.0, tensord_client::DType::F32);
    let huge = full(1 << 19).expect("submitted").wait();
    let huge = huge.expect_err("larger than the device");
    assert_eq!(huge.code(), Code::OutOfMemory, "{huge}");
    let mut held = Vec::new();
    let refused = loop {
        let piece = full(1 << 15).expect("submitted");
        match piece.wait() {
            Ok(()) => held.push(piece),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Code::OutOfMemory, "{refused}");
    // Device and host memory together, but for what an operation needs beside.
    assert!((20..=24).contains(&held.len()), "{}", held.len());
    held.pop();
    for piece in &held {
        let sum = piece
            .reduce(Reduction::Sum, None, false)
            .expect("submitted");
        assert_eq!(sum.item::<f32>().expect("it fits"), (1 << 15) as f32);
    }
    drop((held, session));
    nothing_is_held(&daemon);
    daemon.stop();
}

#[test]
fn a_window_that_does_not_fit_as_one_runs_in_pieces() {
    let daemon = small("pieces", MIB, "");
    let session = daemon.session();
    for _ in 0..3 {
        // Nothing is waited for: all of it is one window, ten times the device.
        let tensors: Vec<Tensor> = (0..80)
            .map(|k| {
                let piece = session.iota(1 << 15, f64::from(k), 1.0, tensord_client::DType::F32);
                piece.expect("submitted")
            })
            .collect();
        let doubled: Vec<Tensor> = tensors
            .iter()
            .map(|tensor| tensor.scalar(Elementwise::Mul, 2.0).expect("submitted"))
            .collect();
        session.flush().expect("submitted");
        for (k, doubled) in doubled.iter().enumerate() {
            let have = doubled.to_vec::<f32>().expect("it fits in pieces");
            let right = (0..1 << 15).map(|at| 2.0 * (at + k) as f32);
            assert!(have.into_iter().eq(right), "tensor {k}");
        }
    }
    daemon.stop();
}

#[test]
fn who_works_within_a_share_is_not_kept_waiting_by_those_who_do_not_fit() {
    let daemon = small("share", 8 * MIB, "");
    let mut large = Workers::start(&daemon, "kept", 3, (24, 1 << 16, 100_000));
    large.0.iter_mut().for_each(Worker::go_on);
    let session = daemon.session();
    let own = session.full(&[1 << 14], 3.0, tensord_client::DType::F32);
    let own = own.expect("submitted");
    eventually("those who do not fit push out each other's tensors", || {
        let sum = own.reduce(Reduction::Sum, None, false).expect("submitted");
        assert_eq!(sum.item::<f32>().expect("computed"), 3.0 * (1 << 14) as f32);
        (daemon.counter("spill_in_bytes") > 256 * MIB).then_some(())
    });
    let stat = daemon.stat();
    assert_eq!(
        session_of(&stat, session.info().welcome.session)["throttled_us"],
        0,
        "{stat}"
    );
    large.kill();
    daemon.stop();
}
