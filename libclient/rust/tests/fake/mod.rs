//! A daemon in a thread that holds the client to the protocol: it speaks the control messages, takes records from real
//! rings, and keeps the table of handles as an engine would. It computes nothing; a download gets the bytes last uploaded
//! under that handle, or zeroes.
//!
//! What the client does wrong is a `violation`, which tests assert to be absent.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket,
};
use tensord_shm::completion::{ErrorEntry, Writer};
use tensord_shm::control::{
    Class, ControlError, EngineLost, MESSAGE_BYTES, Message, QueueGrant, Reply, Request as Asked,
    SessionLimits, StagingGrant, Welcome,
};
use tensord_shm::control_socket::{receive_datagram, send_datagram};
use tensord_shm::doorbell::{Doorbell, NoticeSender, notice_pair};
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::op::Operand;
use tensord_shm::record::{Record, Region, Request, decode, releases_of};
use tensord_shm::ring::{Consumer, RecordBuf};
use tensord_shm::segment::{
    self, CompletionMapMut, SubmissionMap, create_completion, create_submission, seal_completion,
};
use tensord_shm::staging::StagingMap;

/// What tests turn and read.
#[derive(Default)]
pub struct Knobs {
    /// While set, records are left where they are.
    pub hold: AtomicBool,
    /// The next request for which this operation code matches fails so.
    pub fail: Mutex<Option<(u16, Code)>>,
    /// Ends the engine: a new epoch begins.
    pub restart: AtomicBool,
    /// Leaves the next control request without an answer.
    pub swallow: AtomicBool,
    /// Ends the daemon.
    pub quit: AtomicBool,
    /// Records taken.
    pub records: AtomicU64,
    /// Records whose only purpose was a release.
    pub release_records: AtomicU64,
    /// Handles alive.
    pub alive: AtomicU64,
    /// Sessions opened.
    pub sessions: AtomicU32,
    /// Rules that the client broke.
    pub violations: Mutex<Vec<String>>,
    /// Requests as they came, when `log` is set.
    pub log: AtomicBool,
    pub logged: Mutex<Vec<Record>>,
}

