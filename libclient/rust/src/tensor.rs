//! Tensors: names of values in the daemon, with their dtype and shape.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tensord_shm::dtype::DType;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::Meta;

use crate::default::default_session;
use crate::error::Error;
use crate::lane::{Lane, LaneState};
use crate::ring::{ForeignUse, Mark, Ring};
use crate::session::Session;
use crate::site::Site;

/// Values of at least so many bytes are released at once; smaller ones with the next record.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// An immutable value in the daemon. Clones share it; with the last one its name is released, and if nobody needed
/// the value by then it is never computed.
#[derive(Clone)]
pub struct Tensor(Option<Arc<Body>>);

/// A tensor, or the memory of one: see [`Spare`].
struct Body {
    session: Session,
    /// Changes when a constant is bound again. [`NAMELESS`] once the name was let go.
    handle: AtomicU64,
    value: AtomicU64,
    epoch: AtomicU32,
    meta: Meta,
    uses: OnceLock<Box<Mutex<Vec<ForeignUse>>>>,
    constant: Option<Box<Constant>>,
}

/// Stands for a handle where there is none.
const NAMELESS: u64 = 0;

/// What a constant is beyond a tensor.
pub(crate) struct Constant {
    /// BLAKE3 of its bytes, row-major.
    pub hash: [u8; 32],
    /// The same constant, bound in another session that used this tensor (a forked child's).
    pub adopted: Mutex<Option<Tensor>>,
}

impl Tensor {
    pub(crate) fn new(
        lane: &Arc<Lane>,
        handle: Handle,
        mark: Mark,
        meta: Meta,
        constant: Option<[u8; 32]>,
    ) -> Tensor {
        Tensor(Some(Arc::new(Body {
            session: Session::over(Arc::clone(lane)),
            handle: AtomicU64::new(handle.wire()),
            value: AtomicU64::new(mark.value),
            epoch: AtomicU32::new(mark.epoch),
            meta,
            uses: OnceLock::new(),
            constant: constant.map(|hash| {
                Box::new(Constant {
                    hash,
                    adopted: Mutex::new(None),
                })
            }),
        })))
    }

    /// A tensor of the shape of another one, in the memory of a third that is no more. Copies the shape at most once, into its place.
    #[inline(always)]
    pub(crate) fn like(
        lane: &Arc<Lane>,
        spare: Option<Spare>,
        (handle, mark): (Handle, Mark),
        meta: &Meta,
        dtype: DType,
    ) -> Tensor {
        if let Some(Spare(mut shared)) = spare {
            // Locked instructions wait for the record that was just written: none where the shape is the same again.
            let same = shared.meta.dtype == dtype && shared.meta.shape == meta.shape;
            let fits = same
                || Arc::get_mut(&mut shared)
                    .map(|body| {
                        body.meta.dtype = dtype;
                        body.meta.shape = meta.shape;
                    })
                    .is_some();
            if fits {
                shared.handle.store(handle.wire(), Ordering::Relaxed);
                shared.value.store(mark.value, Ordering::Relaxed);
                shared.epoch.store(mark.epoch, Ordering::Relaxed);
                return Tensor(Some(shared));
            }
        }
        let shape = meta.shape;
        Tensor::new(lane, handle, mark, Meta { dtype, shape }, None)
    }

    #[inline(always)]
    fn body(&self) -> &Body {
        self.0.as_ref().expect("present until dropped")
    }

    /// Element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.body().meta.dtype
    }

    /// Sizes of the axes.
    #[inline]
    pub fn shape(&self) -> &Shape {
        &self.body().meta.shape
    }

    /// Dtype and shape.
    #[inline]
    pub fn meta(&self) -> &Meta {
        &self.body().meta
    }

    /// Number of bytes of the value, row-major.
    pub fn byte_count(&self) -> u64 {
        self.body().meta.shape.count() * self.body().meta.dtype.size() as u64
    }

    /// Is it shared by content?
    pub fn is_constant(&self) -> bool {
        self.body().constant.is_some()
    }

    /// The session and queue that made it.
    #[inline]
    pub fn session(&self) -> &Session {
        &self.body().session
    }

    /// The session in which this process may use it: its own, or, for a constant from before a fork, the default one.
    #[inline]
    pub fn acting(&self) -> Result<Cow<'_, Session>, Error> {
        if !self.lane().is_foreign() {
            return Ok(Cow::Borrowed(self.session()));
        }
        if !self.is_constant() {
            return Err(self.foreign_error(Site::UNKNOWN));
        }
        default_session(|| self.lane().core().options.clone()).map(Cow::Owned)
    }

    /// When it will be there, on its queue's timeline.
    pub fn mark(&self) -> Mark {
        Mark {
            epoch: self.body().epoch.load(Ordering::Acquire),
            value: self.body().value.load(Ordering::Relaxed),
        }
    }

    /// Waits until the value is there. The error names the operation that failed first and the line that asked for it.
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_until(None)
    }

    /// As `wait`, with a deadline.
    pub fn wait_until(&self, deadline: Option<Instant>) -> Result<(), Error> {
        let here = if self.lane().is_foreign() {
            self.acting()?.lane().bring(self, Site::UNKNOWN)?
        } else {
            self.clone()
        };
        here.lane()
            .wait(here.mark(), deadline)
            .map_err(|error| error.with_result(self.body().meta))
    }

    #[inline(always)]
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        self.session().lane()
    }

    pub(crate) fn constant(&self) -> Option<&Constant> {
        self.body().constant.as_deref()
    }

    #[inline(always)]
    pub(crate) fn handle_word(&self) -> u64 {
        self.body().handle.load(Ordering::Relaxed)
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::from_wire(self.handle_word()).expect("only real handles are stored")
    }

    #[inline(always)]
    pub(crate) fn epoch(&self) -> u32 {
        // SYNC: pairs with the Release in `rebind`: who sees the epoch sees the handle that belongs to it.
        self.body().epoch.load(Ordering::Acquire)
    }

    /// Can a record of this queue in this epoch name it as it is?
    #[inline(always)]
    pub(crate) fn is_ready_on(&self, lane: &Arc<Lane>, epoch: u32) -> bool {
        Arc::ptr_eq(self.lane(), lane) && self.epoch() == epoch
    }

    /// Names the same constant in a new epoch. Under the lock of its queue's ring.
    pub(crate) fn rebind(&self, handle: Handle, mark: Mark) {
        self.body().handle.store(handle.wire(), Ordering::Relaxed);
        self.body().value.store(mark.value, Ordering::Relaxed);
        // SYNC: pairs with the Acquire in `epoch`.
        self.body().epoch.store(mark.epoch, Ordering::Release);
    }

    /// Remembers that a record of another queue names it.
    pub(crate) fn add_use(&self, used: ForeignUse) {
        let uses = self.body().uses.get_or_init(Box::default);
        uses.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(used);
    }

    /// Why it cannot be used on a session that did not make it.
    pub(crate) fn foreign_error(&self, site: Site) -> Error {
        let message = if self.lane().is_foreign() {
            format!(
                "a tensor ({} {}) of the parent process, from before fork(), cannot be used in the child: upload its value here, or make it with \
                 constant(), which the child may use",
                self.dtype(),
                self.shape()
            )
        } else {
            format!(
                "a tensor ({} {}) of another session cannot be used here: upload its value in this session, or make it with constant()",
                self.dtype(),
                self.shape()
            )
        };
        Error::new(Code::BadHandle, message).at(site)
    }
}

