//! What queues have asked for before, as a tree: each branch is one record in a form without names and numbers, and the path to it is
//! everything accepted since the queue's window was last empty.
//!
//! A record that finds its branch needs no decoding, no inference and no node: the branch has their results. A path that was
//! planned before has its plan at its end ([`Ending`]).
//!
//! # Invariants
//! Branches are compared by everything that their results depend on: operation, attributes, dtypes, which operand is which earlier result
//! or outside tensor, the shape and layout of each outside tensor where it is first named, and which results are let go.
//! The tree is bounded whatever clients send: a branch has few children, and a tree with too many branches begins anew. Who is
//! on a path keeps it.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::Layout;
use tensord_shm::op::Meta;

use super::handles::Place;
use super::trace::Pattern;
use super::window::NodeOp;
use crate::fuse::Template;
use crate::map::Map;

/// Branches in the tree, and words of all their keys, before it begins anew.
const BRANCHES_MAX: usize = 1 << 14;
const KEY_WORDS_MAX: usize = 1 << 20;
/// Different records that may follow one branch; a further one takes the place of another.
const CHILDREN_MAX: usize = 16;
/// Different records that a path may begin with.
const ROOTS_MAX: usize = 1 << 12;

/// An operand of a traced operation.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An earlier step's result, or an outside tensor.
    Tensor(Place),
    /// A scalar of the record.
    Immediate(DType),
}

/// What a record does.
#[derive(Debug)]
pub enum Act {
    /// It makes a value.
    Compute {
        /// The operation.
        op: NodeOp,
        /// Dtype and shape of the result.
        meta: Meta,
        /// Its operands.
        args: Box<[Arg]>,
        /// Its attribute words, in which scalars are those of the first such record.
        attributes: Box<[u64]>,
        /// How many scalars stand among the attributes.
        attribute_scalars: usize,
    },
    /// It names a view.
    View {
        /// Of what: a step that computes, or an outside tensor.
        base: Place,
        /// The view over the base's row-major elements; `None` is all of them, row-major.
        layout: Option<Rc<Layout>>,
        /// Dtype and shape.
        meta: Meta,
    },
    /// It only lets results go, or reads one.
    Note,
}

/// One record, where all before it are known.
#[derive(Debug)]
pub struct Branch {
    key: Box<[u64]>,
    children: RefCell<Vec<Rc<Branch>>>,
    /// How such a record last lay in the ring.
    pattern: RefCell<Option<Box<Pattern>>>,
    /// Bytes of the result, where it computes one.
    pub result_bytes: Option<u64>,
    ending: RefCell<Option<Rc<Ending>>>,
    /// What it does. Apart: a record that is recognised has no need of it.
    pub act: Box<Act>,
}

impl Branch {
    /// Dtype and shape of what it makes.
    pub fn meta(&self) -> Option<&Meta> {
        match &*self.act {
            Act::Compute { meta, .. } | Act::View { meta, .. } => Some(meta),
            Act::Note => None,
        }
    }

    /// What may follow, as far as it was seen.
    #[inline]
    pub fn children(&self) -> Ref<'_, Vec<Rc<Branch>>> {
        self.children.borrow()
    }

    /// What all such records have in common, in the form in which keys are compared.
    pub fn key(&self) -> &[u64] {
        &self.key
    }

    /// How such a record last lay in the ring.
    #[inline]
    pub fn pattern(&self) -> Ref<'_, Option<Box<Pattern>>> {
        self.pattern.borrow()
    }

    /// Notes how such a record lay in the ring.
    pub fn set_pattern(&self, pattern: Pattern) {
        *self.pattern.borrow_mut() = Some(Box::new(pattern));
    }

    /// What is known of a window that ends here.
    pub fn ending(&self) -> Option<Rc<Ending>> {
        self.ending.borrow().clone()
    }

    /// Notes what became of a window that ended here.
    pub fn set_ending(&self, ending: Ending) {
        *self.ending.borrow_mut() = Some(Rc::new(ending));
    }
}

/// Where a plan's scalar comes from.
#[derive(Clone, Copy, Debug)]
pub enum ScalarSource {
    /// The trace's scalar of this number.
    At(u32),
    /// The plan's own.
    Fixed(Scalar),
}

/// The plan of a whole path, and how an instance of it is bound. Steps and outside tensors by their numbers.
#[derive(Debug)]
pub struct Ending {
    /// The plan.
    pub template: Rc<Template>,
    /// The outside tensors that are its inputs.
    pub inputs: Vec<u32>,
    /// The steps whose results are its outputs.
    pub outputs: Vec<u32>,
    /// The steps whose handles are still wanted.
    pub alive: Vec<u32>,
    /// Its scalars.
    pub scalars: Vec<ScalarSource>,
}

/// The tree, of all sessions together: it holds structure and no content.
#[derive(Default)]
pub struct Branches {
    roots: Map<Box<[u64]>, Rc<Branch>>,
    count: usize,
    key_words: usize,
    last_number: u64,
    generation: u64,
}

impl Branches {
    /// A number that no trace and no cut had before.
    pub fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// How often the tree began anew.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The record with this key behind `parent`, if it was seen there.
    #[inline]
    pub fn find(&self, parent: Option<&Rc<Branch>>, key: &[u64]) -> Option<Rc<Branch>> {
        match parent {
            None => self.roots.get(key).cloned(),
            Some(parent) => parent
                .children
                .borrow()
                .iter()
                .find(|child| *child.key == *key)
                .cloned(),
        }
    }

    /// Adds a record behind `parent`.
    pub fn add(&mut self, parent: Option<&Rc<Branch>>, key: &[u64], act: Act) -> Rc<Branch> {
        let full = self.count >= BRANCHES_MAX
            || self.key_words + key.len() > KEY_WORDS_MAX
            || self.roots.len() >= ROOTS_MAX;
        if full {
            self.roots.clear();
            self.generation += 1;
            self.count = 0;
            self.key_words = 0;
        }
        self.count += 1;
        self.key_words += key.len();
        let result_bytes = match &act {
            Act::Compute { meta, .. } => Some(meta.shape.count() * meta.dtype.size() as u64),
            Act::View { .. } | Act::Note => None,
        };
        let branch = Rc::new(Branch {
            key: key.into(),
            result_bytes,
            act: Box::new(act),
            children: RefCell::default(),
            pattern: RefCell::default(),
            ending: RefCell::default(),
        });
        match parent {
            None => drop(self.roots.insert(key.into(), Rc::clone(&branch))),
            Some(parent) => {
                let mut children = parent.children.borrow_mut();
                match children.len() < CHILDREN_MAX {
                    true => children.push(Rc::clone(&branch)),
                    false => children[self.count % CHILDREN_MAX] = Rc::clone(&branch),
                }
            }
        }
        branch
    }
}
