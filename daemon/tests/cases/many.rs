//! Many sessions, and what they leave behind.

use tensord_shm::record::opcode;

use crate::support::client::Client;
use crate::support::daemon::Daemon;
use crate::support::eventually;

pub fn killed_clients_leave_nothing_behind() {
    let daemon = Daemon::start("leave", "");
    let mut stays = daemon.client();
    assert!(stays.round_trip());
    let before = (daemon.settled_fds(), daemon.maps());
    for round in 0..50 {
        let mut clients: Vec<Client> = (0..4).map(|_| daemon.client()).collect();
        for client in &mut clients {
            client.queue.as_mut().unwrap().submit(opcode::NOOP);
            if round % 2 == 0 {
                client.queue.as_mut().unwrap().submit(opcode::WAIT_QUEUE);
            }
        }
        // Gone without a word, in the middle of things.
        drop(clients);
    }
    eventually("nothing stays", || {
        ((daemon.settled_fds(), daemon.maps()) == before).then_some(())
    });
    assert_eq!(daemon.session_count(), 1);
    assert!(stays.round_trip());
}

pub fn a_thousand_sessions_connect() {
    let daemon = Daemon::start("thousand", "");
    let first = daemon.client();
    let resident = daemon.resident_bytes();
    let start = std::time::Instant::now();
    let mut clients: Vec<Client> = (0..1_000).map(|_| daemon.client()).collect();
    let elapsed = start.elapsed();
    let each = daemon.resident_bytes().saturating_sub(resident) / 1_000;
    println!("(1000 sessions in {elapsed:?}, {} KiB each) ", each / 1024);
    assert_eq!(daemon.session_count(), 1_001);
    assert!(clients.iter_mut().all(Client::round_trip));
    assert!(each <= 64 * 1024, "{each} bytes for an idle session");
    drop((clients, first));
    daemon.await_session_count(0);
}
