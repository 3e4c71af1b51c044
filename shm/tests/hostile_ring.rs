//! A client that writes anything anywhere: the consumer gives records or a fault, in bounded work.

#![cfg(not(loom))]

use proptest::prelude::*;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use tensord_shm::completion::Writer;
use tensord_shm::ring::{Consumer, RecordBuf, RingFault, record_header};
use tensord_shm::segment::{self, CompletionMapMut, SubmissionMap};

const SLOT_COUNT: u32 = 32;
const RING_OFFSET: u64 = 4096;

/// A segment that the test writes like a client with its own code, and the engine's view of it.
fn segment() -> (File, SubmissionMap) {
    let fd = segment::create_submission(SLOT_COUNT).unwrap();
    let map = SubmissionMap::map(fd.as_fd(), SLOT_COUNT).unwrap();
    (File::from(fd), map)
}

/// Takes all there is; no more records than slots may come out of one batch.
fn drain(consumer: &mut Consumer) -> Result<u32, RingFault> {
    let mut buf = RecordBuf::new();
    let mut count = 0;
    consumer.refresh()?;
    while let Some(words) = consumer.pop(&mut buf)? {
        assert!((8..=128).contains(&words) && words.is_multiple_of(8));
        assert_eq!(buf.words().len(), words);
        assert_eq!(buf.words()[0] & 0xff, words as u64 / 8);
        count += 1;
        assert!(count <= SLOT_COUNT);
    }
    Ok(count)
}

/// Mostly plausible first words, so that the soup is not refused at its first byte.
fn header() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0u8..=17, any::<u8>(), 0u16..3, any::<u32>()).prop_map(|(s, f, o, site)| record_header(s, f, o, site)),
        1 => any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn any_ring_gives_records_or_a_fault(
        batches in prop::collection::vec((prop::collection::vec(header(), 32), 0u64..=34), 1..8),
        odd_tail in prop::option::of(any::<u64>()),
    ) {
        let (file, map) = segment();
        let mut consumer = Consumer::new(map);
        for (headers, step) in batches {
            for (slot, header) in headers.iter().enumerate() {
                file.write_all_at(&header.to_ne_bytes(), RING_OFFSET + slot as u64 * 64).unwrap();
            }
            let before = consumer.head();
            file.write_all_at(&(before.wrapping_add(step)).to_ne_bytes(), 0).unwrap();
            match drain(&mut consumer) {
                Ok(_) => prop_assert_eq!(consumer.head(), before + step),
                Err(_) => {
                    prop_assert!(consumer.head() - before <= u64::from(SLOT_COUNT));
                    break;
                }
            }
        }
        if let Some(tail) = odd_tail {
            file.write_all_at(&tail.to_ne_bytes(), 0).unwrap();
            let _ = drain(&mut consumer);
        }
    }

    #[test]
    fn any_bytes_give_records_or_a_fault(soup in prop::collection::vec(any::<u8>(), 6144), tail in 0u64..=32) {
        let (file, map) = segment();
        file.write_all_at(&soup[..4096], 0).unwrap();
        file.write_all_at(&soup[4096..], RING_OFFSET).unwrap();
        let _ = drain(&mut Consumer::new(map.clone()));
        file.write_all_at(&tail.to_ne_bytes(), 0).unwrap();
        let _ = drain(&mut Consumer::new(map.clone()));

        let completion = segment::create_completion().unwrap();
        let mut writer = Writer::new(CompletionMapMut::map(completion.as_fd()).unwrap());
        writer.set_timeline(tail);
        writer.wake_if_asleep(&map, None);
        let _ = writer.reserve_error(&map);
    }
}

