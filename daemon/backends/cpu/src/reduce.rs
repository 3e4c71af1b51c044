//! Reductions: the tile machine feeds `fold`, and the epilogue takes the results.
//!
//! Two ways through the same order of combination. Along rows: the inner elements of one reduction are consecutive in the walk, and
//! lanes run along them. Along columns: the walk has the inner axes outside and many reductions side by side run along lanes;
//! chosen where memory is contiguous that way (a sum over the first axis).
//!
//! # Invariant
//! Elements, lanes and blocks combine as `tensord_plan::Reduce` says, whichever way and however many threads.

use tensord_plan::{Params, Plan, Reduce};

use crate::fold::{BLOCK, Blocks, Fold, LANES};
use crate::pool::Team;
use crate::prepare::sizes;
use crate::scratch::{Scratch, padded};
use crate::step::{part_len, positions};
use crate::tile::program::Value;
use crate::tile::{Bound, Evaluator, Program, Table};

/// Results that one pass of the epilogue takes.
const OUTER_MAX: usize = 256;
/// Depth of the tree of blocks: more than the logarithm of the largest element count.
const DEPTH: usize = 48;
/// Blocks whose sums are joined at once: a complete part of the tree, so a power of two.
const GROUP: u64 = 64;
/// Blocks of a single reduction from which its blocks are worth sharing among threads.
const SHARE_BLOCKS: u64 = 64;
/// Blocks of a reduction that may be stopped inside.
const LONG_BLOCKS: u64 = 256;

/// A reduction's sizes and addresses.
#[derive(Debug)]
pub struct ReduceBound {
    /// The body's space: outer then inner axes, or inner then outer.
    body: Bound,
    epilogue: Bound,
    /// Are the inner axes outside?
    columns: bool,
    /// Can elements be folded where they lie?
    in_place: bool,
    outer: u64,
    inner: u64,
}

impl ReduceBound {
    /// Binds a reduction.
    pub fn new(
        plan: &Plan,
        reduce: &Reduce,
        body: &Program,
        epilogue: &Program,
        params: &Params,
    ) -> ReduceBound {
        let split = usize::from(reduce.outer);
        let all = sizes(params, reduce.sizes, split + usize::from(reduce.inner));
        let (outer, inner) = (all[..split].iter().product(), all[split..].iter().product());
        let columns = outer > 1 && inner > 1 && prefers_columns(body, params, &all, split);
        let order: Vec<usize> = match columns {
            true => (split..all.len()).chain(0..split).collect(),
            false => (0..all.len()).collect(),
        };
        let outer_order: Vec<usize> = (0..split).collect();
        let value = reduce.value.0 as Value;
        let loaded = Bound::new(plan, body, params, &all, &order);
        ReduceBound {
            in_place: !columns && body.only_loads(value) && loaded.rows_lie_together(inner),
            body: loaded,
            epilogue: Bound::new(plan, epilogue, params, &all[..split], &outer_order),
            columns,
            outer,
            inner,
        }
    }

    /// Reductions of an instance.
    pub fn count(&self) -> u64 {
        self.outer
    }

    /// Is one reduction after the other computed, along its own elements?
    pub fn goes_along_rows(&self) -> bool {
        !self.columns
    }
}

/// Is memory contiguous along the last outer axis rather than along the last inner one?
fn prefers_columns(body: &Program, params: &Params, all: &[u64], split: usize) -> bool {
    let last = |axes: std::ops::Range<usize>| axes.rev().find(|&axis| all[axis] > 1);
    let (Some(outer), Some(inner)) = (last(0..split), last(split..all.len())) else {
        return false;
    };
    let mut score = 0;
    for access in &body.loads {
        let strides = params.address(access, all.len()).strides;
        score += i32::from(strides[outer].abs() == 1 && strides[inner].abs() != 1);
        score -= i32::from(strides[inner].abs() == 1 && strides[outer].abs() != 1);
    }
    score > 0
}

/// One reduction step on one thread: evaluators and buffers carved from its scratch memory.
struct Work<'a> {
    fold: &'a Fold,
    bound: &'a ReduceBound,
    value: u32,
    body: Evaluator<'a>,
    epilogue: Evaluator<'a>,
    /// 16 lanes of `width` accumulators.
    lanes: *mut u8,
    /// `DEPTH` levels of `width` accumulators.
    stack: *mut u8,
    /// `OUTER_MAX` accumulators: sums of blocks.
    sums: *mut u8,
    /// Results for the epilogue.
    results: *mut u8,
}

