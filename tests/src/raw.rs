//! A client that speaks the bare protocol and keeps no rules: whatever words it likes go into its ring.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tensord_shm::completion::{ErrorEntry, QueueState, Reader, SpinPolicy, Waited};
use tensord_shm::control::{ControlError, Hello, Message, RESEND_AFTER, Reply, Request};
use tensord_shm::control_socket::ControlSocket;
use tensord_shm::doorbell::Doorbell;
use tensord_shm::handle::Handle;
use tensord_shm::record::{Encoder, Request as Record};
use tensord_shm::ring::Producer;
use tensord_shm::segment::{CompletionMap, SubmissionMapMut};

/// A session with one queue.
pub struct RawClient {
    /// The control socket.
    pub socket: ControlSocket,
    /// Slots of its ring.
    pub slot_count: u32,
    producer: Producer,
    submission: SubmissionMapMut,
    reader: Reader,
    doorbell: Doorbell,
    sequence: u64,
    failures: Vec<ErrorEntry>,
}

/// Asks until there is an answer.
fn ask(socket: &ControlSocket, sequence: u64, request: &Request) -> (Reply, Vec<OwnedFd>) {
    loop {
        socket.send(sequence, request).expect("the daemon takes it");
        while let Some((message, fds)) = socket
            .receive(Some(RESEND_AFTER))
            .expect("the daemon answers")
        {
            if message.sequence == sequence {
                return (message.body, fds);
            }
        }
    }
}

impl RawClient {
    /// Connects and says hello as anybody would.
    pub fn connect(path: &Path) -> RawClient {
        let socket = ControlSocket::connect(path).expect("the socket accepts");
        let hello = Hello {
            name: "raw".into(),
            slot_count: 1024,
            ..Hello::default()
        };
        let (reply, fds) = ask(&socket, 1, &Request::Hello(hello));
        let Reply::Welcome(welcome) = reply else {
            panic!("hello was answered by {reply:?}")
        };
        let grant = welcome.queue;
        let mut fds = fds.into_iter();
        let mut fd = || fds.next().expect("a queue has three");
        let submission =
            SubmissionMapMut::map(fd().as_fd(), grant.slot_count).expect("a sealed segment");
        let completion = CompletionMap::map(fd().as_fd()).expect("a sealed segment");
        RawClient {
            socket,
            slot_count: grant.slot_count,
            producer: Producer::new(submission.clone()),
            submission,
            reader: Reader::new(completion),
            doorbell: Doorbell::new(fd()),
            sequence: 1,
            failures: Vec::new(),
        }
    }

    /// Sends a control request.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.sequence += 1;
        ask(&self.socket, self.sequence, request).0
    }

    /// Writes words as a record, whatever they say, and publishes them; gives the record's timeline value.
    pub fn push_words(&mut self, words: &[u64]) -> u64 {
        self.write_words(words);
        self.publish();
        self.producer.record_count()
    }

    /// Writes words as a record and keeps them back until the next one is published.
    pub fn write_words(&mut self, words: &[u64]) {
        assert!(words.len().is_multiple_of(8));
        self.producer.observe_head(self.reader.head());
        let slots = (words.len() / 8) as u32;
        let mut slot = self.producer.reserve(slots).expect("there is room");
        for (index, line) in words.chunks_exact(8).enumerate() {
            slot.write(index, line.try_into().expect("lines of eight"));
        }
        slot.commit();
    }

    fn publish(&mut self) {
        self.producer.publish();
        // Whether the engine sleeps is not looked at: a hostile client rings when it likes.
        self.doorbell.ring();
    }

    /// The words of a request.
    pub fn encode(request: &Record) -> Vec<u64> {
        RawClient::encode_releasing(request, &[])
    }

    /// The words of a request that releases handles when it is done.
    pub fn encode_releasing(request: &Record, released: &[Handle]) -> Vec<u64> {
        let mut encoder = Encoder::default();
        encoder.request(request, 77).expect("it fits a record");
        for &handle in released {
            assert!(encoder.release(handle), "it fits a record");
        }
        encoder.finish(None).to_vec()
    }

    /// Submits a well-formed record.
    pub fn push(&mut self, request: &Record) -> u64 {
        self.push_words(&RawClient::encode(request))
    }

    /// Moves the tail by more slots than the ring has.
    pub fn jump(&mut self) {
        for _ in 0..2 * self.slot_count {
            self.producer.observe_head(self.producer.position());
            if let Ok(slot) = self.producer.reserve(1) {
                slot.commit();
            }
        }
        self.publish();
    }

    /// Waits for a timeline value; gives the code of that request's failure, if it failed. The error is what became of the queue.
    pub fn outcome(&mut self, value: u64) -> Result<Option<ErrorEntry>, QueueState> {
        self.reader.demand(&self.submission, value);
        self.doorbell.ring();
        loop {
            let spin = &mut SpinPolicy::sleep_at_once();
            match self.reader.wait(&self.submission, value, None, spin) {
                Waited::Reached => break,
                Waited::Closed(state) => return Err(state),
                Waited::Elapsed | Waited::LookAtSocket => {}
            }
        }
        while let Some(entry) = self.reader.pop_error(&self.submission) {
            self.failures.push(entry);
        }
        let found = self.failures.iter().find(|entry| entry.value == value);
        Ok(found.copied())
    }

    /// The failures seen so far.
    pub fn failures(&self) -> &[ErrorEntry] {
        &self.failures
    }

    /// What the daemon says last before it hangs up.
    pub fn last_words(&mut self) -> Option<ControlError> {
        last_words(&self.socket)
    }
}

/// What the daemon says last on a socket before it hangs up.
pub fn last_words(socket: &ControlSocket) -> Option<ControlError> {
    let mut words = None;
    loop {
        match socket.receive(Some(Duration::from_secs(60))) {
            Ok(Some((Message { body, .. }, _))) => {
                if let Reply::Error(error) = body {
                    words = Some(error);
                }
            }
            Ok(None) => panic!("the daemon neither answered nor hung up"),
            Err(_) => return words,
        }
    }
}
