//! A session's table of handles.
//!
//! The client chooses index and generation of each handle. An index stays below the session's limit and a generation never
//! comes twice, so a stale handle is an error and never another tensor. The table belongs to one session and one epoch:
//! a handle of another session cannot be said.

use std::rc::Rc;

use tensord_shm::CHECKED;
use tensord_shm::error::Code;
use tensord_shm::handle::Handle;

use super::value::{Binding, Value};

/// What a trace noted at a handle, so that it knows it again: which trace, and what it is there. In one word, as it is written and
/// compared for each record: trace number (47 bits) | is it a step (1) | number of the place (16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(u64);

/// Numbers of places, of steps as of outside tensors, are below this.
pub const PLACES_MAX: usize = 1 << 16;

impl Mark {
    /// A place in a trace. The number 0 is no trace's.
    #[inline(always)]
    pub fn new(trace: u64, place: Place) -> Mark {
        let (step, number) = match place {
            Place::Step(number) => (1, number),
            Place::External(number) => (0, number),
        };
        debug_assert!((number as usize) < PLACES_MAX, "a trace is short");
        Mark(trace << 17 | step << 16 | u64::from(number as u16))
    }

    /// The trace's number; 0 is none.
    #[inline]
    pub fn trace(self) -> u64 {
        self.0 >> 17
    }

    /// The handle's place in it.
    #[inline]
    pub fn place(self) -> Place {
        let number = u32::from(self.0 as u16);
        match self.0 >> 16 & 1 {
            1 => Place::Step(number),
            _ => Place::External(number),
        }
    }
}

/// A handle's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bound by this step.
    Step(u32),
    /// Bound before the trace began: its operand of this number.
    External(u32),
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Bound(Binding),
    /// A step of a trace will bind it, should anybody still want it when the trace is planned.
    Promised,
}

#[derive(Default)]
struct Slot {
    /// Of the last tensor bound here.
    generation: u32,
    mark: Mark,
    state: State,
}

/// The table. Dropping a binding counts its value's handles down.
pub struct Handles {
    slots: Vec<Slot>,
    limit: u32,
    bound: u32,
    bound_max: u32,
}

impl Handles {
    /// An empty table for indices below `limit`.
    pub fn new(limit: u32) -> Handles {
        Handles {
            slots: Vec::new(),
            limit,
            bound: 0,
            bound_max: limit,
        }
    }

    /// Lets indices below `limit` be used as well. What could be used stays so: the client was told of it.
    pub fn raise_limit(&mut self, limit: u32) {
        self.limit = self.limit.max(limit);
    }

    /// No more than `bound_max` handles may be bound from here on; those that are stay.
    pub fn set_bound_max(&mut self, bound_max: u32) {
        self.bound_max = bound_max;
    }

    /// Is no further handle to be bound?
    pub fn is_full(&self) -> bool {
        self.bound >= self.bound_max
    }

    /// Number of handles bound.
    pub fn bound(&self) -> u32 {
        self.bound
    }

    #[inline]
    fn slot(&self, handle: Handle) -> Option<&Slot> {
        let slot = self.slots.get(handle.index as usize)?;
        (slot.generation == handle.generation).then_some(slot)
    }

    #[inline]
    fn slot_mut(&mut self, handle: Handle) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(handle.index as usize)?;
        (slot.generation == handle.generation).then_some(slot)
    }

    /// What a handle names. A promised one names nothing yet.
    pub fn get(&self, handle: Handle) -> Result<&Binding, Code> {
        match self.slot(handle) {
            Some(Slot {
                state: State::Bound(binding),
                ..
            }) => Ok(binding),
            _ => Err(Code::BadHandle),
        }
    }

    /// What a trace noted at a handle; `None` where the handle names nothing.
    #[inline]
    pub fn mark(&self, handle: Handle) -> Option<Mark> {
        let slot = self.slot(handle)?;
        (!matches!(slot.state, State::Free)).then_some(slot.mark)
    }

    /// Does the handle of this word name something, with this note? The note is a trace's, not the empty one.
    #[inline(always)]
    pub fn is_marked(&self, word: u64, mark: Mark) -> bool {
        // A slot that is let go or bound anew has no note.
        self.slots.get(word as u32 as usize).is_some_and(|slot| {
            (!CHECKED || slot.generation == (word >> 32) as u32) && slot.mark == mark
        })
    }

    /// Notes something at a handle.
    pub fn set_mark(&mut self, handle: Handle, mark: Mark) {
        if let Some(slot) = self.slot_mut(handle) {
            slot.mark = mark;
        }
    }

    /// May this handle be bound?
    #[inline]
    pub fn check_free(&self, handle: Handle) -> Result<(), Code> {
        if !CHECKED {
            return Ok(());
        }
        if handle.index >= self.limit || self.bound >= self.bound_max {
            return Err(Code::Limit);
        }
        match self.slots.get(handle.index as usize) {
            None => Ok(()),
            Some(slot)
                if matches!(slot.state, State::Free) && handle.generation > slot.generation =>
            {
                Ok(())
            }
            Some(_) => Err(Code::HandleInUse),
        }
    }

    /// Binds a handle that [`Handles::check_free`] allowed.
    pub fn bind(&mut self, handle: Handle, binding: Binding) {
        binding.value.handles.set(binding.value.handles.get() + 1);
        let slot = self.occupy(handle, Mark::default());
        slot.state = State::Bound(binding);
    }

    /// Promises a handle that [`Handles::check_free`] allowed to a step of a trace.
    #[inline]
    pub fn promise(&mut self, handle: Handle, mark: Mark) {
        let slot = self.occupy(handle, mark);
        debug_assert!(matches!(slot.state, State::Free), "checked by the caller");
        // What is free has nothing to drop.
        std::mem::forget(std::mem::replace(&mut slot.state, State::Promised));
    }

    #[inline(always)]
    fn occupy(&mut self, handle: Handle, mark: Mark) -> &mut Slot {
        let index = handle.index as usize;
        if index >= self.slots.len() {
            self.grow(index);
        }
        self.bound += 1;
        let slot = &mut self.slots[index];
        slot.generation = handle.generation;
        slot.mark = mark;
        slot
    }

    #[cold]
    fn grow(&mut self, index: usize) {
        self.slots.resize_with(
            (index + 1).next_power_of_two().min(self.limit as usize),
            Slot::default,
        );
    }

    /// Binds a promised handle.
    pub fn keep_promise(&mut self, handle: Handle, binding: Binding) {
        if let Some(slot) = self.slot_mut(handle)
            && matches!(slot.state, State::Promised)
        {
            binding.value.handles.set(binding.value.handles.get() + 1);
            slot.state = State::Bound(binding);
        }
    }

    /// Forgets a handle.
    #[inline]
    pub fn release(&mut self, handle: Handle) -> Result<(), Code> {
        let slot = self.slot_mut(handle).ok_or(Code::BadHandle)?;
        slot.mark = Mark::default();
        match &slot.state {
            State::Free => return Err(Code::BadHandle),
            State::Bound(binding) => unname(&binding.value),
            State::Promised => {}
        }
        slot.state = State::Free;
        self.bound -= 1;
        Ok(())
    }
}

