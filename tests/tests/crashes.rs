//! Deaths: clients, engines and brokers are killed at random points under load, and the others go on.
//!
//! Counts come from the environment for `make figures`: `CLIENT_KILLS` (50), `ENGINE_KILLS` and `BROKER_KILLS` (5).

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tensord_client::{
    Code, DType, Distribution, Elementwise, Error, Meta, Session, Shape, Site, Tensor,
};
use tensord_tests::daemon::{Daemon, count_from_env, eventually};
use tensord_tests::figures::figure;
use tensord_tests::random::Random;

fn command(count: &str) -> String {
    format!("{count} cargo test --release -p tensord-tests --test crashes -- --nocapture")
}

fn constant(session: &Session) -> Tensor {
    let bytes: Vec<u8> = (0..64u64 * 64)
        .flat_map(|k| ((k % 13) as f32).to_le_bytes())
        .collect();
    let meta = Meta {
        dtype: DType::F32,
        shape: Shape::new(&[64, 64]).expect("small"),
    };
    session
        .constant(&bytes, meta, Site::UNKNOWN)
        .expect("uploaded")
}

/// One answer, checked.
fn ask(session: &Session, weights: &Tensor, turn: u64) -> Result<(), Error> {
    let row: Vec<f32> = (0..64).map(|k| ((turn + k) % 11) as f32).collect();
    let x = session.tensor(&row, &[1, 64])?;
    let y = x
        .contract(weights, "ij,jk->ik")?
        .scalar(Elementwise::Add, 1.0)?;
    let have = y.to_vec::<f32>()?;
    for (column, have) in have.into_iter().enumerate() {
        let at = |j: usize| ((j * 64 + column) % 13) as f32;
        let want: f32 = row.iter().enumerate().map(|(j, x)| x * at(j)).sum();
        assert_eq!(have, want + 1.0, "turn {turn}, column {column}");
    }
    Ok(())
}

fn victim(daemon: &Daemon, seed: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_program-worker"))
        .arg(&daemon.socket)
        .args(["1", "1", &(seed * 1_000).to_string(), "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it was built with this test")
}

/// Descriptors and shared mappings of the daemon's processes, when they have not changed for a while.
fn settled(daemon: &Daemon) -> Vec<(i32, usize, usize)> {
    let look = || -> Vec<(i32, usize, usize)> {
        let mappings = daemon.shared_mappings();
        let each = daemon.fds().into_iter();
        each.map(|(pid, fds)| (pid, fds, mappings.get(&pid).copied().unwrap_or(0)))
            .collect()
    };
    let (mut last, mut same) = (look(), 0);
    eventually("nothing changes any more", || {
        let now = look();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 100).then(|| last.clone())
    })
}

#[test]
fn clients_killed_at_random_points_leave_nothing() {
    let kills = count_from_env("CLIENT_KILLS", 50);
    let daemon = Daemon::start("clients", "");
    let neighbour = daemon.session();
    let weights = constant(&neighbour);
    ask(&neighbour, &weights, 0).expect("computed");
    // Looking at counters opens connections of its own, so what is open is looked at on its own, once it has settled.
    let before = settled(&daemon);
    let bytes_before = daemon.counter("device_bytes");
    let mut random = Random(5);
    for round in 0..kills.div_ceil(2) {
        let mut victims = [victim(&daemon, round), victim(&daemon, round)];
        let until = Instant::now() + Duration::from_micros(2_000 + random.below(60_000));
        let mut turn = 0;
        while Instant::now() < until {
            turn += 1;
            ask(&neighbour, &weights, turn).expect("the others see no error");
        }
        for victim in &mut victims {
            victim.kill().expect("a child of this process");
            victim.wait().expect("a child of this process");
        }
    }
    eventually("their sessions have ended", || {
        (daemon.session_count() == 1).then_some(())
    });
    assert_eq!(settled(&daemon), before, "descriptors and mappings");
    eventually("their device memory is given back", || {
        (daemon.counter("device_bytes") == bytes_before).then_some(())
    });
    ask(&neighbour, &weights, 1).expect("the others see no error");
    let text = command("CLIENT_KILLS=500");
    figure(
        "clients killed at random points, nothing leaked, no error for the others",
        2 * kills.div_ceil(2),
        &text,
    );
    daemon.stop();
}

