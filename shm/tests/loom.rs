//! The ring, the parking and the sleeping under the model checker: every interleaving that the memory model allows.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p tensord-shm --test loom --release`. The code is the code that ships; the
//! words are modelled atomics, and the futex is a modelled one without a time limit, so that a lost wake-up is a
//! deadlock, which the checker reports.

#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use tensord_shm::completion::{ErrorEntry, Reader, SpinPolicy, Waited, Writer};
use tensord_shm::doorbell::must_ring;
use tensord_shm::ring::{Consumer, Full, Producer, RecordBuf, record_header};
use tensord_shm::segment::{SubmissionMap, SubmissionMapMut, model};

/// Runs a client and an engine on one queue in every interleaving with at most so many preemptions.
fn check(
    preemptions: usize,
    slot_count: u32,
    client: impl Fn(Client) + Copy + Sync + Send + 'static,
    engine: impl Fn(Engine) + Sync + Send + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let (submission, submission_seen) = model::submission(slot_count);
        let (completion, completion_seen) = model::completion();
        let bell = Arc::new(Bell::default());
        let its_side = Client {
            producer: Producer::new(submission.clone()),
            submission,
            reader: Reader::new(completion_seen),
            bell: Arc::clone(&bell),
            rung_for: 0,
        };
        let its_thread = thread::spawn(move || client(its_side));
        engine(Engine {
            consumer: Consumer::new(submission_seen.clone()),
            submission: submission_seen,
            writer: Writer::new(completion),
            buf: RecordBuf::new(),
            bell,
        });
        its_thread.join().unwrap();
    });
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

/// The client's side of the queue.
struct Client {
    submission: SubmissionMapMut,
    producer: Producer,
    reader: Reader,
    bell: Arc<Bell>,
    rung_for: u64,
}

impl Client {
    /// Publishes the record with this number; `head` is how far it knows the engine to have come.
    fn publish(&mut self, number: u64, head: u64) -> Result<(), Full> {
        self.producer.push(&record(number), head)?;
        self.producer.publish();
        Ok(())
    }

    fn ring_if_parked(&mut self) {
        if must_ring(&self.reader, &mut self.rung_for) {
            self.bell.ring();
        }
    }

    fn wait_once(&self, value: u64) -> Waited {
        self.reader.wait(
            &self.submission,
            value,
            None,
            &mut SpinPolicy::sleep_at_once(),
        )
    }

    /// Sleeps as a client does: a wake-up that was meant for an earlier value sends it to its socket, where it finds
    /// nothing, and to sleep again. One that never comes is a deadlock, which the model finds.
    fn sleep_until(&self, value: u64) {
        loop {
            match self.wait_once(value) {
                Waited::Reached => return,
                other => assert_eq!(other, Waited::LookAtSocket),
            }
        }
    }

    fn sleep_until_there_is_room(&self) {
        let room = self.producer.position();
        let waited = self.reader.wait_for_room(
            &self.submission,
            room,
            None,
            &mut SpinPolicy::sleep_at_once(),
        );
        assert_eq!(waited, Waited::Reached);
    }
}

/// The engine's side of the queue.
struct Engine {
    submission: SubmissionMap,
    consumer: Consumer,
    writer: Writer,
    buf: RecordBuf,
    bell: Arc<Bell>,
}

impl Engine {
    /// Takes what is there, comparing it with what was written.
    fn drain(&mut self) {
        self.consumer.refresh().unwrap();
        while self.consumer.pop(&mut self.buf).unwrap().is_some() {
            assert_eq!(self.buf.words(), record(self.consumer.record_count()));
        }
    }

    /// Sleeps until it is rung, unless the ring has something.
    fn park(&mut self) {
        if self.writer.park(&self.consumer) {
            self.bell.wait();
            self.writer.set_need_wakeup(false);
        }
    }

    fn reach(&mut self, value: u64) {
        self.writer.set_timeline(value);
        self.wake();
    }

    fn wake(&mut self) {
        self.writer.wake_if_asleep(&self.submission, None);
    }
}

