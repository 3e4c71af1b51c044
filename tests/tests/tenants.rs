//! Tenants: equal content of two of them is held twice, and neither sees the other; who has no identity is refused.

use std::path::PathBuf;
use std::process::Command;

use tensord_client::{Code, DType, Elementwise, Meta, Options, Session, Shape, Site, Tensor};
use tensord_tests::daemon::{Daemon, eventually};
use tensord_tests::figures::figure;

const COMMAND: &str = "cargo test --release -p tensord-tests --test tenants -- --nocapture";
const COUNT: usize = 1 << 18;

const TWO: &str = r#"
[[listen]]
path = "FOLDER/tensord.sock"
tenant = "name:one"
[[listen]]
path = "FOLDER/two.sock"
tenant = "name:two"
"#;

fn session(path: PathBuf) -> Result<Session, tensord_client::Error> {
    Session::connect(Options {
        socket: Some(path),
        autostart: false,
        ..Options::default()
    })
}

fn weights(session: &Session) -> Tensor {
    let bytes: Vec<u8> = (0..COUNT).flat_map(|k| (k as f32).to_le_bytes()).collect();
    let meta = Meta {
        dtype: DType::F32,
        shape: Shape::new(&[COUNT as u64]).expect("small"),
    };
    let weights = session.constant(&bytes, meta, Site::UNKNOWN);
    let weights = weights.expect("uploaded");
    weights.wait().expect("there");
    weights
}

#[test]
fn equal_content_of_two_tenants_is_shared_by_nobody() {
    let daemon = Daemon::start("tenants", TWO);
    let one = session(daemon.socket.clone()).expect("served");
    let also_one = session(daemon.socket.clone()).expect("served");
    let two = session(daemon.folder.join("two.sock")).expect("served");
    let held = || daemon.counter("device_bytes");
    let bytes = (COUNT * 4) as u64;
    let first = weights(&one);
    let with_one = held();
    assert!(with_one >= bytes, "{with_one}");
    let second = weights(&also_one);
    assert!(
        held() < with_one + bytes / 2,
        "a tenant holds equal content once"
    );
    assert!(daemon.counter("shared_bytes_saved") >= bytes);
    let third = weights(&two);
    let all = held();
    assert!(
        all >= with_one + bytes,
        "another tenant holds its own: {all} of {with_one}"
    );
    let use_all = |weights: &Tensor| {
        let y = weights.scalar(Elementwise::Mul, 2.0).expect("it fits");
        assert_eq!(
            y.slice(&[5], &[1], &[1])
                .expect("it fits")
                .item::<f32>()
                .expect("computed"),
            10.0
        );
    };
    [&first, &second, &third].into_iter().for_each(use_all);
    // What it cannot upload it cannot find by its hash either.
    let hash = [7u8; 32];
    assert!(
        two.bind(hash, *first.meta(), Site::UNKNOWN)
            .expect("asked")
            .is_none()
    );
    for (asks, own, others) in [(&one, 2, 1), (&two, 1, 2)] {
        let text = asks.stat().expect("answered");
        let seen: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
        assert_eq!(
            seen["sessions"].as_array().map(Vec::len),
            Some(own),
            "{seen}"
        );
        assert_eq!(seen["others"]["sessions"], others, "{seen}");
        let stranger = if own == 2 { "name:two" } else { "name:one" };
        assert!(
            !text.contains(stranger) && !text.contains("two.sock"),
            "{seen}"
        );
    }
    figure(
        "two tenants with equal content, bytes held over bytes of one",
        format!("{:.2}", all as f64 / with_one as f64),
        COMMAND,
    );
    drop((first, second, third));
    drop((one, also_one, two));
    eventually("all is given back", || {
        (daemon.session_count() == 0).then_some(())
    });
    daemon.stop();
}

/// Can this machine make user namespaces?
fn has_namespaces() -> bool {
    let run = Command::new("unshare").args(["-Ur", "true"]).status();
    run.is_ok_and(|status| status.success())
}

/// Runs a program as a user that a namespace of root alone does not map; only root can.
fn connects_as_nobody(path: &std::path::Path) -> (bool, String) {
    let output = Command::new("setpriv")
        .args(["--reuid", "12345", "--regid", "12345", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_hello"))
        .arg(path)
        .output()
        .expect("util-linux has setpriv");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text)
}

#[test]
fn a_daemon_in_a_namespace_refuses_peers_without_a_name() {
    if !has_namespaces() {
        println!("SKIPPED: this machine makes no user namespaces (unshare -Ur)");
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can be a peer that the namespace does not map");
        return;
    }
    let config = r#"
[[listen]]
path = "FOLDER/tensord.sock"
mode = 0o666
tenant = "uid"
[[listen]]
path = "FOLDER/named.sock"
mode = 0o666
tenant = "name:guests"
"#;
    let daemon = Daemon::start_by("namespace", config, &["unshare", "-Ur"]);
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&daemon.folder, open).expect("our own folder");
    session(daemon.socket.clone()).expect("a mapped peer is served");
    let (served, said) = connects_as_nobody(&daemon.socket);
    assert!(!served && said.contains(Code::Denied.name()), "{said}");
    let (served, said) = connects_as_nobody(&daemon.folder.join("named.sock"));
    assert!(served, "{said}");
    figure(
        "daemon in a user namespace: unmapped peer refused, and served where the socket names the tenant",
        "yes",
        COMMAND,
    );
}
