//! One unit of work: some rows and some lanes of one product, over all of k.
//!
//! For each block of k the panels of the lanes are found, in the constants' pack or in place, or packed; then block after
//! block of rows is found or packed in the same way, and the microkernels run over both. Sums go straight to the result
//! where it is a bare store of adjacent lanes, and else to a block that stays in cache until it is finished.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::form::Shape;
use super::groups::{Group, ROW_BLOCK, fill};
use super::kernel::{Kernels, NR_MAX, ROWS_MAX, Tile};
use super::layout::bare_load;
use super::number::{Compute, Storage};
use super::operands::Panels;
use super::scratch::Scratch;
use super::tables::{address, step_address};
use super::{Bodies, Contraction, K_BLOCK, Side, with_storage};

/// Up to this many rows panels are not worth packing if the lanes are adjacent in memory.
pub(super) const IN_PLACE_ROWS_MAX: usize = 12;

/// The part of a unit's rows that belongs to one member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub member: usize,
    /// First row, in the member and in the unit.
    pub first: usize,
    pub at: usize,
    pub len: usize,
}

/// # Safety
/// See [`Contraction::run_unit`].
pub(super) unsafe fn run_unit(
    contraction: &Contraction<'_>,
    unit: usize,
    scratch: &mut Scratch,
    bodies: &mut dyn Bodies,
) {
    let groups = &contraction.groups;
    let group = &groups[groups.partition_point(|group| group.first_unit <= unit) - 1];
    let unit = unit - group.first_unit;
    let lane_blocks = group.lanes.div_ceil(group.lane_block);
    let row_blocks = group.rows.div_ceil(group.row_block);
    let range =
        |index: usize, block: usize, count: usize| index * block..((index + 1) * block).min(count);
    let batch = unit / (lane_blocks * row_blocks);
    let rows = range(unit / lane_blocks % row_blocks, group.row_block, group.rows);
    let lanes = range(unit % lane_blocks, group.lane_block, group.lanes);
    with_storage!(contraction.contract.dtype, S => {
        let unit = Unit::<S> {
            contraction,
            group,
            kernels: <S as Storage>::Compute::kernels(contraction.isa),
            batch,
            rows,
            lanes,
            storage: PhantomData,
        };
        // SAFETY: handed on.
        unsafe {
            match &group.small {
                Some(steps) => unit.run_small(steps, scratch, bodies),
                None => unit.run(scratch, bodies),
            }
        }
    })
}

pub(super) struct Unit<'a, S: Storage> {
    pub contraction: &'a Contraction<'a>,
    pub group: &'a Group,
    pub kernels: &'static Kernels<S::Compute>,
    pub batch: usize,
    pub rows: Range<usize>,
    pub lanes: Range<usize>,
    pub storage: PhantomData<S>,
}

/// Where sums go: to the scratch's `sum_addresses`, which are
pub(super) enum Sums<C> {
    /// rows of the result; lanes are adjacent there, and a last panel must not be overrun.
    Result,
    /// rows of a block of whole panels.
    Block { at: *mut C, stride: usize },
}

