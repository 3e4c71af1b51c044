//! Hostile clients: a clear error for who sends nonsense, nothing for anyone else.
//!
//! All through each test a neighbour of the same tenant computes, and every one of its answers is checked.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use tensord_client::{Elementwise, Session};
use tensord_shm::control::{Hello, Message, Request as Control};
use tensord_shm::control_socket::{ControlSocket, send_datagram};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::{AxisList, AxisSet, Labels, Meta, Op, Operand, Reduction};
use tensord_shm::record::{Compute, Region, Request};
use tensord_tests::daemon::{Daemon, eventually};
use tensord_tests::random::Random;
use tensord_tests::raw::{RawClient, last_words};

/// A session that computes until it is told to stop.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    fn start(daemon: &Daemon) -> Neighbour {
        let session = daemon.session();
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                compute(&session, counted.fetch_add(1, Ordering::Relaxed));
            }
        });
        Neighbour {
            stop,
            answers,
            thread,
        }
    }

    /// Waits for answers to what was asked after this call.
    fn still_answers(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        eventually("the neighbour computes", || {
            (self.answers.load(Ordering::Relaxed) > before + 2).then_some(())
        });
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("every answer was right");
    }
}

fn compute(session: &Session, turn: u64) {
    let numbers: Vec<f32> = (0..100).map(|k| (turn % 97 + k) as f32).collect();
    let x = session.tensor(&numbers, &[10, 10]).expect("upload");
    let y = x.scalar(Elementwise::Mul, 3.0).expect("multiply");
    let sum = y.contract(&x, "ij,ij->i").expect("contract");
    let have = sum.to_vec::<f32>().expect("no error reaches the neighbour");
    for (row, have) in numbers.chunks(10).zip(have) {
        assert_eq!(have, row.iter().map(|x| 3.0 * x * x).sum::<f32>());
    }
}

fn handle(index: u32, generation: u32) -> Handle {
    Handle { index, generation }
}

fn meta(dtype: DType, sizes: &[u64]) -> Meta {
    let shape = Shape::new(sizes).expect("small");
    Meta { dtype, shape }
}

fn ones(out: Handle, sizes: &[u64]) -> Request {
    let full = Op::Full(meta(DType::F32, sizes));
    let one = Scalar::from_f64(1.0, DType::F32);
    let compute = Compute::new(full, DType::F32, out, &[], [one, Scalar(0)]);
    Request::Compute(compute.expect("no operands"))
}

fn compute_of(op: Op, out: Handle, operands: &[Handle]) -> Request {
    let operands: Vec<Operand<Handle>> = operands.iter().map(|&h| Operand::Tensor(h)).collect();
    let compute = Compute::new(op, DType::F32, out, &operands, [Scalar(0); 2]);
    Request::Compute(compute.expect("few operands"))
}

fn inline(out: Handle, sizes: &[u64], words: usize) -> Request {
    Request::UploadInline {
        out,
        meta: meta(DType::F32, sizes),
        constant: false,
        words: vec![0; words],
    }
}

/// Requests that are well framed and wrong, each with the code of its failure.
fn refused() -> Vec<(&'static str, Request, Code)> {
    let (a, b) = (handle(1, 1), handle(2, 1));
    let fresh = handle(9, 1);
    let add = Op::Elementwise(Elementwise::Add);
    let axes = |list: &[u8]| AxisList::new(list).expect("few");
    let far = Region {
        arena: 0,
        offset: 1 << 40,
        len: 8,
    };
    let nowhere = Region {
        arena: 7,
        offset: 0,
        len: 8,
    };
    let download = |of, to| Request::Download { of, at: 0, to };
    let reduce = Op::Reduce {
        kind: Reduction::Sum,
        axes: AxisSet(1 << 11),
        keep: false,
    };
    let contract = Op::Contract {
        a: Labels::new(&[0]).expect("one"),
        b: Labels::new(&[0]).expect("one"),
        out: Labels::new(&[200]).expect("one"),
    };
    let slice = Op::Slice {
        starts: AxisList::new(&[i64::MAX]).expect("one"),
        steps: AxisList::new(&[i64::MIN]).expect("one"),
        lens: AxisList::new(&[u64::MAX >> 20]).expect("one"),
    };
    let index_max = handle(u32::MAX, 1);
    vec![
        (
            "never defined",
            compute_of(add, fresh, &[a, handle(50, 1)]),
            Code::BadHandle,
        ),
        (
            "old generation",
            compute_of(add, fresh, &[a, handle(2, 7)]),
            Code::BadHandle,
        ),
        (
            "beyond the table",
            compute_of(add, fresh, &[a, index_max]),
            Code::BadHandle,
        ),
        ("name in use", ones(a, &[2]), Code::HandleInUse),
        ("name beyond the table", ones(index_max, &[2]), Code::Limit),
        ("shapes", compute_of(add, fresh, &[a, b]), Code::Shape),
        ("arity", compute_of(add, fresh, &[a]), Code::Attribute),
        ("axis", compute_of(reduce, fresh, &[a]), Code::Attribute),
        (
            "label",
            compute_of(contract, fresh, &[a, a]),
            Code::Attribute,
        ),
        ("slice", compute_of(slice, fresh, &[a]), Code::Shape),
        (
            "permutation",
            compute_of(Op::Permute(axes(&[3])), fresh, &[a]),
            Code::Attribute,
        ),
        ("inline length", inline(fresh, &[64], 1), Code::Shape),
        ("staging offset", download(a, far), Code::Staging),
        ("no such arena", download(a, nowhere), Code::Staging),
        (
            "download of nothing",
            download(handle(51, 3), far),
            Code::Staging,
        ),
        (
            "seal of what was not begun",
            Request::UploadSeal { to: a },
            Code::BadHandle,
        ),
        (
            "no such queue",
            Request::WaitQueue {
                queue: 40,
                value: 1,
                timeout_us: 10,
            },
            Code::WaitTimeout,
        ),
    ]
}

