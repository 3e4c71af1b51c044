//! What a queue has accepted and nobody has planned yet, as a path through what was accepted before.
//!
//! A record is put in a form that repeats ([`Trace::accept`]): handles become numbers of earlier steps or of outside tensors, scalars are
//! taken out. Where that form is known, the record is done with: nothing is decoded, inferred or built. A whole path that was
//! planned before gives its work at once ([`Trace::replay`]). In every other case the trace becomes nodes of the window
//! ([`Trace::expand`]), which knows all cases; what the planner makes of them is noted for the next time ([`Lesson`]).
//!
//! # Invariants
//! A trace is exactly what the window would be: a step's handle is promised in the table as long as the client may use it. While a trace has
//! steps the window is empty. Whatever the trace does not understand expands it first, so that order is kept.

mod pattern;
mod plan;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use tensord_shm::dtype::Scalar;
use tensord_shm::handle::Handle;
use tensord_shm::layout::{Layout, Shape};
use tensord_shm::op::{Meta, Op, Operand, scalar_meta};
use tensord_shm::record::{
    Frame, Request, attributes_of, decode, frame_of, is_canonical, released_by, releases_of,
    releases_of_mut,
};

use crate::graph::branch::{Act, Arg, Branch, Branches};
use crate::graph::handles::{Handles, Mark, PLACES_MAX, Place};
use crate::graph::value::{Binding, Value};
use crate::graph::window::NodeOp;

pub use pattern::Pattern;
pub use plan::{Lesson, Replay};

/// Tags of a key's words.
const STEP: u64 = 1 << 60;
const EXTERNAL: u64 = 2 << 60;
const FIRST_SEEN: u64 = 3 << 60;
const RELEASED: u64 = 4 << 60;
const READ: u64 = 5 << 60;

/// First records of traces that a queue remembers.
const FIRSTS_MAX: usize = 4;

/// The records accepted. What recognising reads stands by itself.
#[derive(Default)]
struct Steps {
    branches: Vec<Rc<Branch>>,
    rows: Vec<Row>,
    /// Results that somebody has asked for already, of the first so many steps.
    values: Vec<Option<Rc<Value>>>,
}

/// What is a record's own and not its branch's.
struct Row {
    /// What it binds; generation 0, which is no handle, where it only takes note.
    out: Handle,
    /// Timeline value.
    number: u64,
    site: u32,
    /// Its first scalar.
    scalars_from: u32,
}

impl Steps {
    #[inline(always)]
    fn push(
        &mut self,
        branch: Rc<Branch>,
        out: Handle,
        (number, site): (u64, u32),
        scalars_from: u32,
    ) {
        self.branches.push(branch);
        self.rows.push(Row {
            out,
            number,
            site,
            scalars_from,
        });
    }

    #[inline]
    fn len(&self) -> usize {
        self.branches.len()
    }

    /// The place of a step's result.
    fn value_mut(&mut self, step: usize) -> &mut Option<Rc<Value>> {
        if self.values.len() <= step {
            self.values.resize(step + 1, None);
        }
        &mut self.values[step]
    }

    fn clear(&mut self) {
        self.branches.clear();
        self.rows.clear();
        self.values.clear();
    }
}

/// A tensor from before the trace.
struct External {
    handle: Handle,
    value: Rc<Value>,
    view: Option<Rc<Layout>>,
    /// Is there an earlier one of the same value?
    alias: bool,
}

impl External {
    fn layout(&self) -> Layout {
        self.view
            .as_ref()
            .map_or_else(|| Layout::contiguous(self.value.meta.shape), |view| **view)
    }

    /// Words that describe it in a key.
    fn description_words(&self) -> u16 {
        let view = self.view.as_ref().map(|view| 1 + 2 * view.shape.rank());
        (1 + self.value.meta.shape.rank() + view.unwrap_or(0)) as u16
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It will have its outcome when the trace is planned.
    Computed,
    /// It names a view, and is over.
    Viewed,
    /// It is not for the trace, which is as it was.
    Strange,
}

/// What the records accepted have named that is not theirs.
#[derive(Default)]
struct Seen {
    /// Of all traces, this one; new each time it begins.
    number: u64,
    externals: Vec<External>,
    scalars: Vec<Scalar>,
    /// The key of the record at hand.
    key: Vec<u64>,
}

impl Seen {
    /// Externals and scalars so far.
    #[inline]
    fn extent(&self) -> (usize, usize) {
        (self.externals.len(), self.scalars.len())
    }

    /// Forgets externals and scalars from there on.
    fn undo(&mut self, (externals, scalars): (usize, usize)) {
        for external in self.externals.drain(externals..) {
            external.value.drop_use();
        }
        self.scalars.truncate(scalars);
    }

