//! What clients do that mean harm: a clear error for them, nothing for anyone else.

use std::os::fd::AsFd;
use std::process::Command;

use tensord_shm::control::{Hello, MESSAGE_BYTES, Message, Reply, Request};
use tensord_shm::control_socket::send_datagram;
use tensord_shm::error::Code;

use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub fn bad_messages_are_answered_and_hurt_nobody() {
    let daemon = Daemon::start("bad", "");
    let mut bystander = daemon.client();
    let good = Message {
        sequence: 1,
        body: Request::Hello(Hello::default()),
    }
    .encode();
    let with = |at: usize, field: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + field.len()].copy_from_slice(field);
        bytes
    };
    let file = std::fs::File::open("/dev/null").unwrap();
    let fds = [file.as_fd(), file.as_fd(), file.as_fd()];
    let before = daemon.settled_fds();
    let table: Vec<(&str, Vec<u8>, usize, Code, &str)> = vec![
        (
            "truncated",
            good[..100].to_vec(),
            0,
            Code::BadMessage,
            "has 256 bytes, this one has 100",
        ),
        (
            "one byte",
            vec![b'T'],
            0,
            Code::BadMessage,
            "this one has 1",
        ),
        (
            "oversized",
            [good.to_vec(), vec![0; 1_000]].concat(),
            0,
            Code::BadMessage,
            "this one has 257",
        ),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            0,
            Code::BadMessage,
            "not HTTP",
        ),
        (
            "zeroes",
            vec![0; MESSAGE_BYTES],
            0,
            Code::BadMessage,
            "control protocol",
        ),
        (
            "unknown type",
            with(6, &[0xee, 0]),
            0,
            Code::BadMessage,
            "unknown message type 238",
        ),
        (
            "other major",
            with(4, &[9, 0]),
            0,
            Code::Version,
            "protocol version 9",
        ),
        (
            "forged size",
            with(16, &[0xff, 0xff]),
            0,
            Code::BadMessage,
            "65535 bytes of structure",
        ),
        (
            "sequence 0",
            with(8, &[0; 8]),
            0,
            Code::BadMessage,
            "starts at 1",
        ),
        (
            "class 99",
            with(36, &[99]),
            0,
            Code::BadMessage,
            "field class is 99",
        ),
        (
            "one fd",
            good.to_vec(),
            1,
            Code::UninvitedFd,
            "takes no file descriptors",
        ),
        (
            "three fds",
            good.to_vec(),
            3,
            Code::UninvitedFd,
            "takes no file descriptors",
        ),
        (
            "fds and junk",
            vec![1, 2, 3],
            2,
            Code::UninvitedFd,
            "takes no file descriptors",
        ),
    ];
    for (what, bytes, fd_count, code, wanted) in table {
        for has_session in [false, true] {
            let mut client = if has_session {
                daemon.client()
            } else {
                Client::bare(&daemon.socket)
            };
            send_datagram(client.socket.as_fd(), &bytes, &fds[..fd_count]).unwrap();
            let words = client
                .last_words()
                .unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(words.code, code, "{what}: {words}");
            assert!(words.text.contains(wanted), "{what}: {words}");
        }
    }
    // Requests that are well formed and out of place are refused and end nothing.
    let mut client = Client::bare(&daemon.socket);
    assert!(matches!(
        client.ask(&Request::Staging { bytes: 1 }).0,
        Reply::Error(_)
    ));
    let future = Hello {
        version_min: 7,
        version_max: 9,
        ..Hello::default()
    };
    assert_eq!(client.hello(future).unwrap_err().code, Code::Version);
    assert_eq!(
        client
            .hello(Hello {
                device: 3,
                ..Hello::default()
            })
            .unwrap_err()
            .code,
        Code::Attribute
    );
    client.hello(Hello::default()).unwrap();
    assert!(client.round_trip() && bystander.round_trip());
    drop(client);
    eventually("no file descriptor stays", || {
        (daemon.fds() == before).then_some(())
    });
    assert_eq!(daemon.stat()["daemon"]["protocol_errors"], 26);
}

pub fn a_client_that_never_reads_loses_its_session_alone() {
    let daemon = Daemon::start("deaf", "");
    let mut bystander = daemon.client();
    let deaf = daemon.client();
    for sequence in 10..100_000 {
        if deaf
            .socket
            .send(sequence, &Request::Staging { bytes: 0 })
            .is_err()
        {
            break;
        }
    }
    eventually("its session ends", || {
        (daemon.session_count() == 1).then_some(())
    });
    assert!(bystander.round_trip());
}

pub fn a_tail_that_jumps_ends_one_session() {
    let daemon = Daemon::start("tail", "");
    let (mut bystander, mut liar) = (daemon.client(), daemon.client());
    // Records enough for the ring without a look at what was taken: the tail runs past the head.
    let queue = liar.queue.as_mut().unwrap();
    queue.submit(tensord_shm::record::opcode::WAIT_QUEUE);
    for _ in 0..4 * queue.grant.slot_count {
        queue.producer.observe_head(queue.producer.position());
        if let Ok(slot) = queue.producer.reserve(1) {
            slot.commit();
        }
        queue.producer.publish();
        queue.doorbell.ring();
    }
    // A ring whose first record is never finished is not read again, so the jump is seen where the ring is looked at.
    let mut second = daemon.client();
    let queue = second.queue.as_mut().unwrap();
    for _ in 0..2 * queue.grant.slot_count {
        queue.producer.observe_head(queue.producer.position());
        if let Ok(slot) = queue.producer.reserve(1) {
            slot.commit();
        }
    }
    queue.producer.publish();
    queue.doorbell.ring();
    assert_eq!(second.last_words().unwrap().code, Code::TailJump);
    assert!(bystander.round_trip());
    drop(liar);
}

pub fn client_messages_do_not_flood_the_log() {
    let daemon = Daemon::start("flood", "");
    let mut client = daemon.client();
    for _ in 0..2_000 {
        assert!(matches!(client.ask(&Request::Drain).0, Reply::Error(_)));
    }
    let lines = daemon
        .log()
        .lines()
        .filter(|line| line.contains("refused:"))
        .count();
    assert!(
        (1..=200).contains(&lines),
        "{lines} lines for 2000 refusals"
    );
}

pub fn each_process_is_confined() {
    for role in ["supervisor", "broker", "engine"] {
        let output = Command::new("/proc/self/exe")
            .args(["--self-test-sandbox", role])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{role}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for what in [
            "ptrace",
            "mount",
            "socket(AF_INET)",
            "open /etc/shadow",
            "open $HOME",
        ] {
            assert!(text.contains(&format!("refused: {what}")), "{role}: {text}");
        }
    }
    let daemon = Daemon::start("confined", "");
    for (role, pid) in [
        ("supervisor", daemon.pid()),
        ("broker", daemon.broker()),
        ("engine", daemon.engine()),
    ] {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
            assert!(status.contains(line), "{role}: {status}");
        }
        if role != "supervisor" {
            assert!(
                status.contains("CapEff:\t0000000000000000"),
                "{role}: {status}"
            );
        }
    }
}