#[test]
fn wrong_requests_fail_alone_and_say_why() {
    let daemon = Daemon::start("wrong", "");
    let neighbour = Neighbour::start(&daemon);
    let mut raw = RawClient::connect(&daemon.socket);
    raw.push(&ones(handle(1, 1), &[2]));
    let value = raw.push(&ones(handle(2, 1), &[3]));
    assert_eq!(raw.outcome(value), Ok(None));
    for (what, request, code) in refused() {
        let value = raw.push(&request);
        let entry = raw.outcome(value).expect(what);
        let have = entry.and_then(|entry| Code::from_wire(entry.code));
        assert_eq!(have, Some(code), "{what}");
        assert_eq!(entry.map(|entry| entry.site), Some(77), "{what}");
    }
    // Unknown operation codes, and words that cannot be decoded.
    let good = RawClient::encode(&compute_of(
        Op::Elementwise(Elementwise::Neg),
        handle(20, 1),
        &[handle(1, 1)],
    ));
    let with = |word: usize, clear: u64, set: u64| {
        let mut words = good.clone();
        words[word] = words[word] & !clear | set;
        words
    };
    let table = [
        (
            "opcode",
            with(0, 0xffff << 16, 999 << 16),
            Code::UnknownOperation,
        ),
        ("dtype", with(2, 0xff, 200), Code::DTypes),
        ("output 0", with(1, u64::MAX, 0), Code::BadHandle),
        ("operand 0", with(3, u64::MAX, 0), Code::BadHandle),
        ("many operands", with(2, 0xff00, 0xff00), Code::Attribute),
    ];
    for (what, words, code) in table {
        let value = raw.push_words(&words);
        let entry = raw.outcome(value).expect(what).expect(what);
        assert_eq!(Code::from_wire(entry.code), Some(code), "{what}");
    }
    // A poisoned result names its origin, and the session goes on.
    let value = raw.push(&compute_of(Op::Copy, handle(30, 1), &[handle(60, 1)]));
    let user = raw.push(&compute_of(Op::Copy, handle(31, 1), &[handle(30, 1)]));
    let entry = raw.outcome(user).expect("open").expect("poisoned");
    assert_eq!(
        (Code::from_wire(entry.code), entry.origin),
        (Some(Code::Poisoned), value)
    );
    // A release of nothing is the fault of a record that only releases, and of no other.
    for (request, fails) in [
        (Request::Release, true),
        (inline(handle(41, 1), &[2], 1), false),
    ] {
        let value = raw.push_words(&RawClient::encode_releasing(&request, &[handle(63, 9)]));
        let entry = raw.outcome(value).expect("open");
        assert_eq!(entry.is_some(), fails, "{request:?}");
    }
    let value = raw.push(&compute_of(Op::Copy, handle(42, 1), &[handle(41, 1)]));
    assert_eq!(raw.outcome(value), Ok(None), "the upload is there");
    let value = raw.push(&ones(handle(40, 1), &[5]));
    assert_eq!(raw.outcome(value), Ok(None), "the session still computes");
    neighbour.still_answers();
    neighbour.stop();
    daemon.stop();
}