    #[inline]
    fn knows(&self, external: u32, handle: Handle) -> bool {
        self.externals
            .get(external as usize)
            .is_some_and(|known| known.handle == handle)
    }

    fn describe_external(&mut self, handles: &mut Handles, handle: Handle) -> Option<()> {
        let Binding { value, view } = handles.get(handle).ok()?.clone();
        if value.failure().is_some()
            || value.building().is_some()
            || self.externals.len() >= PLACES_MAX
        {
            return None;
        }
        let index = self.externals.len() as u32;
        let (trace, first) = value.mark.get();
        // Two handles of one value: the planner takes them for one input.
        let alias = trace == self.number
            && self
                .externals
                .get(first as usize)
                .is_some_and(|other| Rc::ptr_eq(&other.value, &value));
        if !alias {
            value.mark.set((self.number, index));
        }
        let about = u64::from(value.meta.dtype.wire())
            | u64::from(value.constant.get()) << 8
            | u64::from(view.is_some()) << 9
            | (value.meta.shape.rank() as u64) << 16
            | if alias { u64::from(first) + 1 } else { 0 } << 24;
        self.key.push(FIRST_SEEN | about);
        self.key.extend_from_slice(&value.meta.shape);
        if let Some(layout) = &view {
            let rank = layout.shape.rank();
            self.key.push(rank as u64 | (layout.offset as u64) << 8);
            self.key.extend_from_slice(&layout.shape);
            let strides = layout.strides[..rank].iter();
            self.key.extend(strides.map(|&stride| stride as u64));
        }
        value.add_use();
        self.externals.push(External {
            handle,
            value,
            view,
            alias,
        });
        let place = Place::External(index);
        handles.set_mark(handle, Mark::new(self.number, place));
        Some(())
    }
}

/// What this queue's traces began with lately: behind nothing there are too many branches to look at each.
#[derive(Default)]
struct Firsts {
    /// The latest last.
    branches: Vec<Rc<Branch>>,
    /// Of the tree that they are from.
    generation: u64,
}

impl Firsts {
    /// Lets go what is not in the tree any more.
    #[inline]
    fn keep_those_of(&mut self, tree: &Branches) {
        if self.generation != tree.generation() {
            self.branches.clear();
            self.generation = tree.generation();
        }
    }

    fn note(&mut self, tree: &Branches, first: &Rc<Branch>) {
        self.keep_those_of(tree);
        if self.branches.iter().any(|known| Rc::ptr_eq(known, first)) {
            return;
        }
        if self.branches.len() == FIRSTS_MAX {
            self.branches.remove(0);
        }
        self.branches.push(Rc::clone(first));
    }

    fn iter(&self) -> impl Iterator<Item = &Rc<Branch>> {
        self.branches.iter()
    }
}

/// See the file's head.
#[derive(Default)]
pub struct Trace {
    seen: Seen,
    steps: Steps,
    firsts: Firsts,
    /// Steps that compute.
    operations: usize,
    largest_bytes: u64,
    /// Timeline values of the first and last step that computes.
    first: u64,
    last: u64,
}

impl Trace {
    /// Steps so far.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Is nothing in it?
    pub fn is_empty(&self) -> bool {
        self.steps.len() == 0
    }

    /// Timeline value of the first operation that computes.
    pub fn first_number(&self) -> Option<u64> {
        (self.operations > 0).then_some(self.first)
    }

    /// Timeline value of the last operation that computes.
    pub fn last_number(&self) -> u64 {
        self.last
    }

    /// Number of operations that compute.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Bytes of the largest result.
    pub fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Is it this trace that has promised the handle, or made it?
    pub fn made(&self, mark: Mark) -> bool {
        !self.is_empty()
            && mark.trace() == self.seen.number
            && matches!(mark.place(), Place::Step(_))
    }

    // ------------------------------------------------------------------ accept

    /// Before the first record: a trace that nobody had before, and no memory of branches that are gone.
    #[inline(always)]
    fn begin(&mut self, branches: &mut Branches) {
        if self.is_empty() {
            self.firsts.keep_those_of(branches);
            self.seen.number = branches.number();
        }
    }

    /// Takes one record with timeline value and source position, and lets go what it releases.
    pub fn accept(
        &mut self,
        branches: &mut Branches,
        handles: &mut Handles,
        words: &[u64],
        (number, site): (u64, u32),
    ) -> Accepted {
        let Some(frame) = frame_of(words).filter(|_| self.steps.len() < PLACES_MAX) else {
            return Accepted::Strange;
        };
        if handles.check_free(frame.out).is_err() {
            return Accepted::Strange;
        }
        self.begin(branches);
        let before = self.seen.extent();
        let branch = match self.describe(handles, &frame, words) {
            None => None,
            Some(()) => branches
                .find(self.at(), &self.seen.key)
                .or_else(|| self.learn(branches, handles, &frame, words)),
        };
        let Some(branch) = branch else {
            self.seen.undo(before);
            return Accepted::Strange;
        };
        branch.set_pattern(self.pattern(handles, &frame, words, before));
        if self.is_empty() {
            self.firsts.note(branches, &branch);
        }
        self.take(
            handles,
            branch,
            (frame.out, releases_of(words)),
            (number, site),
            before,
        )
    }

