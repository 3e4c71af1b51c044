//! One unit of work: some rows and some lanes of one product, over all of k.
//!
//! For each block of k the panels of the lanes are found, in the constants' pack or in place, or packed; then block after
//! block of rows is found or packed in the same way, and the microkernels run over both. Sums go straight to the result
//! where it is a bare store of adjacent lanes, and else to a block that stays in cache until it is finished.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::groups::{Group, ROW_BLOCK, Shape, fill, pack_offset};
use super::kernel::small::{Small, Steps};
use super::kernel::{Kernels, NR_MAX, PANELS_MAX, ROWS_MAX, Tile};
use super::layout::{Dims, OperandLayout, bare_load};
use super::load::{Block, Guards};
use super::number::{Compute, Storage};
use super::packs::Key;
use super::scratch::{Coordinates, Lines, Scratch};
use super::{Bodies, Contraction, Fill, Finish, Isa, K_BLOCK, Side, with_storage};

/// Up to this many rows panels are not worth packing if the lanes are adjacent in memory.
pub(super) const IN_PLACE_ROWS_MAX: usize = 12;
/// Up to this many rows, or lanes, rows are not worth packing if k has a single stride.
const IN_PLACE_LANES_MAX: usize = 64;

/// The part of a unit's rows that belongs to one member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    member: usize,
    /// First row, in the member and in the unit.
    first: usize,
    at: usize,
    len: usize,
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

/// Packs a whole operand: what [`super::packs`] keeps.
///
/// # Safety
/// The operand that `key` describes, from element 0 at `base`, is readable where its guards hold.
pub(super) unsafe fn pack_whole<S: Storage>(base: *const u8, key: &Key<'_>, isa: Isa) -> Lines {
    let [batch, lanes, k_count] = key.counts;
    let kernels = <S::Compute as Compute>::kernels(isa);
    let (nr, turn) = (kernels.nr, kernels.turn);
    let mut lines = Lines::default();
    let to = lines.room::<S::Compute>(batch * lanes.next_multiple_of(nr) * k_count);
    let mut tables = Scratch::default();
    let fill = S::from_scalar(key.fill);
    for position in 0..batch {
        for k in (0..k_count).step_by(K_BLOCK) {
            let ks = k..(k + K_BLOCK).min(k_count);
            let at = pack_offset(key.counts, nr, position, k);
            tables.lane_addresses.clear();
            let mut table = LoadTable {
                addresses: &mut tables.lane_addresses,
                offsets: &mut tables.offsets,
                extents: &mut tables.extents,
                k_offsets: &mut tables.k_offsets,
                row_coordinates: &mut tables.row_coordinates,
                k_coordinates: &mut tables.k_coordinates,
            };
            table.along_k(key.layout, &ks);
            let block = table.block(&Part {
                layout: key.layout,
                base,
                batch: position,
                rows: 0..lanes,
                ks: &ks,
                fill,
            });
            // SAFETY: the operand is readable as the caller says; the pack has room for every panel of the block.
            unsafe { block.panels(to.add(at), nr, turn) };
        }
    }
    lines
}

/// The tables that a [`Block`] refers to.
struct LoadTable<'t> {
    addresses: &'t mut Vec<usize>,
    offsets: &'t mut Vec<i64>,
    extents: &'t mut Vec<i64>,
    k_offsets: &'t mut Vec<i64>,
    row_coordinates: &'t mut Coordinates,
    k_coordinates: &'t mut Coordinates,
}

/// What a [`LoadTable`] is filled with.
struct Part<'p, S> {
    layout: &'p OperandLayout,
    base: *const u8,
    batch: usize,
    rows: Range<usize>,
    ks: &'p Range<usize>,
    fill: S,
}

