//! The transport between two ends that keep the rules: records, waiting, errors, staging.

#![cfg(not(loom))]

use proptest::prelude::*;
use std::os::fd::AsFd;
use std::time::Instant;
use tensord_shm::completion::{ErrorEntry, QueueState, Reader, SpinPolicy, Waited, Woken, Writer};
use tensord_shm::doorbell::{Doorbell, notice_pair};
use tensord_shm::ring::{Consumer, Full, Producer, RecordBuf, RingFault, record_header};
use tensord_shm::segment::{
    self, CompletionMap, CompletionMapMut, ERROR_COUNT, SubmissionMap, SubmissionMapMut,
};
use tensord_shm::staging::{StagingArena, StagingFault, StagingMap};

/// Both ends of one queue.
struct Queue {
    submission: SubmissionMapMut,
    seen: SubmissionMap,
    producer: Producer,
    consumer: Consumer,
    writer: Writer,
    reader: Reader,
}

impl Queue {
    /// Writes so many records of `slots` slots, with seeds from 0, and publishes none.
    fn push_all(&mut self, count: u64, slots: u8) {
        for seed in 0..count {
            self.producer.push(&record(slots, seed), 0).unwrap();
        }
    }

    /// Publishes what was written, and lets the engine see it.
    fn deliver(&mut self) {
        self.producer.publish();
        self.consumer.refresh().unwrap();
    }
}

fn queue(slot_count: u32) -> Queue {
    let fd = segment::create_submission(slot_count).unwrap();
    let submission = SubmissionMapMut::map(fd.as_fd(), slot_count).unwrap();
    let seen = SubmissionMap::map(fd.as_fd(), slot_count).unwrap();
    let completion = segment::create_completion().unwrap();
    let writer = Writer::new(CompletionMapMut::map(completion.as_fd()).unwrap());
    segment::seal_completion(&completion).unwrap();
    let reader = Reader::new(CompletionMap::map(completion.as_fd()).unwrap());
    Queue {
        producer: Producer::new(submission.clone()),
        consumer: Consumer::new(seen.clone()),
        submission,
        seen,
        writer,
        reader,
    }
}

/// A record of `slots` slots whose every word depends on `seed`.
fn record(slots: u8, seed: u64) -> Vec<u64> {
    let mut words: Vec<u64> = (0..u64::from(slots) * 8)
        .map(|i| seed.wrapping_mul(0x9e37_79b9) ^ i)
        .collect();
    words[0] = record_header(slots, 0, 7, seed as u32);
    words
}

#[test]
fn nothing_is_seen_before_it_is_published() {
    let mut q = queue(32);
    let mut buf = RecordBuf::new();
    q.producer.push(&record(1, 1), 0).unwrap();
    assert_eq!(q.producer.unpublished(), 1);
    assert_eq!(q.consumer.refresh(), Ok(0));
    assert_eq!(q.consumer.pop(&mut buf), Ok(None));
    assert!(q.producer.publish());
    assert!(!q.producer.publish(), "there is nothing new to publish");
    assert!(q.consumer.is_behind());
    assert_eq!(q.consumer.refresh(), Ok(1));
    assert_eq!(q.consumer.pop(&mut buf), Ok(Some(8)));
    assert_eq!(buf.words(), record(1, 1));
    assert!(!q.consumer.is_behind());
}

#[test]
fn a_record_built_in_place_is_the_same_record() {
    let mut q = queue(32);
    let words = record(2, 5);
    let mut slot = q.producer.reserve(2).unwrap();
    slot.write(0, words[..8].try_into().unwrap());
    for (i, word) in words.iter().enumerate().skip(8) {
        slot.set(i, *word);
    }
    assert_eq!(slot.commit(), 1, "its timeline value");
    let _ = q.producer.reserve(3).unwrap();
    assert_eq!(
        q.producer.position(),
        2,
        "a record that is not committed never was"
    );
    q.deliver();
    let mut buf = RecordBuf::new();
    assert_eq!(q.consumer.pop(&mut buf), Ok(Some(16)));
    assert_eq!(buf.words(), words);
    assert_eq!(q.consumer.pop(&mut buf), Ok(None));
}

