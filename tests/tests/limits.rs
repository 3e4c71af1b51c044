//! Limits: each at each level refuses who reached it, with a text that says which, and nobody else; not one byte over.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tensord_client::{
    Change, Changes, Code, Elementwise, Error, Options, Resource, Session, Tensor,
};
use tensord_shm::control::{Reply, Request, Target};
use tensord_tests::daemon::{Daemon, count_from_env, eventually};
use tensord_tests::figures::figure;
use tensord_tests::random::Random;

const COMMAND: &str = "cargo test --release -p tensord-tests --test limits -- --nocapture";

/// Everybody of the first socket is one tenant, everybody of the second another.
const TWO: &str = r#"
[[listen]]
path = "FOLDER/tensord.sock"
mode = 0o666
tenant = "name:one"
[[listen]]
path = "FOLDER/two.sock"
mode = 0o666
tenant = "name:two"
"#;

fn session(path: &Path) -> Result<Session, Error> {
    Session::connect(Options {
        socket: Some(path.to_owned()),
        autostart: false,
        ..Options::default()
    })
}

fn set(daemon: &Daemon, target: &Target, changes: Changes) {
    let request = Request::Limit {
        target: target.clone(),
        changes,
    };
    let reply = daemon.administrate(&request);
    assert!(matches!(reply, Reply::Changed { .. }), "{reply:?}");
}

fn values(session: &Session, count: usize, bytes: u64) -> Result<Vec<Tensor>, Error> {
    (0..count)
        .map(|_| {
            let tensor = session.tensor(&vec![7u8; bytes as usize], &[bytes])?;
            tensor.wait().map(|()| tensor)
        })
        .collect()
}

/// A hundred operations, one behind the other, of which nobody waits for the first.
fn chain(session: &Session) -> Result<f32, Error> {
    let mut y = session.tensor(&[0.0f32], &[1])?;
    for _ in 0..100 {
        y = y.scalar(Elementwise::Add, 1.0)?;
    }
    y.item()
}

fn is_well(session: &Session) {
    assert_eq!(chain(session).expect("nothing is refused"), 100.0);
}

/// What reaches a limit, and what it says then.
type Case = (Resource, u64, fn(&Session) -> Result<(), Error>, Code);

const CASES: [Case; 4] = [
    (
        Resource::DeviceMemory,
        1 << 20,
        |session| values(session, 17, 1 << 16).map(drop),
        Code::OutOfMemory,
    ),
    (
        Resource::Handles,
        32,
        |session| values(session, 40, 8).map(drop),
        Code::Limit,
    ),
    (
        Resource::Requests,
        4,
        |session| chain(session).map(drop),
        Code::Limit,
    ),
    (
        Resource::Staging,
        4096,
        |session| values(session, 1, 1 << 20).map(drop),
        Code::Limit,
    ),
];

#[test]
fn each_limit_at_each_level_refuses_its_own_and_nobody_else() {
    let daemon = Daemon::start("limits", TWO);
    let other = session(&daemon.folder.join("two.sock")).expect("served");
    let uid = nix::unistd::getuid().as_raw();
    for (resource, limit, reach, code) in CASES {
        for level in ["session", "uid", "tenant"] {
            let one = session(&daemon.socket).expect("served");
            let target = match level {
                "session" => Target::Session(one.info().welcome.session),
                "uid" => Target::Uid(uid),
                _ => Target::Tenant("name:one".into()),
            };
            set(&daemon, &target, Changes::default().with(resource, limit));
            let error = reach(&one).expect_err("it is over the limit");
            let said = error.to_string();
            assert_eq!(error.code(), code, "{level} {said}");
            assert!(
                said.contains(level) && said.contains(&limit.to_string()),
                "{level} {}: {said}",
                resource.name()
            );
            if level != "uid" {
                // The uid is that of the other tenant's sessions too, where it has a limit of its own.
                is_well(&other);
            }
            let mut back = Changes::default();
            back.set(resource, Change::Default);
            set(&daemon, &target, back);
            let _ = one.synchronize();
            reach(&one).expect("nothing is in the way any more");
            is_well(&one);
        }
    }
    assert!(
        daemon
            .log()
            .contains("limits were changed: tenant name:one: handles 32")
    );
    daemon.stop();
}

