//! Sessions and queues: where requests are submitted and waited for.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tensord_shm::completion::Waited;
use tensord_shm::control::{Changes, Class, Set, WEIGHT_DEFAULT, Welcome};
use tensord_shm::error::Code;
use tensord_shm::record::{Line, Request, opcode};

use crate::core::Core;
use crate::error::Error;
use crate::lane::Lane;
use crate::launch;
use crate::ring::Mark;
use crate::site::Site;

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Socket of the daemon. `None` searches the default places and, with `autostart`, starts a private daemon.
    pub socket: Option<PathBuf>,
    /// Name of the session, for people.
    pub name: String,
    /// Class of its work; the daemon may grant a lower one.
    pub class: Class,
    /// Weight within the class, 1 to 10,000; the daemon may grant a lower one.
    pub weight: u32,
    /// Whether operations may be fused.
    pub fuse: bool,
    /// Whether requests may share launches with those of others.
    pub batch: bool,
    /// Whether the default queue can wake an event loop: see [`Session::notify_fd`].
    pub notify: bool,
    /// Slots of 64 bytes in each ring; 0 leaves it to the daemon.
    pub slot_count: u32,
    /// Start a private daemon where none is. `TENSORD_AUTOSTART=0` overrules it.
    pub autostart: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            socket: None,
            name: String::new(),
            class: Class::Normal,
            weight: WEIGHT_DEFAULT,
            fuse: true,
            batch: true,
            notify: false,
            slot_count: 0,
            autostart: true,
        }
    }
}

/// What the daemon granted.
#[derive(Clone, Debug)]
pub struct Info {
    /// The daemon's answer to hello.
    pub welcome: Welcome,
    /// The socket that the session uses.
    pub socket: PathBuf,
    /// Epoch of the engine at the moment.
    pub epoch: u32,
}

/// A connection to the daemon, seen through one of its queues: the default one, or one from [`Session::queue`].
///
/// Clones are cheap and share the queue; any thread may use one, and threads that work independently should each have
/// a queue of their own. The connection ends with its last clone, queue and tensor. In a forked child it cannot be used.
pub struct Session {
    /// Taken only by `drop`.
    lane: Option<Arc<Lane>>,
}

