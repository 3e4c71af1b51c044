//! Bands: steps that go through their rows a block at a time, all of them over one block before any over the next.
//!
//! A softmax is four steps: the greatest element of each row, exponentials, their sum, a quotient. Taken one by one each reads or writes the
//! whole array; in a band a block of rows stays in the core's cache from the first step to the last, and threads, which have rows
//! of their own, wait for each other once and not after every step. Found when a plan is bound, from structure and sizes alone.
//!
//! # Invariants
//! - What a step of a band does to row r touches, of every buffer that the band writes, only what belongs to row r; so rows may be done in
//!   any order, and each row sees its steps in theirs.
//! - Results do not depend on bands: sums are taken in the order of their own rows.
//! - Temporaries that a band touches live as long as the band, because rows are at different steps ([`lives`]).

use std::ops::Range;

use tensord_plan::{Access, Body, Buffer, Instr, Params, Plan, Step, Store};

use crate::fold::Fold;
use crate::pool::Team;
use crate::prepare::{BoundStep, PreparedStep, sizes};
use crate::reduce;
use crate::scratch::Scratch;
use crate::step::{is_packed, map_range, positions};
use crate::tile::{Bound, Program, Table};

/// Bytes of the buffers of a block of rows: a part of the second level of cache, which is half a megabyte where it is small.
const BLOCK_BYTES: u64 = 128 << 10;
/// Parts for each worker.
const PARTS_PER_WORKER: u64 = 4;

/// Steps that go through their rows together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Band {
    /// Which of the plan's steps.
    pub steps: Range<usize>,
    /// Rows of an instance.
    pub rows: u64,
    /// Bytes of all buffers that belong to a row.
    row_bytes: u64,
}

/// How a step reaches the elements of a buffer that belong to a row: those from `low` to `high`, `apart` elements further in the next row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touch {
    buffer: Buffer,
    bytes: u64,
    writes: bool,
    /// `None`: not so simply.
    place: Option<(i64, i64, i64)>,
}

/// The axes of a step's space, of which the first `lead` enumerate rows.
struct Space<'a> {
    params: &'a Params,
    sizes: Vec<u64>,
    lead: usize,
}