    /// Makes a record whose branch is known the next step.
    #[inline(always)]
    fn take(
        &mut self,
        handles: &mut Handles,
        branch: Rc<Branch>,
        (out, releases): (Handle, &[u64]),
        (number, site): (u64, u32),
        before: (usize, usize),
    ) -> Accepted {
        let place = Place::Step(self.steps.len() as u32);
        handles.promise(out, Mark::new(self.seen.number, place));
        for handle in releases.iter().filter_map(|&word| Handle::from_wire(word)) {
            // A release of nothing is no fault of the operation's.
            let _ = handles.release(handle);
        }
        let accepted = match branch.result_bytes {
            Some(bytes) => {
                if self.operations == 0 {
                    self.first = number;
                }
                self.last = number;
                self.operations += 1;
                self.largest_bytes = self.largest_bytes.max(bytes);
                Accepted::Computed
            }
            None => Accepted::Viewed,
        };
        self.steps
            .push(branch, out, (number, site), before.1 as u32);
        accepted
    }

    fn at(&self) -> Option<&Rc<Branch>> {
        self.steps.branches.last()
    }

    /// Writes the record's key, takes its scalars out and notes outside tensors. `None` where it names what cannot be read, or
    /// what another trace has promised.
    fn describe(&mut self, handles: &mut Handles, frame: &Frame<'_>, words: &[u64]) -> Option<()> {
        self.seen.key.clear();
        self.seen.key.push(u64::from(frame.opcode));
        self.seen.key.push(frame.counts);
        for (position, &word) in frame.operands.iter().enumerate() {
            if frame.is_immediate(position) {
                let dtype = frame.operand_dtype(position);
                self.seen.scalars.push(Scalar(word).truncated(dtype));
                continue;
            }
            let handle = Handle::from_wire(word)?;
            let mark = handles.mark(handle)?;
            match mark.place() {
                Place::Step(step) if mark.trace() == self.seen.number => {
                    self.seen.key.push(STEP | u64::from(step));
                }
                // Promised by another queue of the session.
                Place::Step(_) => return None,
                Place::External(e)
                    if mark.trace() == self.seen.number && self.seen.knows(e, handle) =>
                {
                    self.seen.key.push(EXTERNAL | u64::from(e));
                }
                Place::External(_) => self.seen.describe_external(handles, handle)?,
            }
        }
        let dtype = frame.attribute_dtype();
        let scalars = frame.immediates.iter();
        self.seen
            .scalars
            .extend(scalars.map(|&word| Scalar(word).truncated(dtype)));
        self.seen.key.extend_from_slice(frame.attributes);
        for handle in released_by(words) {
            let step = if handle == frame.out {
                self.steps.len() as u32
            } else {
                match handles.mark(handle) {
                    Some(mark) => match mark.place() {
                        Place::Step(step) if mark.trace() == self.seen.number => step,
                        Place::Step(_) => return None,
                        Place::External(_) => continue,
                    },
                    None => continue,
                }
            };
            self.seen.key.push(RELEASED | u64::from(step));
        }
        Some(())
    }

    /// A new branch for the record just described; `None` where it makes no sense, or is one of the few that become more than one
    /// node.
    #[cold]
    #[inline(never)]
    fn learn(
        &self,
        branches: &mut Branches,
        handles: &Handles,
        frame: &Frame<'_>,
        words: &[u64],
    ) -> Option<Rc<Branch>> {
        let Request::Compute(compute) = decode(words).ok()?.request else {
            return None;
        };
        if !is_canonical(frame, &compute) {
            return None;
        }
        let mut metas = Vec::with_capacity(compute.operands().len());
        let mut args = Vec::with_capacity(compute.operands().len());
        for operand in compute.operands() {
            match *operand {
                Operand::Immediate(dtype, _) => {
                    metas.push(scalar_meta(dtype));
                    args.push(Arg::Immediate(dtype));
                }
                Operand::Tensor(handle) => {
                    let place = handles.mark(handle)?.place();
                    metas.push(self.meta(place)?);
                    args.push(Arg::Tensor(place));
                }
            }
        }
        let meta = compute.op.infer(&metas.iter().collect::<Vec<_>>()).ok()?;
        let immediate = |arg: &Arg| matches!(arg, Arg::Immediate(_));
        let act = if compute.op.is_view() {
            let Some(&Arg::Tensor(place)) = args.first() else {
                return None;
            };
            let (base, shape, layout) = self.layout(place)?;
            let layout = compute.op.apply_view(&layout)?;
            let own = layout.is_contiguous() && layout.shape == shape;
            Act::View {
                base,
                layout: (!own).then(|| Rc::new(layout)),
                meta,
            }
        } else if matches!(compute.op, Op::Scatter { .. }) && args.iter().any(immediate) {
            return None;
        } else {
            Act::Compute {
                op: NodeOp::from(compute.op),
                meta,
                args: args.into(),
                attributes: attributes_of(words).into(),
                attribute_scalars: frame.immediates.len(),
            }
        };
        Some(branches.add(self.at(), &self.seen.key, act))
    }

