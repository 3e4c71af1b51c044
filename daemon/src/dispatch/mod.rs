//! Places results in memory and hands launches to the backend.
//!
//! In: works of equal plans that the scheduler grouped. Out: one launch, with a row for each work. An operand whose last use this
//! is gives its memory to the result where the plan allows it. What does not fit the device is moved to host memory (`memory`,
//! `victims`) and comes back before a launch reads it.
//!
//! # Invariant
//! A work gets all of its memory or none: two works never wait for each other with half of it. One that finds no room beside launches
//! under way waits until they are over and is the next to be launched; one that finds none on an idle device is refused.

pub mod block;
pub mod constants;
mod host;
pub mod memory;
pub mod pressure;
pub mod transfer;
mod victims;

use std::rc::Rc;
use std::sync::Arc;

use tensord_plan::{Backend, DeviceFault, Instance, Launch, LaunchId, Operand};
use tensord_shm::error::Code;

use crate::engine_process::SessionId;
use crate::graph::value::{Failure, State, Value};
use crate::schedule::Work;
use crate::slate::Running;
use constants::Constants;
use memory::{Lack, Leaving, Memory, Pinned, Upcoming};
use pressure::Pressure;
use transfer::Owner;

/// Bytes that a look ahead brings back at most: what it takes is not looked at rings.
const AHEAD_BYTES_MAX: u64 = 8 << 20;

/// A device with its memory.
pub struct Device {
    /// How it is talked to.
    pub backend: Box<dyn Backend>,
    /// Its memory.
    pub memory: Memory,
    /// The constants in it.
    pub constants: Constants,
    /// Who may run where not everything fits.
    pub pressure: Pressure,
    /// The queue whose work found no room beside what is under way.
    pub postponed: Option<(usize, usize)>,
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
    /// Device time that its slice will take, as far as can be told.
    slice_ns: u64,
    /// Memory that it reads or writes.
    _keep: Vec<Pinned>,
}

/// What became of works that were to be launched.
#[derive(Default)]
pub struct Launched {
    /// Those that will never run, with the reason.
    pub refused: Vec<(Placed, Code)>,
    /// Those that there is no room for beside what is under way.
    pub later: Vec<Placed>,
}

impl Device {
    /// A device with nothing in it, and so many bytes of host memory beside; a simulated one hashes constants on the caller's
    /// thread.
    pub fn new(backend: Box<dyn Backend>, spill_bytes: u64, simulated: bool) -> Device {
        let memory = Memory::new(&*backend, spill_bytes);
        Device {
            pressure: Pressure::new(memory.capacity()),
            backend,
            memory,
            constants: Constants::new(simulated),
            postponed: None,
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
        self.memory.may_leave_again();
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
        self.memory.may_leave_again();
    }

    /// Does what holds the device take so long that more would keep somebody waiting who comes now?
    pub fn is_busy_for(&self, ns: u64) -> bool {
        let running = self.in_flight.iter().filter(|launch| !launch.stopped);
        running.map(|launch| launch.slice_ns).sum::<u64>() >= ns / 2
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
            launch.slice_ns = slice_ns;
            self.backend.resume(id, slice_ns);
        }
    }

    /// Must what is under way end first, so that a work finds room?
    pub fn waits_for_room(&self) -> bool {
        self.postponed.is_some() && !self.in_flight.is_empty()
    }

