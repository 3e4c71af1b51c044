//! What all queues of a session share: the control socket, staging, the numbers of handles, and news from the broker.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tensord_shm::control::{
    Changes, EngineLost, Hello, QueueGrant, QueueRequest, RESEND_AFTER, Reply, Request, Set,
    Target, Welcome,
};
use tensord_shm::control_socket::{ControlSocket, Received};
use tensord_shm::doorbell::{Doorbell, NoticeReceiver};
use tensord_shm::error::Code;
use tensord_shm::fork;
use tensord_shm::record::opcode;
use tensord_shm::segment::{CompletionMap, SubmissionMapMut};
use tensord_shm::staging::StagingArena;

use crate::error::Error;
use crate::lane::LaneState;
use crate::ring::{Ring, Segments};
use crate::session::Options;
use crate::staging::Staging;

/// How long an answer may take before the daemon counts as gone. An engine that starts is part of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// See the file's head.
pub(crate) struct Core {
    /// The process that it belongs to.
    pub generation: u32,
    pub welcome: Welcome,
    pub options: Options,
    pub path: PathBuf,
    pub staging: Staging,
    control: Mutex<Control>,
    /// Every queue of the session, in use or not.
    lanes: Mutex<Vec<Arc<LaneState>>>,
    idle: Mutex<Vec<Arc<LaneState>>>,
    next_handle: AtomicU32,
    /// Engines that ended, with the cause.
    ends: Mutex<Vec<EngineLost>>,
    lost: OnceLock<Error>,
}

struct Control {
    socket: ControlSocket,
    sequence: u64,
    /// The daemon's own words for closing the session.
    reason: Option<Error>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed by single calls that leave it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unexpected(what: &str, reply: &Reply) -> Error {
    match reply {
        Reply::Error(error) => error.clone().into(),
        other => Error::new(
            Code::BadMessage,
            format!("the daemon answered {what} with {other:?}"),
        ),
    }
}

fn missing_fd(what: &str) -> Error {
    Error::new(
        Code::BadMessage,
        format!("the daemon sent {what} without its file descriptors"),
    )
}

/// The mapped segments of a grant, and what is left of its file descriptors.
fn segments_of(
    grant: &QueueGrant,
    fds: Vec<OwnedFd>,
) -> Result<(Segments, std::vec::IntoIter<OwnedFd>), Error> {
    let mut fds = fds.into_iter();
    let (Some(submission), Some(completion)) = (fds.next(), fds.next()) else {
        return Err(missing_fd("a queue"));
    };
    let segments = Segments {
        submission: SubmissionMapMut::map(submission.as_fd(), grant.slot_count)?,
        completion: CompletionMap::map(completion.as_fd())?,
        slot_count: grant.slot_count,
        epoch: grant.epoch,
    };
    Ok((segments, fds))
}

fn queue_of(grant: &QueueGrant, fds: Vec<OwnedFd>) -> Result<Arc<LaneState>, Error> {
    let (segments, mut rest) = segments_of(grant, fds)?;
    let doorbell = Doorbell::new(rest.next().ok_or_else(|| missing_fd("a queue"))?);
    let notice = rest.next().map(NoticeReceiver::new);
    let ring = Ring::new(segments, doorbell);
    Ok(Arc::new(LaneState::new(grant.queue, ring, notice)))
}

impl Core {
    /// Says hello on a connected socket; gives the session with its first queue.
    pub(crate) fn open(
        socket: ControlSocket,
        path: PathBuf,
        options: Options,
    ) -> Result<(Arc<Core>, Arc<LaneState>), Error> {
        fork::watch()
            .map_err(|error| Error::new(Code::Limit, format!("pthread_atfork: {error}")))?;
        let mut control = Control {
            socket,
            sequence: 0,
            reason: None,
        };
        let hello = Hello {
            operation_count: u32::from(opcode::COUNT),
            class: options.class,
            weight: options.weight,
            fuse: options.fuse,
            batch: options.batch,
            notify: options.notify,
            slot_count: options.slot_count,
            name: options.name.clone(),
            ..Hello::default()
        };
        let (reply, fds) = control.request(Request::Hello(hello), |(message, _)| {
            Ok(match message.body {
                Reply::Error(error) if message.sequence == 0 => Some(error.into()),
                _ => None,
            })
        })?;
        let Reply::Welcome(welcome) = reply else {
            return Err(unexpected("hello", &reply));
        };
        let state = queue_of(&welcome.queue, fds)?;
        let core = Core {
            generation: fork::generation(),
            welcome,
            options,
            path,
            staging: Staging::default(),
            control: Mutex::new(control),
            lanes: Mutex::new(vec![Arc::clone(&state)]),
            idle: Mutex::default(),
            next_handle: AtomicU32::new(0),
            ends: Mutex::default(),
            lost: OnceLock::new(),
        };
        Ok((Arc::new(core), state))
    }

