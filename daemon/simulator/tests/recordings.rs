//! What was recorded is played again by as many clients as one likes.

#![allow(missing_docs, reason = "tests")]

use std::sync::Arc;

use tensord_sim::Model;
use tensord_simulator::recording::{Action, Recording};
use tensord_simulator::replay::{play, record};

/// Seeds that are recorded.
const SEEDS: u64 = 12;

fn recorded(seed: u64) -> Arc<Recording> {
    let recording = record(seed, Some(Model::h100())).unwrap_or_else(|failure| panic!("{failure}"));
    let mut file = Vec::new();
    recording.write(&mut file).expect("memory");
    let read = Recording::read(&mut file.as_slice()).expect("what was just written");
    assert_eq!(read, recording);
    Arc::new(read)
}

#[test]
fn every_record_of_a_recording_is_played_by_every_client() {
    let mut waits = 0;
    for seed in 0..SEEDS {
        let recording = recorded(seed);
        let played = play(&recording, 3, Model::small(), seed);
        let played = played.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        let entries = recording.entries.iter();
        waits += played.latencies_ns.len();
        let expected = entries.filter(|entry| matches!(entry.action, Action::Wait(_)));
        assert_eq!(
            played.latencies_ns.len(),
            3 * expected.count(),
            "seed {seed}"
        );
    }
    assert!(waits > 0, "nobody waited: there is nothing to play");
}

#[test]
fn more_clients_make_larger_launches_and_a_busier_device() {
    let longest = (0..SEEDS).map(recorded).max_by_key(|recording| {
        let waits = recording.entries.iter();
        waits
            .filter(|entry| matches!(entry.action, Action::Wait(_)))
            .count()
    });
    let recording = longest.expect("some seeds");
    let play = |clients| {
        let played = play(&recording, clients, Model::h100(), 1);
        played.unwrap_or_else(|failure| panic!("{failure}"))
    };
    let (one, many) = (play(1), play(20));
    assert!(many.busy > one.busy, "{} and {}", many.busy, one.busy);
    assert!(many.instances_each >= one.instances_each);
}
