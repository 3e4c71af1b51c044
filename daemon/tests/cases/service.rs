//! As a service: sockets from the service manager, and what it is told.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::client::Client;
use crate::support::{Folder, eventually};

/// The next message to the service manager.
fn told(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 4_096];
    let length = manager
        .recv(&mut buffer)
        .expect("the daemon tells the service manager");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

pub fn the_service_manager_passes_sockets_and_is_told() {
    let folder = Folder::new("service");
    let socket = folder.0.join("tensord.sock");
    let notify = folder.0.join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let config = folder.0.join("tensord.toml");
    std::fs::write(&config, "").unwrap();
    // It binds, waits for the first connection, and execs the daemon with LISTEN_FDS.
    let mut service = Command::new("systemd-socket-activate")
        .arg("--seqpacket")
        .arg(format!("--listen={}", socket.display()))
        .arg(format!("--setenv=NOTIFY_SOCKET={}", notify.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--log", "debug", "--config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("systemd-socket-activate is there (package systemd)");
    eventually("the socket is there", || socket.exists().then_some(()));
    // This connection is what starts the daemon, and it waits in the backlog meanwhile.
    let mut client = Client::connect(&socket);
    assert!(client.round_trip());
    assert!(told(&manager).contains("READY=1"));
    assert!(
        Client::bare(&folder.0.join("tensord-admin.sock")).stat()["sessions"].is_array(),
        "beside the first socket"
    );
    let pid = Pid::from_raw(service.id().cast_signed());
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(told(&manager).contains("RELOADING=1"));
    assert!(told(&manager).contains("READY=1"));
    assert!(client.round_trip());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(told(&manager).contains("STOPPING=1"));
    let status = eventually("the daemon ends", || service.try_wait().unwrap());
    let mut log = String::new();
    service
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        socket.exists(),
        "the socket is the service manager's to remove"
    );
}