impl LoadTable<'_> {
    /// Fills in what depends on k.
    fn along_k(&mut self, layout: &OperandLayout, ks: &Range<usize>) {
        self.k_offsets.clear();
        layout.k.walk(0, ks.start, ks.len(), self.k_offsets);
        let Coordinates { values, ranges } = &mut *self.k_coordinates;
        values.clear();
        ranges.clear();
        self.extents.clear();
        for (g, bound) in layout.bounds.iter().enumerate() {
            layout.k.walk_guard(g, 0, ks.start, ks.len(), values);
            let along = values[g * ks.len()..].iter();
            ranges.push(along.fold((i64::MAX, i64::MIN), |(low, high), &c| {
                (low.min(c), high.max(c))
            }));
            self.extents.push(bound.extent);
        }
    }

    /// Fills in what depends on the rows; [`LoadTable::along_k`] was called for this layout and block of k.
    fn block<S: Storage>(&mut self, part: &Part<'_, S>) -> Block<'_, S> {
        let Part {
            layout, batch, ks, ..
        } = *part;
        let rows = &part.rows;
        let base = address::<S>(part.base, layout.offset + layout.batch.at(batch));
        self.addresses.clear();
        self.offsets.clear();
        layout.rows.walk(0, rows.start, rows.len(), self.offsets);
        self.addresses
            .extend(self.offsets.iter().map(|&at| step_address::<S>(base, at)));
        let coordinates = &mut self.row_coordinates.values;
        coordinates.clear();
        for (g, bound) in layout.bounds.iter().enumerate() {
            let start = bound.offset + layout.batch.guard_at(g, batch);
            layout
                .rows
                .walk_guard(g, start, rows.start, rows.len(), coordinates);
        }
        Block {
            rows: self.addresses,
            row_step: layout.rows.step(rows.start, rows.len()),
            k: self.k_offsets,
            k_step: layout.k.step(ks.start, ks.len()),
            guards: Guards {
                extents: self.extents,
                rows: self.row_coordinates,
                k: self.k_coordinates,
            },
            fill: part.fill,
        }
    }
}

fn address<T>(base: *const u8, offset: i64) -> usize {
    step_address::<T>(base as usize, offset)
}

fn step_address<T>(base: usize, offset: i64) -> usize {
    base.wrapping_add((offset as usize).wrapping_mul(size_of::<T>()))
}

/// Appends the addresses of positions of a batch.
fn append<T>(
    base: usize,
    batch: &Dims,
    positions: &Range<usize>,
    offsets: &mut Vec<i64>,
    to: &mut Vec<usize>,
) {
    offsets.clear();
    batch.walk(0, positions.start, positions.len(), offsets);
    to.extend(offsets.iter().map(|&at| step_address::<T>(base, at)));
}

/// Addresses as pointers.
///
/// # Safety
/// `P` is a thin raw pointer.
unsafe fn pointers<P>(addresses: &[usize]) -> &[P] {
    // SAFETY: a thin pointer has the size and the alignment of an address, and every address is a pointer.
    unsafe { std::slice::from_raw_parts(addresses.as_ptr().cast(), addresses.len()) }
}

struct Unit<'a, S: Storage> {
    contraction: &'a Contraction<'a>,
    group: &'a Group,
    kernels: &'static Kernels<S::Compute>,
    batch: usize,
    rows: Range<usize>,
    lanes: Range<usize>,
    storage: PhantomData<S>,
}

/// Where the panels of one block of k are.
struct Panels<C> {
    at: *const C,
    step: usize,
    panel: usize,
    /// A last panel that is not full, if it lies elsewhere (packed).
    last: Option<*const C>,
}

/// Where sums go.
enum Sums<C> {
    /// `out_addresses` of the scratch; lanes are adjacent there, and a last panel must not be overrun.
    Result,
    /// A block of whole panels.
    Block { at: *mut C, stride: usize },
}

