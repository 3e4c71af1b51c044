//! What handles name and operations produce: an immutable value that exists, will exist, or failed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tensord_shm::error::Code;
use tensord_shm::layout::Layout;
use tensord_shm::op::Meta;

use crate::account::Reference;
use crate::dispatch::memory::Block;

/// Why a value does not exist, and whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub code: Code,
    /// Timeline value of the request that failed first.
    pub origin: u64,
    /// Its source position.
    pub site: u32,
}

/// How far a value is.
#[derive(Clone, Debug)]
pub enum State {
    /// An operation that has not been dispatched will make it.
    Waiting,
    /// It is in memory, or a dispatched launch writes it there: later launches may read it.
    Ready(Rc<Block>),
    /// The client is writing it in pieces.
    Building(Rc<Block>),
    /// It will never exist.
    Failed(Failure),
}

/// A value, row-major where it is in memory. Views of it stand in the bindings of handles.
#[derive(Debug)]
pub struct Value {
    /// Dtype and shape.
    pub meta: Meta,
    /// Shared by content: kernels may keep other layouts of it.
    pub constant: Cell<bool>,
    /// Handles that name it or a view of it.
    pub handles: Cell<u32>,
    /// Operands of requests that were not dispatched, and downloads.
    pub uses: Cell<u32>,
    /// The launch that writes it; 0 for values that no launch writes.
    pub launch: Cell<u64>,
    /// Scratch of the planner: which segment looked at it, and its number there.
    pub mark: Cell<(u64, u32)>,
    /// The queue whose window holds its operation.
    pub queue: Cell<u32>,
    /// What its session and uid pay for a reference to shared content.
    pub charge: RefCell<Option<Reference>>,
    state: RefCell<State>,
}

impl Value {
    /// A value in some state.
    pub fn new(meta: Meta, state: State) -> Rc<Value> {
        Rc::new(Value {
            meta,
            constant: Cell::new(false),
            handles: Cell::new(0),
            uses: Cell::new(0),
            launch: Cell::new(0),
            mark: Cell::new((0, 0)),
            queue: Cell::new(0),
            charge: RefCell::new(None),
            state: RefCell::new(state),
        })
    }

    /// Its memory, if it has some that launches may read.
    pub fn block(&self) -> Option<Rc<Block>> {
        match &*self.state.borrow() {
            State::Ready(block) => Some(Rc::clone(block)),
            _ => None,
        }
    }

    /// The memory that is being written in pieces.
    pub fn building(&self) -> Option<Rc<Block>> {
        match &*self.state.borrow() {
            State::Building(block) => Some(Rc::clone(block)),
            _ => None,
        }
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        match &*self.state.borrow() {
            State::Failed(failure) => Some(*failure),
            _ => None,
        }
    }

    /// Will an undispatched operation make it?
    pub fn is_waiting(&self) -> bool {
        matches!(&*self.state.borrow(), State::Waiting)
    }

    /// Moves it on.
    pub fn set(&self, state: State) {
        *self.state.borrow_mut() = state;
    }

    /// One more operand reads it.
    pub fn add_use(&self) {
        self.uses.set(self.uses.get() + 1);
    }

    /// One operand less.
    pub fn drop_use(&self) {
        self.uses.set(self.uses.get() - 1);
    }
}

/// What a handle names: a view of a value.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The value.
    pub value: Rc<Value>,
    /// The view; `None` is the value itself, row-major.
    pub view: Option<Rc<Layout>>,
}

impl Binding {
    /// The view's layout over the value's row-major elements.
    pub fn layout(&self) -> Layout {
        match &self.view {
            Some(layout) => **layout,
            None => Layout::contiguous(self.value.meta.shape),
        }
    }

    /// Dtype and shape as the client sees them.
    pub fn meta(&self) -> Meta {
        match &self.view {
            Some(layout) => Meta {
                dtype: self.value.meta.dtype,
                shape: layout.shape,
            },
            None => self.value.meta,
        }
    }
}