impl<S: Storage> Unit<'_, S> {
    pub(super) fn shape(&self, member: usize) -> &Shape {
        let binding = &self.contraction.bindings[self.group.members[member].binding];
        binding.form.shape(self.group.swapped)
    }

    pub(super) fn base(&self, member: usize, side: Side) -> *const u8 {
        let binding = &self.contraction.bindings[self.group.members[member].binding];
        match side {
            Side::A => binding.a,
            Side::B => binding.b,
        }
    }

    /// What stands in the padding of a member's operand, which is a bare load.
    pub(super) fn fill(&self, member: usize, side: Side) -> S {
        let contract = self.contraction.contract;
        let body = match side {
            Side::A => &contract.a,
            Side::B => &contract.b,
        };
        let binding = &self.contraction.bindings[self.group.members[member].binding];
        let scalar = bare_load(body).map_or_else(Default::default, |access| fill(access, binding));
        S::from_scalar(scalar)
    }

    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn run(&self, scratch: &mut Scratch, bodies: &mut dyn Bodies) {
        self.segments(&mut scratch.segments);
        let sums = self.sums(scratch);
        let k_count = self.group.k;
        if k_count == 0 {
            // SAFETY: handed on.
            unsafe { self.clear(scratch) };
        }
        for k in (0..k_count).step_by(K_BLOCK) {
            let ks = k..(k + K_BLOCK).min(k_count);
            // SAFETY: handed on.
            unsafe {
                let panels = self.panels(&ks, scratch, bodies);
                self.block_of_k(&ks, &panels, &sums, scratch, bodies);
            }
        }
        // SAFETY: handed on.
        unsafe { self.finish(&sums, scratch, bodies) };
    }

    pub(super) fn segments(&self, segments: &mut Vec<Segment>) {
        segments.clear();
        let members = &self.group.members;
        let first = members.partition_point(|m| m.first_row + m.rows <= self.rows.start);
        for (index, member) in members.iter().enumerate().skip(first) {
            if member.first_row >= self.rows.end {
                break;
            }
            let start = self.rows.start.max(member.first_row);
            let end = self.rows.end.min(member.first_row + member.rows);
            if start < end {
                segments.push(Segment {
                    member: index,
                    first: start - member.first_row,
                    at: start - self.rows.start,
                    len: end - start,
                });
            }
        }
    }

    /// Decides where sums go, and finds the result's rows.
    fn sums(&self, scratch: &mut Scratch) -> Sums<S::Compute> {
        scratch.out_addresses.clear();
        scratch.sum_addresses.clear();
        let mut adjacent = size_of::<S::Out>() == size_of::<S::Compute>();
        for segment in &scratch.segments {
            let Some(out) = &self.shape(segment.member).out else {
                adjacent = false;
                break;
            };
            let binding = &self.contraction.bindings[self.group.members[segment.member].binding];
            let base = address::<S::Out>(binding.out, out.offset + out.batch.at(self.batch));
            scratch.offsets.clear();
            out.rows
                .walk(0, segment.first, segment.len, &mut scratch.offsets);
            let rows = scratch.offsets.iter();
            scratch
                .out_addresses
                .extend(rows.map(|&at| step_address::<S::Out>(base, at)));
            let step = out.lanes.step(self.lanes.start, self.lanes.len());
            adjacent &= step == Some(1) || self.lanes.len() == 1;
        }
        if adjacent {
            let lane = self.shape(scratch.segments[0].member).out.as_ref();
            let first = lane.map_or(0, |out| out.lanes.at(self.lanes.start));
            let rows = scratch.out_addresses.iter();
            scratch
                .sum_addresses
                .extend(rows.map(|&row| step_address::<S::Out>(row, first)));
            return Sums::Result;
        }
        let stride = self.lanes.len().next_multiple_of(self.kernels.nr);
        let at: *mut S::Compute = scratch.sums.room(self.rows.len() * stride);
        let rows = 0..self.rows.len();
        scratch
            .sum_addresses
            .extend(rows.map(|row| at.wrapping_add(row * stride) as usize));
        Sums::Block { at, stride }
    }

    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn clear(&self, scratch: &Scratch) {
        for &row in &scratch.sum_addresses {
            for lane in 0..self.lanes.len() {
                // SAFETY: a row of sums has a place for each lane.
                unsafe { *(row as *mut S::Compute).add(lane) = S::Compute::ZERO };
            }
        }
    }

    /// Runs the kernels over one block of k, rows block by block.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`]; `panels` are those of `ks`.
    unsafe fn block_of_k(
        &self,
        ks: &Range<usize>,
        panels: &Panels<S::Compute>,
        sums: &Sums<S::Compute>,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) {
        for first in (0..self.rows.len()).step_by(ROW_BLOCK) {
            let rows = first..(first + ROW_BLOCK).min(self.rows.len());
            // SAFETY: handed on.
            let a_step = unsafe { self.row_block(&rows, ks, scratch, bodies) };
            let tiles = rows.len().div_ceil(self.kernels.rows);
            let (each, longer) = (rows.len() / tiles, rows.len() % tiles);
            let whole = self.lanes.len() / self.kernels.nr;
            let count = self.lanes.len().div_ceil(self.kernels.nr);
            let mut panel = 0;
            while panel < count {
                let elsewhere = panels.last.is_some() && panel == whole;
                let left = match panels.last {
                    Some(_) if panel < whole => whole - panel,
                    _ => count - panel,
                };
                let left = match sums {
                    // A last panel that is not full goes by itself, so as not to overrun the result.
                    Sums::Result if panel < whole => left.min(whole - panel),
                    _ => left,
                };
                let longest = each + usize::from(longer > 0);
                let wide = self.kernels.widest(longest, left).1;
                let columns = PanelRun {
                    at: match panels.last {
                        Some(last) if elsewhere => last,
                        _ => panels.at.wrapping_add(panel * panels.panel),
                    },
                    step: if elsewhere {
                        self.kernels.nr
                    } else {
                        panels.step
                    },
                    panel: panels.panel,
                    first: panel,
                    count: wide,
                };
                let mut to = 0;
                for tile in 0..tiles {
                    let from = to;
                    to += each + usize::from(tile < longer);
                    // SAFETY: handed on.
                    unsafe {
                        self.tile(&columns, ks, (first, from..to), a_step, sums, scratch);
                    }
                }
                panel += wide;
            }
        }
    }

    /// Runs a kernel over some rows of a block and a run of panels.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn tile(
        &self,
        columns: &PanelRun<S::Compute>,
        ks: &Range<usize>,
        (block, rows): (usize, Range<usize>),
        a_step: isize,
        sums: &Sums<S::Compute>,
        scratch: &Scratch,
    ) {
        let nr = self.kernels.nr;
        let lane = columns.first * nr;
        let valid = (self.lanes.len() - lane).min(columns.count * nr);
        let partial = matches!(sums, Sums::Result) && valid < columns.count * nr;
        let add = ks.start > 0;
        let targets = &scratch.sum_addresses[block + rows.start..block + rows.end];
        let mut tile = Tile {
            k: ks.len(),
            a: scratch.packed_addresses[rows.clone()].as_ptr().cast(),
            a_step,
            b: columns.at,
            b_step: columns.step as isize,
            b_panel: columns.panel as isize,
            c: targets.as_ptr().cast(),
            c_at: lane,
            add,
        };
        if partial {
            // SAFETY: handed on; `valid` lanes are there.
            return unsafe { self.edge(tile, targets, columns.count, valid) };
        }
        let mut left = columns.count;
        while left > 0 {
            let (kernel, wide) = self.kernels.widest(rows.len(), left);
            // SAFETY: rows and panels were found or packed for this block of k; each row of sums has room for whole
            // panels; the caller chose `isa` among those available.
            unsafe { kernel(&tile) };
            left -= wide;
            tile.b = tile.b.wrapping_add(wide * columns.panel);
            tile.c_at += wide * nr;
        }
    }

    /// A panel that is longer than its row of the result: through a block beside it.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`]; `targets` are the rows that `tile` names, and have `valid` lanes from its place on.
    unsafe fn edge(
        &self,
        mut tile: Tile<S::Compute>,
        targets: &[usize],
        panels: usize,
        valid: usize,
    ) {
        let mut block = MaybeUninit::<[[S::Compute; NR_MAX]; ROWS_MAX]>::uninit();
        let first: *mut S::Compute = block.as_mut_ptr().cast();
        let rows: [*mut S::Compute; ROWS_MAX] =
            std::array::from_fn(|row| first.wrapping_add(row * NR_MAX));
        let (lane, add) = (tile.c_at, tile.add);
        (tile.c, tile.c_at, tile.add) = (rows.as_ptr(), 0, false);
        let (kernel, wide) = self.kernels.widest(targets.len(), panels);
        debug_assert!(wide == panels && wide * self.kernels.nr <= NR_MAX);
        // SAFETY: as for other tiles, with the block for results.
        unsafe { kernel(&tile) };
        for (row, &to) in targets.iter().enumerate() {
            for at in 0..valid {
                // SAFETY: the result has `valid` lanes from here; the kernel wrote a whole panel of each of its rows.
                unsafe {
                    let to = (to as *mut S::Compute).add(lane + at);
                    let sum = *first.add(row * NR_MAX + at);
                    *to = if add { S::Compute::sum(*to, sum) } else { sum };
                }
            }
        }
    }
}

/// Adjacent panels for one kernel.
struct PanelRun<C> {
    at: *const C,
    step: usize,
    panel: usize,
    /// Index of the first panel in the unit.
    first: usize,
    count: usize,
}