pub struct FakeDaemon {
    pub path: PathBuf,
    pub knobs: Arc<Knobs>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    pub fn start(name: &str, slot_count: u32) -> FakeDaemon {
        let path = std::env::temp_dir().join(format!("tensord-fake-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(16).unwrap()).unwrap();
        let knobs = Arc::new(Knobs::default());
        let mut daemon = Daemon {
            listener,
            slot_count,
            knobs: Arc::clone(&knobs),
            sessions: Vec::new(),
            constants: HashMap::new(),
        };
        let thread = std::thread::spawn(move || daemon.run());
        FakeDaemon {
            path,
            knobs,
            thread: Some(thread),
        }
    }

    pub fn options(&self) -> tensord_client::Options {
        tensord_client::Options {
            socket: Some(self.path.clone()),
            autostart: false,
            ..Default::default()
        }
    }

    /// Asserts that the client kept the rules.
    #[track_caller]
    pub fn check(&self) {
        let violations = self.knobs.violations.lock().unwrap();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    /// Waits until a condition of the daemon's holds.
    #[track_caller]
    pub fn until(&self, what: &str, holds: impl Fn(&Knobs) -> bool) {
        for _ in 0..20_000 {
            if holds(&self.knobs) {
                return;
            }
            std::thread::yield_now();
            std::thread::park_timeout(Duration::from_micros(100));
        }
        panic!("never came true: {what}");
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.knobs.quit.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Daemon {
    listener: OwnedFd,
    slot_count: u32,
    knobs: Arc<Knobs>,
    sessions: Vec<Session>,
    constants: HashMap<[u8; 32], Vec<u8>>,
}

struct Session {
    socket: OwnedFd,
    epoch: u32,
    queues: Vec<Queue>,
    staging: Vec<StagingMap>,
    handles: HashMap<Handle, Value>,
    generations: HashMap<u32, u32>,
}

struct Value {
    bytes: Vec<u8>,
    poison: Option<(u64, Code, u32)>,
    constant: bool,
}

struct Queue {
    submission: SubmissionMap,
    consumer: Consumer,
    writer: Writer,
    notice: Option<NoticeSender>,
    doorbell: OwnedFd,
    /// Nothing is taken before the doorbell rings.
    parked: bool,
    value: u64,
}

impl Queue {
    /// Is there a reason to look at the ring?
    fn is_awake(&mut self) -> bool {
        if self.parked && nix::unistd::read(&self.doorbell, &mut [0; 8]).is_ok() {
            self.parked = false;
            self.writer.set_need_wakeup(false);
        }
        !self.parked
    }
}

fn say(socket: BorrowedFd<'_>, sequence: u64, body: Reply, fds: &[BorrowedFd<'_>]) {
    let message = Message { sequence, body };
    let _ = send_datagram(socket, &message.encode(), fds);
}

/// The fds of a queue, in the order of the protocol, and its engine's half.
fn make_queue(slot_count: u32, notify: bool) -> (Vec<OwnedFd>, Queue) {
    let submission = create_submission(slot_count).unwrap();
    let completion = create_completion().unwrap();
    let writer = Writer::new(CompletionMapMut::map(completion.as_fd()).unwrap());
    seal_completion(&completion).unwrap();
    let map = SubmissionMap::map(submission.as_fd(), slot_count).unwrap();
    let doorbell = Doorbell::create().unwrap();
    let mut fds = vec![
        submission,
        completion,
        doorbell.as_fd().try_clone_to_owned().unwrap(),
    ];
    let mut notice = None;
    if notify {
        let (sender, receiver) = notice_pair().unwrap();
        notice = Some(sender);
        fds.push(receiver.as_fd().try_clone_to_owned().unwrap());
    }
    let queue = Queue {
        consumer: Consumer::new(map.clone()),
        submission: map,
        writer,
        notice,
        doorbell: doorbell.as_fd().try_clone_to_owned().unwrap(),
        parked: false,
        value: 0,
    };
    (fds, queue)
}

impl Daemon {
    fn run(&mut self) {
        while !self.knobs.quit.load(Ordering::Relaxed) {
            if let Ok(fd) = accept4(
                self.listener.as_raw_fd(),
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            ) {
                use std::os::fd::FromRawFd;
                // SAFETY: just accepted, owned by nobody else.
                let socket = unsafe { OwnedFd::from_raw_fd(fd) };
                self.knobs.sessions.fetch_add(1, Ordering::Relaxed);
                self.sessions.push(Session {
                    socket,
                    epoch: 1,
                    queues: Vec::new(),
                    staging: Vec::new(),
                    handles: HashMap::new(),
                    generations: HashMap::new(),
                });
            }
            let mut at = 0;
            while at < self.sessions.len() {
                if self.control(at) {
                    at += 1;
                } else {
                    self.sessions.swap_remove(at);
                }
            }
            if self.knobs.restart.swap(false, Ordering::Relaxed) {
                self.restart();
            }
            if !self.knobs.hold.load(Ordering::Relaxed) {
                let mut alive = 0;
                for session in &mut self.sessions {
                    session.turn(&self.knobs, &mut self.constants);
                    alive += session.handles.len();
                }
                self.knobs.alive.store(alive as u64, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
    }

    fn restart(&mut self) {
        for session in &mut self.sessions {
            let ended = session.epoch;
            session.epoch += 1;
            session.handles.clear();
            session.generations.clear();
            let lost = EngineLost {
                epoch: ended,
                lost: 0,
                blamed: false,
                cause: "a test".into(),
            };
            say(session.socket.as_fd(), 0, Reply::EngineLost(lost), &[]);
            for number in 0..session.queues.len() {
                let (fds, mut queue) = make_queue(self.slot_count, false);
                let old = &mut session.queues[number];
                queue.notice = old.notice.take();
                queue.doorbell = old.doorbell.try_clone().unwrap();
                session.queues[number].writer.end(queue.notice.as_ref());
                session.queues[number] = queue;
                let grant = QueueGrant {
                    queue: number as u32,
                    slot_count: self.slot_count,
                    epoch: session.epoch,
                };
                let two: Vec<BorrowedFd<'_>> = fds[..2].iter().map(AsFd::as_fd).collect();
                // Twice, as a broker does that is not sure whether the first one arrived.
                say(session.socket.as_fd(), 0, Reply::Epoch(grant), &two);
                say(session.socket.as_fd(), 0, Reply::Epoch(grant), &two);
            }
        }
    }

    /// Answers what a client asks; false when it is gone.
    fn control(&mut self, at: usize) -> bool {
        let session = &mut self.sessions[at];
        let mut bytes = [0; MESSAGE_BYTES];
        let datagram = match receive_datagram(session.socket.as_fd(), &mut bytes, false) {
            Ok(datagram) => datagram,
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        };
        if datagram.length == 0 {
            return false;
        }
        if self.knobs.swallow.swap(false, Ordering::Relaxed) {
            return true;
        }
        let Message { sequence, body } =
            Message::<Asked>::decode(&bytes[..datagram.length]).expect("a well-formed message");
        let socket = session.socket.try_clone().unwrap();
        let grant = QueueGrant {
            queue: session.queues.len() as u32,
            slot_count: self.slot_count,
            epoch: session.epoch,
        };
        let mut queue = |notify| {
            let (fds, queue) = make_queue(self.slot_count, notify);
            session.queues.push(queue);
            fds
        };
        let (reply, fds) = match body {
            Asked::Hello(hello) => {
                let fds = queue(hello.notify);
                (Reply::Welcome(welcome(grant, hello.weight)), fds)
            }
            Asked::Queue(asked) => (Reply::Queue(grant), queue(asked.notify)),
            Asked::Staging { bytes } => {
                let fd = segment::create_staging(bytes).unwrap();
                session
                    .staging
                    .push(StagingMap::map(fd.as_fd(), bytes).unwrap());
                let index = session.staging.len() as u32 - 1;
                (Reply::Staging(StagingGrant { index, bytes }), vec![fd])
            }
            Asked::Set(_) | Asked::Goodbye => (Reply::Done, Vec::new()),
            other => {
                let text = format!("{other:?} is not for tests");
                (
                    Reply::Error(ControlError::new(Code::Denied, text)),
                    Vec::new(),
                )
            }
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        say(socket.as_fd(), sequence, reply, &fds);
        true
    }
}

fn welcome(queue: QueueGrant, weight: u32) -> Welcome {
    Welcome {
        version: 1,
        operation_count: 300,
        session: 7,
        device_count: 1,
        device: 0,
        class: Class::Normal,
        weight,
        limits: SessionLimits {
            queues: 4,
            handles: 200,
            requests_in_flight: 4096,
            staging_arenas: 4,
            staging_bytes: 48 << 20,
            device_bytes: 1 << 30,
        },
        queue,
        device_name: "fake".into(),
    }
}

impl Session {
    fn turn(&mut self, knobs: &Knobs, constants: &mut HashMap<[u8; 32], Vec<u8>>) {
        let mut buffer = RecordBuf::new();
        for number in 0..self.queues.len() {
            let queue = &mut self.queues[number];
            if !queue.is_awake() {
                continue;
            }
            let before = queue.value;
            if let Err(fault) = queue.consumer.refresh() {
                knobs.violations.lock().unwrap().push(fault.to_string());
                return;
            }
            while let Ok(Some(_)) = self.queues[number].consumer.pop(&mut buffer) {
                let value = self.queues[number].value + 1;
                self.queues[number].value = value;
                self.record(number, value, buffer.words(), knobs, constants);
                knobs.records.fetch_add(1, Ordering::Relaxed);
                let queue = &mut self.queues[number];
                queue.writer.set_timeline(value);
            }
            let queue = &mut self.queues[number];
            queue.writer.set_head(queue.consumer.head());
            queue
                .writer
                .wake_if_asleep(&queue.submission, queue.notice.as_ref());
            if queue.value == before {
                queue.parked = queue.writer.park(&queue.consumer);
            }
        }
    }

    fn fail(&mut self, queue: usize, value: u64, code: Code, site: u32, origin: (u64, u32)) {
        let queue = &mut self.queues[queue];
        assert_eq!(queue.writer.reserve_error(&queue.submission), Ok(true));
        queue.writer.push_error(&ErrorEntry {
            value,
            code: code as u32,
            site,
            origin: origin.0,
            detail: u64::from(origin.1),
        });
    }

    fn define(&mut self, out: Handle, value: Value, knobs: &Knobs) {
        let last = self.generations.insert(out.index, out.generation);
        if last.is_some_and(|last| last >= out.generation) {
            self.complain(
                knobs,
                format!("{out:?} follows generation {last:?} of its slot"),
            );
        }
        if self.handles.keys().any(|have| have.index == out.index) {
            self.complain(knobs, format!("{out:?} is in use"));
        }
        self.handles.insert(out, value);
    }

    fn complain(&self, knobs: &Knobs, what: String) {
        knobs.violations.lock().unwrap().push(what);
    }

    fn at(&self, region: &Region) -> (&StagingMap, u64) {
        (&self.staging[region.arena as usize], region.offset)
    }

    fn record(
        &mut self,
        queue: usize,
        value: u64,
        words: &[u64],
        knobs: &Knobs,
        constants: &mut HashMap<[u8; 32], Vec<u8>>,
    ) {
        let record = match decode(words) {
            Ok(record) => record,
            Err(fault) => return self.complain(knobs, fault.to_string()),
        };
        let site = record.site;
        let code = (words[0] >> 16) as u16;
        let mut wanted = knobs.fail.lock().unwrap();
        let failing = wanted
            .filter(|(failing, _)| *failing == code)
            .map(|(_, why)| why);
        if failing.is_some() {
            *wanted = None;
        }
        drop(wanted);
        if let Some(code) = failing {
            self.fail(queue, value, code, site, (value, site));
        }
        let poison = failing.map(|code| (value, code, site));
        self.request(
            queue,
            value,
            site,
            poison,
            &record.request,
            knobs,
            constants,
        );
        for &word in releases_of(words) {
            let handle = Handle::from_wire(word).expect("a release names a handle");
            if self.handles.remove(&handle).is_none() {
                self.complain(
                    knobs,
                    format!("release of {handle:?}, which is not defined"),
                );
            }
        }
        if knobs.log.load(Ordering::Relaxed) {
            knobs.logged.lock().unwrap().push(record);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a table of what a record does")]
    fn request(
        &mut self,
        queue: usize,
        value: u64,
        site: u32,
        mut poison: Option<(u64, Code, u32)>,
        request: &Request,
        knobs: &Knobs,
        constants: &mut HashMap<[u8; 32], Vec<u8>>,
    ) {
        let plain = |bytes, poison| Value {
            bytes,
            poison,
            constant: false,
        };
        match request {
            Request::Compute(compute) => {
                for operand in compute.operands() {
                    if let Operand::Tensor(handle) = operand {
                        match self.handles.get(handle) {
                            None => {
                                let text = format!("{:?} of {handle:?}", compute.op);
                                self.complain(knobs, text);
                            }
                            Some(found) => poison = poison.or(found.poison),
                        }
                    }
                }
                if let Some((origin, _, at)) = poison
                    && origin != value
                {
                    self.fail(queue, value, Code::Poisoned, site, (origin, at));
                }
                self.define(compute.out, plain(Vec::new(), poison), knobs);
            }
            Request::UploadInline {
                out,
                meta,
                words,
                constant,
            } => {
                let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                bytes.truncate(meta.shape.count() as usize * meta.dtype.size());
                self.upload(*out, bytes, *constant, knobs, constants);
            }
            Request::Upload {
                out,
                constant,
                from,
                ..
            } => {
                let mut bytes = vec![0; from.len as usize];
                let (map, offset) = self.at(from);
                map.read_into(offset, &mut bytes).unwrap();
                self.upload(*out, bytes, *constant, knobs, constants);
            }
            Request::UploadBegin {
                out,
                meta,
                constant,
            } => {
                let bytes = vec![0; meta.shape.count() as usize * meta.dtype.size()];
                let mut value = plain(bytes, None);
                value.constant = *constant;
                self.define(*out, value, knobs);
            }
            Request::UploadWrite { to, at, from } => {
                let mut piece = vec![0; from.len as usize];
                let (map, offset) = self.at(from);
                map.read_into(offset, &mut piece).unwrap();
                let bytes = &mut self.handles.get_mut(to).expect("begun").bytes;
                bytes[*at as usize..][..piece.len()].copy_from_slice(&piece);
            }
            Request::UploadSeal { to } => {
                let value = &self.handles[to];
                if value.constant {
                    constants.insert(hash(&value.bytes), value.bytes.clone());
                }
            }
            Request::Bind { out, hash, .. } => {
                let (bytes, poison) = match constants.get(hash) {
                    Some(bytes) => (bytes.clone(), None),
                    None => {
                        self.fail(queue, value, Code::NotHeld, site, (value, site));
                        (Vec::new(), Some((value, Code::NotHeld, site)))
                    }
                };
                self.define(*out, plain(bytes, poison), knobs);
            }
            Request::Download { of, at, to } => match self.handles.get(of) {
                None => self.complain(knobs, format!("download of {of:?}")),
                Some(Value {
                    poison: Some((origin, _, at)),
                    ..
                }) => {
                    let origin = (*origin, *at);
                    self.fail(queue, value, Code::Poisoned, site, origin);
                }
                Some(found) => {
                    let mut bytes = found.bytes.clone();
                    bytes.resize(bytes.len().max((at + to.len) as usize), 0);
                    let (map, offset) = self.at(to);
                    map.write_from(offset, &bytes[*at as usize..][..to.len as usize])
                        .unwrap();
                }
            },
            Request::WaitQueue {
                queue: other,
                value,
                ..
            } => {
                // This daemon runs queues in turn and to their end; that what is waited for is published is enough.
                if self.queues[*other as usize].value < *value {
                    let mut buffer = RecordBuf::new();
                    let _ = self.queues[*other as usize].consumer.refresh();
                    while self.queues[*other as usize].value < *value {
                        match self.queues[*other as usize].consumer.pop(&mut buffer) {
                            Ok(Some(_)) => {
                                let at = self.queues[*other as usize].value + 1;
                                self.queues[*other as usize].value = at;
                                let other = *other as usize;
                                self.record(other, at, buffer.words(), knobs, constants);
                                self.queues[other].writer.set_timeline(at);
                            }
                            _ => {
                                self.complain(knobs, "a wait for what is not published".into());
                                return;
                            }
                        }
                    }
                }
            }
            Request::Release => {
                knobs.release_records.fetch_add(1, Ordering::Relaxed);
            }
            Request::NoOp | Request::Flush | Request::Cancel { .. } => {}
        }
    }

    fn upload(
        &mut self,
        out: Handle,
        bytes: Vec<u8>,
        constant: bool,
        knobs: &Knobs,
        constants: &mut HashMap<[u8; 32], Vec<u8>>,
    ) {
        if constant {
            constants.insert(hash(&bytes), bytes.clone());
        }
        let value = Value {
            bytes,
            poison: None,
            constant,
        };
        self.define(out, value, knobs);
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// A path that no daemon listens on.
pub fn nowhere() -> PathBuf {
    Path::new("/nonexistent/tensord.sock").to_owned()
}