    fn meta(&self, place: Place) -> Option<Meta> {
        match place {
            Place::Step(step) => self.steps.branches.get(step as usize)?.meta().copied(),
            Place::External(e) => {
                let External { value, view, .. } = self.seen.externals.get(e as usize)?;
                let shape = view.as_ref().map_or(value.meta.shape, |view| view.shape);
                let dtype = value.meta.dtype;
                Some(Meta { dtype, shape })
            }
        }
    }

    /// What a place is a view of, that one's shape, and the view's layout.
    fn layout(&self, place: Place) -> Option<(Place, Shape, Layout)> {
        match place {
            Place::External(e) => {
                let external = self.seen.externals.get(e as usize)?;
                Some((place, external.value.meta.shape, external.layout()))
            }
            Place::Step(step) => match &*self.steps.branches.get(step as usize)?.act {
                Act::Compute { meta, .. } => {
                    Some((place, meta.shape, Layout::contiguous(meta.shape)))
                }
                Act::View { base, layout, .. } => {
                    let (_, shape, whole) = self.layout(*base)?;
                    // A view of a view was composed when it was made; of an outside view, it has the whole layout in it.
                    let layout = layout.as_ref().map_or(whole, |layout| **layout);
                    Some((*base, shape, layout))
                }
                Act::Note => None,
            },
        }
    }

    /// Takes note of results of this trace that a record lets go, but for what stands in `kept`, before they are released.
    fn note_releases(
        &mut self,
        branches: &mut Branches,
        handles: &Handles,
        words: &[u64],
        kept: &[u64],
    ) {
        self.seen.key.clear();
        for handle in released_by(words) {
            if let Some(mark) = handles.mark(handle).filter(|mark| self.made(*mark))
                && let Place::Step(step) = mark.place()
                && !kept.contains(&handle.wire())
            {
                self.seen.key.push(RELEASED | u64::from(step));
            }
        }
        if !self.seen.key.is_empty() {
            self.note(branches);
        }
    }

    /// Takes note of results of this trace that a record of another kind lets go, before it does.
    pub fn pass(&mut self, branches: &mut Branches, handles: &Handles, words: &[u64]) {
        if !self.is_empty() {
            self.note_releases(branches, handles, words, &[]);
        }
    }

    /// Lets go what the record after the trace's last one lets go, but for what it reads itself, and strikes it out there.
    pub fn release_early(
        &mut self,
        branches: &mut Branches,
        handles: &mut Handles,
        words: &mut [u64],
    ) {
        let read = frame_of(words).map_or_else(Vec::new, |frame| frame.operands.to_vec());
        self.note_releases(branches, handles, words, &read);
        for word in releases_of_mut(words) {
            if let Some(handle) = Handle::from_wire(*word)
                && handles.mark(handle).is_some_and(|mark| self.made(mark))
                && !read.contains(word)
            {
                let _ = handles.release(handle);
                *word = 0;
            }
        }
    }

    /// Makes the value of a result that somebody wants to read, and binds its handle.
    pub fn export(
        &mut self,
        branches: &mut Branches,
        handles: &mut Handles,
        handle: Handle,
        queue: u32,
    ) {
        let mark = handles.mark(handle).filter(|mark| self.made(*mark));
        let Some(Place::Step(step)) = mark.map(Mark::place) else {
            return;
        };
        self.seen.key.clear();
        self.seen.key.push(READ | u64::from(step));
        self.note(branches);
        if let Some(binding) = self.binding(step, queue) {
            handles.keep_promise(handle, binding);
        }
    }

    fn note(&mut self, branches: &mut Branches) {
        let branch = branches
            .find(self.at(), &self.seen.key)
            .unwrap_or_else(|| branches.add(self.at(), &self.seen.key, Act::Note));
        let none = Handle {
            index: 0,
            generation: 0,
        };
        self.steps
            .push(branch, none, (0, 0), self.seen.scalars.len() as u32);
    }
}
