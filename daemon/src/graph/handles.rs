//! A session's table of handles.
//!
//! The client chooses index and generation of each handle. An index stays below the session's limit and a generation never
//! comes twice, so a stale handle is an error and never another tensor. The table belongs to one session and one epoch:
//! a handle of another session cannot be said.

use std::rc::Rc;

use tensord_shm::error::Code;
use tensord_shm::handle::Handle;

use super::value::{Binding, Value};

#[derive(Default)]
struct Slot {
    /// Of the last tensor bound here.
    generation: u32,
    binding: Option<Binding>,
}

/// The table. Dropping a binding counts its value's handles down.
pub struct Handles {
    slots: Vec<Slot>,
    limit: u32,
    bound: u32,
}

impl Handles {
    /// An empty table for indices below `limit`.
    pub fn new(limit: u32) -> Handles {
        Handles {
            slots: Vec::new(),
            limit,
            bound: 0,
        }
    }

    /// Number of handles bound.
    pub fn bound(&self) -> u32 {
        self.bound
    }

    /// What a handle names.
    pub fn get(&self, handle: Handle) -> Result<&Binding, Code> {
        let slot = self
            .slots
            .get(handle.index as usize)
            .ok_or(Code::BadHandle)?;
        match &slot.binding {
            Some(binding) if slot.generation == handle.generation => Ok(binding),
            _ => Err(Code::BadHandle),
        }
    }

    /// May this handle be bound?
    pub fn check_free(&self, handle: Handle) -> Result<(), Code> {
        if handle.index >= self.limit {
            return Err(Code::Limit);
        }
        match self.slots.get(handle.index as usize) {
            None => Ok(()),
            Some(slot) if slot.binding.is_none() && handle.generation > slot.generation => Ok(()),
            Some(_) => Err(Code::HandleInUse),
        }
    }

    /// Binds a handle that [`Handles::check_free`] allowed.
    pub fn bind(&mut self, handle: Handle, binding: Binding) {
        let index = handle.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(
                (index + 1).next_power_of_two().min(self.limit as usize),
                Slot::default,
            );
        }
        binding.value.handles.set(binding.value.handles.get() + 1);
        self.bound += 1;
        self.slots[index] = Slot {
            generation: handle.generation,
            binding: Some(binding),
        };
    }

    /// Forgets a handle.
    pub fn release(&mut self, handle: Handle) -> Result<(), Code> {
        self.get(handle)?;
        let slot = &mut self.slots[handle.index as usize];
        if let Some(binding) = slot.binding.take() {
            self.bound -= 1;
            unname(&binding.value);
        }
        Ok(())
    }
}

fn unname(value: &Rc<Value>) {
    value.handles.set(value.handles.get() - 1);
}

impl Drop for Handles {
    fn drop(&mut self) {
        for binding in self.slots.iter_mut().filter_map(|slot| slot.binding.take()) {
            unname(&binding.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::State;
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
            value: Value::new(meta, State::Waiting),
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
    fn indices_are_bounded_by_the_limit() {
        assert_eq!(Handles::new(8).check_free(handle(8, 1)), Err(Code::Limit));
        assert_eq!(
            Handles::new(8).check_free(handle(u32::MAX, 1)),
            Err(Code::Limit)
        );
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
