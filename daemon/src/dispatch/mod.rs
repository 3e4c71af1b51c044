//! Places results in memory and hands launches to the backend.
//!
//! In: works of equal plans that the scheduler grouped. Out: one launch, with a row for each work. An operand whose last use this
//! is gives its memory to the result where the plan allows it.

pub mod constants;
pub mod memory;
pub mod transfer;

use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::{Backend, DeviceFault, Instance, Launch, LaunchId};
use tensord_shm::error::Code;

use crate::engine_process::SessionId;
use crate::graph::value::{Failure, State, Value};
use crate::schedule::Work;
use crate::slate::Running;
use constants::Constants;
use memory::{Block, Memory};
use transfer::Owner;

/// A device with its memory.
pub struct Device {
    /// How it is talked to.
    pub backend: Box<dyn Backend>,
    /// Its memory.
    pub memory: Memory,
    /// The constants in it.
    pub constants: Constants,
    /// Launches that are not over.
    pub in_flight: Vec<InFlight>,
    last_launch: u64,
}

/// A work that is part of a launch.
pub struct Placed {
    /// Whose it is.
    pub session: SessionId,
    /// Index of the session and number of the queue.
    pub place: (usize, usize),
    /// The work.
    pub work: Work,
    /// What its owner was charged when it was launched, and has not used yet.
    pub charged_ns: u64,
}

/// A launch under way, and everything that has to stay until it is over.
pub struct InFlight {
    /// Which.
    pub id: LaunchId,
    /// Its instances.
    pub works: Vec<Placed>,
    /// Whose they are.
    pub running: Running,
    /// Was it stopped, and waits until it is resumed?
    pub stopped: bool,
    /// Device time that it had.
    pub busy_ns: u64,
    /// Memory that it reads or writes.
    _keep: Vec<Rc<Block>>,
}

impl Device {
    /// A device with nothing in it; a simulated one hashes constants on the caller's thread.
    pub fn new(backend: Box<dyn Backend>, simulated: bool) -> Device {
        Device {
            backend,
            memory: Memory::default(),
            constants: Constants::new(simulated),
            in_flight: Vec::new(),
            last_launch: 0,
        }
    }

    /// Can host memory be filled from this value now?
    pub fn is_written(&self, value: &Value) -> bool {
        let id = LaunchId(value.launch.get());
        !self.in_flight.iter().any(|launch| launch.id == id)
    }

    /// Are all of a work's operands there? Those of a launch that is not over are not.
    pub fn has_operands(&self, work: &Work) -> bool {
        let there = |value: &Rc<Value>| !value.is_waiting() && self.is_written(value);
        work.inputs.iter().all(there)
    }