#[test]
fn a_full_ring_refuses_until_the_head_moves() {
    let mut q = queue(32);
    let mut buf = RecordBuf::new();
    q.push_all(32, 1);
    assert_eq!(q.producer.push(&record(1, 32), 0), Err(Full { slots: 1 }));
    q.deliver();
    q.consumer.pop(&mut buf).unwrap().unwrap();
    assert_eq!(
        q.producer.push(&record(1, 32), q.reader.head()),
        Err(Full { slots: 1 }),
        "head is not written yet"
    );
    q.writer.set_head(q.consumer.head());
    q.producer.push(&record(1, 32), q.reader.head()).unwrap();
    assert_eq!(
        q.producer.push(&record(1, 33), q.reader.head()),
        Err(Full { slots: 1 })
    );
}

#[test]
fn a_head_that_cannot_be_is_ignored() {
    let mut q = queue(32);
    q.push_all(32, 1);
    for head in [33, u64::MAX] {
        assert_eq!(q.producer.push(&record(1, 0), head), Err(Full { slots: 1 }));
    }
}

#[test]
fn padding_does_not_count_on_the_timeline() {
    let mut q = queue(32);
    let mut buf = RecordBuf::new();
    q.push_all(3, 10);
    q.deliver();
    while q.consumer.pop(&mut buf).unwrap().is_some() {}
    q.producer.push(&record(16, 3), q.consumer.head()).unwrap();
    assert_eq!(
        q.producer.position(),
        32 + 16,
        "two slots of padding end the first round"
    );
    assert_eq!(q.producer.record_count(), 4);
    q.deliver();
    assert_eq!(q.consumer.pop(&mut buf), Ok(Some(128)));
    assert_eq!(buf.words(), record(16, 3));
    assert_eq!(q.consumer.record_count(), 4);
}

#[test]
fn padding_stays_when_the_record_after_it_finds_no_room() {
    let mut q = queue(32);
    let mut buf = RecordBuf::new();
    q.push_all(2, 14);
    assert_eq!(q.producer.push(&record(16, 2), 0), Err(Full { slots: 16 }));
    q.deliver();
    while q.consumer.pop(&mut buf).unwrap().is_some() {}
    assert_eq!(
        q.consumer.head(),
        32,
        "the padding was published and skipped"
    );
    q.producer.push(&record(16, 2), q.consumer.head()).unwrap();
    q.deliver();
    assert_eq!(q.consumer.pop(&mut buf), Ok(Some(128)));
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(
        slot_count in prop::sample::select(vec![32u32, 64, 256]),
        steps in prop::collection::vec((1u8..=16, 0u8..4), 1..400),
    ) {
        let mut q = queue(slot_count);
        let mut buf = RecordBuf::new();
        let mut waiting = std::collections::VecDeque::new();
        for (seed, (slots, action)) in steps.into_iter().enumerate() {
            let words = record(slots, seed as u64);
            while q.producer.push(&words, q.reader.head()).is_err() {
                q.producer.publish();
                let before = q.reader.head();
                q.consumer.refresh().unwrap();
                while q.consumer.pop(&mut buf).unwrap().is_some() {
                    prop_assert_eq!(Some(buf.words().to_vec()), waiting.pop_front());
                }
                prop_assert!(q.consumer.head() > before, "a full ring always has something to take");
                q.writer.set_head(q.consumer.head());
            }
            waiting.push_back(words);
            if action == 0 {
                q.producer.publish();
                q.consumer.refresh().unwrap();
                if q.consumer.pop(&mut buf).unwrap().is_some() {
                    prop_assert_eq!(Some(buf.words().to_vec()), waiting.pop_front());
                }
            }
        }
        q.producer.publish();
        q.consumer.refresh().unwrap();
        while q.consumer.pop(&mut buf).unwrap().is_some() {
            prop_assert_eq!(Some(buf.words().to_vec()), waiting.pop_front());
        }
        prop_assert!(waiting.is_empty());
        prop_assert_eq!(q.consumer.record_count(), q.producer.record_count());
    }

    #[test]
    fn regions_never_overlap_and_all_comes_back(
        steps in prop::collection::vec((any::<bool>(), 0u64..90_000, any::<prop::sample::Index>()), 1..300),
    ) {
        let bytes = 1 << 20;
        let fd = segment::create_staging(bytes).unwrap();
        let arena = StagingArena::map(fd.as_fd(), bytes).unwrap();
        let mut held = Vec::new();
        for (take, len, index) in steps {
            if take || held.is_empty() {
                if let Ok(mut region) = arena.allocate(len) {
                    let mark = held.len() as u8;
                    region.as_mut_slice().fill(mark);
                    held.push((region, mark));
                }
            } else {
                let at = index.index(held.len());
                held.swap_remove(at);
            }
            for (region, mark) in &held {
                prop_assert_eq!(region.offset() % 64, 0);
                prop_assert!(region.as_slice().iter().all(|byte| byte == mark));
            }
        }
        held.clear();
        prop_assert_eq!(arena.free_bytes(), bytes);
        let all = arena.allocate(bytes).map_err(|full| TestCaseError::fail(full.to_string()))?;
        prop_assert_eq!(all.len(), bytes);
    }
}

