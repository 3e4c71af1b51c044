//! Runs a launch's steps, one after the other, each over all instances.
//!
//! A step's work is a range of global positions (instance, then element), cut in parts for the team. Which part a
//! thread gets changes nothing in the results: elements are computed one by one, and reductions keep their order inside a part.

use tensord_plan::Step;

use crate::launch::{Job, Shared};
use crate::pool::Team;
use crate::prepare::{BoundStep, PreparedStep};
use crate::tile::kernels::LANES;
use crate::tile::{Bound, Evaluator, Program, Table};
use crate::{product, reduce, scan, scatter};

/// Parts for each worker, so that an unlucky one does not keep the others waiting.
const PARTS_PER_WORKER: u64 = 4;
/// Elements below which a part is not worth handing over.
const PART_MIN: u64 = 4096;

/// Runs all steps.
///
/// # Safety
/// The job's addresses were made by `launch` from checked operands, and nobody else touches their memory meanwhile.
pub unsafe fn run(job: &Job, shared: &Shared, team: &mut Team<'_>) {
    let plan = &job.prepared.plan;
    for (index, (step, prepared)) in plan.steps.iter().zip(&job.prepared.steps).enumerate() {
        // SAFETY: the caller's; steps run one after the other.
        unsafe {
            match (step, prepared) {
                (Step::Contract(contract), PreparedStep::Contract { a, b, epilogue }) => {
                    product::run(job, shared, index, contract, [a, b, epilogue], team);
                }
                _ => {
                    for group in &job.groups {
                        let table = job.table(group.instances.clone());
                        let params = &job.instances[group.instances.start].params;
                        match (step, prepared, &group.bound.steps[index]) {
                            (_, PreparedStep::Map(program), BoundStep::Map(bound)) => {
                                map(program, bound, table, team);
                            }
                            (
                                _,
                                PreparedStep::Reduce {
                                    body,
                                    epilogue,
                                    fold,
                                },
                                BoundStep::Reduce(bound),
                            ) => reduce::run(
                                [body, epilogue],
                                fold,
                                bound,
                                table,
                                reduce_value(step),
                                team,
                            ),
                            (Step::Scan(scan), ..) => {
                                scan::run(plan, scan, params, table, team);
                            }
                            (Step::Scatter(scatter), ..) => {
                                scatter::run(plan, scatter, params, table, team);
                            }
                            _ => unreachable!(
                                "`prepare` made and bound this step from the plan that it is run with, each kind as what it is"
                            ),
                        }
                    }
                }
            }
        }
    }
}

fn reduce_value(step: &Step) -> u32 {
    match step {
        Step::Reduce(reduce) => reduce.value.0,
        _ => 0,
    }
}

/// Cuts `total` positions in parts of a multiple of `unit`, a few for each worker.
pub fn part_len(total: u64, unit: u64, team: &Team<'_>) -> u64 {
    match team.workers() {
        1 => total,
        workers => total
            .div_ceil(workers as u64 * PARTS_PER_WORKER)
            .max(PART_MIN.min(total))
            .next_multiple_of(unit),
    }
    .max(1)
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
    let part = part_len(total, unit, team);
    let parts = if part >= total {
        1
    } else {
        total.div_ceil(part) as usize
    };
    team.each(parts, &|scratch, index| {
        let (mut at, end) = (index as u64 * part, ((index as u64 + 1) * part).min(total));
        let bytes = Evaluator::bytes(program, bound.tile);
        let args = scratch.take_tables();
        let slots = scratch.reserve(bytes);
        let mut evaluator = Evaluator::new(program, bound, table, bound.tile, slots, args);
        while at < end {
            let n = tile_len(bound, packed, at, end);
            // SAFETY: the caller's; parts write disjoint elements, because no two indices of a store share one.
            unsafe { evaluator.run(at, n, std::ptr::null()) };
            at += n as u64;
        }
        scratch.keep_tables(evaluator.into_tables());
    });
}
