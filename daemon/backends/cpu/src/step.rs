//! Runs a launch's steps, one after the other, each over all instances; those of a band block of rows by block of rows.
//!
//! A step's work is a range of global positions (instance, then element), cut in parts for the team. Which part a
//! thread gets changes nothing in the results: elements are computed one by one, and reductions keep their order inside a part.

use std::ops::Range;

use tensord_plan::Step;

use crate::bands::{Band, Work};
use crate::launch::{Group, Job, Shared};
use crate::pool::Team;
use crate::prepare::{BoundStep, PreparedStep};
use crate::scratch::Scratch;
use crate::tile::kernels::LANES;
use crate::tile::{Bound, Evaluator, Program, Table};
use crate::{product, reduce, scan, scatter};

/// Elements of a part: about a tile. Workers take many parts at once, as long as there are.
const PART: u64 = 1024;

/// Runs all steps, from where the launch was stopped to where it is stopped next.
///
/// # Safety
/// The job's addresses were made by `launch` from checked operands, and nobody else touches their memory meanwhile.
pub unsafe fn run(job: &Job, shared: &Shared, team: &mut Team<'_>) {
    let plan = &job.prepared.plan;
    for (index, (step, prepared)) in plan.steps.iter().zip(&job.prepared.steps).enumerate() {
        if team.is_stopped() {
            return;
        }
        // SAFETY: the caller's; steps run one after the other, but for those of a band, which knows what it may do.
        unsafe {
            if let (Step::Contract(contract), PreparedStep::Contract { a, b, epilogue }) =
                (step, prepared)
            {
                product::run(job, shared, index, contract, [a, b, epilogue], team);
                continue;
            }
            for group in &job.groups {
                let bands = &group.bound.bands;
                let band = bands.iter().find(|band| band.steps.contains(&index));
                match band.filter(|band| band.pays(group.instances.len(), team)) {
                    Some(band) if band.steps.start == index => run_band(job, group, band, team),
                    Some(_) => {}
                    None => run_step(job, group, index, team),
                }
            }
        }
    }
}

unsafe fn run_band(job: &Job, group: &Group, band: &Band, team: &mut Team<'_>) {
    let work = |index: usize| {
        let (plan, prepared) = (&job.prepared.plan, &job.prepared.steps);
        Work::new(
            &plan.steps[index],
            &prepared[index],
            &group.bound.steps[index],
        )
    };
    let works: Vec<Work<'_>> = band.steps.clone().map(work).collect();
    // SAFETY: the caller's.
    unsafe { band.run(&works, job.table(group.instances.clone()), team) };
}

/// One step over the instances of a group.
unsafe fn run_step(job: &Job, group: &Group, index: usize, team: &mut Team<'_>) {
    let plan = &job.prepared.plan;
    let table = job.table(group.instances.clone());
    let params = &job.instances[group.instances.start].params;
    let prepared = &job.prepared.steps[index];
    // SAFETY: the caller's.
    unsafe {
        match (&plan.steps[index], prepared, &group.bound.steps[index]) {
            (_, PreparedStep::Map(program), BoundStep::Map(bound)) => {
                map(program, bound, table, team);
            }
            (
                Step::Reduce(step),
                PreparedStep::Reduce {
                    body,
                    epilogue,
                    fold,
                },
                BoundStep::Reduce(bound),
            ) => reduce::run([body, epilogue], fold, bound, table, step.value.0, team),
            (Step::Scan(scan), ..) => scan::run(plan, scan, params, table, team),
            (Step::Scatter(scatter), ..) => scatter::run(plan, scatter, params, table, team),
            _ => unreachable!(
                "`prepare` made and bound this step from the plan that it is run with, each kind as what it is"
            ),
        }
    }
}

/// Elements of a part, a multiple of `unit`.
pub fn part_len(unit: u64) -> u64 {
    PART.next_multiple_of(unit.max(1))
}

/// The positions below `total` that parts of `part` positions cover.
pub fn positions(parts: Range<usize>, part: u64, total: u64) -> Range<u64> {
    parts.start as u64 * part..(parts.end as u64 * part).min(total)
}

/// Elements of the tile at global position `at`, when `end` is the last position of the part.
pub fn tile_len(bound: &Bound, packed: bool, at: u64, end: u64) -> usize {
    if packed {
        let whole = (bound.tile as u64 / bound.count).max(1) * bound.count;
        return whole.min(end - at) as usize;
    }
    let at_instance = if at < bound.count {
        at
    } else {
        at % bound.count
    };
    let len = bound.tile_at(at_instance) as u64;
    match end - at {
        left if len <= left => len as usize,
        // Long tiles are whole lanes; what a part has beyond is a tile of its own.
        left if bound.streams && left >= LANES as u64 => {
            (left / LANES as u64 * LANES as u64) as usize
        }
        left => left as usize,
    }
}

/// Elements from which an instance that can be read and written in place is quicker by itself than copied into a tile with others.
const ALONE_MIN: u64 = 32;

/// Do several instances share a tile?
pub fn is_packed(bound: &Bound, table: &Table<'_>) -> bool {
    let in_place =
        bound.flat && bound.count >= ALONE_MIN && bound.count.is_multiple_of(LANES as u64);
    table.count() > 1 && bound.count * 2 <= bound.tile as u64 && !in_place
}

unsafe fn map(program: &Program, bound: &Bound, table: Table<'_>, team: &mut Team<'_>) {
    let total = bound.count * table.count() as u64;
    if total == 0 {
        return;
    }
    let packed = is_packed(bound, &table);
    let unit = if packed { bound.count } else { 64 };
    let part = part_len(unit);
    team.each(total.div_ceil(part) as usize, &|scratch, parts| {
        let positions = positions(parts, part, total);
        // SAFETY: the caller's; parts write disjoint elements, because no two indices of a store share one.
        unsafe { map_range(program, bound, table, scratch, positions) };
    });
}

/// A map over some global positions, on one thread; whole instances where they share tiles.
///
/// # Safety
/// As [`run`].
pub unsafe fn map_range(
    program: &Program,
    bound: &Bound,
    table: Table<'_>,
    scratch: &mut Scratch,
    positions: Range<u64>,
) {
    let (mut at, end) = (positions.start, positions.end);
    let packed = is_packed(bound, &table);
    let bytes = Evaluator::bytes(program, bound.tile);
    let args = scratch.take_tables();
    let slots = scratch.reserve(bytes);
    let mut evaluator = Evaluator::new(program, bound, table, bound.tile, slots, args);
    while at < end {
        let n = tile_len(bound, packed, at, end);
        // SAFETY: the caller's.
        unsafe { evaluator.run(at, n, std::ptr::null()) };
        at += n as u64;
    }
    scratch.keep_tables(evaluator.into_tables());
}
