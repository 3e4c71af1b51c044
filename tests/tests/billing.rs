//! Device time is billed: what accounts show together is what the devices were busy, and it only grows, whoever ends.

use std::path::Path;

use serde_json::Value;
use tensord_client::{DType, Elementwise, Session};
use tensord_tests::daemon::{Daemon, eventually, stat_of};

/// Some work that takes a device some time; gives when it is done.
fn work(session: &Session) {
    let x = session.iota(1 << 16, 0.0, 1.0, DType::F32).expect("served");
    let mut y = x.clone();
    for _ in 0..20 {
        y = y.binary(Elementwise::Mul, &x).expect("served");
        y.wait().expect("computed");
    }
}

fn sum(stat: &Value, field: &str) -> u64 {
    let accounts = stat["accounts"].as_array().expect("a list");
    accounts
        .iter()
        .map(|account| account[field].as_u64().expect("a number"))
        .sum()
}

fn busy_us(stat: &Value) -> u64 {
    let engines = stat["engines"].as_array().expect("a list");
    engines
        .iter()
        .map(|engine| engine["busy_us"].as_u64().expect("a number"))
        .sum()
}

#[test]
fn accounts_are_together_what_the_device_was_busy_and_outlive_broker_and_engine() {
    let daemon = Daemon::start("billing", "");
    let (one, two) = (daemon.session(), daemon.session());
    work(&one);
    work(&two);
    let stat = daemon.stat();
    let billed_us = sum(&stat, "device_ns") / 1000;
    assert!(
        busy_us(&stat) > 0 && billed_us.abs_diff(busy_us(&stat)) <= 1,
        "{stat:#}"
    );
    assert_eq!(sum(&stat, "sessions"), 2, "{stat:#}");
    let sessions: u64 = stat["sessions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| session["device_us"].as_u64().expect("a number"))
        .sum();
    assert!(sessions.abs_diff(billed_us) <= 2, "{stat:#}");
    // What ended stays billed, and what was once seen is never taken back.
    let mut seen = sum(&stat, "device_ns");
    let mut grows = |what: &str| {
        let stat = daemon.stat();
        let now = sum(&stat, "device_ns");
        assert!(now >= seen, "{what}: {now} after {seen}");
        seen = now;
        stat
    };
    drop(two);
    eventually("one session is left", || {
        (daemon.session_count() == 1).then_some(())
    });
    grows("a session ended");
    for _ in 0..3 {
        let engine = daemon.kill("engine");
        grows("an engine is gone");
        eventually("another one is there", || {
            daemon.child("engine").filter(|pid| *pid != engine)
        });
        work(&daemon.session());
        let stat = grows("a new engine works");
        assert!(
            busy_us(&stat) < sum(&stat, "device_us"),
            "earlier engines count: {stat:#}"
        );
        // A session's own time goes on over engines.
        let first = &stat["sessions"][0];
        assert!(first["device_us"].as_u64() > Some(0), "{stat:#}");
    }
    daemon.kill("broker");
    grows("a new broker asks");
    daemon.stop();
}

fn with_state(folder: &Path) -> String {
    format!("state_dir = {:?}\n", folder.display().to_string())
}

#[test]
fn totals_go_on_when_the_daemon_is_killed_and_a_damaged_file_is_set_aside() {
    let state = std::env::temp_dir().join(format!("tensord-billing-{}", std::process::id()));
    let file = state.join("device-time.json");
    let kept_ns = || {
        let text = std::fs::read_to_string(&file).ok()?;
        let kept: Value = serde_json::from_str(&text).expect("always what was once written");
        kept["sum_ns"].as_u64()
    };
    let mut seen = 0;
    for kill in [true, false, true] {
        let mut daemon = Daemon::start("billing-state", &with_state(&state));
        let begins_with = sum(&daemon.stat(), "device_ns");
        assert!(begins_with >= seen, "{begins_with} after {seen}");
        let session = daemon.session();
        work(&session);
        let billed = sum(&daemon.stat(), "device_ns");
        assert!(billed > begins_with);
        if kill {
            eventually("it is written", || kept_ns().filter(|kept| *kept >= billed));
            daemon.kill_all();
        } else {
            drop(session);
            daemon.stop();
            assert!(kept_ns() >= Some(billed), "an orderly end writes all");
        }
        seen = billed;
    }
    std::fs::write(&file, "{\"version\":1,").expect("our own folder");
    let daemon = Daemon::start("billing-damaged", &with_state(&state));
    assert_eq!(sum(&daemon.stat(), "device_ns"), 0);
    assert!(daemon.log().contains("is damaged"), "{}", daemon.log());
    daemon.stop();
    std::fs::remove_dir_all(&state).expect("our own folder");
}

#[test]
fn a_tenant_sees_strangers_as_one_sum() {
    let config = "[[listen]]\npath = \"FOLDER/tensord.sock\"\ntenant = \"name:one\"\n\
                  [[listen]]\npath = \"FOLDER/two.sock\"\ntenant = \"name:two\"\n";
    let daemon = Daemon::start("billing-tenants", config);
    work(&daemon.session());
    let seen = stat_of(&daemon.folder.join("two.sock"));
    assert_eq!(
        seen["accounts"].as_array().map(Vec::len),
        Some(0),
        "{seen:#}"
    );
    let all = sum(&daemon.stat(), "device_us");
    assert!(
        seen["others"]["accounts_device_us"].as_u64() > Some(0),
        "{seen:#}"
    );
    assert!(
        all > 0 && !seen.to_string().contains("name:one"),
        "{seen:#}"
    );
    let own = stat_of(&daemon.socket);
    assert_eq!(sum(&own, "device_us"), all, "{own:#}");
    daemon.stop();
}
