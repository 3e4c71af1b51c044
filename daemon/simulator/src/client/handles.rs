//! A client's names for tensors.

use tensord_shm::handle::Handle;

/// The names of one queue: indices of its own, the last one freed first.
#[derive(Debug)]
pub struct Handles {
    first: u32,
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Handles {
    /// Names from this index on.
    pub fn new(first: u32) -> Handles {
        Handles {
            first,
            generations: Vec::new(),
            free: Vec::new(),
        }
    }

    /// A name that nobody has.
    pub fn take(&mut self) -> Handle {
        let place = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            self.generations.len() as u32 - 1
        });
        let generation = &mut self.generations[place as usize];
        *generation += 1;
        Handle {
            index: self.first + place,
            generation: *generation,
        }
    }

    /// The name may be given again to what is submitted later to the same queue.
    pub fn give(&mut self, handle: Handle) {
        self.free.push(handle.index - self.first);
    }
}
