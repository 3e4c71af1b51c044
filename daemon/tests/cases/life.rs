//! What a well-behaved client sees from hello to the end.

use nix::sys::signal::Signal;
use tensord_shm::control::{Class, Hello, QueueRequest, Reply, Request, Set};
use tensord_shm::error::Code;
use tensord_shm::record::opcode;

use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::eventually;

fn error_of(reply: Reply) -> (Code, String) {
    match reply {
        Reply::Error(error) => (error.code, error.text),
        other => panic!("an error was expected, not {other:?}"),
    }
}

pub fn hello_opens_a_session_that_computes() {
    let daemon = Daemon::start("hello", "");
    let mut client = daemon.client();
    let welcome = client.welcome.clone().unwrap();
    assert_eq!(
        (
            welcome.version,
            welcome.device_count,
            welcome.device_name.as_str()
        ),
        (1, 1, "cpu")
    );
    assert_eq!((welcome.class, welcome.weight), (Class::Normal, 100));
    assert_eq!(welcome.operation_count, u32::from(opcode::COUNT));
    for _ in 0..1_000 {
        assert!(client.round_trip());
    }
    let (reply, fds) = client.ask(&Request::Queue(QueueRequest {
        slot_count: 40,
        notify: true,
    }));
    let Reply::Queue(grant) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((grant.queue, grant.slot_count, fds.len()), (1, 64, 4));
    let (reply, fds) = client.ask(&Request::Staging { bytes: 5_000 });
    let Reply::Staging(grant) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((grant.index, grant.bytes, fds.len()), (0, 8_192, 1));
    let stat = daemon.stat();
    assert_eq!(stat["sessions"][0]["name"], "test");
    assert_eq!(stat["sessions"][0]["requests"], 1_000);
    assert_eq!(stat["sessions"][0]["staging_bytes"], 8_192);
    assert_eq!(stat["engines"][0]["epoch"], 1);
    assert_eq!(client.ask(&Request::Goodbye).0, Reply::Done);
    daemon.await_session_count(0);
}

pub fn a_request_sent_twice_is_answered_twice_and_done_once() {
    let daemon = Daemon::start("twice", "");
    let client = daemon.client();
    let socket = &client.socket;
    for (sequence, request) in [
        (50, Request::Queue(QueueRequest::default())),
        (51, Request::Staging { bytes: 4_096 }),
    ] {
        // The last answer to the request before may still be on its way.
        let answer = || loop {
            let (message, _) = socket.receive(None).unwrap().unwrap();
            if message.sequence == sequence {
                return message;
            }
        };
        socket.send(sequence, &request).unwrap();
        socket.send(sequence, &request).unwrap();
        let first = answer();
        // The second may have found the first still on its way, and then there is one answer for both.
        socket.send(sequence, &request).unwrap();
        assert_eq!(first, answer());
    }
    let stat = daemon.stat();
    assert_eq!(
        (
            &stat["sessions"][0]["queues"],
            &stat["sessions"][0]["staging_bytes"]
        ),
        (&2.into(), &4_096.into())
    );
    let mut client = Client::bare(&daemon.socket);
    client.hello(Hello::default()).unwrap();
    let (code, text) = error_of(client.ask(&Request::Hello(Hello::default())).0);
    assert_eq!(
        (code, text.contains("already")),
        (Code::BadMessage, true),
        "{text}"
    );
    assert!(client.round_trip());
}