    /// Launches works of one plan together. `upcoming` names what else is planned.
    pub fn launch<'a>(
        &mut self,
        works: Vec<Placed>,
        slice_ns: u64,
        owner: impl Fn(&Placed) -> Owner<'a>,
        upcoming: Upcoming<'_>,
    ) -> Result<Launched, DeviceFault> {
        self.last_launch += 1;
        let id = LaunchId(self.last_launch);
        let mut launched = Launched::default();
        let mut placed = Vec::with_capacity(works.len());
        let mut instances = Vec::with_capacity(works.len());
        let mut keep = Vec::new();
        for work in works {
            if !launched.later.is_empty() {
                launched.later.push(work);
                continue;
            }
            match self.instance(&work, owner(&work), &mut keep, upcoming) {
                Ok(instance) => {
                    instances.push(instance);
                    placed.push(work);
                }
                Err(Lack::Room) if !placed.is_empty() || !self.in_flight.is_empty() => {
                    self.postponed = Some(work.place);
                    launched.later.push(work);
                }
                Err(lack) => {
                    let code = match lack {
                        Lack::Refused(code) => code,
                        Lack::Room => Code::OutOfMemory,
                    };
                    work.work.inputs.iter().for_each(|value| value.drop_use());
                    launched.refused.push((work, code));
                }
            }
        }
        let Some(first) = placed.first() else {
            return Ok(launched);
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
        match self.backend.launch(launch, slice_ns) {
            Ok(()) => self.in_flight.push(InFlight {
                id,
                running: running_of(&placed),
                slice_ns: placed
                    .iter()
                    .map(|work| work.charged_ns)
                    .sum::<u64>()
                    .min(slice_ns),
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
                for work in &placed {
                    self.pressure.finished(work.session, self.memory.now_ns);
                }
                let refused = placed.into_iter().map(|work| (work, code));
                launched.refused.extend(refused);
            }
        }
        Ok(launched)
    }

    /// A row of a launch, with all memory that it needs. Where that is not to be had the work is as it was.
    fn instance(
        &mut self,
        placed: &Placed,
        owner: Owner<'_>,
        keep: &mut Vec<Pinned>,
        upcoming: Upcoming<'_>,
    ) -> Result<Instance, Lack> {
        let work = &placed.work;
        let before = self.memory.moved;
        let blocks: Option<Vec<Pinned>> = work
            .inputs
            .iter()
            .map(|value| value.block().map(Pinned::new))
            .collect();
        let blocks = blocks.ok_or(Lack::Refused(Code::Internal))?;
        for block in &blocks {
            let leaving = Leaving::Anybody(upcoming);
            self.memory.bring(&mut *self.backend, block, leaving)?;
        }
        let inputs = work.inputs.iter().zip(&blocks);
        let inputs: Option<Vec<Operand>> = inputs
            .map(|(value, block)| block.operand(value.constant.get()))
            .collect();
        let inputs = inputs.ok_or(Lack::Refused(Code::Internal))?;
        // The operands' last uses end here: only now can it be told who may give its memory away.
        for value in &work.inputs {
            value.drop_use();
        }
        let (outputs, results) = match self.outputs(work, &blocks, owner, upcoming) {
            Ok(made) => made,
            Err(lack) => {
                work.inputs.iter().for_each(|value| value.add_use());
                return Err(lack);
            }
        };
        for (value, block) in work.outputs.iter().zip(&outputs) {
            self.memory.will_write(block);
            value.set(State::Ready(Rc::clone(block.block())));
        }
        let used = blocks.iter().chain(&outputs);
        self.pressure.placed(
            placed.session,
            self.memory.moved.since(before),
            used.map(|block| (block.slot, block.bytes)),
            self.memory.now_ns,
        );
        let instance = Instance {
            params: Arc::clone(&work.template.params),
            immediates: work.immediates.clone(),
            inputs,
            outputs: results,
        };
        keep.extend(blocks);
        keep.extend(outputs);
        Ok(instance)
    }

    /// Memory for a work's results.
    fn outputs(
        &mut self,
        work: &Work,
        blocks: &[Pinned],
        owner: Owner<'_>,
        upcoming: Upcoming<'_>,
    ) -> Result<(Vec<Pinned>, Vec<Operand>), Lack> {
        let plan = &work.template.plan;
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
                Some(input) => Rc::clone(blocks[input].block()),
                None => self
                    .memory
                    .alloc(&mut *self.backend, owner, bytes, upcoming)?,
            };
            outputs.push(Pinned::new(block));
        }
        let operands: Option<_> = outputs.iter().map(|block| block.operand(false)).collect();
        Ok((outputs, operands.ok_or(Lack::Refused(Code::Internal))?))
    }

    /// Brings back what a work among the next ones reads, while the device is busy with another one. Nothing is refused here.
    pub fn look_ahead(&mut self, work: &Work, upcoming: Upcoming<'_>) -> bool {
        let mut left = AHEAD_BYTES_MAX;
        let mut any = false;
        let blocks: Vec<Pinned> = work
            .inputs
            .iter()
            .filter_map(|value| value.block().map(Pinned::new))
            .collect();
        for block in blocks.iter().filter(|block| !block.is_resident()) {
            let room = left.checked_sub(block.bytes);
            let Some(rest) = room.filter(|_| block.bytes <= self.memory.capacity() / 4) else {
                break;
            };
            left = rest;
            let leaving = Leaving::Unnamed(upcoming);
            let brought = self.memory.bring(&mut *self.backend, block, leaving);
            if brought.is_err() {
                break;
            }
            any = true;
        }
        any
    }
}

/// Nobody else will read the value, and its memory fits: `blocks` holds one reference and the value the other.
fn may_donate(value: &Rc<Value>, block: &Pinned, bytes: u64, owner: Owner<'_>) -> bool {
    let last_use =
        value.handles.get() == 0 && value.uses.get() == 0 && Rc::strong_count(block.block()) == 2;
    let fits = block.bytes >= bytes && block.bytes / 2 <= bytes.max(64);
    last_use && fits && !block.is_sealed() && block.tenant == owner.0
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