/// Sessions that ask all the time. After a lost engine they go on with the same session.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(daemon: &Daemon) -> Load {
        let load = Load {
            stop: Arc::new(AtomicBool::new(false)),
            answers: Arc::new(AtomicU64::new(0)),
            lost: Arc::new(AtomicU64::new(0)),
            threads: Vec::new(),
        };
        let threads = (0..3).map(|_| load.thread(daemon.session())).collect();
        Load { threads, ..load }
    }

    fn thread(&self, session: Session) -> std::thread::JoinHandle<()> {
        let (stop, answers) = (Arc::clone(&self.stop), Arc::clone(&self.answers));
        let lost = Arc::clone(&self.lost);
        std::thread::spawn(move || {
            let weights = constant(&session);
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                match ask(&session, &weights, turn) {
                    Ok(()) => answers.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.code() == Code::Lost => {
                        assert!(error.message().contains("engine"), "{error}");
                        lost.fetch_add(1, Ordering::Relaxed)
                    }
                    Err(error) => panic!("{error}"),
                };
            }
        })
    }

    /// Waits until every session has had answers since; gives how long the first took.
    fn answers_again(&self) -> Duration {
        let (before, start) = (self.answers.load(Ordering::Relaxed), Instant::now());
        eventually("there are answers again", || {
            (self.answers.load(Ordering::Relaxed) > before + 30).then_some(())
        });
        start.elapsed()
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread
                .join()
                .expect("a session saw nothing but answers and losses");
        }
        self.lost.load(Ordering::Relaxed)
    }
}

/// Waits, under load, until the child in a role is no longer one that died at once: those are started after a growing pause,
/// and what is measured here is one death, not a row of them. How old it is the kernel says.
fn has_lived(daemon: &Daemon, role: &str) {
    let pid = eventually("there is such a child", || daemon.child(role));
    eventually("it is no newcomer", || {
        (age_of(pid) > Duration::from_millis(250)).then_some(())
    });
    assert_eq!(daemon.child(role), Some(pid), "nobody else kills it");
}

/// Time since a process was started, to a hundredth of a second.
fn age_of(pid: i32) -> Duration {
    let read = |path: String| std::fs::read_to_string(path).expect("a process that runs");
    let uptime = read("/proc/uptime".to_owned());
    let uptime: f64 = uptime
        .split_whitespace()
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .expect("seconds");
    // Field 22; the second is the name in parentheses, which may hold anything.
    let stat = read(format!("/proc/{pid}/stat"));
    let start: f64 = stat
        .rsplit(')')
        .next()
        .and_then(|fields| fields.split_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .expect("clock ticks");
    // USER_HZ, which the kernel keeps at 100 for every architecture that it still supports but alpha.
    Duration::from_secs_f64((uptime - start / 100.0).max(0.0))
}

/// The sum of all outcomes, once nothing is in flight.
fn outcomes_add_up(daemon: &Daemon) {
    let sum = |stat: &serde_json::Value| {
        let count = |name: &str| tensord_tests::daemon::counter_of(stat, name);
        let outcomes = ["requests_ok", "requests_failed", "requests_cancelled"];
        (
            count("requests_accepted"),
            outcomes.into_iter().map(count).sum::<u64>(),
        )
    };
    eventually("each accepted request has one outcome", || {
        let (accepted, ended) = sum(&daemon.stat());
        assert!(
            ended <= accepted,
            "{ended} outcomes for {accepted} requests"
        );
        (accepted == ended).then_some(())
    });
}

#[test]
fn engines_killed_under_load_are_back_at_once() {
    let kills = count_from_env("ENGINE_KILLS", 5);
    let daemon = Daemon::start("engines", "");
    let load = Load::start(&daemon);
    load.answers_again();
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        has_lived(&daemon, "engine");
        daemon.kill("engine");
        slowest = slowest.max(load.answers_again());
    }
    let stat = daemon.stat();
    assert_eq!(stat["engines"][0]["epoch"], kills + 1, "{stat}");
    assert_eq!(daemon.session_count(), 3);
    let lost = load.stop();
    assert!(lost > 0, "somebody was hit");
    outcomes_add_up(&daemon);
    let text = command(&format!("ENGINE_KILLS={kills}"));
    figure("engine killed under load, times", kills, &text);
    figure(
        "slowest return to 30 answers after an engine's end, ms",
        slowest.as_millis(),
        &text,
    );
    daemon.stop();
}

