//! Tensors: names of values in the daemon, with their dtype and shape.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tensord_shm::dtype::DType;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::Meta;

use crate::default::default_session;
use crate::error::Error;
use crate::lane::Lane;
use crate::ring::{ForeignUse, Mark};
use crate::session::Session;
use crate::site::Site;

/// Values of at least so many bytes are released at once; smaller ones with the next record.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// An immutable value in the daemon. Clones share it; with the last one its name is released, and if nobody needed
/// the value by then it is never computed.
#[derive(Clone)]
pub struct Tensor(Option<Arc<Body>>);

struct Body {
    /// Taken only by `drop`.
    lane: Option<Arc<Lane>>,
    /// Changes only when a constant is bound again.
    handle: AtomicU64,
    value: AtomicU64,
    epoch: AtomicU32,
    meta: Meta,
    uses: OnceLock<Box<Mutex<Vec<ForeignUse>>>>,
    constant: Option<Box<Constant>>,
}

/// What a constant is beyond a tensor.
pub(crate) struct Constant {
    /// BLAKE3 of its bytes, row-major.
    pub hash: [u8; 32],
    /// The same constant, bound in another session that used this tensor (a forked child's).
    pub adopted: Mutex<Option<Tensor>>,
}

impl Tensor {
    #[inline]
    pub(crate) fn new(
        lane: &Arc<Lane>,
        handle: Handle,
        mark: Mark,
        meta: Meta,
        constant: Option<[u8; 32]>,
    ) -> Tensor {
        let mut tensor = Tensor::like(lane, handle, mark, &meta, meta.dtype);
        if let (Some(hash), Some(body)) = (constant, tensor.0.as_mut().and_then(Arc::get_mut)) {
            body.constant = Some(Box::new(Constant {
                hash,
                adopted: Mutex::new(None),
            }));
        }
        tensor
    }

    /// A tensor of the shape of another one. Copies the shape once, into its place.
    #[inline(always)]
    pub(crate) fn like(
        lane: &Arc<Lane>,
        handle: Handle,
        mark: Mark,
        meta: &Meta,
        dtype: DType,
    ) -> Tensor {
        let mut spare = SPARE
            .try_with(|spare| spare.borrow_mut().pop())
            .ok()
            .flatten();
        if let Some(body) = spare.as_mut().and_then(Arc::get_mut) {
            body.lane = Some(Arc::clone(lane));
            *body.handle.get_mut() = handle.wire();
            *body.value.get_mut() = mark.value;
            *body.epoch.get_mut() = mark.epoch;
            body.meta.dtype = dtype;
            body.meta.shape = meta.shape;
            return Tensor(spare);
        }
        Tensor(Some(Arc::new(Body {
            lane: Some(Arc::clone(lane)),
            handle: AtomicU64::new(handle.wire()),
            value: AtomicU64::new(mark.value),
            epoch: AtomicU32::new(mark.epoch),
            meta: Meta {
                dtype,
                shape: meta.shape,
            },
            uses: OnceLock::new(),
            constant: None,
        })))
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
    pub fn session(&self) -> Session {
        Session::over(Arc::clone(self.lane()))
    }

    /// The session in which this process may use it: its own, or, for a constant from before a fork, the default one.
    pub fn acting(&self) -> Result<Session, Error> {
        if !self.lane().is_foreign() {
            return Ok(self.session());
        }
        if !self.is_constant() {
            return Err(self.foreign_error(Site::UNKNOWN));
        }
        default_session(|| self.lane().core().options.clone())
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
        self.body().lane.as_ref().expect("present until dropped")
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
    /// Memory of tensors that this thread has dropped, for those that it makes. They name nothing and hold no session.
    static SPARE: RefCell<Vec<Arc<Body>>> = const { RefCell::new(Vec::new()) };
}

/// So many are kept in each thread.
const SPARE_MAX: usize = 256;

impl Drop for Tensor {
    #[inline]
    fn drop(&mut self) {
        let Some(mut shared) = self.0.take() else {
            return;
        };
        // Two threads that drop the last two clones at once both pass this by; then `Body` itself ends it.
        let Some(body) = Arc::get_mut(&mut shared) else {
            return;
        };
        body.end();
        if body.constant.take().is_none() {
            // While a thread ends there is no place to keep it.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < SPARE_MAX {
                    spare.push(shared);
                }
            });
        }
    }
}

impl Body {
    /// Lets the name go.
    #[inline]
    fn end(&mut self) {
        let Some(lane) = self.lane.take() else { return };
        if lane.is_foreign() {
            // A forked child must not touch its parent's locks and rings, not even to release.
            std::mem::forget(lane);
            self.uses.take();
            return;
        }
        let handle = Handle::from_wire(*self.handle.get_mut());
        let uses = self.uses.take().map_or_else(Vec::new, |uses| {
            uses.into_inner().unwrap_or_else(PoisonError::into_inner)
        });
        let bytes = self.meta.shape.count() * self.meta.dtype.size() as u64;
        if let Some(handle) = handle {
            let epoch = *self.epoch.get_mut();
            lane.state
                .ring()
                .release(handle, epoch, uses, bytes >= AT_ONCE_BYTES);
        }
    }
}

impl Drop for Body {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {})", self.dtype(), self.shape())
    }
}