#[test]
fn each_broken_rule_has_its_fault() {
    let published = 20;
    type Case = (&'static str, u64, fn(&RingFault) -> bool);
    let cases: [Case; 5] = [
        ("no length", record_header(0, 0, 1, 0), |f| {
            matches!(f, RingFault::BadLength { slots: 0, .. })
        }),
        ("too long", record_header(17, 0, 1, 0), |f| {
            matches!(f, RingFault::BadLength { slots: 17, .. })
        }),
        ("beyond the tail", record_header(16, 0, 1, 0), |f| {
            matches!(
                f,
                RingFault::Unpublished {
                    slots: 16,
                    published: 10,
                    ..
                }
            )
        }),
        ("padding amid", record_header(3, 0, 0, 0), |f| {
            matches!(f, RingFault::BadPadding { slot: 10, .. })
        }),
        ("nothing at all", 0, |f| {
            matches!(f, RingFault::BadLength { slots: 0, .. })
        }),
    ];
    for (name, header, expected) in cases {
        let (file, map) = segment();
        let first = record_header(10, 0, 1, 0);
        file.write_all_at(&first.to_ne_bytes(), RING_OFFSET)
            .unwrap();
        file.write_all_at(&header.to_ne_bytes(), RING_OFFSET + 10 * 64)
            .unwrap();
        file.write_all_at(&(published as u64).to_ne_bytes(), 0)
            .unwrap();
        let mut consumer = Consumer::new(map);
        let fault = drain(&mut consumer).unwrap_err();
        assert!(expected(&fault), "{name}: {fault}");
        assert_eq!(consumer.head(), 10, "{name}: stands before what it refused");
        assert_eq!(
            drain(&mut consumer).unwrap_err(),
            fault,
            "{name}: and says so again"
        );
    }
}

#[test]
fn a_record_over_the_end_is_refused() {
    let (file, map) = segment();
    let mut consumer = Consumer::new(map);
    for slot in [0u64, 10, 20] {
        file.write_all_at(
            &record_header(10, 0, 1, 0).to_ne_bytes(),
            RING_OFFSET + slot * 64,
        )
        .unwrap();
    }
    file.write_all_at(&30u64.to_ne_bytes(), 0).unwrap();
    assert_eq!(drain(&mut consumer), Ok(3));
    file.write_all_at(
        &record_header(3, 0, 1, 0).to_ne_bytes(),
        RING_OFFSET + 30 * 64,
    )
    .unwrap();
    file.write_all_at(&40u64.to_ne_bytes(), 0).unwrap();
    assert_eq!(
        drain(&mut consumer),
        Err(RingFault::Wraps {
            slot: 30,
            slots: 3,
            slot_count: SLOT_COUNT
        })
    );
}

#[test]
fn a_record_changed_after_it_was_taken_stays_as_it_was() {
    let (file, map) = segment();
    let mut consumer = Consumer::new(map);
    let mut buf = RecordBuf::new();
    file.write_all_at(&record_header(1, 0, 1, 9).to_ne_bytes(), RING_OFFSET)
        .unwrap();
    file.write_all_at(&1u64.to_ne_bytes(), 0).unwrap();
    consumer.refresh().unwrap();
    consumer.pop(&mut buf).unwrap().unwrap();
    file.write_all_at(&[0xff; 64], RING_OFFSET).unwrap();
    assert_eq!(
        buf.words(),
        [record_header(1, 0, 1, 9), 0, 0, 0, 0, 0, 0, 0]
    );
}

#[test]
fn errors_read_must_be_possible() {
    let (file, map) = segment();
    let completion = segment::create_completion().unwrap();
    let mut writer = Writer::new(CompletionMapMut::map(completion.as_fd()).unwrap());
    for _ in 0..segment::ERROR_COUNT {
        assert_eq!(writer.reserve_error(&map), Ok(true));
    }
    file.write_all_at(&1u64.to_ne_bytes(), 256).unwrap();
    let fault = RingFault::ErrorsRead {
        read: 1,
        previous: 0,
        written: 0,
    };
    assert_eq!(writer.reserve_error(&map), Err(fault));
}

#[test]
fn a_client_cannot_claim_more_losses_than_it_can_have_had() {
    let (file, map) = segment();
    file.write_all_at(&u64::MAX.to_ne_bytes(), 8).unwrap();
    let possible = u64::from(SLOT_COUNT + segment::ERROR_COUNT);
    assert_eq!(map.lost_count(5), possible);
}