thread_local! {
    /// The queue whose tensor this thread dropped last, so that its ring can be locked by something that outlives the tensor.
    static RECENT: RefCell<Option<Arc<LaneState>>> = const { RefCell::new(None) };
}

/// Memory of a tensor that is no more, for the next one of its queue. Nobody else has it, and it names nothing, but it holds the queue:
/// [`Ring::keep`] says when nothing but spares does.
pub(crate) struct Spare(Arc<Body>);

impl Spare {
    /// The queue that it holds.
    #[inline]
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        self.0.session.lane()
    }
}

impl Drop for Tensor {
    #[inline]
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else {
            return;
        };
        // Two threads that drop the last two clones at once both pass this by; then `Body` itself ends it.
        if Arc::strong_count(&shared) == 1 {
            // SYNC: pairs with the Release of other clones' drops, as in the drop of an `Arc`.
            fence(Ordering::Acquire);
            if shared.is_plain() {
                recycle(shared);
            }
        }
    }
}

/// Lets the name of a tensor go that nobody else has, and keeps its memory.
#[inline(always)]
fn recycle(shared: Arc<Body>) {
    // While a thread ends there is no place to remember the queue, and `Body` ends the tensor.
    let crowded = RECENT.try_with(|recent| {
        let mut recent = recent.borrow_mut();
        let state = &shared.session.lane().state;
        let recent = match &mut *recent {
            Some(recent) if Arc::ptr_eq(recent, state) => recent,
            other => other.insert(Arc::clone(state)),
        };
        let mut ring = recent.ring();
        shared.let_go(&mut ring);
        ring.keep(Spare(shared))
    });
    if let Ok(true) = crowded {
        end_spares();
    }
}

/// Drops the spares of the queue that this thread dropped a tensor of last, and with them maybe the queue, which locks the ring.
#[cold]
fn end_spares() {
    if let Ok(Some(state)) = RECENT.try_with(RefCell::take) {
        let spares = state.ring().take_spares();
        drop(spares);
    }
}

/// Forgets a queue that ends, as far as this thread remembers it.
pub(crate) fn forget_recent(state: &Arc<LaneState>) {
    let _ = RECENT.try_with(|recent| {
        recent
            .borrow_mut()
            .take_if(|recent| Arc::ptr_eq(recent, state));
    });
}

impl Body {
    /// Is there nothing about it but a name?
    #[inline]
    fn is_plain(&self) -> bool {
        self.constant.is_none() && self.uses.get().is_none() && !self.session.lane().is_foreign()
    }

    /// Lets the name go, which no other queue uses.
    #[inline(always)]
    fn let_go(&self, ring: &mut Ring) {
        let word = self.handle.load(Ordering::Relaxed);
        self.handle.store(NAMELESS, Ordering::Relaxed);
        if let Some(handle) = Handle::from_wire(word) {
            let bytes = self.meta.shape.count() * self.meta.dtype.size() as u64;
            let epoch = self.epoch.load(Ordering::Relaxed);
            ring.release(handle, epoch, bytes >= AT_ONCE_BYTES);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let uses = self.uses.take();
        let lane = self.session.lane();
        // A forked child must not touch its parent's locks and rings, not even to release.
        if lane.is_foreign() {
            return;
        }
        let Some(handle) = Handle::from_wire(*self.handle.get_mut()) else {
            return;
        };
        let mut ring = lane.state.ring();
        match uses {
            Some(uses) => {
                let uses = uses.into_inner().unwrap_or_else(PoisonError::into_inner);
                ring.release_after(handle, self.epoch.load(Ordering::Relaxed), uses);
            }
            None => self.let_go(&mut ring),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {})", self.dtype(), self.shape())
    }
}
