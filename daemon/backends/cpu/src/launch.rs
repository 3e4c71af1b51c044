//! From a launch to a job: operands checked, instances grouped, addresses made.
//!
//! # Safety
//! This is where numbers become addresses. [`Job::take`] makes an address only of an operand whose buffer exists and holds, from a
//! 64-byte multiple on, the bytes that the instance's `Params` proved the plan to reach; results lie in memory that may be
//! written, and on no input of their instance unless the plan donates it. Temporaries get room for their element counts. What
//! remains with the engine: `Params` made for an equal plan, instances that do not touch each other's results, and no freeing or
//! writing of a buffer while a job uses it (the backend trait's rules).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tensord_plan::{DeviceFault, Instance, Launch, LaunchId, Plan};

use crate::contract::Packs;
use crate::isa::Isa;
use crate::memory::Memory;
use crate::pool::{Team, Workers};
use crate::prepare::{BoundPlan, Cache, Prepared};
use crate::scratch::{Arena, padded};
use crate::slice::{Progress, Slice};
use crate::step;
use crate::tile::Table;

/// Instances with equal parameters.
pub struct Group {
    /// Which of the job's instances.
    pub instances: Range<usize>,
    /// Their sizes and addresses.
    pub bound: Arc<BoundPlan>,
}

/// What jobs of one backend share.
pub struct Shared {
    /// Packed constants.
    pub packs: Mutex<Packs>,
    /// Most bytes of working memory that any job needed.
    pub scratch_bytes_max: AtomicU64,
}

/// A launch, checked and ready to run on any thread.
pub struct Job {
    /// Its name.
    pub id: LaunchId,
    /// The plan.
    pub prepared: Arc<Prepared>,
    /// Level of vector instructions.
    pub isa: Isa,
    /// Ordered by group.
    pub instances: Vec<Instance>,
    /// By parameters.
    pub groups: Vec<Group>,
    /// For each instance: inputs, outputs, temporaries.
    pointers: Vec<*mut u8>,
    columns: usize,
    /// Place of each temporary: offset from the arena's start and distance of instances.
    temps: Vec<Vec<(usize, usize)>>,
    temp_bytes: usize,
    /// The temporaries' memory: they live from slice to slice.
    arena: Arena,
    progress: Progress,
    /// May it be stopped before its end?
    pub sliced: bool,
    /// Where it runs: the same in each slice.
    pub place: Place,
}

/// Who runs a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The caller's thread alone.
    Caller,
    /// The caller's thread, and the pool's helpers where they are free.
    Helped,
    /// The pool's leader.
    Pool,
}

// SAFETY: the addresses name memory that the engine leaves to the job until it is completed; they belong to no thread.
unsafe impl Send for Job {}
// SAFETY: as above; workers share a job to read its tables, and write disjoint parts of the memory that they name.
unsafe impl Sync for Job {}

fn invalid(text: impl Into<String>) -> DeviceFault {
    DeviceFault::Invalid(text.into())
}

impl Job {
    /// Without work.
    pub fn idle(isa: Isa) -> Job {
        Job {
            id: LaunchId(0),
            prepared: Arc::new(Prepared::nothing()),
            isa,
            instances: Vec::new(),
            groups: Vec::new(),
            pointers: Vec::new(),
            columns: 0,
            temps: Vec::new(),
            temp_bytes: 0,
            arena: Arena::default(),
            progress: Progress::default(),
            sliced: false,
            place: Place::Caller,
        }
    }

    /// Checks a launch and takes it over. What the one before left serves this one, as far as it fits: small launches come in
    /// millions, and differ in little.
    pub fn take(
        &mut self,
        launch: Launch,
        cache: &mut Cache,
        memory: &Memory,
    ) -> Result<(), DeviceFault> {
        self.rest();
        let plan = &*launch.plan;
        for instance in &launch.instances {
            check_counts(plan, instance)?;
        }
        self.id = launch.id;
        self.columns = plan.inputs.len() + plan.outputs.len() + plan.temps.len();
        let entry = cache.find(&launch.plan);
        if !Arc::ptr_eq(&self.prepared, cache.prepared(entry)) {
            self.prepared = cache.prepared(entry).clone();
        }
        self.group(launch.instances, cache, entry);
        self.pointers.reserve(self.instances.len() * self.columns);
        for instance in &self.instances {
            resolve(plan, instance, memory, &mut self.pointers)?;
        }
        if !plan.temps.is_empty() {
            self.place_temps();
        }
        Ok(())
    }

