//! What `tensorctl` says: of a daemon with a session at work, and of none.
//!
//! The daemon is the real one. It lies beside `tensorctl` in the build's folder, or `TENSORD_DAEMON` names it.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use tensord_client::{Elementwise, Options, Session};

const TENSORCTL: &str = env!("CARGO_BIN_EXE_tensorctl");

/// A daemon of its own in a folder of its own; both go with the value.
struct Daemon {
    process: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Returns when it says that it is ready.
    fn start(name: &str) -> Daemon {
        let folder = folder(name);
        let program = std::env::var_os("TENSORD_DAEMON").map_or_else(
            || Path::new(TENSORCTL).with_file_name("tensord"),
            PathBuf::from,
        );
        assert!(
            program.exists(),
            "no daemon at {}: cargo build -p tensord-daemon first",
            program.display()
        );
        let ready = UnixDatagram::bind(folder.join("ready")).unwrap();
        ready
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let daemon = Daemon {
            process: Command::new(program)
                .arg("--socket")
                .arg(folder.join("tensord.sock"))
                .env("NOTIFY_SOCKET", folder.join("ready"))
                .stderr(std::fs::File::create(folder.join("log")).unwrap())
                .spawn()
                .unwrap(),
            folder,
        };
        let mut text = [0; 4096];
        loop {
            let length = ready
                .recv(&mut text)
                .expect("the daemon is ready within a minute");
            if String::from_utf8_lossy(&text[..length]).contains("READY=1") {
                return daemon;
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("tensord.sock")
    }

    fn admin(&self) -> PathBuf {
        self.folder.join("tensord-admin.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn session(&self, name: &str) -> Session {
        Session::connect(Options {
            socket: Some(self.socket()),
            name: name.into(),
            ..Options::default()
        })
        .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tensorctl-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn tensorctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(TENSORCTL)
        .arg("--socket")
        .arg(socket)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_session_at_work_is_seen_by_every_command() {
    let daemon = Daemon::start("work");
    let session = daemon.session("the-session");
    let x = session.tensor(&[1.0f32, 2.0, 3.0], &[3]).unwrap();
    let y = x
        .scalar(Elementwise::Mul, 2.0)
        .unwrap()
        .scalar(Elementwise::Add, 1.0)
        .unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0, 5.0, 7.0]);

    let stat = json(&tensorctl(&daemon.socket(), &["stat", "--json"]));
    let engine = &stat["engines"][0];
    assert_eq!(
        (&engine["device"], engine["epoch"].is_u64()),
        (&"cpu".into(), true),
        "{stat:#}"
    );
    let counters = &engine["counters"];
    assert!(
        counters["ops"].as_u64() >= Some(2) && counters["launches"].as_u64() >= Some(1),
        "{stat:#}"
    );
    assert_eq!(counters["requests_failed"], 0);
    let row = &stat["sessions"][0];
    assert_eq!(
        (&row["name"], &row["pid"]),
        (&"the-session".into(), &std::process::id().into()),
        "{stat:#}"
    );
    for field in [
        "id",
        "uid",
        "tenant",
        "command",
        "class",
        "weight",
        "device_us",
        "wait_us",
        "device_bytes",
    ] {
        assert!(!row[field].is_null(), "{field} in {row}");
    }

    let ps = text(&tensorctl(&daemon.socket(), &["ps"]));
    assert!(
        ps.starts_with("SESSION") && ps.contains("the-session"),
        "{ps}"
    );
    let ps = json(&tensorctl(&daemon.socket(), &["ps", "--json"]));
    assert_eq!(ps["sessions"].as_array().map(Vec::len), Some(1));

    let status = json(&tensorctl(
        &daemon.folder.join("tensord-admin.sock"),
        &["status", "--json"],
    ));
    assert_eq!(
        (&status["running"], &status["sessions"]),
        (&true.into(), &1.into()),
        "{status:#}"
    );
    assert_eq!(
        (&status["isolation"], &status["degraded"]),
        (&"device".into(), &Value::Array(Vec::new()))
    );
    assert!(
        status["uptime_s"].is_u64() && status["ops_per_launch"].is_f64(),
        "{status:#}"
    );
    let shown = text(&tensorctl(&daemon.socket(), &["status"]));
    assert!(
        shown.contains("well") && shown.contains("cpu, epoch"),
        "{shown}"
    );
}

#[test]
fn every_nanosecond_of_the_engine_is_at_one_stage_and_none_is_taken_back() {
    let begin = Instant::now();
    let daemon = Daemon::start("stages");
    let session = daemon.session("stages");
    let stages = || -> BTreeMap<String, u64> {
        let stat = json(&tensorctl(&daemon.socket(), &["stat", "--json"]));
        serde_json::from_value(stat["engines"][0]["stages_ns"].clone()).unwrap()
    };
    let before = stages();
    let mut y = session.tensor(&[1.0f32; 64], &[64]).unwrap();
    for _ in 0..100 {
        y = y.scalar(Elementwise::Mul, 1.5).unwrap();
        y.wait().unwrap();
    }
    y.to_vec::<f32>().unwrap();
    let after = stages();
    let wall_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap();
    assert!(before.iter().all(|(stage, ns)| after[stage] >= *ns));
    for stage in [
        "graph",
        "transfer",
        "lookup",
        "schedule",
        "dispatch",
        "execution",
        "completion",
        "wake",
    ] {
        assert!(after[stage] > before[stage], "{stage}: {after:?}");
    }
    // The engine started after this test did.
    assert!(after.values().sum::<u64>() <= wall_ns, "{after:?}");
    let shown = text(&tensorctl(&daemon.socket(), &["stat"]));
    assert!(
        shown.contains("TIME IN") && after.keys().all(|stage| shown.contains(stage.as_str())),
        "{shown}"
    );
}

/// What a session looks like, by its name.
fn seen(daemon: &Daemon, name: &str) -> Option<Value> {
    let ps = json(&tensorctl(&daemon.admin(), &["ps", "--json"]));
    let sessions = ps["sessions"].as_array().unwrap();
    sessions.iter().find(|row| row["name"] == name).cloned()
}

fn fails(output: &Output, status: i32, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains(wanted), "{said}");
}

#[test]
fn nice_changes_a_session_and_its_tenant_and_is_logged() {
    let daemon = Daemon::start("nice");
    let session = daemon.session("nice-one");
    let id = session.info().welcome.session.to_string();
    let uid = nix::unistd::getuid();
    let tenant = format!("tenant:uid:{uid}");
    let admin = daemon.admin();
    let nice = |arguments: &[&str]| tensorctl(&admin, &[&["nice"], arguments].concat());
    let said = text(&nice(&[&id, "--class", "realtime", "--weight", "5000"]));
    assert_eq!(said, format!("session {id}: class realtime, weight 5000\n"));
    let row = seen(&daemon, "nice-one").unwrap();
    assert_eq!(
        (&row["class"], &row["weight"], &row["tenant_weight"]),
        (&"realtime".into(), &5000.into(), &100.into())
    );
    let done = json(&nice(&[
        &tenant, "--class", "idle", "--weight", "300", "--json",
    ]));
    assert_eq!(done["sessions"], 1, "{done:#}");
    let row = seen(&daemon, "nice-one").unwrap();
    assert_eq!(
        (&row["class"], &row["weight"], &row["tenant_weight"]),
        (&"idle".into(), &5000.into(), &300.into()),
        "a ceiling goes before what was set of one session"
    );
    // Where the uid is the tenant, its weight is the tenant's.
    let said = text(&nice(&[&format!("uid:{uid}"), "--weight", "77"]));
    assert!(said.contains("weight 77 among tenants"), "{said}");
    assert_eq!(seen(&daemon, "nice-one").unwrap()["tenant_weight"], 77);
    // A newcomer stands under the same ceiling.
    let _late = daemon.session("nice-late");
    assert_eq!(seen(&daemon, "nice-late").unwrap()["class"], "idle");
    let said = text(&nice(&["tenant:name:nobody", "--weight", "9"]));
    assert!(said.contains("no session of it runs now"), "{said}");

    fails(
        &nice(&["99999", "--weight", "9"]),
        1,
        "there is no session 99999",
    );
    fails(&nice(&[&id]), 1, "say --class, --weight or both");
    fails(
        &nice(&["somebody", "--weight", "9"]),
        2,
        "neither a session's number",
    );
    fails(&nice(&[&id, "--weight", "0"]), 2, "1..=10000");
    let elsewhere = tensorctl(&daemon.socket(), &["nice", &id, "--weight", "9"]);
    fails(&elsewhere, 1, "tensord-admin.sock");
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("class realtime"))
        .unwrap();
    let plain: String = line.chars().filter(|c| !c.is_control()).collect();
    assert!(
        plain.contains("INFO") && plain.contains("uid") && plain.contains("pid"),
        "{line}"
    );
    assert!(
        !log.contains("session 99999"),
        "what was refused was not done"
    );
}

#[test]
fn limits_are_shown_changed_and_felt() {
    let daemon = Daemon::start("limit");
    let session = daemon.session("limit-one");
    let id = session.info().welcome.session.to_string();
    let held = session.tensor(&[1u8; 1 << 16], &[1 << 16]).unwrap();
    held.wait().unwrap();
    let admin = daemon.admin();
    let limit = |arguments: &[&str]| tensorctl(&admin, &[&["limit"], arguments].concat());
    let said = text(&limit(&[
        &id,
        "device-memory=128K",
        "handles=100",
        "device-time=50%",
    ]));
    assert_eq!(
        said,
        format!("session {id}: handles 100, device-memory 131072, device-time 500\n")
    );
    let shown = text(&limit(&[]));
    for wanted in [
        "LIMITS OF",
        "tenant",
        "uid",
        "64.0 KiB of 128.0 KiB",
        "1 of 100",
        "50%",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let shown = json(&limit(&[&id, "--json"]));
    let rows = shown["limits"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{shown:#}");
    let memory = &rows[0]["limits"]["device-memory"];
    assert_eq!(
        (&memory["limit"], &memory["used"]),
        (&131_072.into(), &65_536.into())
    );
    let more = session.tensor(&[1u8; 1 << 17], &[1 << 17]).unwrap();
    let error = more.wait().unwrap_err();
    assert!(
        error
            .message()
            .contains("the session's limit of 131072 bytes of device memory"),
        "{error}"
    );
    text(&limit(&[&id, "device-memory=default"]));
    let more = session.tensor(&[1u8; 1 << 17], &[1 << 17]).unwrap();
    more.wait().unwrap();

    fails(
        &limit(&[&id, "handles=1"]),
        1,
        "handles is 1; the range is 16 to",
    );
    fails(
        &limit(&[&id, "sessions=1"]),
        1,
        "a session has no limit of sessions",
    );
    fails(
        &limit(&["tenant:web", "handles=99"]),
        1,
        "tenants are named uid:N",
    );
    fails(&limit(&[&id, "memory=1G"]), 2, "device-memory");
    fails(&limit(&["424242"]), 1, "no session of session 424242");
    let elsewhere = tensorctl(&daemon.socket(), &["limit", "uid:1", "handles=99"]);
    fails(&elsewhere, 1, "tensord-admin.sock");
    assert!(
        daemon
            .log()
            .contains(&format!("limits were changed: session {id}"))
    );
}

#[test]
fn kill_ends_those_who_are_named_and_nobody_else() {
    let daemon = Daemon::start("kill");
    let sessions = ["train-1", "train-2", "serve-1", "serve-2"].map(|name| daemon.session(name));
    let id = |at: usize| sessions[at].info().welcome.session.to_string();
    let admin = daemon.admin();
    let kill = |arguments: &[&str]| tensorctl(&admin, &[&["kill"], arguments].concat());
    let said = text(&kill(&["--name", "train-*"]));
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.starts_with(&format!("ended session {}: train-1 (process ", id(0))),
        "{said}"
    );
    assert!(seen(&daemon, "train-1").is_none() && seen(&daemon, "serve-1").is_some());
    let error = sessions[0]
        .synchronize()
        .and_then(|()| sessions[0].tensor(&[1.0f32], &[1])?.item::<f32>().map(drop));
    let error = error.unwrap_err();
    assert!(
        error
            .message()
            .contains("an administrator ended this session"),
        "{error}"
    );
    fails(&kill(&["--name", "train-*"]), 1, "no session matches");
    let done = kill(&[&id(2), "4711", "--json"]);
    assert_eq!(done.status.code(), Some(1));
    let done = json(&done);
    assert_eq!(
        (
            done["killed"].as_array().map(Vec::len),
            &done["failed"][0]["id"]
        ),
        (Some(1), &4711.into()),
        "{done:#}"
    );
    fails(&kill(&[]), 1, "whom?");
    fails(
        &tensorctl(&daemon.socket(), &["kill", &id(3)]),
        1,
        "tensord-admin.sock",
    );
    let uid = nix::unistd::getuid().to_string();
    text(&kill(&["--uid", &uid]));
    assert!(seen(&daemon, "serve-2").is_none());
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("a session was ended"))
        .unwrap();
    assert!(line.contains("train-1") && line.contains("uid"), "{line}");
}

#[test]
fn drain_waits_for_the_end_and_says_so() {
    let mut daemon = Daemon::start("drain");
    let session = daemon.session("drain-one");
    let y = session.tensor(&[1.0f32], &[1]).unwrap();
    let y = y.scalar(Elementwise::Add, 1.0).unwrap();
    fails(
        &tensorctl(&daemon.socket(), &["drain"]),
        1,
        "tensord-admin.sock",
    );
    assert_eq!(y.item::<f32>().unwrap(), 2.0);
    let done = json(&tensorctl(&daemon.admin(), &["drain", "--wait", "--json"]));
    assert_eq!(
        (&done["draining"], &done["ended"]),
        (&true.into(), &true.into())
    );
    assert!(daemon.process.wait().unwrap().success());
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("asked to drain"))
        .unwrap();
    assert!(line.contains("uid"), "{line}");
}

#[test]
fn rates_come_complete_and_one_line_each() {
    let daemon = Daemon::start("rates");
    let output = tensorctl(
        &daemon.socket(),
        &["stat", "--json", "--interval", "0.02", "--count", "3"],
    );
    let lines: Vec<Value> = text(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert!(
            line["rates"]["ops"].is_f64() && line["engines"].is_array(),
            "{line}"
        );
        assert!(line["rates"]["stages"]["parked"].is_f64(), "{line}");
    }
}

#[test]
fn doctor_finds_the_daemon_and_this_machine_usable() {
    let daemon = Daemon::start("doctor");
    let report = json(&tensorctl(&daemon.socket(), &["doctor", "--json"]));
    let checks = report["checks"].as_array().unwrap();
    let verdict = |name: &str| {
        checks
            .iter()
            .find(|check| check["name"] == name)
            .map(|check| check["verdict"].clone())
    };
    assert_eq!(
        (verdict("socket"), verdict("daemon")),
        (Some("ok".into()), Some("ok".into())),
        "{report:#}"
    );
    assert_eq!(report["ok"], true, "{report:#}");
    for check in checks {
        assert_eq!(
            check["verdict"] == "ok",
            check["advice"].is_null(),
            "{check}"
        );
    }
}

#[test]
fn the_benchmark_measures_each_case_and_says_beside_what() {
    let daemon = Daemon::start("bench");
    let list = text(&tensorctl(&daemon.socket(), &["bench", "--list"]));
    let short = ["bench", "--runs", "2", "--ms", "1"];
    let measured = json(&tensorctl(
        &daemon.socket(),
        &[&short[..], &["--json"]].concat(),
    ));
    let rows = |name: &str| measured[name].as_array().unwrap().clone();
    let (lines, profiles) = (rows("lines"), rows("profiles"));
    for line in list.lines().skip(1) {
        let case = line.split_whitespace().next().unwrap();
        let all = lines.iter().chain(&profiles);
        let of_case: Vec<_> = all.filter(|line| line["case"] == case).collect();
        assert!(!of_case.is_empty(), "{case}");
        for line in of_case {
            let runs = line.get("runs").unwrap_or(&line["wall_ns_runs"]);
            let runs = runs.as_array().unwrap();
            let positive = runs.iter().all(|run| run.as_f64().unwrap() > 0.0);
            assert!(runs.len() == 2 && positive, "{line}");
        }
    }
    let table = text(&tensorctl(
        &daemon.socket(),
        &[&short[..], &["memory"]].concat(),
    ));
    assert!(table.contains("of a copy by all cores"), "{table}");
    let unknown = tensorctl(&daemon.socket(), &["bench", "rows"]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no case \"rows\"") && said.contains("round-trip"),
        "{said}"
    );
}