pub fn limits_are_refused_with_their_numbers() {
    let config = "[limits]\nqueues = 2\nsession_staging_bytes = 8192\ntenant_staging_bytes = 12288\ntenant_sessions = 2";
    let daemon = Daemon::start("limits", config);
    let (mut one, mut two) = (daemon.client(), daemon.client());
    assert!(matches!(
        one.ask(&Request::Queue(QueueRequest::default())).0,
        Reply::Queue(_)
    ));
    let refused = |client: &mut Client, request: &Request| error_of(client.ask(request).0);
    let queue = Request::Queue(QueueRequest::default());
    let staging = |bytes| Request::Staging { bytes };
    assert_eq!(
        refused(&mut one, &queue),
        (
            Code::Limit,
            "queues of the session: 2 in use and 1 more wanted, the limit is 2".into()
        )
    );
    let text = "bytes of staging memory of the session: 0 in use and 12288 more wanted, the limit is 8192; transfer less at once";
    assert_eq!(
        refused(&mut one, &staging(9_000)),
        (Code::Limit, text.into())
    );
    assert!(matches!(one.ask(&staging(8_192)).0, Reply::Staging(_)));
    let text = "bytes of staging memory of the tenant: 8192 in use and 8192 more wanted, the limit is 12288; transfer less at once";
    assert_eq!(
        refused(&mut two, &staging(8_192)),
        (Code::Limit, text.into())
    );
    assert_eq!(refused(&mut two, &staging(0)).0, Code::Limit);
    let mut three = Client::bare(&daemon.socket);
    let words = three.last_words().expect("the refused one is told");
    assert_eq!(
        (words.code, words.text.contains("the limit is 2")),
        (Code::Limit, true),
        "{words}"
    );
    drop(two);
    // What ended is given back.
    eventually("there is room again", || {
        let mut client = Client::bare(&daemon.socket);
        client
            .try_ask(&Request::Hello(Hello::default()))
            .ok()
            .filter(|(reply, _)| matches!(reply, Reply::Welcome(_)))
    });
    assert!(one.round_trip());
}

pub fn class_and_weight_go_down_only() {
    let daemon = Daemon::start("class", "");
    let mut client = Client::bare(&daemon.socket);
    client
        .hello(Hello {
            class: Class::Realtime,
            weight: 5_000,
            ..Hello::default()
        })
        .unwrap();
    let welcome = client.welcome.clone().unwrap();
    assert_eq!(
        (welcome.class, welcome.weight),
        (Class::Normal, 1_000),
        "the ceiling of the configuration"
    );
    let set = |class, weight| {
        Request::Set(Set {
            class,
            weight,
            name: Some("a\u{1b}b".into()),
            session: 0,
        })
    };
    assert_eq!(client.ask(&set(Some(Class::Idle), Some(10))).0, Reply::Done);
    assert_eq!(
        error_of(client.ask(&set(Some(Class::Normal), None)).0).0,
        Code::NotAdministrator
    );
    assert_eq!(
        error_of(client.ask(&set(None, Some(11))).0).0,
        Code::NotAdministrator
    );
    let session = &daemon.stat()["sessions"][0];
    assert_eq!(
        (&session["class"], &session["weight"]),
        (&"idle".into(), &10.into())
    );
    assert_eq!(session["name"], "a?b", "a name cannot steer a terminal");
    let other = Request::Set(Set {
        session: client.session(),
        weight: Some(77),
        ..Set::default()
    });
    assert_eq!(
        error_of(daemon.client().ask(&other).0).0,
        Code::NotAdministrator
    );
    assert_eq!(Client::bare(&daemon.admin()).ask(&other).0, Reply::Done);
    assert_eq!(daemon.stat()["sessions"][0]["weight"], 77);
}

