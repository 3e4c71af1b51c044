//! A client that speaks the bare protocol, with one queue.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tensord_shm::completion::{Reader, SpinPolicy, Waited};
use tensord_shm::control::{
    ControlError, EngineLost, Hello, Message, QueueGrant, RESEND_AFTER, Reply, Request, Welcome,
};
use tensord_shm::control_socket::{ControlSocket, ControlSocketError};
use tensord_shm::doorbell::Doorbell;
use tensord_shm::record::opcode;
use tensord_shm::ring::{Producer, record_header};
use tensord_shm::segment::{CompletionMap, SubmissionMapMut};

/// A session, or only a connection.
pub struct Client {
    pub socket: ControlSocket,
    sequence: u64,
    pub welcome: Option<Welcome>,
    pub queue: Option<Queue>,
    pub lost: Vec<EngineLost>,
    pub draining: bool,
}

/// The client's ends of its queue.
pub struct Queue {
    pub grant: QueueGrant,
    pub producer: Producer,
    pub submission: SubmissionMapMut,
    pub reader: Reader,
    pub doorbell: Doorbell,
}

impl Queue {
    fn open(
        grant: QueueGrant,
        submission: OwnedFd,
        completion: OwnedFd,
        doorbell: Doorbell,
    ) -> Queue {
        let submission = SubmissionMapMut::map(submission.as_fd(), grant.slot_count).unwrap();
        Queue {
            grant,
            producer: Producer::new(submission.clone()),
            submission,
            reader: Reader::new(CompletionMap::map(completion.as_fd()).unwrap()),
            doorbell,
        }
    }

    /// Submits one record and publishes it; gives its timeline value.
    pub fn submit(&mut self, operation: u16) -> u64 {
        loop {
            self.producer.observe_head(self.reader.head());
            if let Ok(mut slot) = self.producer.reserve(1) {
                slot.write(0, &[record_header(1, 0, operation, 0), 0, 0, 0, 0, 0, 0, 0]);
                slot.commit();
                break;
            }
            std::thread::yield_now();
        }
        self.producer.publish();
        self.doorbell.ring_if_parked(&self.reader);
        self.producer.record_count()
    }
}

impl Client {
    /// A connection without a session.
    pub fn bare(path: &Path) -> Client {
        let socket = ControlSocket::connect(path).unwrap();
        Client {
            socket,
            sequence: 0,
            welcome: None,
            queue: None,
            lost: Vec::new(),
            draining: false,
        }
    }

    /// A session.
    pub fn connect(path: &Path) -> Client {
        let mut client = Client::bare(path);
        client
            .hello(Hello {
                name: "test".into(),
                ..Hello::default()
            })
            .unwrap();
        client
    }

    pub fn session(&self) -> u64 {
        self.welcome.as_ref().unwrap().session
    }

    pub fn hello(&mut self, hello: Hello) -> Result<(), ControlError> {
        let (reply, fds) = self.ask(&Request::Hello(hello));
        match reply {
            Reply::Welcome(welcome) => {
                let mut fds = fds.into_iter();
                let mut fd = || fds.next().unwrap();
                self.queue = Some(Queue::open(welcome.queue, fd(), fd(), Doorbell::new(fd())));
                self.welcome = Some(welcome);
                Ok(())
            }
            Reply::Error(error) => Err(error),
            other => panic!("hello was answered by {other:?}"),
        }
    }

    /// Asks, and again after a while, until there is an answer. Notices are taken on the way.
    pub fn ask(&mut self, request: &Request) -> (Reply, Vec<OwnedFd>) {
        self.try_ask(request).unwrap()
    }

    pub fn try_ask(
        &mut self,
        request: &Request,
    ) -> Result<(Reply, Vec<OwnedFd>), ControlSocketError> {
        self.sequence += 1;
        let sequence = self.sequence;
        loop {
            self.socket.send(sequence, request)?;
            while let Some((message, fds)) = self.socket.receive(Some(RESEND_AFTER))? {
                let is_refused = message.sequence == 0 && matches!(message.body, Reply::Error(_));
                if message.sequence == sequence || is_refused {
                    return Ok((message.body, fds));
                }
                self.notice(message, fds);
            }
        }
    }

    fn notice(&mut self, message: Message<Reply>, fds: Vec<OwnedFd>) {
        match message.body {
            Reply::EngineLost(lost) => self.lost.push(lost),
            Reply::Epoch(grant) => self.move_to(grant, fds),
            Reply::Draining => self.draining = true,
            // An answer to a request that was sent twice and answered twice.
            other => assert!(
                message.sequence != 0 && message.sequence < self.sequence,
                "{other:?}"
            ),
        }
    }

    fn move_to(&mut self, grant: QueueGrant, fds: Vec<OwnedFd>) {
        if let Some(queue) = self.queue.take() {
            if queue.grant.epoch == grant.epoch {
                self.queue = Some(queue);
                return;
            }
            let (mut fds, mut doorbell) = (fds.into_iter(), queue.doorbell);
            doorbell.begin_epoch();
            self.queue = Some(Queue::open(
                grant,
                fds.next().unwrap(),
                fds.next().unwrap(),
                doorbell,
            ));
        }
    }

    /// Takes notices that are there.
    pub fn look(&mut self) {
        self.look_for(Duration::ZERO);
    }

    pub fn look_for(&mut self, time: Duration) {
        while let Some((message, fds)) = self.socket.receive(Some(time)).unwrap() {
            self.notice(message, fds);
        }
    }

    pub fn epoch(&self) -> u32 {
        self.queue.as_ref().unwrap().grant.epoch
    }

    /// Submits a record and waits for it; false when its epoch ended first, and then the queue is the next epoch's.
    pub fn round_trip(&mut self) -> bool {
        let epoch = self.epoch();
        let value = self.queue.as_mut().unwrap().submit(opcode::NOOP);
        loop {
            let queue = self.queue.as_mut().unwrap();
            match queue.reader.wait(
                &queue.submission,
                value,
                None,
                &mut SpinPolicy::sleep_at_once(),
            ) {
                Waited::Reached => return true,
                _ => self.look(),
            }
            if self.epoch() != epoch {
                return false;
            }
        }
    }

    pub fn stat(&mut self) -> serde_json::Value {
        match self.ask(&Request::Stat) {
            (Reply::Stat { bytes }, mut fds) => {
                let mut text = String::new();
                File::from(fds.pop().unwrap())
                    .take(bytes)
                    .read_to_string(&mut text)
                    .unwrap();
                serde_json::from_str(&text).unwrap()
            }
            other => panic!("stat was answered by {other:?}"),
        }
    }

    /// What the daemon says last before it hangs up.
    pub fn last_words(&mut self) -> Option<ControlError> {
        let mut words = None;
        loop {
            match self.socket.receive(None) {
                Ok(Some((
                    Message {
                        body: Reply::Error(error),
                        ..
                    },
                    _,
                ))) => words = Some(error),
                Ok(_) => {}
                Err(_) => return words,
            }
        }
    }
}