impl<'a> Space<'a> {
    /// The space with its leading axes that make up `rows`, if there are such.
    fn new(params: &'a Params, sizes: Vec<u64>, axes: usize, rows: u64) -> Option<Space<'a>> {
        let lead = (0..=axes).find(|&lead| sizes[..lead].iter().product::<u64>() == rows)?;
        Some(Space {
            params,
            sizes,
            lead,
        })
    }

    /// What an access to the first `rank` axes touches.
    fn touch(&self, access: &Access, rank: usize, writes: bool) -> Touch {
        let address = self.params.address(access, rank);
        let (sizes, strides) = (&self.sizes[..rank], &address.strides[..rank]);
        let real = |axis: &usize| sizes[*axis] > 1;
        let rows: Vec<usize> = (0..self.lead).filter(real).collect();
        let joined = rows.windows(2).all(|pair| {
            let inner = strides[pair[1]].checked_mul(sizes[pair[1]] as i64);
            inner == Some(strides[pair[0]])
        });
        let (mut low, mut high) = (address.offset, address.offset);
        for axis in (self.lead..rank).filter(real) {
            // Nobody checked a space without elements.
            let reach = strides[axis].saturating_mul(sizes[axis] as i64 - 1);
            low = low.saturating_add(reach.min(0));
            high = high.saturating_add(reach.max(0));
        }
        let apart = rows.last().map_or(0, |&axis| strides[axis]);
        let simple = joined && access.padded.is_empty();
        Touch {
            buffer: access.buffer,
            bytes: match apart {
                0 => 0,
                _ => {
                    (high.saturating_sub(low) as u64 + 1).saturating_mul(access.dtype.size() as u64)
                }
            },
            writes,
            place: simple.then_some((low, high, apart)),
        }
    }

    fn body(&self, body: &Body, rank: usize, touches: &mut Vec<Touch>) {
        let gathered = |load: usize| {
            body.instrs.iter().any(
                |instr| matches!(instr, Instr::Gather { load: base, .. } if *base as usize == load),
            )
        };
        for (load, access) in body.loads.iter().enumerate() {
            let mut touch = self.touch(access, rank, false);
            if gathered(load) {
                touch.place = None;
            }
            touches.push(touch);
        }
    }

    fn stores(&self, stores: &[Store], rank: usize, touches: &mut Vec<Touch>) {
        touches.extend(
            stores
                .iter()
                .map(|store| self.touch(&store.access, rank, true)),
        );
    }
}

/// What a step touches for each of `rows` rows; `None` where its work is not made of them.
fn touches(step: &Step, bound: &BoundStep, params: &Params, rows: u64) -> Option<Vec<Touch>> {
    let mut touches = Vec::new();
    match (step, bound) {
        (Step::Map(map), _) => {
            let rank = usize::from(map.rank);
            let space = Space::new(params, sizes(params, map.sizes, rank), rank, rows)?;
            space.body(&map.body, rank, &mut touches);
            space.stores(&map.stores, rank, &mut touches);
        }
        (Step::Reduce(reduce), BoundStep::Reduce(bound)) if bound.goes_along_rows() => {
            let outer = usize::from(reduce.outer);
            let all = outer + usize::from(reduce.inner);
            let space = Space::new(params, sizes(params, reduce.sizes, all), outer, rows)?;
            space.body(&reduce.body, all, &mut touches);
            space.body(&reduce.epilogue, outer, &mut touches);
            space.stores(&reduce.stores, outer, &mut touches);
        }
        _ => return None,
    }
    Some(touches)
}

/// May steps that touch all this go through their rows together? Every buffer that one of them writes must be split among rows
/// in one way by all.
fn are_split(touches: &[Touch]) -> bool {
    touches.iter().filter(|touch| touch.writes).all(|written| {
        let mut all = touches
            .iter()
            .filter(|touch| touch.buffer == written.buffer);
        let Some((mut low, mut high, apart)) = written.place else {
            return false;
        };
        let alike = all.all(|touch| {
            touch.place.is_some_and(|(from, to, step)| {
                (low, high) = (low.min(from), high.max(to));
                step == apart
            })
        });
        alike && high.saturating_sub(low) < apart
    })
}

fn row_bytes(touches: &[Touch]) -> u64 {
    let mut largest: Vec<(Buffer, u64)> = Vec::new();
    for touch in touches {
        match largest
            .iter_mut()
            .find(|(buffer, _)| *buffer == touch.buffer)
        {
            Some((_, bytes)) => *bytes = touch.bytes.max(*bytes),
            None => largest.push((touch.buffer, touch.bytes)),
        }
    }
    largest
        .iter()
        .fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

/// The longest band that begins with step `first`.
fn longest(plan: &Plan, bound: &[BoundStep], params: &Params, first: usize) -> Option<Band> {
    // What rows are is said by the first reduction: a step before it joins only as far as it has the same.
    let rows = plan.steps[first..].iter().find_map(|step| match step {
        Step::Reduce(reduce) => {
            let outer = sizes(params, reduce.sizes, reduce.outer.into());
            Some(outer.iter().product::<u64>())
        }
        _ => None,
    })?;
    if rows < 2 {
        return None;
    }
    let (mut all, mut end) = (Vec::new(), first);
    while let Some(step) = plan.steps.get(end) {
        let Some(more) = touches(step, &bound[end], params, rows) else {
            break;
        };
        let before = all.len();
        all.extend(more);
        if !are_split(&all) {
            all.truncate(before);
            break;
        }
        end += 1;
    }
    (end - first > 1).then(|| Band {
        steps: first..end,
        rows,
        row_bytes: row_bytes(&all).max(1),
    })
}

/// The bands of a plan, in order; what they write and read again is marked.
pub fn find(plan: &Plan, bound: &mut [BoundStep], params: &Params) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    let mut first = 0;
    while first < plan.steps.len() {
        match longest(plan, bound, params, first) {
            Some(band) => {
                first = band.steps.end;
                bands.push(band);
            }
            None => first += 1,
        }
    }
    for band in &bands {
        for bound in &mut bound[band.steps.start..band.steps.end - 1] {
            if let BoundStep::Map(bound) = bound {
                bound.read_soon = true;
            }
        }
    }
    bands
}

/// First and last step of each temporary's life, with bands.
pub fn lives(plan: &Plan, bands: &[Band]) -> Vec<(u32, u32)> {
    let temps = plan.temps.iter().map(|temp| temp.live);
    temps
        .map(|(mut first, mut last)| {
            for band in bands {
                let (start, end) = (band.steps.start as u32, band.steps.end as u32 - 1);
                if first <= end && start <= last {
                    (first, last) = (first.min(start), last.max(end));
                }
            }
            (first, last)
        })
        .collect()
}

/// One step of a band, ready to run over any of its rows.
pub enum Work<'a> {
    /// A map.
    Map(&'a Program, &'a Bound),
    /// A reduction: body and epilogue, how it folds, the value folded.
    Reduce([&'a Program; 2], &'a Fold, &'a reduce::ReduceBound, u32),
}

impl<'a> Work<'a> {
    /// A step of a band.
    pub fn new(step: &Step, prepared: &'a PreparedStep, bound: &'a BoundStep) -> Work<'a> {
        match (step, prepared, bound) {
            (_, PreparedStep::Map(program), BoundStep::Map(bound)) => Work::Map(program, bound),
            (
                Step::Reduce(reduce),
                PreparedStep::Reduce {
                    body,
                    epilogue,
                    fold,
                },
                BoundStep::Reduce(bound),
            ) => Work::Reduce([body, epilogue], fold, bound, reduce.value.0),
            _ => unreachable!("bands are made of maps and reductions"),
        }
    }

    /// Runs over global rows.
    unsafe fn rows(&self, band: &Band, table: Table<'_>, scratch: &mut Scratch, rows: &Range<u64>) {
        let scaled = |count: u64| {
            let each = count / band.rows;
            rows.start * each..rows.end * each
        };
        // SAFETY: the caller's.
        unsafe {
            match *self {
                Work::Map(program, bound) => {
                    map_range(program, bound, table, scratch, scaled(bound.count));
                }
                Work::Reduce(programs, fold, bound, value) => {
                    let positions = scaled(bound.count());
                    reduce::range(programs, fold, bound, table, value, scratch, positions);
                }
            }
        }
    }
}

impl Band {
    /// Do the rows of so many instances ask for more than one block?
    pub fn has_blocks(&self, instances: usize) -> bool {
        let rows = self.rows.saturating_mul(instances as u64);
        rows.saturating_mul(self.row_bytes) > BLOCK_BYTES
    }