/// Bytes of the pieces of a [`Work`].
fn pieces(programs: [&Program; 2], fold: &Fold, bound: &ReduceBound) -> [usize; 6] {
    let width = if bound.columns { OUTER_MAX } else { 1 };
    [
        Evaluator::bytes(programs[0], bound.body.tile.max(LANES)),
        Evaluator::bytes(programs[1], OUTER_MAX),
        padded(LANES * width * fold.size),
        padded(DEPTH * width * fold.size),
        padded(OUTER_MAX * fold.size),
        padded((OUTER_MAX + LANES) * 8),
    ]
}

impl<'a> Work<'a> {
    fn new(
        programs: [&'a Program; 2],
        fold: &'a Fold,
        bound: &'a ReduceBound,
        table: Table<'a>,
        value: u32,
        scratch: &mut Scratch,
    ) -> Work<'a> {
        let bytes = pieces(programs, fold, bound);
        let (first, second) = (scratch.take_tables(), scratch.take_tables());
        let mut at = scratch.reserve(bytes.iter().map(|&b| padded(b)).sum());
        let [a, b, lanes, stack, sums, results] = bytes.map(|bytes| {
            let piece = at;
            // SAFETY: the pieces together are what was reserved.
            at = unsafe { at.add(padded(bytes)) };
            piece
        });
        let tile = bound.body.tile.max(LANES);
        Work {
            fold,
            bound,
            value,
            body: Evaluator::new(programs[0], &bound.body, table, tile, a, first),
            epilogue: Evaluator::new(programs[1], &bound.epilogue, table, OUTER_MAX, b, second),
            lanes,
            stack,
            sums,
            results,
        }
    }

    fn done(self, scratch: &mut Scratch) {
        scratch.keep_tables(self.body.into_tables());
        scratch.keep_tables(self.epilogue.into_tables());
    }

    fn level(&self, depth: usize, width: usize) -> *mut u8 {
        debug_assert!(depth < DEPTH);
        // SAFETY: `stack` has `DEPTH` levels of at least `width` accumulators.
        unsafe { self.stack.add(depth * width * self.fold.size) }
    }

    /// Puts the sums of node `node` of its level on the stack, joining what is complete: as many joins as the number has trailing ones.
    unsafe fn push(&mut self, sums: *const u8, node: u64, depth: &mut usize, width: usize) {
        // SAFETY: the pieces have room for `width` reductions.
        unsafe {
            let top = self.level(*depth, width);
            std::ptr::copy_nonoverlapping(sums, top, width * self.fold.size);
            *depth += 1;
            for _ in 0..node.trailing_ones() {
                *depth -= 1;
                (self.fold.join)(
                    self.level(*depth - 1, width),
                    self.level(*depth, width),
                    width,
                );
            }
        }
    }

    /// Joins what is left on the stack; the result is at its bottom.
    unsafe fn collapse(&mut self, mut depth: usize, width: usize) {
        while depth > 1 {
            depth -= 1;
            // SAFETY: levels below `depth` are filled.
            unsafe {
                (self.fold.join)(
                    self.level(depth - 1, width),
                    self.level(depth, width),
                    width,
                );
            }
        }
    }

    /// Sums of blocks `blocks` of the reduction at global outer position `at`.
    unsafe fn sums(&mut self, at: u64, blocks: std::ops::Range<u64>, mut to: *mut u8) {
        let (n, size) = (self.bound.inner, BLOCK as u64);
        let at_once = match self.bound.in_place {
            true => u64::MAX,
            false => (self.bound.body.tile / BLOCK) as u64,
        };
        let mut block = blocks.start;
        while block < blocks.end {
            let first = block * size;
            let whole = blocks.end.min(n / size).saturating_sub(block);
            let (count, filled) = match whole.min(at_once) {
                0 => (1, (n - first).min(size)),
                count => (count, size),
            };
            // SAFETY: the caller's; `to` has room for the sums of `blocks`.
            unsafe {
                if at_once == 0 {
                    self.block_by_tiles(at * n, first, filled as usize);
                    std::ptr::copy_nonoverlapping(self.lanes, to, self.fold.size);
                } else {
                    let x = self.elements(at * n + first, (count * filled) as usize);
                    let blocks = Blocks {
                        x,
                        filled: filled as usize,
                        apart: BLOCK as isize,
                        count: count as usize,
                        position: first,
                        advance: size,
                    };
                    (self.fold.blocks)(to, &blocks);
                }
                to = to.add(count as usize * self.fold.size);
            }
            block += count;
        }
    }