    /// Lets go of the launch.
    pub fn rest(&mut self) {
        self.instances.clear();
        self.pointers.clear();
        self.temps.clear();
        self.temp_bytes = 0;
        self.progress.restart();
    }

    /// Orders instances by parameters, and binds the plan to each.
    fn group(&mut self, mut instances: Vec<Instance>, cache: &mut Cache, entry: usize) {
        let alike = |pair: &[Instance]| Arc::ptr_eq(&pair[0].params, &pair[1].params);
        if !instances.is_empty() && instances.windows(2).all(alike) {
            let all = 0..instances.len();
            let bound = cache.bind(entry, &instances[0].params);
            match &mut self.groups[..] {
                [group] if Arc::ptr_eq(&group.bound, bound) => group.instances = all,
                _ => {
                    let bound = bound.clone();
                    let instances = all;
                    self.groups.clear();
                    self.groups.push(Group { instances, bound });
                }
            }
            self.instances = instances;
            return;
        }
        let mut bounds: Vec<Arc<BoundPlan>> = Vec::new();
        let mut numbers = Vec::with_capacity(instances.len());
        for (index, instance) in instances.iter().enumerate() {
            if index > 0 && Arc::ptr_eq(&instance.params, &instances[index - 1].params) {
                numbers.push(numbers[index - 1]);
                continue;
            }
            let bound = cache.bind(entry, &instance.params);
            let known = bounds.iter().position(|have| Arc::ptr_eq(have, bound));
            numbers.push(known.unwrap_or_else(|| {
                bounds.push(bound.clone());
                bounds.len() - 1
            }));
        }
        if !numbers.is_sorted() {
            let mut order: Vec<usize> = (0..instances.len()).collect();
            order.sort_by_key(|&index| numbers[index]);
            let mut slots: Vec<Option<Instance>> = instances.into_iter().map(Some).collect();
            instances = order
                .iter()
                .map(|&index| slots[index].take().expect("an order names each index once"))
                .collect();
            numbers.sort_unstable();
        }
        self.groups.clear();
        let bounds = bounds.into_iter().enumerate();
        self.groups.extend(bounds.map(|(number, bound)| Group {
            instances: numbers.partition_point(|&n| n < number)
                ..numbers.partition_point(|&n| n <= number),
            bound,
        }));
        self.instances = instances;
    }

    /// Gives each temporary of each group a place; temporaries that do not live at once share memory.
    fn place_temps(&mut self) {
        let plan = self.prepared.plan.clone();
        let mut end = 0;
        for group in &self.groups {
            let params = &self.instances[group.instances.start].params;
            let base = end;
            let mut placed: Vec<(usize, usize, (u32, u32))> = Vec::with_capacity(plan.temps.len());
            let mut places = Vec::with_capacity(plan.temps.len());
            let lives = group.bound.lives(&plan, group.instances.len());
            for ((temp, life), &count) in plan.temps.iter().zip(lives).zip(params.temp_counts()) {
                let stride = padded(count as usize * temp.dtype.size());
                let size = stride * group.instances.len();
                let mut at = base;
                // First place behind everything that lives at the same time and begins before it would end.
                while let Some(&(from, len, _)) = placed.iter().find(|&&(from, len, live)| {
                    let together = live.0 <= life.1 && life.0 <= live.1;
                    together && from < at + size && at < from + len
                }) {
                    at = from + len;
                }
                placed.push((at, size, life));
                places.push((at, stride));
                end = end.max(at + size);
            }
            self.temps.push(places);
        }
        self.temp_bytes = end;
    }