pub fn stat_shows_a_tenant_its_own_sessions_alone() {
    let second = crate::support::Folder::new("second");
    let path = second.0.join("other.sock");
    let config = format!(
        "[[listen]]\npath = \"/replaced.sock\"\ntenant = \"name:one\"\n[[listen]]\npath = {path:?}\ntenant = \"name:two\""
    );
    let daemon = Daemon::start("stat", &config);
    let (mut one, mut two, mut also_two) = (
        daemon.client(),
        Client::connect(&path),
        Client::connect(&path),
    );
    for _ in 0..5 {
        assert!(one.round_trip() && two.round_trip() && also_two.round_trip());
    }
    let seen = one.stat();
    let ids: Vec<u64> = seen["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids, [one.session()]);
    assert_eq!(seen["sessions"][0]["tenant"], "name:one");
    assert_eq!(
        (&seen["others"]["sessions"], &seen["others"]["requests"]),
        (&2.into(), &10.into())
    );
    assert!(!seen.to_string().contains("name:two"));
    assert_eq!(daemon.session_count(), 3);
}

pub fn the_administrator_can_end_a_session() {
    let daemon = Daemon::start("kill", "");
    let (mut victim, mut other) = (daemon.client(), daemon.client());
    let kill = Request::Kill {
        session: victim.session(),
    };
    assert_eq!(error_of(other.ask(&kill).0).0, Code::NotAdministrator);
    assert_eq!(
        error_of(other.ask(&Request::Drain).0).0,
        Code::NotAdministrator
    );
    let mut admin = Client::bare(&daemon.admin());
    assert_eq!(admin.ask(&kill).0, Reply::Done);
    assert_eq!(victim.last_words().unwrap().code, Code::Cancelled);
    assert_eq!(error_of(admin.ask(&kill).0).0, Code::BadHandle);
    assert!(other.round_trip());
}

pub fn sigterm_drains_and_ends_with_0() {
    let mut daemon = Daemon::start("drain", "");
    let mut client = daemon.client();
    assert!(client.round_trip());
    daemon.signal(daemon.pid(), Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        !daemon.socket.exists() && !daemon.admin().exists(),
        "sockets are removed"
    );
    assert!(client.last_words().is_none());
}

pub fn a_drain_that_takes_too_long_ends_all_the_same() {
    let mut daemon = Daemon::start("slow-drain", "drain_s = 2");
    let mut client = daemon.client();
    // The engine never finishes this one.
    client.queue.as_mut().unwrap().submit(opcode::WAIT_QUEUE);
    eventually("it was accepted", || {
        (daemon.stat()["engines"][0]["counters"]["requests_accepted"] == 1).then_some(())
    });
    let mut late = Client::bare(&daemon.socket);
    assert_eq!(
        Client::bare(&daemon.admin()).ask(&Request::Drain).0,
        Reply::Done
    );
    eventually("the client hears of it", || {
        client.look();
        client.draining.then_some(())
    });
    assert_eq!(
        late.hello(Hello::default()).unwrap_err().code,
        Code::Draining
    );
    assert_eq!(
        error_of(client.ask(&Request::Queue(QueueRequest::default())).0).0,
        Code::Draining
    );
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(
        daemon
            .log()
            .contains("not everything was finished within 2 s")
    );
}

pub fn sighup_reads_the_configuration_again() {
    let daemon = Daemon::start("reload", "[limits]\nqueues = 1");
    let mut client = daemon.client();
    let queue = Request::Queue(QueueRequest::default());
    assert_eq!(error_of(client.ask(&queue).0).0, Code::Limit);
    let new_socket = daemon.folder.0.join("new.sock");
    std::fs::write(
        daemon.config_path(),
        format!(
            "isolation = \"tenant\"\n[limits]\nqueues = 2\n[[listen]]\npath = {:?}\n[[listen]]\npath = {new_socket:?}",
            daemon.socket
        ),
    )
    .unwrap();
    daemon.signal(daemon.pid(), Signal::SIGHUP);
    eventually("it was read", || {
        daemon
            .log()
            .contains("configuration reloaded")
            .then_some(())
    });
    assert!(
        daemon.log().contains("a changed field needs a restart"),
        "isolation cannot change while it runs"
    );
    eventually("the limit has risen", || {
        matches!(client.ask(&queue).0, Reply::Queue(_)).then_some(())
    });
    assert!(client.round_trip() && Client::connect(&new_socket).round_trip());
    std::fs::write(daemon.config_path(), "queues = 3").unwrap();
    daemon.signal(daemon.pid(), Signal::SIGHUP);
    eventually("the error is told", || {
        daemon
            .log()
            .contains("unknown field `queues`")
            .then_some(())
    });
    assert!(client.round_trip(), "a broken file changes nothing");
}

pub fn an_unused_daemon_ends_when_told_so() {
    let mut daemon = Daemon::start("idle", "exit_idle_s = 1");
    assert_eq!(daemon.wait().code(), Some(0));
}
