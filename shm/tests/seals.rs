//! What the holder of a segment's fd can and cannot do to it.

#![cfg(not(loom))]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use tensord_shm::completion::{Reader, Writer};
use tensord_shm::ring::{Consumer, RecordBuf, RingFault};
use tensord_shm::segment::{
    self, CompletionMap, CompletionMapMut, SegmentFault, SubmissionMap, SubmissionMapMut,
};
use tensord_shm::staging::{StagingArena, StagingMap};

const EPERM: Option<i32> = Some(libc::EPERM);

fn mmap(fd: &impl AsRawFd, protection: i32) -> Result<*mut libc::c_void, Option<i32>> {
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error().raw_os_error())
    } else {
        Ok(address)
    }
}

fn punch(fd: &impl AsRawFd) -> Option<i32> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain call on an open fd.
    let rc = unsafe { libc::fallocate(fd.as_raw_fd(), mode, 0, 4096) };
    (rc < 0)
        .then(|| std::io::Error::last_os_error().raw_os_error())
        .flatten()
}

#[test]
fn a_client_cannot_write_its_completion_segment() {
    let fd = segment::create_completion().unwrap();
    let mut writer = Writer::new(CompletionMapMut::map(fd.as_fd()).unwrap());
    segment::seal_completion(&fd).unwrap();
    let reader = Reader::new(CompletionMap::map(fd.as_fd()).unwrap());

    assert_eq!(
        mmap(&fd, libc::PROT_READ | libc::PROT_WRITE).unwrap_err(),
        EPERM
    );
    let readable = mmap(&fd, libc::PROT_READ).unwrap();
    // SAFETY: changes a mapping that nothing else uses.
    let rc = unsafe { libc::mprotect(readable, 4096, libc::PROT_READ | libc::PROT_WRITE) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((rc, errno), (-1, Some(libc::EACCES)));
    // SAFETY: asks to free pages of a mapping that nothing else uses.
    let rc = unsafe { libc::madvise(readable, 4096, libc::MADV_REMOVE) };
    assert_eq!(rc, -1, "no hole through a mapping");

    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if let Ok(mut reopened) = OpenOptions::new().read(true).write(true).open(&path) {
        assert_eq!(
            mmap(&reopened, libc::PROT_READ | libc::PROT_WRITE).unwrap_err(),
            EPERM
        );
        assert_eq!(reopened.write(&[1]).unwrap_err().raw_os_error(), EPERM);
        assert_eq!(punch(&reopened), EPERM);
    }
    let mut file = File::from(fd.try_clone().unwrap());
    assert_eq!(file.write(&[1]).unwrap_err().raw_os_error(), EPERM);
    assert_eq!(file.write_at(&[1], 4096).unwrap_err().raw_os_error(), EPERM);
    assert_eq!(punch(&file), EPERM, "the engine's words cannot be zeroed");
    assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), EPERM);

    writer.set_timeline(5);
    assert_eq!(reader.timeline(), 5, "the engine's mapping still writes");
}

#[test]
fn sizes_are_final() {
    for fd in [
        segment::create_submission(32).unwrap(),
        segment::create_completion().unwrap(),
        segment::create_staging(8192).unwrap(),
    ] {
        let file = File::from(fd);
        let size = file.metadata().unwrap().len();
        for other in [0, size - 1, size + 1, size * 2] {
            assert_eq!(file.set_len(other).unwrap_err().raw_os_error(), EPERM);
        }
    }
}

#[test]
fn a_client_cannot_add_seals_that_would_stop_the_engine() {
    for fd in [
        segment::create_submission(32).unwrap(),
        segment::create_staging(4096).unwrap(),
    ] {
        // SAFETY: F_ADD_SEALS takes an int.
        let rc = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE) };
        assert_eq!(
            (rc, std::io::Error::last_os_error().raw_os_error()),
            (-1, EPERM)
        );
    }
}