    /// The instance table of some instances.
    pub fn table(&self, instances: Range<usize>) -> Table<'_> {
        Table {
            columns: self.columns,
            pointers: &self.pointers[instances.start * self.columns..instances.end * self.columns],
            instances: &self.instances[instances],
        }
    }

    /// Runs it for a slice, which is without end where the launch is known to be short. True: it is over.
    ///
    /// # Safety
    /// The memory of its operands is left to it until it is over.
    pub unsafe fn run(&mut self, shared: &Shared, workers: Workers<'_>, slice: Slice) -> bool {
        if self.temp_bytes > 0 {
            // The same in each slice: it does not grow while the job is under way.
            let arena = self.arena.reserve(self.temp_bytes);
            let first = self.columns - self.prepared.plan.temps.len();
            for (group, places) in self.groups.iter().zip(&self.temps) {
                for (k, index) in group.instances.clone().enumerate() {
                    for (temp, &(at, stride)) in places.iter().enumerate() {
                        let place = index * self.columns + first + temp;
                        // SAFETY: `place_temps` put all instances of the temporary below `temp_bytes`.
                        self.pointers[place] = unsafe { arena.add(at + k * stride) };
                    }
                }
            }
        }
        let mut progress = std::mem::take(&mut self.progress);
        let mut team = Team::new(workers, &mut progress, self.sliced.then_some(slice));
        // SAFETY: the caller's, and the addresses were checked when the job was made.
        unsafe { step::run(self, shared, &mut team) };
        let over = !team.is_stopped();
        let bytes = team.scratch().bytes();
        self.progress = progress;
        let bytes = bytes + self.arena.bytes() + self.progress.kept.bytes();
        if bytes > shared.scratch_bytes_max.load(Ordering::Relaxed) {
            shared.scratch_bytes_max.fetch_max(bytes, Ordering::Relaxed);
        }
        over
    }
}

impl Shared {
    /// The packs, for one contraction's planning.
    pub fn packs(&self) -> std::sync::MutexGuard<'_, Packs> {
        // A panic while packing leaves entries whole: they are inserted when complete.
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_counts(plan: &Plan, instance: &Instance) -> Result<(), DeviceFault> {
    let params = &instance.params;
    let fits = params.values().len() == plan.slots as usize
        && params.input_bytes().len() == plan.inputs.len()
        && params.output_bytes().len() == plan.outputs.len()
        && params.temp_counts().len() == plan.temps.len()
        && instance.inputs.len() == plan.inputs.len()
        && instance.outputs.len() == plan.outputs.len()
        && instance.immediates.len() == plan.immediates as usize;
    match fits {
        true => Ok(()),
        false => Err(invalid(format!(
            "an instance with {} parameters, {} inputs, {} outputs and {} immediates for a plan of {}, {}, {} and {}",
            params.values().len(),
            instance.inputs.len(),
            instance.outputs.len(),
            instance.immediates.len(),
            plan.slots,
            plan.inputs.len(),
            plan.outputs.len(),
            plan.immediates,
        ))),
    }
}

fn resolve(
    plan: &Plan,
    instance: &Instance,
    memory: &Memory,
    pointers: &mut Vec<*mut u8>,
) -> Result<(), DeviceFault> {
    let params = &instance.params;
    let operands = instance.inputs.iter().chain(&instance.outputs);
    if let Some(operand) = operands.clone().find(|operand| operand.offset % 64 != 0) {
        return Err(invalid(format!("an operand at byte {}", operand.offset)));
    }
    for (operand, &bytes) in instance.inputs.iter().zip(params.input_bytes()) {
        let at = memory.readable(operand.buffer, operand.offset, bytes)?;
        pointers.push(at.as_ptr());
    }
    for (k, (operand, &bytes)) in instance
        .outputs
        .iter()
        .zip(params.output_bytes())
        .enumerate()
    {
        let at = memory.writable(operand.buffer, operand.offset, bytes)?;
        for (j, (input, &len)) in instance.inputs.iter().zip(params.input_bytes()).enumerate() {
            let overlaps = input.buffer == operand.buffer
                && input.offset < operand.offset + bytes
                && operand.offset < input.offset + len;
            if overlaps && !plan.donations.contains(&(j as u32, k as u32)) {
                return Err(invalid(format!(
                    "output {k} lies on input {j}, which is not donated"
                )));
            }
        }
        pointers.push(at.as_ptr());
    }
    pointers.resize(pointers.len() + plan.temps.len(), std::ptr::null_mut());
    Ok(())
}
