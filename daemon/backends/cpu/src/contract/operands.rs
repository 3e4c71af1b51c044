//! The operands of one block of k: found packed, found in place, packed, or computed by the caller.

use std::ops::Range;

use super::groups::pack_offset;
use super::number::{Compute, Storage};
use super::run::{IN_PLACE_ROWS_MAX, Unit};
use super::scratch::{Lines, Scratch};
use super::tables::{Part, address, step_address};
use super::{Bodies, Fill};

/// Up to this many rows, or lanes, rows are not worth packing if k has a single stride.
const IN_PLACE_LANES_MAX: usize = 64;

/// Where the panels of one block of k are.
pub(super) struct Panels<C> {
    pub at: *const C,
    pub step: usize,
    pub panel: usize,
    /// A last panel that is not full, if it lies elsewhere (packed).
    pub last: Option<*const C>,
}

impl<S: Storage> Unit<'_, S> {
    /// Finds or packs the panels of a block of k.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    pub(super) unsafe fn panels(
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
        let (table, addresses) = (&mut scratch.table, &mut scratch.lane_addresses);
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
                let part = Part {
                    layout,
                    base,
                    batch: self.batch,
                    rows: lanes,
                    ks,
                    fill,
                };
                let block = table.block(addresses, &part);
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
        let part = Part {
            layout,
            base,
            batch: self.batch,
            rows: self.lanes.clone(),
            ks,
            fill,
        };
        let block = table.block(addresses, &part);
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

    /// Finds or packs rows; their addresses stand in `packed_addresses` afterwards. Returns the step along k.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    pub(super) unsafe fn row_block(
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
        // The layout whose positions of k stand in the tables.
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
            let table = &mut scratch.table;
            let fill = self.fill(segment.member, side);
            if tabled != Some(std::ptr::from_ref(layout)) {
                table.along_k(layout, ks);
                tabled = Some(std::ptr::from_ref(layout));
            }
            let part = Part {
                layout,
                base,
                batch: self.batch,
                rows: in_member,
                ks,
                fill,
            };
            let block = table.block(&mut scratch.row_addresses, &part);
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
}