impl Clone for Session {
    fn clone(&self) -> Session {
        Session::over(Arc::clone(self.lane()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        if lane.is_foreign() {
            // A forked child must not touch its parent's locks and rings, not even to clean up.
            std::mem::forget(lane);
        } else {
            lane.let_go();
        }
    }
}

impl Session {
    pub(crate) fn over(lane: Arc<Lane>) -> Session {
        Session { lane: Some(lane) }
    }

    #[inline(always)]
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        self.lane.as_ref().expect("present until dropped")
    }

    /// Connects. Errors say what is wrong and what to do: no daemon, no permission, no common version.
    pub fn connect(options: Options) -> Result<Session, Error> {
        let (socket, path) = launch::connect(&options)?;
        let (core, state) = Core::open(socket, path, options)?;
        Ok(Session::over(Lane::new(core, state)))
    }

    /// Connects anew with the same options, trying for at most `within`, at growing intervals. Tensors of this
    /// session stay lost.
    pub fn reconnect(&self, within: Duration) -> Result<Session, Error> {
        let until = Instant::now() + within;
        let mut pause = Duration::from_millis(5);
        loop {
            match Session::connect(self.lane().core().options.clone()) {
                Err(error)
                    if error.code() == Code::DaemonLost && Instant::now() + pause < until =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                outcome => return outcome,
            }
        }
    }

    /// A further queue, for another thread. Its requests are independent of this queue's; tensors may cross over,
    /// which orders the queue that uses one behind the queue that made it.
    pub fn queue(&self) -> Result<Session, Error> {
        self.queue_with(false)
    }

    /// A further queue whose progress can wake an event loop.
    pub fn queue_with_notice(&self) -> Result<Session, Error> {
        self.queue_with(true)
    }

    fn queue_with(&self, notify: bool) -> Result<Session, Error> {
        drop(self.lane().lock()?);
        let core = self.lane().core();
        let state = core.queue(notify)?;
        Ok(Session::over(Lane::new(Arc::clone(core), state)))
    }

    /// The value of the last request of this queue.
    pub fn mark(&self) -> Result<Mark, Error> {
        Ok(self.lane().lock()?.last())
    }

    /// Sends what was submitted and demands it, without waiting.
    pub fn flush(&self) -> Result<Mark, Error> {
        self.lane().flush()
    }

    /// As [`Session::flush`], for results that are late after `deadline`: within the session's class and share of the device, what
    /// has the earliest deadline runs first. A result that is late is a result all the same.
    pub fn flush_within(&self, deadline: Duration) -> Result<Mark, Error> {
        self.lane().flush_within(deadline)
    }

    /// Waits for a point of this queue and gives the outcome of that request. With a deadline: `wait_timeout` after it.
    pub fn wait(&self, mark: Mark, deadline: Option<Instant>) -> Result<(), Error> {
        self.lane().wait(mark, deadline)
    }

    /// A request that does nothing: a point of this queue to wait for, and what reaching the engine costs.
    pub fn no_op(&self) -> Result<Mark, Error> {
        let lane = self.lane();
        loop {
            let mut ring = lane.lock()?;
            let epoch = ring.epoch;
            match ring.commit_line(Line::no_op(Site::UNKNOWN.0), opcode::NOOP) {
                Ok(value) => return Ok(Mark { epoch, value }),
                Err(_) => lane.make_room(ring)?,
            }
        }
    }

    /// Cancels what the daemon has accepted of this queue, from `first` to `last`, and not yet launched.
    pub fn cancel(&self, first: Mark, last: Mark) -> Result<(), Error> {
        let request = Request::Cancel {
            first: first.value,
            last: last.value,
        };
        let lane = self.lane();
        if first.epoch == last.epoch && first.epoch == lane.state.epoch() {
            lane.push(&request, opcode::CANCEL, Site::UNKNOWN, first.epoch)?;
            lane.lock()?.publish();
        }
        Ok(())
    }

    /// Waits for everything submitted to this queue. Gives the first failure that was not reported yet.
    pub fn synchronize(&self) -> Result<(), Error> {
        let mark = self.mark()?;
        self.lane().wait_until(mark, None)?;
        let mut ring = self.lane().lock()?;
        ring.collect();
        ring.first_unreported(mark.value).map_or(Ok(()), Err)
    }

    /// The file descriptor that becomes readable when an armed value is reached, for epoll; `None` unless the queue was
    /// made for it.
    pub fn notify_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.lane().state.notice.as_ref()?.as_fd())
    }

    /// Asks for a notice once the queue reaches `mark`. True if it has already and none will come. After a notice, and
    /// every 250 ms, call it again: that is when news of the daemon are looked at.
    pub fn arm(&self, mark: Mark) -> Result<bool, Error> {
        let lane = self.lane();
        if let Some(notice) = &lane.state.notice {
            notice.drain();
        }
        lane.core().look(Duration::ZERO)?;
        loop {
            let mut ring = lane.lock()?;
            if ring.epoch != mark.epoch {
                return Err(lane.core().lost_error(mark.epoch));
            }
            if ring.demand(mark.value).is_ok() {
                let submission = ring.segments.submission.clone();
                return match ring.reader.arm_notice(&submission, mark.value) {
                    None => Ok(false),
                    Some(Waited::Reached) => Ok(true),
                    Some(_) => {
                        drop(ring);
                        lane.wait_until(mark, None).map(|()| true)
                    }
                };
            }
            lane.make_room(ring)?;
        }
    }

    /// What runs in the daemon, as JSON; strangers appear as one sum.
    pub fn stat(&self) -> Result<String, Error> {
        drop(self.lane().lock()?);
        self.lane().core().stat()
    }

    /// What the daemon granted at hello.
    pub fn info(&self) -> Info {
        let core = self.lane().core();
        Info {
            welcome: core.welcome.clone(),
            socket: core.path.clone(),
            epoch: self.lane().state.epoch(),
        }
    }

    /// The socket that the session uses.
    pub fn socket(&self) -> &Path {
        &self.lane().core().path
    }

    /// Changes name, class or weight while the session runs; class and weight only downwards.
    pub fn set(
        &self,
        name: Option<String>,
        class: Option<Class>,
        weight: Option<u32>,
    ) -> Result<(), Error> {
        drop(self.lane().lock()?);
        self.lane().core().set(Set {
            session: 0,
            name,
            class,
            weight,
        })
    }

    /// Lowers limits of this session, so that a mistake of its own stays small. Its uid's and tenant's limits, and what an
    /// administrator set for it, hold all the same; [`Change::Default`](tensord_shm::control::Change) takes an own limit back.
    pub fn limit(&self, changes: Changes) -> Result<(), Error> {
        drop(self.lane().lock()?);
        self.lane().core().limit(changes)
    }

    /// The limits of this session, its uid and its tenant, and what of them is used, as JSON.
    pub fn limits(&self) -> Result<String, Error> {
        drop(self.lane().lock()?);
        self.lane().core().limits()
    }

    /// Ends the session now. All its tensors and queues give `daemon_lost` from here on.
    pub fn close(&self) -> Result<(), Error> {
        drop(self.lane().lock()?);
        self.lane().core().close()
    }

    /// Is it usable: made in this process, and its daemon there as far as is known?
    pub fn is_open(&self) -> bool {
        self.lane().lock().is_ok()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (core, state) = (self.lane().core(), &self.lane().state);
        f.debug_struct("Session")
            .field("id", &core.welcome.session)
            .field("queue", &state.number)
            .field("socket", &core.path)
            .finish()
    }
}