#[test]
fn a_parked_engine_is_rung_once() {
    let mut q = queue(32);
    let mut doorbell = Doorbell::create().unwrap();
    assert!(!doorbell.ring_if_parked(&q.reader), "nobody is parked");
    assert!(q.writer.park(&q.consumer));
    assert!(q.reader.need_wakeup());
    assert!(doorbell.ring_if_parked(&q.reader));
    assert!(
        !doorbell.ring_if_parked(&q.reader),
        "it was rung for this park"
    );
    q.writer.set_need_wakeup(false);
    assert!(!doorbell.ring_if_parked(&q.reader));
    assert!(q.writer.park(&q.consumer));
    assert!(doorbell.ring_if_parked(&q.reader), "a new park, a new ring");
}

#[test]
fn an_engine_does_not_park_on_a_ring_with_records() {
    let mut q = queue(32);
    q.producer.push(&record(1, 0), 0).unwrap();
    q.producer.publish();
    assert!(!q.writer.park(&q.consumer));
    assert!(!q.reader.need_wakeup());
}

#[test]
fn a_sleeper_is_woken_when_its_value_is_reached_and_not_before() {
    let Queue {
        submission,
        seen,
        mut writer,
        reader,
        ..
    } = queue(32);
    assert_eq!(writer.wake_if_asleep(&seen, None), Woken::Nobody);
    let client = std::thread::spawn(move || {
        loop {
            match reader.wait(&submission, 2, None, &mut SpinPolicy::sleep_at_once()) {
                Waited::LookAtSocket => continue,
                waited => return (waited, reader.timeline()),
            }
        }
    });
    writer.set_timeline(1);
    assert_eq!(
        writer.wake_if_asleep(&seen, None),
        Woken::Nobody,
        "it waits for 2"
    );
    writer.set_timeline(2);
    writer.wake_if_asleep(&seen, None);
    assert_eq!(client.join().unwrap(), (Waited::Reached, 2));
}

#[test]
fn a_wait_looks_at_the_clock_and_the_socket() {
    let q = queue(32);
    let past = Instant::now();
    assert_eq!(
        q.reader
            .wait(&q.submission, 1, Some(past), &mut SpinPolicy::new(10, 2)),
        Waited::Elapsed
    );
    assert_eq!(
        q.reader
            .wait(&q.submission, 1, None, &mut SpinPolicy::sleep_at_once()),
        Waited::LookAtSocket
    );
}

#[test]
fn a_client_without_room_sleeps_until_slots_are_taken() {
    let Queue {
        submission,
        seen,
        mut producer,
        mut consumer,
        mut writer,
        reader,
    } = queue(32);
    let client = std::thread::spawn(move || {
        for seed in 0..200 {
            while producer.push(&record(3, seed), reader.head()).is_err() {
                producer.publish();
                let room = producer.position() - 16;
                reader.wait_for_room(&submission, room, None, &mut SpinPolicy::sleep_at_once());
            }
        }
        producer.publish();
    });
    let mut buf = RecordBuf::new();
    while consumer.record_count() < 200 {
        consumer.refresh().unwrap();
        while consumer.pop(&mut buf).unwrap().is_some() {
            assert_eq!(buf.words(), record(3, consumer.record_count() - 1));
        }
        writer.set_head(consumer.head());
        writer.wake_if_asleep(&seen, None);
        std::thread::yield_now();
    }
    client.join().unwrap();
}