#[test]
fn sessions_are_refused_with_whose_limit_it_was_and_others_come_in() {
    let daemon = Daemon::start("limits-sessions", TWO);
    let one = session(&daemon.socket).expect("served");
    let uid = nix::unistd::getuid().as_raw();
    for (target, level) in [
        (Target::Uid(uid), "uid"),
        (Target::Tenant("name:one".into()), "tenant"),
    ] {
        let alone = || (daemon.session_count() == 1).then_some(());
        eventually("all others are gone", alone);
        set(
            &daemon,
            &target,
            Changes::default().with(Resource::Sessions, 1),
        );
        let error = session(&daemon.socket).expect_err("one is enough");
        let said = error.to_string();
        assert_eq!(error.code(), Code::Limit, "{said}");
        assert!(
            said.contains(&format!("sessions of the {level}: 1 in use")),
            "{said}"
        );
        session(&daemon.folder.join("two.sock"))
            .expect("another tenant, where the uid has none yet");
        let mut back = Changes::default();
        back.set(Resource::Sessions, Change::Default);
        set(&daemon, &target, back);
        session(&daemon.socket).expect("served");
    }
    is_well(&one);
    daemon.stop();
}

#[test]
fn a_client_limits_itself_downwards_and_takes_that_back() {
    let daemon = Daemon::start("limits-own", TWO);
    let one = session(&daemon.socket).expect("served");
    let memory = |limit| Changes::default().with(Resource::DeviceMemory, limit);
    one.limit(memory(1 << 20)).expect("downwards");
    assert_eq!(
        values(&one, 17, 1 << 16)
            .expect_err("over its own limit")
            .code(),
        Code::OutOfMemory
    );
    let error = one.limit(memory(2 << 20)).expect_err("upwards");
    assert_eq!(error.code(), Code::NotAdministrator, "{error}");
    let seen: Value = serde_json::from_str(&one.limits().expect("answered")).expect("JSON");
    let rows = seen["limits"].as_array().expect("a list");
    let levels: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["level"].as_str())
        .collect();
    assert_eq!(levels, ["tenant", "uid", "session"], "{seen:#}");
    assert_eq!(
        rows[2]["limits"]["device-memory"]["limit"],
        1 << 20,
        "{seen:#}"
    );
    let mut back = Changes::default();
    back.set(Resource::DeviceMemory, Change::Default);
    one.limit(back).expect("its own to take back");
    values(&one, 17, 1 << 16).expect("as configured");
    // What an administrator set is not the client's to take back.
    let own = Target::Session(one.info().welcome.session);
    set(&daemon, &own, memory(1 << 20));
    one.limit(back).expect("nothing of its own");
    assert!(values(&one, 17, 1 << 16).is_err());
    daemon.stop();
}

#[test]
fn a_configuration_read_again_holds_for_running_sessions() {
    let daemon = Daemon::start("limits-reload", TWO);
    let one = session(&daemon.socket).expect("served");
    values(&one, 17, 1 << 16).expect("no limit yet");
    let path = daemon.folder.join("tensord.toml");
    let before = std::fs::read_to_string(&path).expect("our own file");
    let entry =
        "[[tenant]]\nname = \"name:one\"\nweight = 250\n[tenant.session]\ndevice_bytes = 1048576\n";
    std::fs::write(&path, format!("{before}\n{entry}")).expect("our own file");
    let supervisor = nix::unistd::Pid::from_raw(daemon.pid());
    let reload = || nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGHUP);
    reload().expect("it is our child");
    eventually("its tenant has its weight", || {
        let stat = daemon.stat();
        (stat["sessions"][0]["tenant_weight"] == 250).then_some(())
    });
    let error = values(&one, 17, 1 << 16).expect_err("over the new limit");
    assert_eq!(error.code(), Code::OutOfMemory, "{error}");
    std::fs::write(&path, before).expect("our own file");
    reload().expect("it is our child");
    eventually("the entry is gone", || values(&one, 17, 1 << 16).ok());
    daemon.stop();
}

#[test]
fn what_is_set_survives_the_broker_the_engine_and_the_last_session() {
    let daemon = Daemon::start("limits-survive", TWO);
    let tenant = Target::Tenant("name:one".into());
    set(
        &daemon,
        &tenant,
        Changes::default().with(Resource::DeviceMemory, 1 << 20),
    );
    let one = session(&daemon.socket).expect("served");
    let own = Target::Session(one.info().welcome.session);
    set(
        &daemon,
        &own,
        Changes::default().with(Resource::Handles, 100),
    );
    let holds = |daemon: &Daemon| {
        let limits = daemon.limits();
        let of = |level: &str, name: &str| {
            let rows = limits["limits"].as_array()?;
            let row = rows
                .iter()
                .find(|row| row["level"] == level && row["tenant"] == "name:one")?;
            row["limits"][name]["limit"].as_u64()
        };
        of("tenant", "device-memory") == Some(1 << 20) && of("session", "handles") == Some(100)
    };
    assert!(holds(&daemon));
    daemon.kill("broker");
    eventually("a new broker knows", || holds(&daemon).then_some(()));
    assert!(values(&one, 17, 1 << 16).is_err());
    daemon.kill("engine");
    eventually("a new engine serves", || values(&one, 4, 1 << 16).ok());
    assert!(holds(&daemon) && values(&one, 17, 1 << 16).is_err());
    drop(one);
    eventually("its last session is gone", || {
        (daemon.session_count() == 0).then_some(())
    });
    let again = session(&daemon.socket).expect("served");
    assert!(
        values(&again, 17, 1 << 16).is_err(),
        "of the tenant, which is the same"
    );
    daemon.stop();
}