fn unname(value: &Rc<Value>) {
    value.handles.set(value.handles.get() - 1);
}

impl Drop for Handles {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let State::Bound(binding) = &slot.state {
                unname(&binding.value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::value;
    use super::*;
    use tensord_shm::dtype::DType;
    use tensord_shm::layout::Shape;
    use tensord_shm::op::Meta;

    fn binding() -> Binding {
        let meta = Meta {
            dtype: DType::F32,
            shape: Shape::SCALAR,
        };
        Binding {
            value: Value::new(meta, value::State::Waiting),
            view: None,
        }
    }

    fn handle(index: u32, generation: u32) -> Handle {
        Handle { index, generation }
    }

    #[test]
    fn a_stale_handle_is_an_error_and_its_generation_never_comes_again() {
        let mut handles = Handles::new(8);
        handles.bind(handle(3, 1), binding());
        assert_eq!(handles.check_free(handle(3, 2)), Err(Code::HandleInUse));
        handles.release(handle(3, 1)).expect("bound");
        assert_eq!(handles.release(handle(3, 1)), Err(Code::BadHandle));
        assert_eq!(handles.check_free(handle(3, 1)), Err(Code::HandleInUse));
        handles.bind(handle(3, 2), binding());
        assert!(handles.get(handle(3, 1)).is_err());
        assert!(handles.get(handle(3, 2)).is_ok());
    }

    #[test]
    fn a_promise_names_nothing_until_it_is_kept() {
        let mut handles = Handles::new(8);
        let mark = Mark::new(7, Place::Step(2));
        handles.promise(handle(3, 1), mark);
        assert_eq!(handles.bound(), 1);
        assert_eq!(handles.mark(handle(3, 1)), Some(mark));
        assert!(handles.get(handle(3, 1)).is_err());
        assert_eq!(handles.check_free(handle(3, 2)), Err(Code::HandleInUse));
        let kept = binding();
        let value = Rc::clone(&kept.value);
        handles.keep_promise(handle(3, 1), kept);
        assert!(handles.get(handle(3, 1)).is_ok());
        assert_eq!(value.handles.get(), 1);
        handles.release(handle(3, 1)).expect("bound");
        assert_eq!((value.handles.get(), handles.bound()), (0, 0));
        assert_eq!(handles.mark(handle(3, 1)), None);
        handles.keep_promise(handle(3, 1), binding());
        assert!(
            handles.get(handle(3, 1)).is_err(),
            "released before it was kept"
        );
    }

    #[test]
    fn indices_are_bounded_by_the_limit() {
        assert_eq!(Handles::new(8).check_free(handle(8, 1)), Err(Code::Limit));
        assert_eq!(
            Handles::new(8).check_free(handle(u32::MAX, 1)),
            Err(Code::Limit)
        );
    }

    #[test]
    fn no_more_are_bound_than_may_be_and_what_is_bound_stays() {
        let mut handles = Handles::new(8);
        handles.bind(handle(0, 1), binding());
        handles.set_bound_max(1);
        assert_eq!(handles.check_free(handle(1, 1)), Err(Code::Limit));
        assert!(handles.get(handle(0, 1)).is_ok());
        handles.release(handle(0, 1)).expect("bound");
        assert_eq!(handles.check_free(handle(1, 1)), Ok(()));
        handles.raise_limit(9);
        assert_eq!(handles.check_free(handle(8, 1)), Ok(()));
        handles.raise_limit(4);
        assert_eq!(handles.check_free(handle(8, 1)), Ok(()));
    }

    #[test]
    fn bindings_count_the_handles_of_their_value() {
        let mut handles = Handles::new(8);
        let first = binding();
        let value = Rc::clone(&first.value);
        handles.bind(handle(0, 1), first.clone());
        handles.bind(handle(1, 1), first);
        assert_eq!(value.handles.get(), 2);
        drop(handles);
        assert_eq!(value.handles.get(), 0);
    }
}
