//! The broker dies, the engine dies, both die; each time under load.

use std::time::Duration;

use tensord_shm::control::{Hello, QueueRequest, Reply, Request};
use tensord_shm::record::opcode;

use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub fn a_brokers_death_is_not_noticed() {
    let daemon = Daemon::start("broker-dies", "");
    let mut clients: Vec<Client> = (0..4).map(|_| daemon.client()).collect();
    assert!(matches!(
        clients[0].ask(&Request::Staging { bytes: 4_096 }).0,
        Reply::Staging(_)
    ));
    for _ in 0..10 {
        daemon.kill_and_await("broker");
        for client in &mut clients {
            for _ in 0..100 {
                assert!(client.round_trip());
            }
        }
    }
    // It knows them all, with what they have, and goes on from there.
    let stat = clients[0].stat();
    assert_eq!(stat["sessions"].as_array().unwrap().len(), 4);
    assert_eq!(stat["sessions"][0]["staging_bytes"], 4_096);
    assert_eq!(stat["sessions"][0]["requests"], 1_000);
    assert_eq!(stat["engines"][0]["epoch"], 1);
    let (reply, _) = clients[0].ask(&Request::Staging { bytes: 4_096 });
    assert!(
        matches!(reply, Reply::Staging(grant) if grant.index == 1),
        "{reply:?}"
    );
    for client in &mut clients {
        client.look();
        assert!(client.lost.is_empty());
    }
    drop(clients);
    daemon.await_session_count(0);
}

pub fn an_engines_death_begins_an_epoch() {
    let daemon = Daemon::start("engine-dies", "");
    let mut clients: Vec<Client> = (0..4).map(|_| daemon.client()).collect();
    assert!(matches!(
        clients[0].ask(&Request::Staging { bytes: 4_096 }).0,
        Reply::Staging(_)
    ));
    assert!(matches!(
        clients[0].ask(&Request::Queue(QueueRequest::default())).0,
        Reply::Queue(_)
    ));
    for death in 1..=10 {
        // One request that never ends is lost with the engine, and so is what is behind it.
        clients[1]
            .queue
            .as_mut()
            .unwrap()
            .submit(opcode::WAIT_QUEUE);
        clients[1].queue.as_mut().unwrap().submit(opcode::NOOP);
        daemon.kill_and_await("engine");
        for client in &mut clients {
            eventually("its queue is in the next epoch", || {
                client.look_for(Duration::from_millis(20));
                (client.epoch() == death + 1).then_some(())
            });
            for _ in 0..100 {
                assert!(client.round_trip());
            }
            assert_eq!(client.lost.len(), death as usize);
        }
    }
    let lost = clients[1].lost.last().unwrap();
    assert_eq!(lost.epoch, 10);
    assert!(lost.cause.contains("signal 9 (SIGKILL)"), "{lost:?}");
    assert!(clients[1].lost.iter().any(|lost| lost.lost >= 1));
    let stat = daemon.stat();
    assert_eq!(
        (
            &stat["engines"][0]["epoch"],
            &stat["engines"][0]["responding"]
        ),
        (&11.into(), &true.into())
    );
    assert!(
        stat["engines"][0]["counters"]["requests_lost"]
            .as_u64()
            .unwrap()
            >= 1
    );
    assert_eq!(stat["sessions"][0]["queues"], 2);
}

pub fn hello_survives_a_broker_that_dies() {
    let daemon = Daemon::start("hello-dies", "");
    for _ in 0..10 {
        let mut client = Client::bare(&daemon.socket);
        client
            .socket
            .send(1, &Request::Hello(Hello::default()))
            .unwrap();
        daemon.kill_and_await("broker");
        // The same request again: whether the first was served or not, there is one session.
        client.hello(Hello::default()).unwrap();
        assert!(client.round_trip());
        drop(client);
        daemon.await_session_count(0);
    }
}

pub fn both_die_together() {
    let daemon = Daemon::start("both-die", "");
    let mut clients: Vec<Client> = (0..4).map(|_| daemon.client()).collect();
    for death in 1..=5 {
        daemon.kill_and_await("engine");
        daemon.kill_and_await("broker");
        for client in &mut clients {
            eventually("its queue is in the next epoch", || {
                client.look_for(Duration::from_millis(20));
                (client.epoch() == death + 1).then_some(())
            });
            assert!(client.round_trip());
        }
    }
    assert_eq!(daemon.session_count(), 4);
}

pub fn a_tenant_of_its_own_engine_gets_one_and_gives_it_back() {
    let second = crate::support::Folder::new("isolated");
    let path = second.0.join("other.sock");
    let config = format!(
        "isolation = \"tenant\"\n[[listen]]\npath = \"/replaced.sock\"\ntenant = \"name:one\"\n\
         [[listen]]\npath = {path:?}\ntenant = \"name:two\""
    );
    let daemon = Daemon::start("isolated", &config);
    assert!(daemon.child("engine").is_none(), "nobody needs one yet");
    let (mut one, mut two) = (daemon.client(), Client::connect(&path));
    assert!(one.round_trip() && two.round_trip());
    let engines = daemon.stat()["engines"].as_array().unwrap().clone();
    assert_eq!(engines.len(), 2);
    let pid = i32::try_from(engines[0]["pid"].as_i64().unwrap()).unwrap();
    daemon.signal(pid, nix::sys::signal::Signal::SIGKILL);
    let (mut struck, mut spared) = if one.epoch() == engines[0]["epoch"] {
        (one, two)
    } else {
        (two, one)
    };
    eventually("the struck tenant goes on", || {
        struck.look_for(Duration::from_millis(20));
        (!struck.lost.is_empty() && struck.epoch() == 3).then_some(())
    });
    assert!(struck.round_trip() && spared.round_trip());
    spared.look();
    assert!(spared.lost.is_empty(), "a fault stays at home");
    drop(struck);
    eventually("its engine ends", || {
        (daemon.stat()["engines"].as_array().unwrap().len() == 1).then_some(())
    });
    assert!(spared.round_trip());
}