/// A full window is planned before the record behind it is accepted, and what that one releases is let go before that: once.
#[test]
fn what_is_released_behind_a_full_window_is_released_once() {
    const CHAIN: u32 = 300;
    let daemon = Daemon::start("releases", "");
    let kinds: [(&str, Request); 4] = [
        ("release", Request::Release),
        ("no-op", Request::NoOp),
        ("flush", Request::Flush),
        ("upload", inline(handle(CHAIN, 1), &[2], 1)),
    ];
    let neg = Op::Elementwise(Elementwise::Neg);
    for (what, request) in kinds {
        // A window is full at 256 operations: these stand before, just behind and after that.
        for behind in 253..260 {
            let mut raw = RawClient::connect(&daemon.socket);
            raw.write_words(&RawClient::encode(&ones(handle(0, 1), &[2])));
            for k in 1..CHAIN {
                let next = compute_of(neg, handle(k, 1), &[handle(k - 1, 1)]);
                raw.write_words(&RawClient::encode(&next));
                if k + 1 == behind {
                    let two = [handle(k - 1, 1), handle(k - 2, 1)];
                    raw.write_words(&RawClient::encode_releasing(&request, &two));
                }
            }
            let value = raw.push(&Request::NoOp);
            assert_eq!(raw.outcome(value), Ok(None), "open");
            assert_eq!(raw.failures(), [], "{what} behind {behind} operations");
        }
    }
    daemon.stop();
}

#[test]
fn broken_framing_ends_the_session_alone() {
    let daemon = Daemon::start("framing", "");
    let neighbour = Neighbour::start(&daemon);
    let noop = RawClient::encode(&Request::NoOp);
    let length = |units: u64| {
        let mut words = noop.clone();
        words[0] = words[0] & !0xff | units;
        words
    };
    for (what, words) in [
        ("length 0", length(0)),
        ("length beyond the tail", length(9)),
        ("length beyond a record", length(255)),
    ] {
        let mut raw = RawClient::connect(&daemon.socket);
        raw.push_words(&words);
        let said = raw
            .last_words()
            .unwrap_or_else(|| panic!("{what}: no word"));
        assert_eq!(said.code, Code::BadRecord, "{what}: {said}");
        neighbour.still_answers();
    }
    let mut raw = RawClient::connect(&daemon.socket);
    raw.jump();
    let said = raw.last_words().expect("a word before the end");
    assert_eq!(said.code, Code::TailJump, "{said}");
    neighbour.still_answers();
    neighbour.stop();
    daemon.stop();
}

#[test]
fn random_words_hurt_nobody() {
    let daemon = Daemon::start("random", "");
    let neighbour = Neighbour::start(&daemon);
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut raw = RawClient::connect(&daemon.socket);
        let mut last = 0;
        for _ in 0..60 {
            // A true frame, an existing or random operation, and noise in what follows.
            let units = 1 + random.below(4);
            let mut words: Vec<u64> = (0..8 * units).map(|_| random.word()).collect();
            let code = match random.below(4) {
                0 => random.below(300),
                1 => 256 + random.below(17),
                _ => 1 + random.below(12),
            };
            words[0] = units | (code.max(1) << 16);
            words[1] = 1 << 32 | random.below(64);
            let counts = random.below(4) << 8 | random.below(3) << 16 | random.below(9) << 24;
            words[2] = (1 + random.below(14)) | counts | random.below(8) << 32;
            for word in &mut words[3..] {
                *word = match random.below(5) {
                    0 => 1 << 32 | random.below(64),
                    1 => random.below(4),
                    2 => random.below(1 << 20),
                    _ => *word,
                };
            }
            // Waits for another queue would hold up this client, which is its own affair.
            if code != u64::from(tensord_shm::record::opcode::WAIT_QUEUE) {
                last = raw.push_words(&words);
            }
        }
        // Either way there is an end: outcomes for all, or a closed session.
        let _ = raw.outcome(last);
    }
    neighbour.still_answers();
    neighbour.stop();
    daemon.stop();
}

#[test]
fn nonsense_on_the_socket_is_answered_and_leaves_nothing() {
    let daemon = Daemon::start("socket", "");
    let neighbour = Neighbour::start(&daemon);
    neighbour.still_answers();
    let before = daemon.fds();
    let hello = Message {
        sequence: 1,
        body: Control::Hello(Hello::default()),
    };
    let good = hello.encode().to_vec();
    let null = File::open("/dev/null").expect("every system has it");
    let fds = [null.as_fd(), null.as_fd()];
    let http = b"GET / HTTP/1.1\r\nHost: tensord\r\n\r\n".to_vec();
    let table = [
        ("truncated", good[..77].to_vec(), 0, Code::BadMessage),
        (
            "oversized",
            [good.clone(), vec![0; 9_000]].concat(),
            0,
            Code::BadMessage,
        ),
        ("HTTP", http, 0, Code::BadMessage),
        ("uninvited", good.clone(), 2, Code::UninvitedFd),
    ];
    for (what, bytes, fd_count, code) in table {
        let socket = ControlSocket::connect(&daemon.socket).expect("the socket accepts");
        send_datagram(socket.as_fd(), &bytes, &fds[..fd_count]).expect("it goes out");
        let said = last_words(&socket).unwrap_or_else(|| panic!("{what}: no word"));
        assert_eq!(said.code, code, "{what}: {said}");
    }
    eventually("no descriptor stays", || {
        (daemon.fds() == before).then_some(())
    });
    neighbour.still_answers();
    neighbour.stop();
    daemon.stop();
}