    /// A launch that ran: it is no longer in flight unless it is put back.
    pub fn take(&mut self, id: LaunchId) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|launch| launch.id == id)?;
        Some(self.in_flight.remove(at))
    }

    /// Ends those launches that `which` names, all of them stopped: their results are never read.
    pub fn abandon(&mut self, which: impl Fn(&InFlight) -> bool) {
        let Device {
            in_flight, backend, ..
        } = self;
        in_flight.retain(|launch| {
            let ends = which(launch);
            if ends {
                backend.abandon(launch.id);
            }
            !ends
        });
    }

    /// Launches that hold the device now.
    pub fn running(&self) -> usize {
        self.in_flight
            .iter()
            .filter(|launch| !launch.stopped)
            .count()
    }

    /// Lets a launch go on that was stopped.
    pub fn resume(&mut self, id: LaunchId, slice_ns: u64) {
        if let Some(launch) = self.in_flight.iter_mut().find(|launch| launch.id == id) {
            launch.stopped = false;
            self.backend.resume(id, slice_ns);
        }
    }

    /// Launches works of one plan together. Gives back those that could not run, with the reason.
    pub fn launch<'a>(
        &mut self,
        works: Vec<Placed>,
        slice_ns: u64,
        owner: impl Fn(&Placed) -> Owner<'a>,
    ) -> Result<Vec<(Placed, Code)>, DeviceFault> {
        self.last_launch += 1;
        let id = LaunchId(self.last_launch);
        let mut refused = Vec::new();
        let mut placed = Vec::with_capacity(works.len());
        let mut instances = Vec::with_capacity(works.len());
        let mut keep = Vec::new();
        for work in works {
            match self.instance(&work.work, owner(&work), &mut keep) {
                Ok(instance) => {
                    instances.push(instance);
                    placed.push(work);
                }
                Err(code) => refused.push((work, code)),
            }
        }
        let Some(first) = placed.first() else {
            return Ok(refused);
        };
        let plan = Arc::clone(&first.work.template.plan);
        for work in &placed {
            for output in &work.work.outputs {
                output.launch.set(id.0);
            }
        }
        let launch = Launch {
            id,
            plan,
            instances,
        };
        let launched = self.backend.launch(launch, slice_ns);
        match launched {
            Ok(()) => self.in_flight.push(InFlight {
                id,
                running: running_of(&placed),
                works: placed,
                stopped: false,
                busy_ns: 0,
                _keep: keep,
            }),
            Err(DeviceFault::Fatal(text)) => return Err(DeviceFault::Fatal(text)),
            Err(fault) => {
                tracing::error!(%fault, "the backend refused a launch");
                let code = match fault {
                    DeviceFault::OutOfMemory { .. } => Code::OutOfMemory,
                    _ => Code::Internal,
                };
                refused.extend(placed.into_iter().map(|work| (work, code)));
            }
        }
        Ok(refused)
    }

    fn instance(
        &mut self,
        work: &Work,
        owner: Owner<'_>,
        keep: &mut Vec<Rc<Block>>,
    ) -> Result<Instance, Code> {
        let plan = &work.template.plan;
        // The operands' last uses end here: only now can it be told who may give its memory away.
        for value in &work.inputs {
            value.drop_use();
        }
        let blocks: Option<Vec<Rc<Block>>> =
            work.inputs.iter().map(|value| value.block()).collect();
        let blocks = blocks.ok_or(Code::Internal)?;
        let inputs = work
            .inputs
            .iter()
            .zip(&blocks)
            .map(|(value, block)| block.operand(value.constant.get()))
            .collect();
        let mut outputs = Vec::with_capacity(work.outputs.len());
        for (index, &bytes) in work.template.params.output_bytes().iter().enumerate() {
            // One that is given has a further reference, so that nobody else is given it.
            let given = plan
                .donations
                .iter()
                .filter(|donation| donation.1 as usize == index)
                .map(|donation| donation.0 as usize)
                .find(|&input| may_donate(&work.inputs[input], &blocks[input], bytes, owner));
            let block = match given {
                Some(input) => Rc::clone(&blocks[input]),
                None => self.memory.alloc(&mut *self.backend, owner, bytes)?,
            };
            outputs.push(block);
        }
        for (value, block) in work.outputs.iter().zip(&outputs) {
            value.set(State::Ready(Rc::clone(block)));
        }
        let instance = Instance {
            params: Arc::clone(&work.template.params),
            immediates: work.immediates.clone(),
            inputs,
            outputs: outputs.iter().map(|block| block.operand(false)).collect(),
        };
        keep.extend(blocks);
        keep.extend(outputs);
        Ok(instance)
    }
}

/// Nobody else will read the value, and its memory fits: `blocks` holds one reference and the value the other.
fn may_donate(value: &Rc<Value>, block: &Rc<Block>, bytes: u64, owner: Owner<'_>) -> bool {
    let last_use =
        value.handles.get() == 0 && value.uses.get() == 0 && Rc::strong_count(block) == 2;
    let fits = block.bytes >= bytes && block.bytes / 2 <= bytes.max(64);
    last_use && fits && !block.is_adopted() && block.tenant == owner.0
}

/// Whose work a launch is.
pub fn running_of(works: &[Placed]) -> Running {
    works.iter().fold(Running::Nothing, |all, placed| {
        all.and(Running::Of(placed.session))
    })
}

/// The results of a work that will not run.
pub fn fail_outputs(work: &Work, failure: Failure) {
    for value in &work.outputs {
        value.set(State::Failed(failure));
    }
}
