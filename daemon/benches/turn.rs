//! What one operation costs the engine: a ring, the real engine and its backend in one thread, nothing that crosses cores.
//!
//! `cargo bench -p tensord-daemon --bench turn`. Each round writes a chain of elementwise operations, each letting its operand go,
//! and runs turns until the last one is done. Prints nanoseconds of one operation: in the ring, in the engine up to the
//! turn that finds the demand, and from there to the outcome.

#![allow(missing_docs, reason = "a program")]

use std::os::fd::AsFd;
use std::time::Instant;

use tensord_daemon::config::{Config, Quotas};
use tensord_daemon::engine::make;
use tensord_daemon::engine_process::{EngineStart, QueueEnds, SessionId, SessionSpec, TenantId};
use tensord_shm::completion::{Reader, Writer};
use tensord_shm::control::{Class, SessionLimits};
use tensord_shm::doorbell::Doorbell;
use tensord_shm::dtype::DType;
use tensord_shm::elementwise::Elementwise;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::Meta;
use tensord_shm::record::{Encoder, Line, Request};
use tensord_shm::ring::{Consumer, Producer};
use tensord_shm::segment::{
    CompletionMap, CompletionMapMut, SubmissionMap, SubmissionMapMut, create_completion,
    create_submission, seal_completion,
};

const SLOTS: u32 = 256;
const CHAIN: usize = 64;
const ROUNDS: usize = 2000;

/// The client's side of one queue.
struct Client {
    producer: Producer,
    reader: Reader,
    submission: SubmissionMapMut,
    doorbell: Doorbell,
    generation: u32,
    /// Of the chain before.
    result: Option<Handle>,
}

impl Client {
    fn push(&mut self, words: &[u64]) -> u64 {
        self.producer
            .push(words, self.reader.head())
            .expect("the ring has room for a chain");
        self.producer.record_count()
    }

    /// The operand of each operation is let go by it, and the result of the chain before by the first.
    fn chain(&mut self, x: Handle) -> u64 {
        let mut operand = x;
        let mut last = 0;
        for step in 0..CHAIN {
            self.generation += 1;
            let out = Handle {
                index: 1 + self.generation % 3,
                generation: self.generation,
            };
            let (function, scalar) = match step % 2 {
                0 => (Elementwise::Mul, 1.0001f32),
                _ => (Elementwise::Add, 0.5),
            };
            let operands = [operand.wire(), scalar.to_bits().into(), 0];
            let mut line = Line::elementwise(function, (out, DType::F32), (&operands, 2), 0);
            let done_with = if step == 0 {
                self.result.take()
            } else {
                Some(operand)
            };
            if let Some(handle) = done_with {
                line.release(handle);
            }
            last = self.push(line.words());
            operand = out;
        }
        self.result = Some(operand);
        self.producer.publish();
        last
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let start = EngineStart {
        device: "cpu".into(),
        epoch: 1,
        config: Config::default(),
    };
    let mut engine = make(&start).expect("a cpu engine");
    let limits = SessionLimits {
        queues: 4,
        handles: 1 << 16,
        requests_in_flight: 1 << 16,
        staging_arenas: 4,
        staging_bytes: 1 << 30,
        device_bytes: 1 << 30,
    };
    let session = SessionId(1);
    let spec = SessionSpec {
        id: session,
        tenant: TenantId(1),
        tenant_name: String::new(),
        tenant_weight: 100,
        pid: 0,
        uid: 0,
        name: String::new(),
        command: String::new(),
        class: Class::Normal,
        weight: 100,
        limits,
        quotas: Quotas::default(),
        fuse: true,
        batch: true,
    };
    engine.attach(spec).expect("a session");
    let submission = create_submission(SLOTS).expect("a segment");
    let completion = create_completion().expect("a segment");
    let writable = CompletionMapMut::map(completion.as_fd()).expect("a mapping");
    seal_completion(&completion).expect("seals");
    let map = SubmissionMap::map(submission.as_fd(), SLOTS).expect("a mapping");
    let ends = QueueEnds {
        id: 0,
        consumer: Consumer::new(map.clone()),
        submission: map,
        completion: Writer::new(writable),
        notice: None,
    };
    engine.add_queue(session, ends).expect("a queue");
    let own = SubmissionMapMut::map(submission.as_fd(), SLOTS).expect("a mapping");
    let mut client = Client {
        producer: Producer::new(own.clone()),
        reader: Reader::new(CompletionMap::map(completion.as_fd()).expect("a mapping")),
        submission: own,
        doorbell: Doorbell::new(
            nix::sys::eventfd::EventFd::new()
                .expect("an eventfd")
                .into(),
        ),
        generation: 0,
        result: None,
    };
    println!("chain of {CHAIN}; nanoseconds of one operation");
    println!(
        "{:>8}  {:>8}  {:>8}  {:>8}",
        "elements", "ring", "accept", "run"
    );
    for (number, elements) in [64u64, 1024, 16_384].into_iter().enumerate() {
        let x = Handle {
            index: 10 + number as u32,
            generation: 1,
        };
        let meta = Meta {
            dtype: DType::F32,
            shape: Shape::new(&[elements]).expect("a shape"),
        };
        let mut encoder = Encoder::default();
        encoder
            .request(
                &Request::UploadBegin {
                    out: x,
                    meta,
                    constant: false,
                },
                0,
            )
            .expect("a few words");
        client.push(encoder.finish(None));
        encoder
            .request(&Request::UploadSeal { to: x }, 0)
            .expect("a few words");
        client.push(encoder.finish(None));
        client.producer.publish();
        let (mut ring, mut accept, mut run) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let last = client.chain(x);
            let written = Instant::now();
            engine.tick();
            let accepted = Instant::now();
            client
                .doorbell
                .demand(&client.reader, &client.submission, last);
            while client.reader.timeline() < last {
                engine.tick();
            }
            let done = Instant::now();
            assert!(!client.reader.has_error(), "a request failed");
            for (times, time) in [
                (&mut ring, written - begin),
                (&mut accept, accepted - written),
                (&mut run, done - accepted),
            ] {
                times.push(time.as_secs_f64() * 1e9 / CHAIN as f64);
            }
        }
        println!(
            "{elements:>8}  {:>8.1}  {:>8.1}  {:>8.1}",
            median(&mut ring),
            median(&mut accept),
            median(&mut run)
        );
    }
}