#[test]
fn a_protocol_error_latches_and_ends_every_wait() {
    let Queue {
        submission,
        mut writer,
        reader,
        ..
    } = queue(32);
    writer.latch_fault(11, None);
    writer.latch_fault(12, None);
    assert_eq!(reader.state(), QueueState::Frozen);
    assert_eq!(reader.fault_code(), 11, "the first one stays");
    let waited = reader.wait(&submission, 1, None, &mut SpinPolicy::sleep_at_once());
    assert_eq!(waited, Waited::Closed(QueueState::Frozen));
    writer.end(None);
    assert_eq!(reader.state(), QueueState::Frozen);
}

#[test]
fn an_ended_queue_still_tells_what_it_reached() {
    let Queue {
        submission,
        mut writer,
        reader,
        ..
    } = queue(32);
    writer.set_timeline(3);
    writer.end(None);
    assert_eq!(
        reader.wait(&submission, 3, None, &mut SpinPolicy::sleep_at_once()),
        Waited::Reached
    );
    let waited = reader.wait(&submission, 4, None, &mut SpinPolicy::sleep_at_once());
    assert_eq!(waited, Waited::Closed(QueueState::Ended));
}

#[test]
fn a_notice_is_sent_once_for_a_value() {
    let Queue {
        submission,
        seen,
        mut writer,
        reader,
        ..
    } = queue(32);
    let (sender, receiver) = notice_pair().unwrap();
    assert_eq!(reader.arm_notice(&submission, 1), None);
    assert_eq!(writer.wake_if_asleep(&seen, Some(&sender)), Woken::Nobody);
    assert!(!receiver.drain());
    writer.set_timeline(1);
    assert_eq!(writer.wake_if_asleep(&seen, Some(&sender)), Woken::Noticed);
    assert_eq!(writer.wake_if_asleep(&seen, Some(&sender)), Woken::Nobody);
    assert!(receiver.drain());
    reader.disarm(&submission);
    assert_eq!(reader.arm_notice(&submission, 1), Some(Waited::Reached));
}

#[test]
fn a_client_that_ignores_notices_does_not_hold_the_engine_up() {
    let (sender, receiver) = notice_pair().unwrap();
    for _ in 0..100_000 {
        sender.send();
    }
    assert!(receiver.drain());
    drop(receiver);
    sender.send();
}

fn entry(value: u64) -> ErrorEntry {
    ErrorEntry {
        value,
        code: value as u32 + 1,
        site: 77,
        origin: value / 2,
        detail: !value,
    }
}

#[test]
fn failures_arrive_in_order_and_whole() {
    let mut q = queue(32);
    for value in 1..=3 * u64::from(ERROR_COUNT) {
        assert_eq!(q.writer.reserve_error(&q.seen), Ok(true));
        q.writer.push_error(&entry(value));
        assert!(q.reader.has_error());
        assert_eq!(q.reader.pop_error(&q.submission), Some(entry(value)));
        assert_eq!(q.reader.pop_error(&q.submission), None);
    }
}

#[test]
fn a_client_that_reads_no_failures_stalls_itself() {
    let mut q = queue(32);
    for value in 0..u64::from(ERROR_COUNT) {
        assert_eq!(q.writer.reserve_error(&q.seen), Ok(true), "{value}");
    }
    assert_eq!(
        q.writer.reserve_error(&q.seen),
        Ok(false),
        "all slots are promised"
    );
    q.writer.release_errors(2);
    assert_eq!(q.writer.reserve_error(&q.seen), Ok(true));
    assert_eq!(q.writer.reserve_error(&q.seen), Ok(true));
    for value in 0..u64::from(ERROR_COUNT) {
        q.writer.push_error(&entry(value));
    }
    assert_eq!(
        q.writer.reserve_error(&q.seen),
        Ok(false),
        "all slots hold something unread"
    );
    assert_eq!(q.reader.pop_error(&q.submission), Some(entry(0)));
    assert_eq!(q.writer.reserve_error(&q.seen), Ok(true));
    assert_eq!(q.writer.reserve_error(&q.seen), Ok(false));
}

