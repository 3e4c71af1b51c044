//! Where sums leave: rounded and stored, or handed to the epilogue; and the small products, which do nothing else.

use super::kernel::small::{Small, Steps};
use super::number::Storage;
use super::run::{Segment, Sums, Unit};
use super::scratch::Scratch;
use super::tables::{address, append, pointers, step_address};
use super::{Bodies, Finish};

impl<S: Storage> Unit<'_, S> {
    /// Rounds and stores the sums, or hands them to the epilogue.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    pub(super) unsafe fn finish(
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

    /// Runs small products, whose positions in their batches are the unit's rows.
    ///
    /// # Safety
    /// See [`Contraction::run_unit`].
    pub(super) unsafe fn run_small(
        &self,
        steps: &Steps,
        scratch: &mut Scratch,
        bodies: &mut dyn Bodies,
    ) {
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
}