impl<S: Storage> Unit<'_, S> {
    fn shape(&self, member: usize) -> &Shape {
        &self.contraction.shapes[self.group.members[member].shape]
    }

    fn base(&self, member: usize, side: Side) -> *const u8 {
        let binding = &self.contraction.bindings[self.group.members[member].binding];
        match side {
            Side::A => binding.a,
            Side::B => binding.b,
        }
    }

    /// What stands in the padding of a member's operand, which is a bare load.
    fn fill(&self, member: usize, side: Side) -> S {
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
            unsafe { self.clear(&sums, scratch) };
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

    /// Runs small products, whose positions in their batches are the unit's rows.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn run_small(&self, steps: &Steps, scratch: &mut Scratch, bodies: &mut dyn Bodies) {
        self.segments(&mut scratch.segments);
        scratch.row_addresses.clear();
        scratch.lane_addresses.clear();
        scratch.out_addresses.clear();
        let each = steps.rows * steps.lanes;
        let shape = self.shape(0);
        let sums: *mut S::Compute = match shape.out {
            Some(_) => std::ptr::null_mut(),
            None => scratch.sums.room(self.rows.len() * each),
        };
        for segment in &scratch.segments {
            let positions = segment.first..segment.first + segment.len;
            for (side, layout, to) in [
                (
                    self.group.row_side(),
                    &shape.row_operand,
                    &mut scratch.row_addresses,
                ),
                (
                    self.group.lane_side(),
                    &shape.lane_operand,
                    &mut scratch.lane_addresses,
                ),
            ] {
                let layout = layout.as_ref().expect("small products are bare loads");
                let base = address::<S>(self.base(segment.member, side), layout.offset);
                append::<S>(base, &layout.batch, &positions, &mut scratch.offsets, to);
            }
            let outs = &mut scratch.out_addresses;
            match &shape.out {
                Some(out) => {
                    let binding = self.group.members[segment.member].binding;
                    let base = self.contraction.bindings[binding].out;
                    let base = address::<S::Out>(base, out.offset);
                    append::<S::Out>(base, &out.batch, &positions, &mut scratch.offsets, outs);
                }
                None => outs.extend(
                    (segment.at..segment.at + segment.len)
                        .map(|at| sums.wrapping_add(at * each) as usize),
                ),
            }
        }
        // SAFETY: the tables are as long as the unit has products, and were made from the layouts that the steps come
        // from; all is reachable by the caller's contract. An address and a pointer have the same representation.
        unsafe {
            (self.kernels.small)(&Small {
                a: pointers(&scratch.row_addresses),
                b: pointers(&scratch.lane_addresses),
                out: pointers(&scratch.out_addresses),
                shape: *steps,
            });
        }
        if shape.out.is_some() {
            return;
        }
        let (m_count, n_count) = match self.group.swapped {
            true => (steps.lanes, steps.rows),
            false => (steps.rows, steps.lanes),
        };
        for segment in &scratch.segments {
            let at = sums.wrapping_add(segment.at * each);
            // SAFETY: the products of this segment, which nothing else refers to.
            let block = unsafe { std::slice::from_raw_parts_mut(at, segment.len * each) };
            let what = Finish {
                instance: self.group.members[segment.member].binding,
                rows: segment.first * m_count..(segment.first + segment.len) * m_count,
                columns: 0..n_count,
                stride: n_count,
            };
            bodies.finish(&what, S::results(self.contraction.contract.dtype, block));
        }
    }

    fn segments(&self, segments: &mut Vec<Segment>) {
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
            for row in &mut scratch.out_addresses {
                *row = step_address::<S::Out>(*row, first);
            }
            return Sums::Result;
        }
        let stride = self.lanes.len().next_multiple_of(self.kernels.nr);
        Sums::Block {
            at: scratch.sums.room(self.rows.len() * stride),
            stride,
        }
    }

    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn clear(&self, sums: &Sums<S::Compute>, scratch: &Scratch) {
        for row in 0..self.rows.len() {
            let to = self.sums_row(sums, scratch, row);
            for lane in 0..self.lanes.len() {
                // SAFETY: a row of sums has a place for each lane.
                unsafe { *to.add(lane) = S::Compute::ZERO };
            }
        }
    }

    fn sums_row(&self, sums: &Sums<S::Compute>, scratch: &Scratch, row: usize) -> *mut S::Compute {
        match *sums {
            Sums::Result => scratch.out_addresses[row] as *mut S::Compute,
            Sums::Block { at, stride } => at.wrapping_add(row * stride),
        }
    }

    /// Finds or packs the panels of a block of k.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn panels(
        &self,
        ks: &Range<usize>,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) -> Panels<S::Compute> {
        let nr = self.kernels.nr;
        let (group, shape) = (self.group, self.shape(0));
        let panel = ks.len() * nr;
        if let Some(packed) = &group.packed {
            let counts = [group.batch, group.lanes, group.k];
            let at = pack_offset(counts, nr, self.batch, ks.start);
            let first = packed.lines.address::<S::Compute>();
            return Panels {
                at: first.wrapping_add(at + self.lanes.start * ks.len()),
                step: nr,
                panel,
                last: None,
            };
        }
        let Some(layout) = &shape.lane_operand else {
            return self.computed_panels(ks, scratch, bodies);
        };
        let base = self.base(0, group.lane_side());
        let whole = self.lanes.len() / nr * nr;
        let k_step = layout.k.step(ks.start, ks.len());
        let in_place = S::SAME
            && layout.bounds.is_empty()
            && self.rows.len() <= IN_PLACE_ROWS_MAX
            && layout.rows.step(self.lanes.start, self.lanes.len()) == Some(1);
        let mut table = LoadTable {
            addresses: &mut scratch.lane_addresses,
            offsets: &mut scratch.offsets,
            extents: &mut scratch.extents,
            k_offsets: &mut scratch.k_offsets,
            row_coordinates: &mut scratch.row_coordinates,
            k_coordinates: &mut scratch.k_coordinates,
        };
        let fill = self.fill(0, group.lane_side());
        if let (true, Some(step), true) = (in_place, k_step, whole > 0) {
            let offset = layout.offset
                + layout.batch.at(self.batch)
                + layout.rows.at(self.lanes.start)
                + layout.k.at(ks.start);
            let last = (whole < self.lanes.len()).then(|| {
                let lanes = self.lanes.start + whole..self.lanes.end;
                let to = scratch.panels.room(panel);
                table.along_k(layout, ks);
                let block = table.block(&Part {
                    layout,
                    base,
                    batch: self.batch,
                    rows: lanes,
                    ks,
                    fill,
                });
                // SAFETY: the operand is readable by the caller's contract; there is room for the one panel.
                unsafe { block.panels(to, nr, self.kernels.turn) };
                to.cast_const()
            });
            return Panels {
                at: address::<S>(base, offset) as *const S::Compute,
                step: step as usize,
                panel: nr,
                last,
            };
        }
        let to = scratch
            .panels
            .room(self.lanes.len().next_multiple_of(nr) * ks.len());
        table.along_k(layout, ks);
        let block = table.block(&Part {
            layout,
            base,
            batch: self.batch,
            rows: self.lanes.clone(),
            ks,
            fill,
        });
        // SAFETY: the operand is readable by the caller's contract; there is room for whole panels.
        unsafe { block.panels(to, nr, self.kernels.turn) };
        Panels {
            at: to,
            step: nr,
            panel,
            last: None,
        }
    }

    /// Panels of an operand that a body computes.
    fn computed_panels(
        &self,
        ks: &Range<usize>,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) -> Panels<S::Compute> {
        let nr = self.kernels.nr;
        let side = self.group.lane_side();
        let panel = ks.len() * nr;
        let to: *mut S::Compute = scratch
            .panels
            .room(self.lanes.len().next_multiple_of(nr) * ks.len());
        let shape = self.shape(0);
        for (index, first) in self.lanes.clone().step_by(nr).enumerate() {
            let lanes = first..(first + nr).min(self.lanes.end);
            let row = self.batch * shape.lanes;
            let computed = self.computed(
                Fill {
                    side,
                    instance: self.group.members[0].binding,
                    rows: row + lanes.start..row + lanes.end,
                    k: ks.clone(),
                    stride: ks.len(),
                },
                &mut scratch.lanes,
                bodies,
            );
            for lane in 0..nr {
                for k in 0..ks.len() {
                    let value = match computed.get(lane * ks.len() + k) {
                        Some(&value) => S::from_lane(value),
                        None => S::Compute::ZERO,
                    };
                    // SAFETY: inside panel `index` of the room made above.
                    unsafe { *to.add(index * panel + k * nr + lane) = value };
                }
            }
        }
        Panels {
            at: to,
            step: nr,
            panel,
            last: None,
        }
    }

    /// Lets a body compute a part of an operand.
    fn computed<'l>(
        &self,
        what: Fill,
        lines: &'l mut Lines,
        bodies: &mut dyn Bodies,
    ) -> &'l [S::Lane] {
        let count = what.rows.len() * what.stride;
        let at = lines.room::<S::Lane>(count);
        // SAFETY: `lines` has room for `count` lanes, is initialised, and borrowed as long as the result.
        let values = unsafe { std::slice::from_raw_parts_mut(at, count) };
        bodies.fill(&what, S::lanes(self.contraction.contract.dtype, values));
        values
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
                let tile_rows = rows.len().div_ceil(tiles);
                let wide = self.kernels.widest(tile_rows, left).1;
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
                for tile in 0..tiles {
                    let from = rows.len() * tile / tiles;
                    let to = rows.len() * (tile + 1) / tiles;
                    // SAFETY: handed on.
                    unsafe {
                        self.tile(&columns, ks, (first, from..to), a_step, sums, scratch);
                    }
                }
                panel += wide;
            }
        }
    }

    /// Finds or packs rows; their addresses stand in `packed_addresses` afterwards. Returns the step along k.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn row_block(
        &self,
        rows: &Range<usize>,
        ks: &Range<usize>,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) -> isize {
        let step = self.rows_in_place(rows, ks, scratch);
        scratch.packed_addresses.clear();
        // A line more than the block, so that the rows of a tile do not fall into one set of the cache.
        let stride = ks.len() + 16;
        let to: *mut S::Compute = match step {
            Some(_) => std::ptr::null_mut(),
            None => scratch.rows.room(rows.len() * stride),
        };
        let side = self.group.row_side();
        // The shape whose positions of k stand in the tables.
        let mut tabled = None;
        for index in 0..scratch.segments.len() {
            let segment = scratch.segments[index];
            let start = segment.at.max(rows.start);
            let end = (segment.at + segment.len).min(rows.end);
            if start >= end {
                continue;
            }
            let in_member = segment.first + start - segment.at..segment.first + end - segment.at;
            let at = to.wrapping_add((start - rows.start) * stride);
            let shape = self.shape(segment.member);
            let Some(layout) = &shape.row_operand else {
                let row = self.batch * shape.rows;
                let computed = self.computed(
                    Fill {
                        side,
                        instance: self.group.members[segment.member].binding,
                        rows: row + in_member.start..row + in_member.end,
                        k: ks.clone(),
                        stride: ks.len(),
                    },
                    &mut scratch.lanes,
                    bodies,
                );
                for (row, values) in computed.chunks_exact(ks.len()).enumerate() {
                    for (k, &value) in values.iter().enumerate() {
                        // SAFETY: inside the room for the block's rows.
                        unsafe { *at.add(row * stride + k) = S::from_lane(value) };
                    }
                }
                continue;
            };
            let base = self.base(segment.member, side);
            if step.is_some() {
                let base = address::<S>(
                    base,
                    layout.offset + layout.batch.at(self.batch) + layout.k.at(ks.start),
                );
                scratch.offsets.clear();
                layout
                    .rows
                    .walk(0, in_member.start, in_member.len(), &mut scratch.offsets);
                let rows = scratch.offsets.iter();
                scratch
                    .packed_addresses
                    .extend(rows.map(|&at| step_address::<S>(base, at)));
                continue;
            }
            let mut table = LoadTable {
                addresses: &mut scratch.row_addresses,
                offsets: &mut scratch.offsets,
                extents: &mut scratch.extents,
                k_offsets: &mut scratch.k_offsets,
                row_coordinates: &mut scratch.row_coordinates,
                k_coordinates: &mut scratch.k_coordinates,
            };
            let fill = self.fill(segment.member, side);
            if tabled != Some(self.group.members[segment.member].shape) {
                table.along_k(layout, ks);
                tabled = Some(self.group.members[segment.member].shape);
            }
            let block = table.block(&Part {
                layout,
                base,
                batch: self.batch,
                rows: in_member,
                ks,
                fill,
            });
            // SAFETY: the operand is readable by the caller's contract; there is room for the block's rows.
            unsafe { block.rows(at, stride) };
        }
        if step.is_none() {
            let rows = 0..rows.len();
            scratch
                .packed_addresses
                .extend(rows.map(|row| to.wrapping_add(row * stride) as usize));
        }
        step.unwrap_or(1)
    }

    /// The step along k, if the kernels can read all these rows where they lie, and it pays.
    fn rows_in_place(
        &self,
        rows: &Range<usize>,
        ks: &Range<usize>,
        scratch: &Scratch,
    ) -> Option<isize> {
        if !S::SAME {
            return None;
        }
        let few = rows.len() <= IN_PLACE_ROWS_MAX || self.lanes.len() <= IN_PLACE_LANES_MAX;
        let mut common = None;
        for segment in &scratch.segments {
            let layout = self.shape(segment.member).row_operand.as_ref()?;
            let step = layout.k.step(ks.start, ks.len())?;
            let fits = layout.bounds.is_empty() && (few || step == 1);
            if !fits || *common.get_or_insert(step) != step {
                return None;
            }
        }
        common.map(|step| step as isize)
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
        let count = rows.len();
        let mut c = [std::ptr::null_mut::<S::Compute>(); ROWS_MAX];
        let lane = columns.first * nr;
        for (row, c) in rows.clone().zip(&mut c) {
            *c = self.sums_row(sums, scratch, block + row).wrapping_add(lane);
        }
        let valid = (self.lanes.len() - lane).min(columns.count * nr);
        let partial = matches!(sums, Sums::Result) && valid < columns.count * nr;
        let add = ks.start > 0;
        let mut edge = MaybeUninit::<[[S::Compute; NR_MAX]; ROWS_MAX]>::uninit();
        let targets = c;
        if partial {
            let first: *mut S::Compute = edge.as_mut_ptr().cast();
            for (row, c) in c.iter_mut().enumerate() {
                *c = first.wrapping_add(row * NR_MAX);
            }
        }
        let mut tile = Tile {
            k: ks.len(),
            a: scratch.packed_addresses[rows].as_ptr().cast(),
            a_step,
            b: columns.at,
            b_step: columns.step as isize,
            b_panel: columns.panel as isize,
            c: c.as_ptr(),
            add: add && !partial,
        };
        let mut left = columns.count;
        while left > 0 {
            let (kernel, wide) = self.kernels.widest(count, left.min(PANELS_MAX));
            // SAFETY: rows and panels were found or packed for this block of k; each row of sums has room for whole
            // panels, or `edge` stands in; the caller chose `isa` among those available.
            unsafe { kernel(&tile) };
            left -= wide;
            tile.b = tile.b.wrapping_add(wide * columns.panel);
            for c in &mut c {
                *c = c.wrapping_add(wide * nr);
            }
            tile.c = c.as_ptr();
        }
        if partial {
            let first: *const S::Compute = edge.as_ptr().cast();
            for (row, to) in targets[..count].iter().enumerate() {
                for lane in 0..valid {
                    // SAFETY: the result has `valid` lanes from here; the kernel wrote a whole panel of each of its
                    // rows to `edge`.
                    unsafe {
                        let (to, sum) = (to.add(lane), *first.add(row * NR_MAX + lane));
                        *to = if add { S::Compute::sum(*to, sum) } else { sum };
                    }
                }
            }
        }
    }

    /// Rounds and stores the sums, or hands them to the epilogue.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    unsafe fn finish(
        &self,
        sums: &Sums<S::Compute>,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) {
        let Sums::Block { at, stride } = *sums else {
            return;
        };
        for index in 0..scratch.segments.len() {
            let segment = scratch.segments[index];
            let at = at.wrapping_add(segment.at * stride);
            match &self.shape(segment.member).out {
                Some(out) => {
                    scratch.offsets.clear();
                    out.lanes
                        .walk(0, self.lanes.start, self.lanes.len(), &mut scratch.offsets);
                    for row in 0..segment.len {
                        let to = scratch.out_addresses[segment.at + row];
                        for (lane, &offset) in scratch.offsets.iter().enumerate() {
                            let to = step_address::<S::Out>(to, offset) as *mut S::Out;
                            // SAFETY: the sums have a place for each row and lane; the result does by the caller's
                            // contract.
                            unsafe { *to = S::round(*at.add(row * stride + lane)) };
                        }
                    }
                }
                // SAFETY: the segment's rows of the block of sums, which nothing else refers to.
                None => unsafe { self.epilogue(&segment, at, stride, scratch, bodies) },
            }
        }
    }

    /// Hands the sums of one instance to the epilogue.
    ///
    /// # Safety
    /// `at` points to `segment.len` rows of `stride` sums that nothing else refers to.
    unsafe fn epilogue(
        &self,
        segment: &Segment,
        at: *mut S::Compute,
        stride: usize,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) {
        let dtype = self.contraction.contract.dtype;
        let instance = self.group.members[segment.member].binding;
        let shape = self.shape(segment.member);
        // SAFETY: as above; the scratch memory is initialised.
        let block = unsafe { std::slice::from_raw_parts_mut(at, segment.len * stride) };
        if !S::SAME {
            for sum in block.iter_mut() {
                *sum = S::rounded(*sum);
            }
        }
        if !self.group.swapped {
            let first = self.batch * shape.rows + segment.first;
            let what = Finish {
                instance,
                rows: first..first + segment.len,
                columns: self.lanes.clone(),
                stride,
            };
            bodies.finish(&what, S::results(dtype, block));
            return;
        }
        // Rows are n here, or batch and n; the epilogue wants m as rows.
        let n_count = shape.rows / shape.fold;
        let mut row = 0;
        while row < segment.len {
            let position = segment.first + row;
            let (folded, n) = (position / n_count, position % n_count);
            let run = (n_count - n).min(segment.len - row);
            let turned = scratch.lanes.room::<S::Compute>(self.lanes.len() * run);
            for m in 0..self.lanes.len() {
                for column in 0..run {
                    // SAFETY: room was made for every m and column.
                    unsafe { *turned.add(m * run + column) = block[(row + column) * stride + m] };
                }
            }
            let first = (self.batch * shape.fold + folded) * shape.lanes + self.lanes.start;
            let what = Finish {
                instance,
                rows: first..first + self.lanes.len(),
                columns: n..n + run,
                stride: run,
            };
            // SAFETY: the room made above, initialised, which nothing else refers to.
            let turned = unsafe { std::slice::from_raw_parts_mut(turned, self.lanes.len() * run) };
            bodies.finish(&what, S::results(dtype, turned));
            row += run;
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
