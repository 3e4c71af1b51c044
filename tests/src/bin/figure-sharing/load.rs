//! Clients that keep a daemon busy: each a session and a thread, so many requests in flight, chains of elementwise operations.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::Value;
use tensord_client::{Class, Elementwise, Error, Mark, Options, Session, Tensor};
use tensord_tests::daemon::Daemon;

use crate::Failure;

/// The daemon's slice.
pub const SLICE_US: f64 = 500.0;
/// Until everybody is under way.
const WARM_UP: Duration = Duration::from_millis(500);
/// What shares are measured over.
const MEASURED: Duration = Duration::from_secs(1);
/// Elements of all requests of a client that are in flight.
const IN_FLIGHT: u64 = 8 << 20;
/// Operations of a chain: one work.
const CHAIN: usize = 8;

/// What one client does.
#[derive(Clone, Debug)]
pub struct Load {
    /// 0 or 1: the socket, which is a tenant.
    pub tenant: usize,
    /// Class of its work.
    pub class: Class,
    /// Its weight.
    pub weight: u32,
    /// Elements of its tensor, f32.
    pub elements: u64,
    /// Requests in flight.
    pub depth: usize,
    /// Between a result and the next request.
    pub pause_us: u64,
}

impl Load {
    /// Chains over so many elements, always some milliseconds of them in flight: a client whose core is taken away for as long is
    /// still saturated.
    pub fn of(elements: u64) -> Load {
        Load {
            tenant: 0,
            class: Class::Normal,
            weight: 100,
            elements,
            depth: (IN_FLIGHT / elements).clamp(4, 512) as usize,
            pause_us: 0,
        }
    }
}

/// What a client had.
pub struct Client {
    /// Chains a second.
    pub rate: f64,
    /// Device time by the scheduler's account.
    pub device_us: f64,
    latencies_us: Vec<f64>,
}

impl Client {
    /// Time from a request to its result.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (sorted.len() as f64 * percent / 100.0) as usize;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// What clients that ran at the same time had.
pub struct Fleet {
    /// In the order of their loads.
    pub clients: Vec<Client>,
}

/// Chains a second of a client by itself.
pub fn alone(load: &Load) -> Result<f64, Failure> {
    Ok(Fleet::run("", std::slice::from_ref(load))?.clients[0].rate)
}

const CONFIG: &str = r#"
[class]
highest = "realtime"
weight_max = 10000
[[listen]]
path = "FOLDER/tensord.sock"
tenant = "name:first"
[[listen]]
path = "FOLDER/second.sock"
tenant = "name:second"
"#;

impl Fleet {
    /// Runs them on a daemon of their own, with further lines of its configuration.
    pub fn run(config: &str, loads: &[Load]) -> Result<Fleet, Failure> {
        let daemon = Daemon::start("sharing", &format!("{CONFIG}\n{config}"));
        let sessions: Result<Vec<Session>, Error> = loads
            .iter()
            .map(|load| {
                let name = ["tensord.sock", "second.sock"][load.tenant];
                Session::connect(Options {
                    socket: Some(daemon.folder.join(name)),
                    class: load.class,
                    weight: load.weight,
                    autostart: false,
                    ..Options::default()
                })
            })
            .collect();
        let sessions = sessions?;
        let ids: Vec<u64> = sessions.iter().map(|s| s.info().welcome.session).collect();
        let ready = Barrier::new(loads.len() + 1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = sessions
                .iter()
                .zip(loads)
                .map(|(session, load)| {
                    let ready = &ready;
                    scope.spawn(move || busy(session, load, ready))
                })
                .collect();
            ready.wait();
            std::thread::sleep(WARM_UP);
            let before = device_us(&daemon.stat(), &ids);
            std::thread::sleep(MEASURED);
            let after = device_us(&daemon.stat(), &ids);
            let clients = threads.into_iter().zip(before.iter().zip(&after));
            let clients: Result<Vec<Client>, Error> = clients
                .map(|(thread, (before, after))| {
                    let (rate, latencies_us) =
                        thread.join().expect("a client's thread does not panic")?;
                    Ok(Client {
                        rate,
                        device_us: after - before,
                        latencies_us,
                    })
                })
                .collect();
            Ok(Fleet { clients: clients? })
        })
    }

    /// Device time of all.
    pub fn device_us(&self) -> f64 {
        self.clients.iter().map(|client| client.device_us).sum()
    }
}

/// Device time of sessions, by the scheduler's account.
fn device_us(stat: &Value, ids: &[u64]) -> Vec<f64> {
    let sessions = stat["sessions"].as_array();
    let of = |id: &u64| {
        let session = sessions.into_iter().flatten().find(|s| s["id"] == *id);
        session
            .and_then(|session| session["device_us"].as_f64())
            .unwrap_or(0.0)
    };
    ids.iter().map(of).collect()
}

/// Submits chains and waits for the oldest, from the barrier on; gives those of the measured time in a second, and how long each took.
fn busy(session: &Session, load: &Load, ready: &Barrier) -> Result<(f64, Vec<f64>), Error> {
    let x = session.iota(
        load.elements,
        0.5,
        1.0 / load.elements as f64,
        tensord_client::DType::F32,
    )?;
    x.wait()?;
    ready.wait();
    let begin = Instant::now();
    let from = begin + WARM_UP;
    let end = from + MEASURED;
    let mut open: VecDeque<(Tensor, Mark, Instant)> = VecDeque::new();
    let mut latencies_us = Vec::new();
    let mut done = 0u32;
    // Others go on a little, so that nobody's last requests run alone.
    while Instant::now() < end + WARM_UP / 5 {
        while open.len() < load.depth {
            let mut y = x.clone();
            for _ in 0..CHAIN / 2 {
                y = y.scalar(Elementwise::Mul, 1.0001)?;
                y = y.scalar(Elementwise::Add, 0.5)?;
            }
            let mark = session.flush()?;
            open.push_back((y, mark, Instant::now()));
        }
        if let Some((_, mark, since)) = open.pop_front() {
            session.wait(mark, None)?;
            if (from..end).contains(&Instant::now()) {
                done += 1;
                latencies_us.push(since.elapsed().as_secs_f64() * 1e6);
            }
        }
        if load.pause_us > 0 {
            std::thread::sleep(Duration::from_micros(load.pause_us));
        }
    }
    Ok((f64::from(done) / MEASURED.as_secs_f64(), latencies_us))
}