    /// Consecutive elements of one reduction from a global position on: where they lie, or a tile of them.
    unsafe fn elements(&mut self, at: u64, len: usize) -> *const u8 {
        // SAFETY: the caller's; a tile has room for them unless they are read in place.
        unsafe {
            if self.bound.in_place {
                return self.body.loaded_at(at);
            }
            self.body.run(at, len, std::ptr::null());
            self.body.tile_of(self.value, len)
        }
    }

    /// The sum of a block that is longer than a tile, in lane 0.
    unsafe fn block_by_tiles(&mut self, row: u64, first: u64, filled: usize) {
        let mut done = 0;
        while done < filled {
            let len = (filled - done).min(self.bound.body.tile);
            let position = first + done as u64;
            // SAFETY: the caller's; the tile lies in one reduction and one block.
            unsafe {
                let x = self.elements(row + position, len);
                (self.fold.rows)(self.lanes, x, position, len, 1);
            }
            done += len;
        }
        // SAFETY: the lanes hold a complete block.
        unsafe { (self.fold.close)(self.lanes, filled, 1) };
    }

    /// One reduction along its row.
    unsafe fn long(&mut self, at: u64, to: *mut u8) {
        let blocks = self.bound.inner.div_ceil(BLOCK as u64);
        let mut depth = 0;
        for group in 0..blocks.div_ceil(GROUP) {
            let range = group * GROUP..blocks.min((group + 1) * GROUP);
            // SAFETY: the caller's; a group has no more blocks than there is room for sums.
            unsafe {
                let count = (range.end - range.start) as usize;
                self.sums(at, range, self.sums);
                (self.fold.tree)(self.sums, count);
                self.push(self.sums, group, &mut depth, 1);
            }
        }
        // SAFETY: at least one group was pushed.
        unsafe {
            self.collapse(depth, 1);
            (self.fold.finish)(to, self.stack, 1);
        }
    }

    /// Reductions `at..at + count` of at most a block each, several at once.
    unsafe fn short(&mut self, at: u64, count: usize, size: usize) {
        let n = self.bound.inner as usize;
        let tile = (self.bound.body.tile / n).max(1);
        let mut done = 0;
        while done < count {
            let from = (at + done as u64) * n as u64;
            let left = count - done;
            // SAFETY: the caller's; results and sums have room for `count` elements.
            unsafe {
                let (x, some, apart) = match self.bound.in_place {
                    true => self.body.rows_at(from, n, left),
                    false => {
                        let some = tile.min(left);
                        (self.elements(from, some * n), some, n as isize)
                    }
                };
                let blocks = Blocks {
                    x,
                    filled: n,
                    apart,
                    count: some,
                    position: 0,
                    advance: 0,
                };
                (self.fold.blocks)(self.sums, &blocks);
                (self.fold.finish)(self.results.add(done * size), self.sums, some);
                done += some;
            }
        }
    }

    fn element_size(&self) -> usize {
        self.body.lane_size(self.value)
    }

    /// `width` reductions side by side, from outer element `outer` of an instance on.
    unsafe fn side_by_side(&mut self, instance: u64, outer: u64, width: usize) {
        let (n, all) = (self.bound.inner, self.bound.outer);
        let base = instance * self.bound.body.count + outer;
        let whole = width as u64 == all;
        let lane = self.element_size();
        let mut depth = 0;
        let mut position = 0;
        while position < n {
            let block_end = (position / BLOCK as u64 + 1) * BLOCK as u64;
            let rows = match whole {
                true => (self.bound.body.tile / width).max(1) as u64,
                false => 1,
            };
            let rows = rows.min(block_end.min(n) - position) as usize;
            // SAFETY: the caller's. A row is at most a tile; several rows are consecutive only where they are whole.
            unsafe {
                let tile = rows * width;
                self.body.run(base + position * all, tile, std::ptr::null());
                let x = self.body.tile_of(self.value, tile);
                debug_assert!(lane > 0);
                (self.fold.rows)(self.lanes, x, position, rows, width);
            }
            position += rows as u64;
            if position.is_multiple_of(BLOCK as u64) || position == n {
                let block = (position - 1) / BLOCK as u64;
                let filled = (position - block * BLOCK as u64) as usize;
                // SAFETY: the lanes hold a complete block.
                unsafe {
                    (self.fold.close)(self.lanes, filled, width);
                    self.push(self.lanes, block, &mut depth, width);
                }
            }
        }
        // SAFETY: n > 0, so at least one block was pushed; results have room for `width`.
        unsafe {
            self.collapse(depth, width);
            (self.fold.finish)(self.results, self.stack, width);
        }
    }