/// Device time of all accounts, ns.
fn billed_ns(daemon: &Daemon) -> u64 {
    let stat = daemon.stat();
    let accounts = stat["accounts"].as_array().expect("a list");
    accounts
        .iter()
        .filter_map(|account| account["device_ns"].as_u64())
        .sum()
}

#[test]
fn who_has_used_his_device_time_waits_and_others_do_not() {
    let daemon = Daemon::start("limits-time", TWO);
    let one = session(&daemon.socket).expect("served");
    let two = session(&daemon.folder.join("two.sock")).expect("served");
    is_well(&one);
    let start = Instant::now();
    let before_ns = billed_ns(&daemon);
    let share = Changes::default().with(Resource::DeviceTime, 20);
    set(&daemon, &Target::Tenant("name:one".into()), share);
    let mut used_ns = 0;
    // 2 ms are its burst. What it used before its last operation had to come in at 2 % since the start.
    while used_ns < 4_000_000 {
        used_ns = billed_ns(&daemon) - before_ns;
        chain(&one).expect("it waits, and nothing is refused");
    }
    let least_ns = (used_ns - 2_000_000) * 50;
    let passed_ns = start.elapsed().as_nanos();
    assert!(
        passed_ns >= u128::from(least_ns),
        "{passed_ns} for {used_ns}"
    );
    is_well(&two);
    let mut back = Changes::default();
    back.set(Resource::DeviceTime, Change::Default);
    set(&daemon, &Target::Tenant("name:one".into()), back);
    is_well(&one);
    daemon.stop();
}

// ------------------------------------------------------------------------------------------ fuzz

struct Worker {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    uid: u32,
    held: u64,
}

impl Worker {
    fn start(socket: &Path, uid: u32) -> Worker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_limits-worker"));
        command
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if uid != nix::unistd::getuid().as_raw() {
            command.uid(uid);
        }
        let mut process = command
            .spawn()
            .expect("the worker was built with this test");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let mut worker = Worker {
            process,
            input,
            output,
            uid,
            held: 0,
        };
        assert_eq!(worker.answer(), None);
        worker
    }

    fn tell(&mut self, command: &str) -> Option<String> {
        writeln!(self.input, "{command}").expect("the worker lives");
        self.answer()
    }

    /// Notes what it holds; gives what was refused.
    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the worker lives");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (held, refused) = match words[..] {
            ["ok", held] => (held, None),
            ["refused", _, held, ..] => (held, Some(line.trim().to_owned())),
            _ => panic!("the worker said {line:?}"),
        };
        self.held = held.parse().expect("a number");
        refused
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const UNIT: u64 = 64 << 10;

/// Use and limit of device memory: of the tenant, of each uid, of each session.
fn rows(daemon: &Daemon) -> Vec<(String, Value, u64, u64)> {
    let limits = daemon.limits();
    let rows = limits["limits"].as_array().expect("a list");
    rows.iter()
        .map(|row| {
            let memory = &row["limits"]["device-memory"];
            let number = |name: &str| {
                memory[name]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{name} in {row}"))
            };
            let level = row["level"].as_str().expect("a level").to_owned();
            (level, row["uid"].clone(), number("used"), number("limit"))
        })
        .collect()
}

/// Steps of a seed.
const STEPS: u64 = 120;

/// What a worker is told next; `None` is for the administrator.
fn command(random: &mut Random) -> Option<String> {
    let units = 1 + random.below(8);
    Some(match random.below(20) {
        0..=7 => format!("upload {}", units * UNIT),
        8..=10 => format!("double {}", random.below(100)),
        11..=15 => format!("drop {}", random.below(100)),
        16 => "reconnect".to_owned(),
        17 => format!("fork {} {}", units * UNIT, 1 + random.below(5)),
        18 => "reap".to_owned(),
        _ => return None,
    })
}

