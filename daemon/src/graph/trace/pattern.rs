//! A record recognised as it lies in the ring, word for word, behind a branch that has seen one like it.
//!
//! A key says what two records have in common whatever their handles are; making one takes several times as long as reading the record.
//! A pattern says, for each word of a record that had a certain key, what the word has to be so that the record has this key again.
//! It is a shortcut: whatever does not fit is described and looked up by its key.

use std::rc::Rc;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::handle::Handle;
use tensord_shm::record::{Frame, releases_of};

use super::{Accepted, Seen, Trace};
use crate::graph::branch::{Branch, Branches};
use crate::graph::handles::{Handles, Mark, PLACES_MAX, Place};

/// What one word of a record has to be.
#[derive(Clone, Copy, Debug)]
enum Want {
    /// This word.
    Same(u64),
    /// Any scalar of this dtype.
    Scalar(DType),
    /// The handle of an earlier step: an operand, or to be let go.
    Step(u32),
    /// The handle of an outside tensor that the trace has read before.
    External(u32),
    /// A handle of a tensor that the trace has not read yet, described in the key by so many words from a position on.
    New(u16, u16),
    /// A handle to be let go, or no handle, that is not of the trace's making.
    Foreign,
    /// The name of the record's own result.
    Own,
}

/// See the file's head.
#[derive(Debug)]
pub struct Pattern {
    /// Length, flags and opcode.
    head: u32,
    /// Dtype and the number of words of each kind.
    counts: u64,
    /// The words behind these.
    body: Box<[Want]>,
    /// The first of them that lets a handle go.
    releases: usize,
}

impl Trace {
    /// How a record lies that was just described, with the trace's externals before it.
    pub(super) fn pattern(
        &self,
        handles: &Handles,
        frame: &Frame<'_>,
        words: &[u64],
        (externals_before, _): (usize, usize),
    ) -> Pattern {
        let mut body = Vec::with_capacity(words.len());
        // Behind opcode and counts.
        let mut at = 2;
        // Outside tensors are numbered in the order in which they are first named.
        let mut next = externals_before;
        for (position, &word) in frame.operands.iter().enumerate() {
            if frame.is_immediate(position) {
                body.push(Want::Scalar(frame.operand_dtype(position)));
                continue;
            }
            let mark = Handle::from_wire(word).and_then(|handle| handles.mark(handle));
            let (want, len) = match mark.unwrap_or_default().place() {
                Place::External(e) if e as usize == next => {
                    let len = self.seen.externals[next].description_words();
                    next += 1;
                    (Want::New(at, len), len)
                }
                Place::External(e) => (Want::External(e), 1),
                Place::Step(step) => (Want::Step(step), 1),
            };
            body.push(want);
            at += len;
        }
        let dtype = frame.attribute_dtype();
        body.extend(frame.immediates.iter().map(|_| Want::Scalar(dtype)));
        body.extend(frame.attributes.iter().map(|&word| Want::Same(word)));
        let releases = body.len();
        body.extend(releases_of(words).iter().map(|&word| {
            let handle = Handle::from_wire(word);
            let mark = handle.and_then(|handle| handles.mark(handle));
            match mark.filter(|mark| self.made(*mark)).map(Mark::place) {
                Some(Place::Step(step)) => Want::Step(step),
                _ if handle == Some(frame.out) => Want::Own,
                _ => Want::Foreign,
            }
        }));
        Pattern {
            head: words[0] as u32,
            counts: words[2],
            body: body.into(),
            releases,
        }
    }

    /// Takes a record that lies as one did before in this place. [`Accepted::Strange`] leaves the trace as it is, and says nothing
    /// about the record.
    #[inline(never)]
    pub fn follow(
        &mut self,
        branches: &mut Branches,
        handles: &mut Handles,
        words: &[u64],
        about: (u64, u32),
    ) -> Accepted {
        let &[head, out, counts, ref body @ ..] = words else {
            return Accepted::Strange;
        };
        if self.steps.len() >= PLACES_MAX {
            return Accepted::Strange;
        }
        let Some(out) = Handle::from_wire(out).filter(|out| handles.check_free(*out).is_ok())
        else {
            return Accepted::Strange;
        };
        self.begin(branches);
        let before = self.seen.extent();
        let fitting = |branch: &Rc<Branch>| {
            let pattern = branch.pattern();
            let pattern = pattern.as_ref()?;
            if (head as u32, counts) != (pattern.head, pattern.counts) {
                return None;
            }
            let body = body.get(..pattern.body.len())?;
            if self.seen.fits(handles, branch, &pattern.body, body, out) {
                return Some((Rc::clone(branch), &body[pattern.releases..]));
            }
            self.seen.undo(before);
            None
        };
        let known = match self.steps.branches.last() {
            Some(parent) => parent.children().iter().find_map(fitting),
            None => self.firsts.iter().find_map(fitting),
        };
        match known {
            Some((branch, releases)) => self.take(handles, branch, (out, releases), about, before),
            None => Accepted::Strange,
        }
    }
}

impl Seen {
    /// Is every word of a record's body as it has to be? Takes scalars out and notes outside tensors.
    #[inline(always)]
    fn fits(
        &mut self,
        handles: &mut Handles,
        branch: &Branch,
        wants: &[Want],
        body: &[u64],
        out: Handle,
    ) -> bool {
        wants.iter().zip(body).all(|(want, &word)| {
            let marked = |place| handles.is_marked(word, Mark::new(self.number, place));
            match *want {
                Want::Step(step) => marked(Place::Step(step)),
                Want::External(e) => {
                    let handle = Handle::from_wire(word);
                    handle.is_some_and(|handle| self.knows(e, handle)) && marked(Place::External(e))
                }
                Want::Scalar(dtype) => {
                    self.scalars.push(Scalar(word).truncated(dtype));
                    true
                }
                Want::Same(same) => word == same,
                Want::New(at, len) => self.is_described(handles, branch, word, (at, len)),
                Want::Own => word == out.wire(),
                Want::Foreign => word != out.wire() && is_foreign(handles, word),
            }
        })
    }

    /// Is it an outside tensor not read before, described as the key says?
    fn is_described(
        &mut self,
        handles: &mut Handles,
        branch: &Branch,
        word: u64,
        (at, len): (u16, u16),
    ) -> bool {
        let Some(handle) = Handle::from_wire(word) else {
            return false;
        };
        // What a trace knows has another description.
        let known = handles.mark(handle).is_none_or(|mark| match mark.place() {
            Place::Step(_) => true,
            Place::External(e) => mark.trace() == self.number && self.knows(e, handle),
        });
        if known {
            return false;
        }
        self.key.clear();
        let (at, len) = (usize::from(at), usize::from(len));
        self.describe_external(handles, handle).is_some()
            && branch.key().get(at..at + len) == Some(&self.key[..])
    }
}

/// May it be let go without a word in the key?
fn is_foreign(handles: &Handles, word: u64) -> bool {
    let mark = Handle::from_wire(word).and_then(|handle| handles.mark(handle));
    mark.is_none_or(|mark| matches!(mark.place(), Place::External(_)))
}