    /// Global outer positions `at..end`, which the epilogue takes in tiles.
    unsafe fn range(&mut self, mut at: u64, end: u64) {
        let n = self.bound.inner;
        let size = self.epilogue.reduced_size();
        while at < end {
            let mut count = (end - at).min(OUTER_MAX as u64) as usize;
            // SAFETY: the caller's.
            unsafe {
                if n == 0 {
                    (self.fold.empty)(self.results, count);
                } else if self.bound.columns {
                    let (instance, outer) = (at / self.bound.outer, at % self.bound.outer);
                    let most = self.bound.body.tile.min(OUTER_MAX);
                    count = count.min(most).min((self.bound.outer - outer) as usize);
                    self.side_by_side(instance, outer, count);
                } else if n <= BLOCK as u64
                    && (self.bound.in_place || n <= self.bound.body.tile as u64)
                {
                    self.short(at, count, size);
                } else {
                    for k in 0..count {
                        self.long(at + k as u64, self.results.add(k * size));
                    }
                }
                self.epilogue.run(at, count, self.results);
            }
            at += count as u64;
        }
    }
}

/// Runs a reduction over the instances of a table.
///
/// # Safety
/// As `step::run`.
pub unsafe fn run(
    programs: [&Program; 2],
    fold: &Fold,
    bound: &ReduceBound,
    table: Table<'_>,
    value: u32,
    team: &mut Team<'_>,
) {
    let total = bound.outer * table.count() as u64;
    if total == 0 {
        return;
    }
    let blocks = bound.inner.div_ceil(BLOCK as u64);
    let few = team.workers() > 1 && total < team.workers() as u64;
    let long = team.is_sliced() && blocks >= LONG_BLOCKS;
    if (few || long) && blocks >= SHARE_BLOCKS && !bound.columns {
        for at in 0..total {
            // SAFETY: the caller's.
            unsafe { shared(programs, fold, bound, table, value, at, team) };
        }
        return;
    }
    let elements = bound.inner.max(1);
    let part = part_len(elements) / elements;
    team.each(total.div_ceil(part) as usize, &|scratch, parts| {
        let positions = positions(parts, part, total);
        // SAFETY: the caller's; parts have different outer positions, so they store different elements.
        unsafe { range(programs, fold, bound, table, value, scratch, positions) };
    });
}

/// The reductions at some global outer positions, on one thread.
///
/// # Safety
/// As `step::run`.
pub unsafe fn range(
    programs: [&Program; 2],
    fold: &Fold,
    bound: &ReduceBound,
    table: Table<'_>,
    value: u32,
    scratch: &mut Scratch,
    positions: std::ops::Range<u64>,
) {
    let mut work = Work::new(programs, fold, bound, table, value, scratch);
    // SAFETY: the caller's.
    unsafe { work.range(positions.start, positions.end) };
    work.done(scratch);
}

/// Address of the block sums that parts fill, each its own.
#[derive(Clone, Copy)]
struct Sums(*mut u8);
// SAFETY: parts write disjoint sums, and the owner reads them when all parts are done.
unsafe impl Sync for Sums {}

impl Sums {
    fn at(&self, byte: usize) -> *mut u8 {
        self.0.wrapping_add(byte)
    }
}

/// One long reduction, its blocks in parts.
unsafe fn shared(
    programs: [&Program; 2],
    fold: &Fold,
    bound: &ReduceBound,
    table: Table<'_>,
    value: u32,
    at: u64,
    team: &mut Team<'_>,
) {
    let blocks = bound.inner.div_ceil(BLOCK as u64) as usize;
    let sums = Sums(team.kept(blocks * fold.size));
    team.each(blocks, &|scratch, parts| {
        let mut work = Work::new(programs, fold, bound, table, value, scratch);
        let to = sums.at(parts.start * fold.size);
        // SAFETY: the caller's; each block's sum is written by one part.
        unsafe { work.sums(at, parts.start as u64..parts.end as u64, to) };
        work.done(scratch);
    });
    team.each(1, &|scratch, _| {
        let mut work = Work::new(programs, fold, bound, table, value, scratch);
        // SAFETY: every sum is there.
        unsafe {
            (fold.tree)(sums.at(0), blocks);
            (fold.finish)(work.results, sums.at(0), 1);
            work.epilogue.run(at, 1, work.results);
        }
        work.done(scratch);
    });
}