#[test]
fn a_hole_in_a_ring_is_a_fault_and_nothing_more() {
    let fd = segment::create_submission(64).unwrap();
    let map = SubmissionMap::map(fd.as_fd(), 64).unwrap();
    let mut consumer = Consumer::new(map);
    let file = File::from(fd);
    file.write_all_at(&8u64.to_ne_bytes(), 0).unwrap();
    file.write_all_at(&1u64.to_ne_bytes(), 4096).unwrap();
    consumer.refresh().unwrap();
    // SAFETY: plain call on an open fd.
    let rc = unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            0,
            8192,
        )
    };
    assert_eq!(rc, 0, "size seals do not stop it");
    let fault = consumer.pop(&mut RecordBuf::new()).unwrap_err();
    assert!(matches!(fault, RingFault::BadLength { slots: 0, .. }));
    assert_eq!(
        consumer.refresh(),
        Err(RingFault::TailBackwards {
            tail: 0,
            previous: 8
        })
    );
}

#[test]
fn a_hole_in_staging_reads_as_zeroes() {
    let fd = segment::create_staging(8192).unwrap();
    let map = StagingMap::map(fd.as_fd(), 8192).unwrap();
    map.write_from(0, &[9; 8192]).unwrap();
    assert_eq!(punch(&fd), None);
    let mut out = [1; 8192];
    map.read_into(0, &mut out).unwrap();
    assert!(out[..4096].iter().all(|byte| *byte == 0) && out[4096..].iter().all(|byte| *byte == 9));
    map.write_from(0, &[3; 4096]).unwrap();
}

#[test]
fn an_unsealed_fd_is_refused() {
    // SAFETY: the name is a C string.
    let raw = unsafe {
        libc::memfd_create(
            c"test".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    assert!(raw >= 0);
    // SAFETY: a fresh fd that nobody else owns.
    let fd: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) };
    File::from(fd.try_clone().unwrap())
        .set_len(4096 + 32 * 64)
        .unwrap();
    assert!(matches!(
        SubmissionMap::map(fd.as_fd(), 32),
        Err(SegmentFault::Seals { .. })
    ));
    assert!(matches!(
        SubmissionMapMut::map(fd.as_fd(), 32),
        Err(SegmentFault::Seals { .. })
    ));
    assert!(matches!(
        CompletionMapMut::map(fd.as_fd()),
        Err(SegmentFault::Seals { .. })
    ));
    assert!(matches!(
        StagingMap::map(fd.as_fd(), 4096),
        Err(SegmentFault::Seals { .. })
    ));
    assert!(matches!(
        StagingArena::map(fd.as_fd(), 4096),
        Err(SegmentFault::Seals { .. })
    ));
    let plain = File::open("/proc/self/exe").unwrap();
    assert!(
        matches!(
            SubmissionMap::map(plain.as_fd(), 32),
            Err(SegmentFault::Call { .. })
        ),
        "not a memfd at all"
    );
}

#[test]
fn a_client_refuses_a_completion_segment_that_is_still_open_to_writers() {
    let fd = segment::create_completion().unwrap();
    assert!(matches!(
        CompletionMap::map(fd.as_fd()),
        Err(SegmentFault::Seals { .. })
    ));
    segment::seal_completion(&fd).unwrap();
    assert!(CompletionMap::map(fd.as_fd()).is_ok());
    assert!(matches!(
        CompletionMapMut::map(fd.as_fd()),
        Err(SegmentFault::Call { call: "mmap", .. })
    ));
}

#[test]
fn another_size_than_agreed_is_refused() {
    let fd = segment::create_submission(64).unwrap();
    let fault = SubmissionMap::map(fd.as_fd(), 32).err().unwrap();
    assert!(
        matches!(
            fault,
            SegmentFault::Size {
                expected: 6144,
                found: 8192
            }
        ),
        "{fault}"
    );
    for slot_count in [0, 1, 16, 33, 131_072, u32::MAX] {
        assert!(matches!(
            segment::create_submission(slot_count),
            Err(SegmentFault::SlotCount { .. })
        ));
    }
    for bytes in [0, 1, 4095, segment::STAGING_BYTES_MAX + 4096, u64::MAX] {
        assert!(matches!(
            segment::create_staging(bytes),
            Err(SegmentFault::StagingSize { .. })
        ));
    }
}