#[test]
fn an_engine_that_fails_blames_the_session_whose_work_it_ran() {
    let daemon = Daemon::start("blame", "");
    let (worker, neighbour) = (daemon.session(), daemon.session());
    let kept = neighbour.tensor(&[1.0f32; 4], &[4]).expect("uploaded");
    kept.wait().expect("it is there");
    let matrix = worker
        .random(&[3072, 3072], DType::F32, Distribution::Uniform, 1)
        .expect("random");
    matrix.wait().expect("computed");
    let session_of = |stat: &serde_json::Value, handles: u64| {
        let sessions = stat["sessions"].as_array().cloned().unwrap_or_default();
        let found = sessions
            .into_iter()
            .find(|session| session["handles"] == handles);
        found.map(|session| session["id"].clone())
    };
    // Seconds of work, of which the engine is in the midst.
    let mut product = matrix.clone();
    for _ in 0..16 {
        product = product.contract(&matrix, "ij,jk->ik").expect("it fits");
    }
    worker.flush().expect("submitted");
    let id = eventually("the product runs", || {
        let stat = daemon.stat();
        let running = stat["sessions"]
            .as_array()?
            .iter()
            .any(|session| session["requests_in_flight"].as_u64() >= Some(16));
        running.then(|| session_of(&stat, 2)).flatten()
    });
    daemon.signal("engine", Signal::SIGABRT);
    let error = product.wait().expect_err("its engine ended");
    assert_eq!(error.code(), Code::Lost, "{error}");
    assert!(
        error.to_string().contains("work of this session"),
        "{error}"
    );
    let error = eventually("the neighbour hears of it", || {
        kept.unary(Elementwise::Neg).and_then(|y| y.wait()).err()
    });
    assert_eq!(error.code(), Code::Lost, "{error}");
    assert!(
        !error.to_string().contains("work of this session"),
        "{error}"
    );
    let end = daemon.stat()["engines"][0]["last_end"].clone();
    assert_eq!(end["blamed_session"], id, "{end}");
    // Nobody is blamed for what came from outside.
    daemon.kill("engine");
    eventually("the next epoch", || {
        let stat = daemon.stat();
        (stat["engines"][0]["last_end"]["epoch"] == 2).then_some(())
    });
    let end = daemon.stat()["engines"][0]["last_end"].clone();
    assert!(end["blamed_session"].is_null(), "{end}");
    daemon.stop();
}

#[test]
fn brokers_killed_under_load_are_not_noticed() {
    let kills = count_from_env("BROKER_KILLS", 5);
    let daemon = Daemon::start("brokers", "");
    let load = Load::start(&daemon);
    load.answers_again();
    for _ in 0..kills {
        has_lived(&daemon, "broker");
        let pid = daemon.kill("broker");
        load.answers_again();
        eventually("there is another broker", || {
            daemon.child("broker").filter(|next| *next != pid)
        });
        // A newcomer is served.
        let session = daemon.session();
        let weights = constant(&session);
        ask(&session, &weights, 3).expect("computed");
    }
    assert_eq!(load.stop(), 0, "no request was lost");
    let stat = daemon.stat();
    assert_eq!(stat["engines"][0]["epoch"], 1, "{stat}");
    eventually("the sessions have ended", || {
        (daemon.session_count() == 0).then_some(())
    });
    outcomes_add_up(&daemon);
    let text = command(&format!("BROKER_KILLS={kills}"));
    figure(
        "broker killed under load, times, without an error for running clients",
        kills,
        &text,
    );
    daemon.stop();
}
