//! What the client sends, held against the rules of the protocol by a daemon in a thread.

mod fake;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::FakeDaemon;
use tensord_client::{
    Code, DType, Elementwise, Meta, Op, Operand, Scalar, Session, Shape, Site, Tensor,
};
use tensord_shm::record::{Request, opcode};

fn meta(dtype: DType, sizes: &[u64]) -> Meta {
    Meta {
        dtype,
        shape: Shape::new(sizes).unwrap(),
    }
}

fn session(daemon: &FakeDaemon) -> Session {
    Session::connect(daemon.options()).unwrap()
}

fn settle(session: &Session) {
    session.flush().unwrap();
    session.synchronize().unwrap();
}

#[test]
fn values_come_back_as_they_went_in_whatever_their_size() {
    let daemon = FakeDaemon::start("values", 64);
    let session = session(&daemon);
    // Nothing, inline, just inline, just staged, staged, in pieces.
    for count in [0usize, 1, 3, 200, 201, 70_000, 5 << 20] {
        let values: Vec<f32> = (0..count).map(|k| k as f32).collect();
        let tensor = session.tensor(&values, &[count as u64]).unwrap();
        assert_eq!(tensor.to_vec::<f32>().unwrap(), values, "{count} elements");
    }
    let flags = session.tensor(&[true, false, true], &[3]).unwrap();
    assert_eq!(flags.to_vec::<bool>().unwrap(), [true, false, true]);
    drop(flags);
    settle(&session);
    daemon.check();
    daemon.until("everything is released", |knobs| {
        knobs.alive.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn a_chain_reuses_names_and_its_releases_ride_along() {
    let daemon = FakeDaemon::start("chain", 64);
    let session = session(&daemon);
    let mut x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    let y = session.tensor(&[2.0f32; 8], &[8]).unwrap();
    for k in 0..10_000 {
        x = match k % 3 {
            0 => x.scalar(Elementwise::Mul, 1.5).unwrap(),
            1 => x.unary(Elementwise::Neg).unwrap(),
            _ => x.binary(Elementwise::Add, &y).unwrap(),
        };
    }
    x.wait().unwrap();
    daemon.check();
    // Two hundred names would not do for ten thousand tensors, and one record, before the wait, was for releases alone.
    daemon.until("few are left", |knobs| {
        knobs.alive.load(Ordering::Relaxed) <= 3
    });
    assert!(daemon.knobs.release_records.load(Ordering::Relaxed) <= 1);
}

#[test]
fn many_tensors_dropped_at_once_are_released_in_few_records() {
    let daemon = FakeDaemon::start("drop", 64);
    let session = session(&daemon);
    let x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    let all: Vec<Tensor> = (0..150)
        .map(|_| x.unary(Elementwise::Neg).unwrap())
        .collect();
    session.synchronize().unwrap();
    drop(all);
    settle(&session);
    daemon.check();
    daemon.until("one is left", |knobs| {
        knobs.alive.load(Ordering::Relaxed) == 1
    });
    assert!(daemon.knobs.release_records.load(Ordering::Relaxed) <= 3);
}

#[test]
fn too_many_tensors_is_an_error_with_the_limit_in_it() {
    let daemon = FakeDaemon::start("limit", 64);
    let session = session(&daemon);
    let x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    let mut all = Vec::new();
    let error = loop {
        match x.unary(Elementwise::Neg) {
            Ok(tensor) => all.push(tensor),
            Err(error) => break error,
        }
    };
    assert_eq!((error.code(), all.len()), (Code::Limit, 199));
    assert!(error.message().contains("200"), "{error}");
    all.truncate(10);
    assert!(x.unary(Elementwise::Neg).is_ok());
    settle(&session);
    daemon.check();
}

#[test]
fn wrong_shapes_are_errors_at_the_call() {
    let daemon = FakeDaemon::start("shapes", 64);
    let session = session(&daemon);
    let a = session.tensor(&[1.0f32; 6], &[2, 3]).unwrap();
    let b = session.tensor(&[1.0f32; 8], &[2, 4]).unwrap();
    let error = a.binary(Elementwise::Add, &b).unwrap_err();
    assert_eq!(error.code(), Code::Shape);
    assert!(
        error.message().contains("[2, 3]") && error.message().contains("[2, 4]"),
        "{error}"
    );
    assert_eq!(error.operation(), Some("add"));
    let place = error.place().expect("a line of this file");
    assert!(place.file.ends_with("protocol.rs"), "{place}");
    let c = session.tensor(&[1i32; 6], &[2, 3]).unwrap();
    assert_eq!(
        a.binary(Elementwise::Add, &c).unwrap_err().code(),
        Code::DTypes
    );
    assert_eq!(c.unary(Elementwise::Exp).unwrap_err().code(), Code::DTypes);
    let error = session.upload(&[0; 7], meta(DType::F32, &[2]), Site::UNKNOWN);
    assert!(error.unwrap_err().message().contains("7 bytes"));
    assert_eq!(a.to_vec::<f64>().unwrap_err().code(), Code::DTypes);
    settle(&session);
    daemon.check();
}

#[test]
fn scalars_and_broadcasts_take_the_general_path_to_the_same_record() {
    let daemon = FakeDaemon::start("general", 64);
    let session = session(&daemon);
    daemon.knobs.log.store(true, Ordering::Relaxed);
    let a = session.tensor(&[1.0f32; 6], &[2, 3]).unwrap();
    let fast = a.scalar(Elementwise::Pow, 3.0).unwrap();
    let operands = [
        Operand::Tensor(&a),
        Operand::Immediate(DType::F32, Scalar::from_f64(3.0, DType::F32)),
    ];
    let op = Op::Elementwise(Elementwise::Pow);
    let general = session
        .submit(&op, &operands, [Scalar(0); 2], Site::UNKNOWN)
        .unwrap();
    assert_eq!(fast.meta(), general.meta());
    settle(&session);
    let logged = daemon.knobs.logged.lock().unwrap();
    let computes: Vec<_> = logged
        .iter()
        .filter_map(|record| match &record.request {
            Request::Compute(compute) => {
                Some((compute.op, compute.dtype, compute.operands().to_vec()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(computes.len(), 2);
    assert_eq!(computes[0], computes[1]);
    assert!(logged.iter().any(|record| record.site != 0));
    drop(logged);
    daemon.check();
}

#[test]
fn a_failure_is_found_where_its_result_is_needed_and_names_its_origin() {
    let daemon = FakeDaemon::start("poison", 64);
    let session = session(&daemon);
    *daemon.knobs.fail.lock().unwrap() = Some((Elementwise::Exp.wire(), Code::OutOfMemory));
    let a = session.tensor(&[1.0f32; 6], &[2, 3]).unwrap();
    let line = line!() + 1;
    let failing = a.unary(Elementwise::Exp).unwrap();
    let after = failing.unary(Elementwise::Neg).unwrap();
    let error = after.to_vec::<f32>().unwrap_err();
    assert_eq!(error.code(), Code::OutOfMemory);
    assert_eq!(error.operation(), Some("exp"));
    assert_eq!(error.place().map(|place| place.line), Some(line), "{error}");
    assert_eq!(failing.wait().unwrap_err().code(), Code::OutOfMemory);
    // Told already: not told again. And what did not depend on it is well.
    session.synchronize().unwrap();
    a.to_vec::<f32>().unwrap();
    drop((failing, after));
    settle(&session);
    daemon.check();
}

#[test]
fn synchronize_tells_of_a_failure_that_nobody_waited_for_once() {
    let daemon = FakeDaemon::start("untold", 64);
    let session = session(&daemon);
    *daemon.knobs.fail.lock().unwrap() = Some((opcode::FULL, Code::OutOfMemory));
    drop(session.full(&[4], 1.0, DType::F32).unwrap());
    let error = session.synchronize().unwrap_err();
    assert_eq!(error.operation(), Some("full"));
    session.synchronize().unwrap();
    daemon.check();
}

#[test]
fn failures_without_end_do_not_stall_a_client_that_never_asks() {
    let daemon = FakeDaemon::start("failures", 64);
    let session = session(&daemon);
    *daemon.knobs.fail.lock().unwrap() = Some((Elementwise::Exp.wire(), Code::OutOfMemory));
    let bad = session
        .tensor(&[1.0f32], &[1])
        .unwrap()
        .unary(Elementwise::Exp)
        .unwrap();
    for _ in 0..20_000 {
        drop(bad.unary(Elementwise::Neg).unwrap());
    }
    assert!(session.synchronize().is_err());
    daemon.check();
}

#[test]
fn a_full_ring_makes_the_client_wait_and_nothing_is_lost() {
    let daemon = FakeDaemon::start("full", 32);
    let session = session(&daemon);
    let x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    session.synchronize().unwrap();
    let before = daemon.knobs.records.load(Ordering::Relaxed);
    let labels = tensord_client::parse_contract("i,i->").unwrap();
    for _ in 0..500 {
        drop(x.unary(Elementwise::Neg).unwrap());
        // Longer records, so that padding comes at every place.
        let operands = [Operand::Tensor(&x), Operand::Tensor(&x)];
        let site = Site::UNKNOWN;
        drop(
            session
                .submit(&labels, &operands, [Scalar(0); 2], site)
                .unwrap(),
        );
    }
    settle(&session);
    daemon.check();
    assert!(daemon.knobs.records.load(Ordering::Relaxed) >= before + 1000);
    daemon.until("one is left", |knobs| {
        knobs.alive.load(Ordering::Relaxed) == 1
    });
}

#[test]
fn equal_constants_are_sent_once() {
    let daemon = FakeDaemon::start("constant", 64);
    let session = session(&daemon);
    daemon.knobs.log.store(true, Ordering::Relaxed);
    let bytes: Vec<u8> = (0..4096u32).map(|k| k as u8).collect();
    let shape = meta(DType::U8, &[4096]);
    let first = session.constant(&bytes, shape, Site::UNKNOWN).unwrap();
    let again = session.constant(&bytes, shape, Site::UNKNOWN).unwrap();
    assert_eq!(again.to_vec::<u8>().unwrap(), bytes);
    assert!(first.is_constant() && again.is_constant());
    // A content that the daemon did not hold is no failure.
    session.synchronize().unwrap();
    let logged = daemon.knobs.logged.lock().unwrap();
    let uploads = logged
        .iter()
        .filter(|record| matches!(record.request, Request::Upload { .. }));
    assert_eq!(uploads.count(), 1);
    drop(logged);
    daemon.check();
}

#[test]
fn an_ended_engine_loses_tensors_and_keeps_constants() {
    let daemon = FakeDaemon::start("epoch", 64);
    let session = session(&daemon);
    let bytes: Vec<u8> = vec![7; 2000];
    let constant = session
        .constant(&bytes, meta(DType::U8, &[2000]), Site::UNKNOWN)
        .unwrap();
    let plain = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    settle(&session);
    let epoch = session.info().epoch;
    daemon.knobs.hold.store(true, Ordering::Relaxed);
    let waiting = plain.unary(Elementwise::Neg).unwrap();
    daemon.knobs.restart.store(true, Ordering::Relaxed);
    let error = waiting.wait().unwrap_err();
    assert_eq!(error.code(), Code::Lost);
    assert!(error.message().contains("a test"), "{error}");
    daemon.knobs.hold.store(false, Ordering::Relaxed);
    assert_eq!(session.info().epoch, epoch + 1);
    // The same tensor object goes on; others say what happened.
    assert_eq!(constant.to_vec::<u8>().unwrap(), bytes);
    let sum = constant.binary(Elementwise::Add, &constant).unwrap();
    sum.wait().unwrap();
    let error = plain.unary(Elementwise::Neg).unwrap_err();
    assert_eq!(error.code(), Code::Lost);
    assert_eq!(plain.to_vec::<f32>().unwrap_err().code(), Code::Lost);
    drop((plain, waiting, sum));
    let fresh = session.tensor(&[3.0f32; 8], &[8]).unwrap();
    assert_eq!(fresh.to_vec::<f32>().unwrap(), [3.0; 8]);
    settle(&session);
    daemon.check();
}

#[test]
fn queues_of_one_session_share_tensors_in_order() {
    let daemon = FakeDaemon::start("queues", 64);
    let session = session(&daemon);
    let other = session.queue().unwrap();
    let theirs = std::thread::spawn({
        let other = other.clone();
        move || {
            let mut x = other.tensor(&[1.0f32; 8], &[8]).unwrap();
            for _ in 0..100 {
                x = x.unary(Elementwise::Neg).unwrap();
            }
            x
        }
    })
    .join()
    .unwrap();
    let mut mixed = Vec::new();
    for _ in 0..50 {
        let operands = [Operand::Tensor(&theirs), Operand::Tensor(&theirs)];
        let here = session
            .elementwise(Elementwise::Add, &operands, Site::UNKNOWN)
            .unwrap();
        mixed.push(here);
    }
    drop(theirs);
    let back = other
        .elementwise(
            Elementwise::Neg,
            &[Operand::Tensor(&mixed[0])],
            Site::UNKNOWN,
        )
        .unwrap();
    back.wait().unwrap();
    drop((mixed, back));
    settle(&session);
    settle(&other);
    settle(&session);
    settle(&other);
    daemon.check();
    daemon.until("everything is released", |knobs| {
        let _ = session.flush();
        let _ = other.flush();
        knobs.alive.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn a_queue_that_nobody_uses_is_used_again() {
    let daemon = FakeDaemon::start("reuse", 64);
    let session = session(&daemon);
    for _ in 0..20 {
        let queue = session.queue().unwrap();
        let x = queue.tensor(&[1.0f32; 8], &[8]).unwrap();
        assert_eq!(x.to_vec::<f32>().unwrap(), [1.0; 8]);
    }
    daemon.check();
}

#[test]
fn threads_may_share_one_queue() {
    let daemon = FakeDaemon::start("threads", 64);
    let session = session(&daemon);
    let threads: Vec<_> = (0..4)
        .map(|k| {
            let session = session.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let x = session.tensor(&[k as f32; 300], &[300]).unwrap();
                    drop(x.unary(Elementwise::Neg).unwrap());
                    assert_eq!(x.to_vec::<f32>().unwrap(), [k as f32; 300]);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    settle(&session);
    daemon.check();
}

#[test]
fn an_answer_that_got_lost_is_asked_for_again() {
    let daemon = FakeDaemon::start("resend", 64);
    let session = session(&daemon);
    daemon.knobs.swallow.store(true, Ordering::Relaxed);
    session.set(Some("new".into()), None, None).unwrap();
    let error = session.stat().unwrap_err();
    assert_eq!(error.code(), Code::Denied, "{error}");
    daemon.check();
}

#[test]
fn a_wait_has_a_deadline_and_can_wake_an_event_loop() {
    let daemon = FakeDaemon::start("notice", 64);
    let session = Session::connect(tensord_client::Options {
        notify: true,
        ..daemon.options()
    })
    .unwrap();
    daemon.knobs.hold.store(true, Ordering::Relaxed);
    let x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    let error = x
        .wait_until(Some(Instant::now() + Duration::from_millis(5)))
        .unwrap_err();
    assert_eq!(error.code(), Code::WaitTimeout);
    assert!(!session.arm(x.mark()).unwrap());
    daemon.knobs.hold.store(false, Ordering::Relaxed);
    let fd = session.notify_fd().expect("asked for");
    let mut polled = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, 10_000u16).unwrap();
    assert!(session.arm(x.mark()).unwrap());
    daemon.check();
}

#[test]
fn a_daemon_that_goes_away_is_an_error_and_a_new_one_can_be_found() {
    let daemon = FakeDaemon::start("gone", 64);
    let session = session(&daemon);
    let x = session.tensor(&[1.0f32; 8], &[8]).unwrap();
    settle(&session);
    daemon.knobs.hold.store(true, Ordering::Relaxed);
    let y = x.unary(Elementwise::Neg).unwrap();
    drop(daemon);
    assert_eq!(y.wait().unwrap_err().code(), Code::DaemonLost);
    assert_eq!(
        x.unary(Elementwise::Neg).unwrap_err().code(),
        Code::DaemonLost
    );
    assert_eq!(session.stat().unwrap_err().code(), Code::DaemonLost);
    let error = session.reconnect(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.code(), Code::DaemonLost);
    assert!(error.message().contains("tensord --socket"), "{error}");
    let daemon = FakeDaemon::start("gone", 64);
    let again = session.reconnect(Duration::from_secs(10)).unwrap();
    let z = again.tensor(&[1.0f32; 8], &[8]).unwrap();
    assert_eq!(z.to_vec::<f32>().unwrap(), [1.0; 8]);
    daemon.check();
}

#[test]
fn tensors_of_another_session_are_refused_and_constants_bound() {
    let daemon = FakeDaemon::start("sessions", 64);
    let (one, two) = (session(&daemon), session(&daemon));
    let plain = one.tensor(&[1.0f32; 8], &[8]).unwrap();
    let bytes = vec![9u8; 1000];
    let constant = one
        .constant(&bytes, meta(DType::U8, &[1000]), Site::UNKNOWN)
        .unwrap();
    constant.wait().unwrap();
    let error = two
        .elementwise(Elementwise::Neg, &[Operand::Tensor(&plain)], Site::UNKNOWN)
        .unwrap_err();
    assert_eq!(error.code(), Code::BadHandle);
    assert!(error.message().contains("another session"), "{error}");
    let fetched = two.fetch(&constant, Site::UNKNOWN).unwrap();
    assert_eq!(&fetched[..], &bytes[..]);
    drop((fetched, constant, plain));
    settle(&one);
    settle(&two);
    daemon.check();
    daemon.until("everything is released", |knobs| {
        knobs.alive.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn nobody_there_says_how_to_start_one() {
    let options = tensord_client::Options {
        socket: Some(fake::nowhere()),
        ..Default::default()
    };
    let Err(error) = Session::connect(options) else {
        panic!("nobody listens there")
    };
    assert_eq!(error.code(), Code::DaemonLost);
    assert!(error.message().contains("tensord --socket"), "{error}");
}