/// Two records published one by one to an engine that parks whenever its ring is empty: both arrive, whole.
#[test]
fn no_publication_is_lost_to_a_parking_engine() {
    let client = |mut client: Client| {
        for number in 1..=2 {
            client.publish(number, 0).unwrap();
            client.ring_if_parked();
        }
    };
    check(3, 2, client, |mut engine| {
        while engine.consumer.record_count() < 2 {
            engine.park();
            engine.drain();
        }
    });
}

/// A ring of one slot used twice: the client waits for room by sleeping, and no slot is written while it is read.
#[test]
fn a_slot_is_not_written_again_before_it_was_taken() {
    let client = |mut client: Client| {
        for number in 1..=2 {
            while client.publish(number, client.reader.head()).is_err() {
                client.sleep_until_there_is_room();
            }
        }
    };
    check(3, 1, client, |mut engine| {
        while engine.consumer.record_count() < 2 {
            engine.drain();
            engine.writer.set_head(engine.consumer.head());
            engine.wake();
            thread::yield_now();
        }
    });
}

/// A client that sleeps for each of two values in turn: it is woken for both.
#[test]
fn no_wake_up_is_lost_to_a_client_falling_asleep() {
    let client = |client: Client| {
        for value in 1..=2 {
            client.sleep_until(value);
            assert!(client.reader.timeline() >= value);
        }
    };
    check(3, 1, client, |mut engine| {
        for value in 1..=2 {
            engine.reach(value);
        }
    });
}

/// A queue that freezes while its client falls asleep: the wait ends.
#[test]
fn no_freeze_is_lost_to_a_client_falling_asleep() {
    let client = |client: Client| {
        assert!(matches!(client.wait_once(1), Waited::Closed(_)));
        assert_eq!(client.reader.fault_code(), 9);
    };
    check(3, 1, client, |mut engine| {
        engine.writer.latch_fault(9, None);
    });
}

/// A request and its answer between two sides that both sleep: the engine parks until rung, the client waits until woken.
#[test]
fn a_request_and_its_answer_pass_between_two_sleepers() {
    let client = |mut client: Client| {
        for number in 1..=2 {
            client.publish(number, client.reader.head()).unwrap();
            client.ring_if_parked();
            client.sleep_until(number);
        }
    };
    check(2, 2, client, |mut engine| {
        while engine.consumer.record_count() < 2 {
            engine.park();
            engine.drain();
            engine.consumer.demanded();
            engine.reach(engine.consumer.record_count());
        }
    });
}

/// An engine that runs a request only when it is demanded, and parks with it otherwise: a later demand reaches it.
#[test]
fn no_demand_is_lost_to_a_parking_engine() {
    let client = |mut client: Client| {
        client.publish(1, 0).unwrap();
        client.ring_if_parked();
        client.reader.demand(&client.submission, 1);
        client.ring_if_parked();
        assert_eq!(client.wait_once(1), Waited::Reached);
    };
    check(2, 1, client, |mut engine| {
        while engine.writer.timeline() < 1 {
            engine.park();
            engine.drain();
            if engine
                .consumer
                .demanded()
                .min(engine.consumer.record_count())
                == 1
            {
                engine.reach(1);
            }
        }
    });
}

/// Who sees the timeline sees the failures below it, and who sees a failure sees it whole.
#[test]
fn failures_come_before_the_timeline_that_covers_them() {
    let entry = ErrorEntry {
        value: 1,
        code: 2,
        site: 3,
        origin: 4,
        detail: 5,
    };
    let client = move |mut client: Client| {
        let early = client.reader.pop_error(&client.submission);
        assert!(early.is_none() || early == Some(entry));
        if early.is_none() && client.reader.timeline() >= 1 {
            assert_eq!(client.reader.pop_error(&client.submission), Some(entry));
        }
    };
    check(3, 1, client, move |mut engine| {
        assert_eq!(engine.writer.reserve_error(&engine.submission), Ok(true));
        engine.writer.push_error(&entry);
        engine.writer.set_timeline(1);
    });
}