    // ------------------------------------------------------------------------------------------ requests

    fn request(&self, request: Request) -> Result<Reply, Error> {
        self.request_then(request, |(reply, _)| Ok(reply))
    }

    /// Sends a request and does something with the answer before anybody can hear of a later epoch.
    fn request_then<T>(
        &self,
        request: Request,
        then: impl FnOnce((Reply, Vec<OwnedFd>)) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(error) = self.lost.get() {
            return Err(error.clone());
        }
        let mut control = lock(&self.control);
        match control.request(request, |notice| self.notice(notice)) {
            Ok(answer) => then(answer),
            Err(error) => {
                if error.code() == Code::DaemonLost {
                    self.die(&mut control, &error);
                }
                Err(error)
            }
        }
    }

    /// A queue: one that nobody uses any more, or a new one.
    pub(crate) fn queue(&self, notify: bool) -> Result<Arc<LaneState>, Error> {
        {
            let mut idle = lock(&self.idle);
            if let Some(at) = idle
                .iter()
                .position(|state| state.notice.is_some() == notify)
            {
                return Ok(idle.swap_remove(at));
            }
        }
        let request = Request::Queue(QueueRequest {
            slot_count: self.options.slot_count,
            notify,
        });
        self.request_then(request, |(reply, fds)| {
            let Reply::Queue(grant) = reply else {
                return Err(unexpected("a request for a queue", &reply));
            };
            let state = queue_of(&grant, fds)?;
            lock(&self.lanes).push(Arc::clone(&state));
            Ok(state)
        })
    }

    /// Takes back a queue that nobody uses any more.
    pub(crate) fn retire(&self, state: &Arc<LaneState>) {
        lock(&self.idle).push(Arc::clone(state));
    }

    pub(crate) fn grow_staging(&self, bytes: u64) -> Result<(), Error> {
        self.request_then(Request::Staging { bytes }, |(reply, fds)| {
            let Reply::Staging(grant) = reply else {
                return Err(unexpected("a request for staging", &reply));
            };
            let fd = fds.first().ok_or_else(|| missing_fd("staging"))?;
            let arena = StagingArena::map(fd.as_fd(), grant.bytes)?;
            self.staging.add(grant.index, arena);
            Ok(())
        })
    }

    /// What runs, as JSON.
    pub(crate) fn stat(&self) -> Result<String, Error> {
        self.report(Request::Stat)
    }

    /// Limits and what of them is used, as JSON.
    pub(crate) fn limits(&self) -> Result<String, Error> {
        self.report(Request::Limits)
    }

    fn report(&self, request: Request) -> Result<String, Error> {
        self.request_then(request, |(reply, mut fds)| {
            let Reply::Stat { bytes } = reply else {
                return Err(unexpected("stat", &reply));
            };
            let file = File::from(fds.pop().ok_or_else(|| missing_fd("its statistics"))?);
            let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
            file.read_exact_at(&mut text, 0).map_err(|error| {
                Error::new(Code::BadMessage, format!("reading statistics: {error}"))
            })?;
            String::from_utf8(text)
                .map_err(|error| Error::new(Code::BadMessage, format!("statistics: {error}")))
        })
    }

    /// Changes name, class or weight.
    pub(crate) fn set(&self, set: Set) -> Result<(), Error> {
        match self.request(Request::Set(set))? {
            Reply::Done => Ok(()),
            reply => Err(unexpected("a change of the session", &reply)),
        }
    }

    /// Changes limits of this session.
    pub(crate) fn limit(&self, changes: Changes) -> Result<(), Error> {
        let target = Target::Own;
        match self.request(Request::Limit { target, changes })? {
            Reply::Changed { .. } => Ok(()),
            reply => Err(unexpected("a change of limits", &reply)),
        }
    }