/// By the daemon's own account, once what ended meanwhile is freed: byte for byte what the clients hold, and not over a limit.
fn account_agrees(daemon: &Daemon, workers: &[Worker], grew: bool, about: &str) {
    let held = |wanted: &dyn Fn(&Worker) -> bool| -> u64 {
        let of = workers.iter().filter(|worker| wanted(worker));
        of.map(|worker| worker.held).sum()
    };
    let all = held(&|_| true);
    eventually("the account is what the clients hold", || {
        let rows = rows(daemon);
        for (level, _, used, limit) in &rows {
            // A tenant's limit may have been lowered below what it had.
            let is_below = used <= limit || (level == "tenant" && !grew);
            assert!(is_below, "{about}: {level} {used} of {limit}");
        }
        let used = |level: &str, uid: Option<u32>| -> u64 {
            let of = rows
                .iter()
                .filter(|row| row.0 == level && uid.is_none_or(|uid| row.1 == uid));
            of.map(|row| row.2).sum()
        };
        let uids_agree = workers.iter().all(|worker| {
            let uid = worker.uid;
            used("uid", Some(uid)) == held(&|other| other.uid == uid)
        });
        let agrees = used("tenant", None) == all && used("session", None) == all;
        (agrees && uids_agree).then_some(())
    });
}

/// Gives how often something was refused.
fn fuzz(seed: u64, steps: u64) -> u64 {
    let config = format!(
        "{TWO}\n[[tenant]]\nname = \"name:one\"\n[tenant.limits]\ndevice_bytes = {}\n[tenant.uid]\ndevice_bytes = {}\n\
         [tenant.session]\ndevice_bytes = {}\n",
        36 * UNIT,
        24 * UNIT,
        16 * UNIT
    );
    let daemon = Daemon::start("limits-fuzz", &config);
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&daemon.folder, open).expect("our own folder");
    let own = nix::unistd::getuid().as_raw();
    // Only root can be somebody else; anybody else has one uid and sees less.
    let uids = match own {
        0 => [own, own, 12_345, 12_345],
        _ => [own; 4],
    };
    let mut workers = uids.map(|uid| Worker::start(&daemon.socket, uid));
    let mut random = Random(seed);
    let mut limit = 36 * UNIT;
    let (mut refused_count, mut taken) = (0, 0);
    for step in 0..steps {
        let at = random.below(4) as usize;
        let Some(command) = command(&mut random) else {
            limit = (12 + random.below(36)) * UNIT;
            let tenant = Target::Tenant("name:one".into());
            let changes = Changes::default().with(Resource::DeviceMemory, limit);
            set(&daemon, &tenant, changes);
            continue;
        };
        let held = workers[at].held;
        let refused = workers[at].tell(&command);
        let about = format!("seed {seed}, step {step}: {command} by {at}: {refused:?}");
        let grew = workers[at].held > held;
        // By what the clients hold: nobody gets anything beyond the limit.
        let sum: u64 = workers.iter().map(|worker| worker.held).sum();
        assert!(!grew || sum <= limit, "{about}: {sum} of {limit}");
        taken += u64::from(grew);
        refused_count += u64::from(refused.is_some());
        if let Some(said) = &refused {
            let names_it = said.contains("'s limit of") && said.contains("device memory");
            assert!(names_it, "{about}");
        }
        account_agrees(&daemon, &workers, grew, &about);
    }
    assert!(
        refused_count > steps / 20 && taken > steps / 20,
        "{refused_count} {taken}"
    );
    drop(workers);
    eventually("all is given back", || {
        (daemon.session_count() == 0).then_some(())
    });
    daemon.stop();
    refused_count
}

#[test]
fn not_one_byte_over_with_forks_and_reconnects() {
    let seeds = count_from_env("LIMIT_SEEDS", 2);
    let refused: u64 = (0..seeds).map(|seed| fuzz(seed, STEPS)).sum();
    figure(
        "limits of device memory under forks and reconnects",
        format!(
            "{} steps, {refused} refused, not one byte over",
            seeds * STEPS
        ),
        COMMAND,
    );
}

/// Median of the times of `count` calls, us.
fn median_us(count: usize, mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[count / 2]
}

#[test]
fn a_refusal_costs_its_own_session_little_and_is_measured() {
    let daemon = Daemon::start("limits-cost", TWO);
    let one = session(&daemon.socket).expect("served");
    let held = values(&one, 1, 4096).expect("served");
    let own = Target::Session(one.info().welcome.session);
    let changes = Changes::default().with(Resource::DeviceMemory, 4096);
    set(&daemon, &own, changes);
    let no_op_us = median_us(2_000, || {
        let mark = one.no_op().expect("served");
        one.wait(mark, None).expect("served");
    });
    let refused_us = median_us(2_000, || {
        let small = one.tensor(&[1.0f32], &[1]).expect("submitted");
        let error = small.wait().expect_err("over the limit");
        assert_eq!(error.code(), Code::OutOfMemory);
    });
    let text = format!(
        "{:.1} us (round trip of a refused upload {refused_us:.1} us, of a request that does nothing {no_op_us:.1} us; wanted: under 10)",
        refused_us - no_op_us
    );
    figure("over a limit: what a refusal costs", text, COMMAND);
    assert_eq!(daemon.counter("requests_failed"), 2_000);
    drop(held);
    daemon.stop();
}
