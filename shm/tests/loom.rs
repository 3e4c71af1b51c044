//! The ring, the parking and the sleeping under the model checker: every interleaving that the memory model allows.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p tensord-shm --test loom --release`. The code is the code that ships; the
//! words are modelled atomics, and the futex is a modelled one without a time limit, so that a lost wake-up is a
//! deadlock, which the checker reports.

#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use tensord_shm::completion::{Reader, SpinPolicy, Waited, Writer};
use tensord_shm::doorbell::must_ring;
use tensord_shm::ring::{Consumer, Producer, RecordBuf, record_header};
use tensord_shm::segment::{SubmissionMapMut, model};

fn check(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

fn record(seed: u64) -> [u64; 8] {
    let mut words = [seed; 8];
    words[0] = record_header(1, 0, 1, seed as u32);
    words
}

/// The engine's doorbell: what an edge-triggered eventfd in an epoll set is to a thread that waits for it.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.ring.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.ring.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// Takes what is there, comparing it with what was written.
fn drain(consumer: &mut Consumer, buf: &mut RecordBuf) {
    consumer.refresh().unwrap();
    while consumer.pop(buf).unwrap().is_some() {
        assert_eq!(buf.words(), record(consumer.record_count()));
    }
}

/// Two records published one by one to an engine that parks whenever its ring is empty: both arrive, whole.
#[test]
fn no_publication_is_lost_to_a_parking_engine() {
    check(3, || {
        let (submission, seen) = model::submission(2);
        let (completion, completion_seen) = model::completion();
        let bell = Arc::new(Bell::default());
        let client_bell = Arc::clone(&bell);
        let client = thread::spawn(move || {
            let mut producer = Producer::new(submission);
            let reader = Reader::new(completion_seen);
            let mut rung_for = 0;
            for seed in 1..=2 {
                producer.push(&record(seed), 0).unwrap();
                producer.publish();
                if must_ring(&reader, &mut rung_for) {
                    client_bell.ring();
                }
            }
        });
        let mut consumer = Consumer::new(seen);
        let mut writer = Writer::new(completion);
        let mut buf = RecordBuf::new();
        while consumer.record_count() < 2 {
            if writer.park(&consumer) {
                bell.wait();
                writer.set_need_wakeup(false);
            }
            drain(&mut consumer, &mut buf);
        }
        client.join().unwrap();
    });
}

/// A ring of one slot used twice: the client waits for room by sleeping, and no slot is written while it is read.
#[test]
fn a_slot_is_not_written_again_before_it_was_taken() {
    check(3, || {
        let (submission, seen) = model::submission(1);
        let (completion, completion_seen) = model::completion();
        let client = thread::spawn(move || {
            let mut producer = Producer::new(submission.clone());
            let reader = Reader::new(completion_seen);
            for seed in 1..=2 {
                while producer.push(&record(seed), reader.head()).is_err() {
                    let room = producer.position();
                    let waited = reader.wait_for_room(
                        &submission,
                        room,
                        None,
                        &mut SpinPolicy::sleep_at_once(),
                    );
                    assert_eq!(waited, Waited::Reached);
                }
                producer.publish();
            }
        });
        let mut consumer = Consumer::new(seen.clone());
        let mut writer = Writer::new(completion);
        let mut buf = RecordBuf::new();
        while consumer.record_count() < 2 {
            drain(&mut consumer, &mut buf);
            writer.set_head(consumer.head());
            writer.wake_if_asleep(&seen, None);
            thread::yield_now();
        }
        client.join().unwrap();
    });
}

/// Sleeps as a client does: a wake-up that was meant for an earlier value sends it to its socket, where it finds
/// nothing, and to sleep again. One that never comes is a deadlock, which the model finds.
fn sleep_until(reader: &Reader, submission: &SubmissionMapMut, value: u64) {
    loop {
        match reader.wait(submission, value, None, &mut SpinPolicy::sleep_at_once()) {
            Waited::Reached => return,
            other => assert_eq!(other, Waited::LookAtSocket),
        }
    }
}

/// A client that sleeps for each of two values in turn: it is woken for both.
#[test]
fn no_wake_up_is_lost_to_a_client_falling_asleep() {
    check(3, || {
        let (submission, seen) = model::submission(1);
        let (completion, completion_seen) = model::completion();
        let client = thread::spawn(move || {
            let reader = Reader::new(completion_seen);
            for value in 1..=2 {
                sleep_until(&reader, &submission, value);
                assert!(reader.timeline() >= value);
            }
        });
        let mut writer = Writer::new(completion);
        for value in 1..=2 {
            writer.set_timeline(value);
            writer.wake_if_asleep(&seen, None);
        }
        client.join().unwrap();
    });
}

/// A queue that freezes while its client falls asleep: the wait ends.
#[test]
fn no_freeze_is_lost_to_a_client_falling_asleep() {
    check(3, || {
        let (submission, _) = model::submission(1);
        let (completion, completion_seen) = model::completion();
        let client = thread::spawn(move || {
            let reader = Reader::new(completion_seen);
            let waited = reader.wait(&submission, 1, None, &mut SpinPolicy::sleep_at_once());
            assert!(matches!(waited, Waited::Closed(_)));
            assert_eq!(reader.fault_code(), 9);
        });
        Writer::new(completion).latch_fault(9, None);
        client.join().unwrap();
    });
}

/// A request and its answer between two sides that both sleep: the engine parks until rung, the client waits until woken.
#[test]
fn a_request_and_its_answer_pass_between_two_sleepers() {
    check(2, || {
        let (submission, seen) = model::submission(2);
        let (completion, completion_seen) = model::completion();
        let bell = Arc::new(Bell::default());
        let client_bell = Arc::clone(&bell);
        let client = thread::spawn(move || {
            let mut producer = Producer::new(submission.clone());
            let reader = Reader::new(completion_seen);
            let mut rung_for = 0;
            for value in 1..=2 {
                producer.push(&record(value), reader.head()).unwrap();
                producer.publish();
                if must_ring(&reader, &mut rung_for) {
                    client_bell.ring();
                }
                sleep_until(&reader, &submission, value);
            }
        });
        let mut consumer = Consumer::new(seen.clone());
        let mut writer = Writer::new(completion);
        let mut buf = RecordBuf::new();
        while consumer.record_count() < 2 {
            if writer.park(&consumer) {
                bell.wait();
                writer.set_need_wakeup(false);
            }
            drain(&mut consumer, &mut buf);
            consumer.demanded();
            writer.set_timeline(consumer.record_count());
            writer.wake_if_asleep(&seen, None);
        }
        client.join().unwrap();
    });
}

/// An engine that runs a request only when it is demanded, and parks with it otherwise: a later demand reaches it.
#[test]
fn no_demand_is_lost_to_a_parking_engine() {
    check(2, || {
        let (submission, seen) = model::submission(1);
        let (completion, completion_seen) = model::completion();
        let bell = Arc::new(Bell::default());
        let client_bell = Arc::clone(&bell);
        let client = thread::spawn(move || {
            let mut producer = Producer::new(submission.clone());
            let reader = Reader::new(completion_seen);
            let mut rung_for = 0;
            producer.push(&record(1), 0).unwrap();
            producer.publish();
            if must_ring(&reader, &mut rung_for) {
                client_bell.ring();
            }
            reader.demand(&submission, 1);
            if must_ring(&reader, &mut rung_for) {
                client_bell.ring();
            }
            let waited = reader.wait(&submission, 1, None, &mut SpinPolicy::sleep_at_once());
            assert_eq!(waited, Waited::Reached);
        });
        let mut consumer = Consumer::new(seen.clone());
        let mut writer = Writer::new(completion);
        let mut buf = RecordBuf::new();
        while writer.timeline() < 1 {
            if writer.park(&consumer) {
                bell.wait();
                writer.set_need_wakeup(false);
            }
            drain(&mut consumer, &mut buf);
            if consumer.demanded().min(consumer.record_count()) == 1 {
                writer.set_timeline(1);
                writer.wake_if_asleep(&seen, None);
            }
        }
        client.join().unwrap();
    });
}

/// Who sees the timeline sees the failures below it, and who sees a failure sees it whole.
#[test]
fn failures_come_before_the_timeline_that_covers_them() {
    use tensord_shm::completion::ErrorEntry;
    check(3, || {
        let (submission, seen) = model::submission(1);
        let (completion, completion_seen) = model::completion();
        let entry = ErrorEntry {
            value: 1,
            code: 2,
            site: 3,
            origin: 4,
            detail: 5,
        };
        let client = thread::spawn(move || {
            let mut reader = Reader::new(completion_seen);
            let early = reader.pop_error(&submission);
            assert!(early.is_none() || early == Some(entry));
            if early.is_none() && reader.timeline() >= 1 {
                assert_eq!(reader.pop_error(&submission), Some(entry));
            }
        });
        let mut writer = Writer::new(completion);
        assert_eq!(writer.reserve_error(&seen), Ok(true));
        writer.push_error(&entry);
        writer.set_timeline(1);
        client.join().unwrap();
    });
}
