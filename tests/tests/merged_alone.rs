//! Merged = alone: random programs from several processes at once, on other data each, give the bits that each gives by itself.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use tensord_tests::daemon::{Daemon, count_from_env};
use tensord_tests::figures::figure;

const WORKERS: u64 = 4;
const CHUNK: u64 = 8;

fn worker(daemon: &Daemon, data: u64, first: u64, count: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_program-worker"))
        .arg(&daemon.socket)
        .args([data, CHUNK, first, count].map(|number| number.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was built with this test")
}

/// Runs workers over the same seeds, in step, chunk by chunk.
fn run(daemon: &Daemon, first: u64, count: u64) {
    let mut workers: Vec<Child> = (1..=WORKERS)
        .map(|data| worker(daemon, data, first, count))
        .collect();
    let mut said: Vec<_> = workers
        .iter_mut()
        .map(|worker| BufReader::new(worker.stdout.take().expect("piped")))
        .collect();
    'chunks: loop {
        for said in &mut said {
            let mut line = String::new();
            if said.read_line(&mut line).expect("a pipe") == 0 {
                break 'chunks;
            }
        }
        for worker in &mut workers {
            // One that has failed reads no more; its status tells.
            let _ = worker.stdin.as_mut().expect("piped").write_all(b"go\n");
        }
    }
    for mut worker in workers {
        drop(worker.stdin.take());
        let status = worker.wait().expect("a child of this process");
        assert!(
            status.success(),
            "a worker found a difference (seeds {first}..)"
        );
    }
}

#[test]
fn random_programs_of_several_processes_give_the_same_bits_merged_and_alone() {
    let programs = count_from_env("PROGRAMS", 2_000);
    let first = count_from_env("FIRST_SEED", 0);
    let daemon = Daemon::start("merged", "");
    run(&daemon, first, programs.div_ceil(WORKERS));
    let stat = daemon.stat();
    let counter = |name| tensord_tests::daemon::counter_of(&stat, name);
    assert!(counter("cross_session_launches") > 0, "{stat}");
    assert!(counter("ops_fused") > 0, "{stat}");
    assert!(counter("instances_batched") > 0, "{stat}");
    assert_eq!(counter("requests_lost"), 0, "{stat}");
    let command =
        "PROGRAMS=100000 cargo test --release -p tensord-tests --test merged_alone -- --nocapture";
    figure(
        "merged = alone, random programs over 4 processes without a difference",
        programs,
        command,
    );
    figure(
        "launches that crossed sessions meanwhile",
        counter("cross_session_launches"),
        command,
    );
    daemon.stop();
}