#[test]
fn a_profile_says_where_all_of_an_operations_time_goes() {
    let daemon = Daemon::start("profile");
    let profile = ["bench", "profile", "--runs", "1", "--ms", "1"];
    let measured = json(&tensorctl(
        &daemon.socket(),
        &[&profile[..], &["--json"]].concat(),
    ));
    let profiles = measured["profiles"].as_array().unwrap();
    assert_eq!(profiles.len(), 4, "{measured:#}");
    for profile in profiles {
        assert_eq!(profile["submitted"], profile["executed"], "{profile:#}");
        let sum = |side: &str| -> f64 {
            let parts = profile["parts"].as_array().unwrap().iter();
            let parts = parts.filter(|part| part["side"] == side);
            parts.map(|part| part["ns"].as_f64().unwrap()).sum()
        };
        let wall = profile["wall_ns"].as_f64().unwrap();
        assert!((sum("client") / wall - 1.0).abs() < 1e-6, "{profile:#}");
        assert!(
            sum("engine") > 0.0 && sum("crossing") <= wall,
            "{profile:#}"
        );
    }
    let shown = text(&tensorctl(&daemon.socket(), &profile));
    assert!(
        shown.contains("crossing  rest of waiting") && shown.contains("####"),
        "{shown}"
    );
}

#[test]
fn without_a_daemon_the_status_is_3_and_the_text_says_what_to_do() {
    let folder = folder("none");
    let socket = folder.join("none.sock");
    for command in ["status", "ps", "stat", "bench"] {
        let output = tensorctl(&socket, &[command]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(3), 0),
            "{said}"
        );
        assert!(
            said.contains("none.sock") && said.contains("systemctl start tensord"),
            "{said}"
        );
        let output = tensorctl(&socket, &[command, "--json"]);
        assert_eq!(
            (output.status.code(), &json(&output)["running"]),
            (Some(3), &false.into())
        );
    }
    let output = tensorctl(&socket, &["doctor"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("fail  socket") && said.contains("-> start it"),
        "{said}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