#[test]
fn what_an_ended_engine_lost_is_counted_in_records() {
    let mut q = queue(32);
    q.push_all(3, 10);
    assert_eq!(q.seen.lost_count(0), 0, "nothing is published yet");
    q.producer.publish();
    assert_eq!(q.seen.lost_count(0), 3);
    assert_eq!(q.seen.lost_count(2), 1);
    assert_eq!(q.seen.lost_count(4), 0);
}

#[test]
fn a_demand_unparks_once_however_wild_it_is() {
    let mut q = queue(32);
    let mut doorbell = Doorbell::create().unwrap();
    assert!(q.writer.park(&q.consumer));
    assert!(
        doorbell.demand(&q.reader, &q.submission, u64::MAX),
        "a parked engine is rung"
    );
    q.writer.set_need_wakeup(false);
    assert!(!q.writer.park(&q.consumer), "there is a demand to look at");
    assert_eq!(q.consumer.demanded(), u64::MAX);
    assert!(q.writer.park(&q.consumer), "it was looked at");
}

#[test]
fn staging_copies_stay_inside() {
    let bytes = 8192;
    let fd = segment::create_staging(bytes).unwrap();
    let arena = StagingArena::map(fd.as_fd(), bytes).unwrap();
    let map = StagingMap::map(fd.as_fd(), bytes).unwrap();
    let mut region = arena.allocate(100).unwrap();
    region.as_mut_slice().copy_from_slice(&[7; 100]);
    let mut out = [0; 100];
    map.read_into(region.offset(), &mut out).unwrap();
    assert_eq!(out, [7; 100]);
    map.write_from(region.offset() + 50, &[8; 50]).unwrap();
    assert_eq!(region.as_slice()[49..51], [7, 8]);
    for (offset, len) in [
        (8192, 1),
        (8191, 2),
        (u64::MAX, 1),
        (1, 8192),
        (u64::MAX - 3, 8),
    ] {
        let fault = StagingFault {
            offset,
            len,
            size: bytes,
        };
        assert_eq!(
            map.read_into(offset, &mut vec![0; len as usize]),
            Err(fault)
        );
        assert_eq!(map.write_from(offset, &vec![0; len as usize]), Err(fault));
    }
    assert_eq!(
        map.check(0, u64::MAX),
        Err(StagingFault {
            offset: 0,
            len: u64::MAX,
            size: bytes
        })
    );
    assert_eq!(
        map.read_into(8192, &mut []),
        Ok(()),
        "an empty range at the end is inside"
    );
}

#[test]
fn an_arena_refuses_what_it_has_not() {
    let fd = segment::create_staging(4096).unwrap();
    let arena = StagingArena::map(fd.as_fd(), 4096).unwrap();
    for len in [4097, 1 << 20, u64::MAX] {
        let full = arena.allocate(len).err().unwrap();
        assert_eq!((full.len, full.free, full.size), (len, 4096, 4096));
    }
    let regions: Vec<_> = (0..64).map(|_| arena.allocate(0).unwrap()).collect();
    assert!(arena.allocate(1).is_err());
    drop(regions);
    assert_eq!(
        arena.allocate(4096).unwrap().len(),
        4096,
        "small regions merge again when they are in the way"
    );
}

#[test]
fn a_tail_that_goes_back_is_a_fault() {
    let fd = segment::create_submission(32).unwrap();
    let mut consumer = Consumer::new(SubmissionMap::map(fd.as_fd(), 32).unwrap());
    let file = std::fs::File::from(fd);
    let set_tail = |tail: u64| {
        std::os::unix::fs::FileExt::write_all_at(&file, &tail.to_ne_bytes(), 0).unwrap()
    };
    set_tail(4);
    assert_eq!(consumer.refresh(), Ok(4));
    set_tail(3);
    assert_eq!(
        consumer.refresh(),
        Err(RingFault::TailBackwards {
            tail: 3,
            previous: 4
        })
    );
    set_tail(33);
    assert_eq!(
        consumer.refresh(),
        Err(RingFault::TailJump {
            tail: 33,
            head: 0,
            slot_count: 32
        })
    );
}
