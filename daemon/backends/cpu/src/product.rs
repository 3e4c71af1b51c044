//! Contractions of a launch: hands the instances to the contraction kernel, and computes with the tile machine what it asks
//! for, prologues and epilogues that are more than a load or a store.

use std::ops::Range;

use tensord_plan::{Access, Body, Contract, Instr};

use crate::contract::{Binding, Bodies, Contraction, Fill, Finish, LanesMut, NoBodies, Side};
use crate::launch::{Job, Shared};
use crate::pool::Team;
use crate::prepare::{BoundContract, BoundPlan, BoundStep};
use crate::scratch::{Scratch, padded};
use crate::tile::bind::{TILE, column};
use crate::tile::{Evaluator, Program, Tables};

/// Elements of a tile of a prologue or an epilogue.
const CAPACITY: usize = TILE;

/// Runs contraction `index` of a plan over all instances of a job.
///
/// # Safety
/// As `step::run`.
pub unsafe fn run(
    job: &Job,
    shared: &Shared,
    index: usize,
    contract: &Contract,
    programs: [&Option<Program>; 3],
    team: &mut Team<'_>,
) {
    if team.passes() {
        return;
    }
    let plan = &job.prepared.plan;
    let table = job.table(0..job.instances.len());
    let address = |instance: usize, access: Option<&Access>| {
        access.map_or(std::ptr::null_mut(), |access| {
            table.base(instance, column(plan, access.buffer))
        })
    };
    let stored = contract.stores.first().map(|store| &store.access);
    let mut bindings = Vec::with_capacity(job.instances.len());
    for group in &job.groups {
        let form = &bound(&group.bound, index).form;
        bindings.extend(group.instances.clone().map(|k| Binding {
            instance: &job.instances[k],
            form,
            a: address(k, loaded(&contract.a)),
            b: address(k, loaded(&contract.b)),
            out: address(k, stored),
        }));
    }
    // SAFETY: `launch` checked the addresses for what `Params` proved the plan to reach, and the level is the backend's.
    let contraction =
        unsafe { Contraction::new(contract, &bindings, job.isa, &mut shared.packs()) };
    team.each(contraction.units(), &|scratch, range| {
        let mut own = scratch.take_contraction();
        if programs.iter().all(|program| program.is_none()) {
            for unit in range {
                // SAFETY: each unit runs once; units write disjoint results.
                unsafe { contraction.run_unit(unit, &mut own, &mut NoBodies) };
            }
        } else {
            let mut bodies = Machine::new(job, index, programs, scratch);
            for unit in range {
                // SAFETY: as above.
                unsafe { contraction.run_unit(unit, &mut own, &mut bodies) };
            }
            bodies.done(scratch);
        }
        scratch.keep_contraction(own);
    });
}

/// A contraction's step of a bound plan.
fn bound(plan: &BoundPlan, step: usize) -> &BoundContract {
    match &plan.steps[step] {
        BoundStep::Contract(bound) => bound,
        _ => unreachable!("`prepare` binds each step as what it is"),
    }
}

/// The access of an operand that is a bare load.
fn loaded(body: &Body) -> Option<&Access> {
    match body.instrs[..] {
        [Instr::Load(load)] => body.loads.get(load as usize),
        _ => None,
    }
}