    /// Ends the session; every tensor of it is an error from here on.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let done = match self.request(Request::Goodbye) {
            Ok(Reply::Done) => Ok(()),
            Ok(reply) => Err(unexpected("goodbye", &reply)),
            Err(error) => Err(error),
        };
        let closed = Error::new(Code::DaemonLost, "this session was closed: connect again");
        self.die(&mut lock(&self.control), &closed);
        done
    }

    pub(crate) fn fresh_handles(&self, count: u32) -> Option<std::ops::Range<u32>> {
        let end = self.welcome.limits.handles;
        let take = |next: u32| (next < end).then(|| next.saturating_add(count).min(end));
        let start = self
            .next_handle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .ok()?;
        Some(start..start.saturating_add(count).min(end))
    }

    // ------------------------------------------------------------------------------------------ news

    /// Reads what the broker has to say, for at most `timeout`. An error once the daemon is gone.
    pub(crate) fn look(&self, timeout: Duration) -> Result<(), Error> {
        if let Some(error) = self.lost.get() {
            return Err(error.clone());
        }
        let mut control = match self.control.try_lock() {
            Ok(control) => control,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody else talks to the broker and hears the news.
            Err(TryLockError::WouldBlock) => {
                std::thread::yield_now();
                return Ok(());
            }
        };
        let mut wait = timeout;
        loop {
            match control.socket.receive(Some(wait)) {
                Ok(None) => return Ok(()),
                Ok(Some(received)) => {
                    if let Some(reason) = self.notice(received)? {
                        control.reason = Some(reason);
                    }
                }
                Err(error) => {
                    let error = control.reason.take().unwrap_or_else(|| error.into());
                    self.die(&mut control, &error);
                    return Err(error);
                }
            }
            wait = Duration::ZERO;
        }
    }

    /// Takes one message that nobody asked for; gives the reason if it is one for the session's end.
    fn notice(&self, (message, fds): Received) -> Result<Option<Error>, Error> {
        if message.sequence != 0 {
            // The second answer to a request that was sent twice.
            return Ok(None);
        }
        match message.body {
            Reply::EngineLost(end) => lock(&self.ends).push(end),
            Reply::Epoch(grant) => self.begin_epoch(&grant, fds)?,
            Reply::Error(error) => return Ok(Some(error.into())),
            _ => {}
        }
        Ok(None)
    }

    fn begin_epoch(&self, grant: &QueueGrant, fds: Vec<OwnedFd>) -> Result<(), Error> {
        let (segments, _) = segments_of(grant, fds)?;
        let state = lock(&self.lanes)
            .iter()
            .find(|state| state.number == grant.queue)
            .cloned();
        if let Some(state) = state {
            let mut ring = state.ring();
            // A message sent twice must not empty a ring that is in use.
            if ring.epoch != segments.epoch {
                ring.replace(segments);
                state.set_epoch(grant.epoch);
            }
        }
        Ok(())
    }

    fn die(&self, _control: &mut Control, error: &Error) {
        let error = self.lost.get_or_init(|| error.clone());
        for state in lock(&self.lanes).iter() {
            let mut ring = state.ring();
            ring.closed.get_or_insert_with(|| error.clone());
        }
    }

    /// Has the broker said that the engine of this epoch ended?
    pub(crate) fn has_ended(&self, epoch: u32) -> bool {
        lock(&self.ends).iter().any(|end| end.epoch == epoch)
    }

    /// What became of an epoch that is over.
    pub(crate) fn lost_error(&self, epoch: u32) -> Error {
        if let Some(error) = self.lost.get() {
            return error.clone();
        }
        let ends = lock(&self.ends);
        let cause = ends.iter().find(|end| end.epoch == epoch);
        let message = match cause {
            Some(end) => format!(
                "lost: the engine ended ({}{}) and was started again; constants are bound again by themselves, other tensors have to be made again",
                end.cause,
                if end.blamed {
                    ", while it ran work of this session"
                } else {
                    ""
                }
            ),
            None => "lost: the engine was started again; tensors other than constants have to be made again".to_owned(),
        };
        Error::new(Code::Lost, message)
    }
}

impl Control {
    /// Sends a request until it is answered. Notices that come in between go to `notice`.
    fn request(
        &mut self,
        request: Request,
        notice: impl Fn(Received) -> Result<Option<Error>, Error>,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        self.sequence += 1;
        let until = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < until {
            if let Err(error) = self.socket.send(self.sequence, &request) {
                // What the daemon said before it hung up says more than a broken pipe.
                while let Ok(Some(received)) = self.socket.receive(Some(Duration::ZERO)) {
                    if let Some(reason) = notice(received)? {
                        self.reason = Some(reason);
                    }
                }
                return Err(self.gone(&format!("the daemon cannot be reached: {error}")));
            }
            let resend = Instant::now() + RESEND_AFTER;
            loop {
                let left = resend.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                match self.socket.receive(Some(left)) {
                    Ok(None) => break,
                    Ok(Some((message, fds))) if message.sequence == self.sequence => {
                        return match message.body {
                            Reply::Error(error) => Err(error.into()),
                            body => Ok((body, fds)),
                        };
                    }
                    Ok(Some(received)) => {
                        if let Some(reason) = notice(received)? {
                            self.reason = Some(reason);
                        }
                    }
                    Err(error) => return Err(self.gone(&error.to_string())),
                }
            }
        }
        Err(self.gone(&format!(
            "the daemon did not answer within {} s",
            ANSWER_WITHIN.as_secs()
        )))
    }

    fn gone(&mut self, what: &str) -> Error {
        self.reason.take().unwrap_or_else(|| {
            Error::new(
                Code::DaemonLost,
                format!("{what}; open a new session once it is back"),
            )
        })
    }
}