    /// Is it worth going through these rows block by block, rather than step by step? Only where every thread gets some.
    pub fn pays(&self, instances: usize, team: &Team<'_>) -> bool {
        let alone = team.workers() == 1;
        let enough = self.rows * instances as u64 >= team.workers() as u64 * PARTS_PER_WORKER;
        self.has_blocks(instances) && (alone || enough)
    }

    /// Runs its steps over the instances of a table.
    ///
    /// # Safety
    /// As `step::run`.
    pub unsafe fn run(&self, works: &[Work<'_>], table: Table<'_>, team: &mut Team<'_>) {
        let rows = self.rows * table.count() as u64;
        // Where small instances share a tile, only whole ones do.
        let packed = works
            .iter()
            .any(|work| matches!(work, Work::Map(_, bound) if is_packed(bound, &table)));
        let unit = if packed { self.rows } else { 1 };
        let block = (BLOCK_BYTES / self.row_bytes).max(1).next_multiple_of(unit);
        // A block at a time; where there are few of them threads share them.
        let part = match team.workers() {
            1 => block,
            workers => block.min(rows.div_ceil(workers as u64 * PARTS_PER_WORKER)),
        }
        .next_multiple_of(unit);
        team.each(rows.div_ceil(part) as usize, &|scratch, parts| {
            let Range { start: mut at, end } = positions(parts, part, rows);
            while at < end {
                let rows = at..(at + block).min(end);
                for work in works {
                    // SAFETY: the caller's; parts and blocks are of different rows, which share nothing that a step writes.
                    unsafe { work.rows(self, table, scratch, &rows) };
                }
                at = rows.end;
            }
        });
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../tests/plans_support/rows.rs"]
mod plans;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tensord_plan::TempSpec;
    use tensord_shm::op::Elementwise::{Exp, Sub};
    use tensord_shm::op::Reduction::{Max, Sum};

    use super::plans::*;
    use super::*;
    use crate::isa::Isa;
    use crate::prepare::Cache;

    /// The bands of a plan over a matrix.
    fn bands(plan: Plan, rows: i64, columns: i64) -> Vec<Band> {
        let params = params(&plan, rows, columns);
        let mut cache = Cache::new(Isa::Portable);
        let entry = cache.find(&Arc::new(plan));
        cache.bind(entry, &params).bands.clone()
    }

    /// First and last step of each.
    fn steps(plan: Plan, rows: i64, columns: i64) -> Vec<(usize, usize)> {
        let bands = bands(plan, rows, columns);
        let ends = bands
            .iter()
            .map(|band| (band.steps.start, band.steps.end - 1));
        ends.collect()
    }

    #[test]
    fn a_softmax_and_a_layer_norm_are_one_band_each() {
        assert_eq!(steps(softmax(), 1000, 300), [(0, 3)]);
        assert_eq!(steps(layer_norm(), 1000, 300), [(0, 2)]);
        let [band] = &bands(softmax(), 1000, 300)[..] else {
            panic!("one band");
        };
        // The matrix, its powers and the result; the greatest element and the sum.
        assert_eq!((band.rows, band.row_bytes), (1000, 3 * 1200 + 2 * 4));
        assert!(band.has_blocks(1));
    }

    #[test]
    fn one_row_is_no_band() {
        assert_eq!(steps(softmax(), 1, 300), []);
    }

    #[test]
    fn small_instances_are_one_block_and_many_of_them_are_several() {
        let [band] = &bands(softmax(), 4, 32)[..] else {
            panic!("one band");
        };
        assert!(!band.has_blocks(16));
        assert!(band.has_blocks(1000));
    }

    fn across(strides: u32) -> Plan {
        let [high, less] = [0, 1].map(Buffer::Temp);
        let temps: Vec<TempSpec> = vec![temp(ROWS, 0, 1), temp(ALL, 1, 2)];
        let subtract = body(&[(X, MATRIX), (high, SHARED)], &[(Sub, [0, 1])]);
        plan(
            vec![
                reduce(Max, body(&[(X, MATRIX)], &[]), &[], high),
                map(subtract, less),
                reduce(Sum, body(&[(less, strides)], &[(Exp, [0, 0])]), &[], Y),
            ],
            temps,
            ROWS,
        )
    }

    #[test]
    fn a_step_that_reads_other_rows_than_its_own_ends_the_band() {
        assert_eq!(steps(across(MATRIX), 40, 40), [(0, 2)]);
        assert_eq!(steps(across(TRANSPOSED), 40, 40), [(0, 1)]);
        assert_eq!(steps(across(NOTHING), 40, 40), [(0, 1)]);
    }

    #[test]
    fn temporaries_live_as_long_as_their_band() {
        let plan = across(TRANSPOSED);
        let bands = bands(plan.clone(), 40, 40);
        assert_eq!(lives(&plan, &bands), [(0, 1), (0, 2)]);
        assert_eq!(lives(&plan, &[]), [(0, 1), (1, 2)]);
    }
}