/// The tile machine as the contraction kernel sees it.
struct Machine<'a> {
    job: &'a Job,
    step: usize,
    programs: [&'a Option<Program>; 3],
    /// One for each program, of the group whose instance was asked for last.
    evaluators: [Option<(usize, Evaluator<'a>)>; 3],
    slots: [*mut u8; 3],
    reduced: *mut u8,
    spare: [Tables; 3],
}

impl<'a> Machine<'a> {
    fn new(
        job: &'a Job,
        step: usize,
        programs: [&'a Option<Program>; 3],
        scratch: &mut Scratch,
    ) -> Machine<'a> {
        let bytes = programs.map(|program| match program {
            Some(program) => padded(Evaluator::bytes(program, CAPACITY)),
            None => 0,
        });
        let spare = std::array::from_fn(|_| scratch.take_tables());
        let reduced_bytes = CAPACITY * 8;
        let mut at = scratch.reserve(bytes.iter().sum::<usize>() + reduced_bytes);
        let slots = bytes.map(|bytes| {
            let piece = at;
            // SAFETY: the pieces together are what was reserved.
            at = unsafe { at.add(bytes) };
            piece
        });
        Machine {
            job,
            step,
            programs,
            evaluators: [None, None, None],
            slots,
            reduced: at,
            spare,
        }
    }

    fn done(self, scratch: &mut Scratch) {
        // As many as were taken: an evaluator holds those that were spare before it was made.
        for (spare, evaluator) in self.spare.into_iter().zip(self.evaluators) {
            scratch.keep_tables(match evaluator {
                Some((_, evaluator)) => evaluator.into_tables(),
                None => spare,
            });
        }
    }

    /// The evaluator of a program for an instance, and the instance's first global position. `row` is the number of elements
    /// of a row of its space.
    fn evaluator(&mut self, which: usize, instance: usize) -> (&mut Evaluator<'a>, u64, usize) {
        let group = self
            .job
            .groups
            .iter()
            .position(|group| group.instances.contains(&instance))
            .expect("groups cover all instances");
        let BoundContract {
            a,
            b,
            epilogue,
            counts: [_, n, k],
            ..
        } = bound(&self.job.groups[group].bound, self.step);
        let (bound, row) = [(a, k), (b, k), (epilogue, n)][which];
        let bound = bound.as_ref().expect("bound for each program");
        let program = self.programs[which]
            .as_ref()
            .expect("asked for where there is one");
        let kept = self.evaluators[which].take();
        let evaluator = match kept {
            Some((have, evaluator)) if have == group => evaluator,
            other => {
                let args = other.map_or_else(
                    || std::mem::take(&mut self.spare[which]),
                    |(_, evaluator)| evaluator.into_tables(),
                );
                let table = self.job.table(self.job.groups[group].instances.clone());
                Evaluator::new(program, bound, table, CAPACITY, self.slots[which], args)
            }
        };
        let within = instance - self.job.groups[group].instances.start;
        let base = within as u64 * bound.count;
        let (_, evaluator) = self.evaluators[which].insert((group, evaluator));
        (evaluator, base, *row as usize)
    }
}

/// Cuts a box of rows into stretches that a tile takes: `(first row, rows, first column, columns)`. Several rows go together only
/// where they are whole and therefore consecutive.
fn stretches(
    rows: usize,
    columns: Range<usize>,
    row: usize,
    mut each: impl FnMut(usize, usize, usize, usize),
) {
    if columns.len() == row && row <= CAPACITY {
        let together = CAPACITY / row.max(1);
        for first in (0..rows).step_by(together) {
            each(first, together.min(rows - first), columns.start, row);
        }
        return;
    }
    for first in 0..rows {
        for from in columns.clone().step_by(CAPACITY) {
            each(first, 1, from, CAPACITY.min(columns.end - from));
        }
    }
}

impl Bodies for Machine<'_> {
    fn fill(&mut self, what: &Fill, mut out: LanesMut<'_>) {
        if what.rows.is_empty() || what.k.is_empty() {
            return;
        }
        let which = match what.side {
            Side::A => 0,
            Side::B => 1,
        };
        let program = self.programs[which]
            .as_ref()
            .expect("a bare load is never asked for");
        let value = program.dtypes.len() as u32 - 1;
        let (to, size, room) = memory(&mut out);
        let (evaluator, base, row) = self.evaluator(which, what.instance);
        stretches(
            what.rows.len(),
            what.k.clone(),
            row,
            |first, rows, from, len| {
                let at = base + ((what.rows.start + first) * row + from) as u64;
                // SAFETY: the positions lie in the space; the tile has `rows * len` elements.
                let tile = unsafe {
                    evaluator.run(at, rows * len, std::ptr::null());
                    evaluator.tile_of(value, rows * len)
                };
                for r in 0..rows {
                    let place = (first + r) * what.stride + from - what.k.start;
                    assert!(place + len <= room, "the block is as long as asked for");
                    // SAFETY: just checked; the tile is this thread's own memory or an operand, never the block.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            tile.add(r * len * size),
                            to.add(place * size),
                            len * size,
                        );
                    }
                }
            },
        );
    }

    fn finish(&mut self, what: &Finish, mut block: LanesMut<'_>) {
        if what.rows.is_empty() || what.columns.is_empty() {
            return;
        }
        let (from_block, size, room) = memory(&mut block);
        let reduced = self.reduced;
        let (evaluator, base, row) = self.evaluator(2, what.instance);
        stretches(
            what.rows.len(),
            what.columns.clone(),
            row,
            |first, rows, from, len| {
                for r in 0..rows {
                    let place = (first + r) * what.stride + from - what.columns.start;
                    assert!(place + len <= room, "the block is as long as it says");
                    // SAFETY: just checked; `reduced` has `CAPACITY` elements and rows * len is at most that.
                    unsafe {
                        let from = from_block.add(place * size);
                        std::ptr::copy_nonoverlapping(
                            from,
                            reduced.add(r * len * size),
                            len * size,
                        );
                    }
                }
                let at = base + ((what.rows.start + first) * row + from) as u64;
                // SAFETY: the positions lie in the space; each result is finished once, so nobody else stores it.
                unsafe { evaluator.run(at, rows * len, reduced) };
            },
        );
    }
}

/// Address, element size and element count of lanes.
fn memory(lanes: &mut LanesMut<'_>) -> (*mut u8, usize, usize) {
    fn of<T>(slice: &mut [T]) -> (*mut u8, usize, usize) {
        (slice.as_mut_ptr().cast(), size_of::<T>(), slice.len())
    }
    match lanes {
        LanesMut::I8(s) => of(s),
        LanesMut::I16(s) => of(s),
        LanesMut::I32(s) => of(s),
        LanesMut::I64(s) => of(s),
        LanesMut::U8(s) => of(s),
        LanesMut::U16(s) => of(s),
        LanesMut::U32(s) => of(s),
        LanesMut::U64(s) => of(s),
        LanesMut::F32(s) => of(s),
        LanesMut::F64(s) => of(s),
    }
}
