//! Updates written to or added at indexed places.
//!
//! # Invariant
//! Updates of one instance are taken in row-major order, so that of several at one place the last replaces, and sums have one
//! order; each addition rounds to the dtype. Threads share instances and outer axes, between which nothing can collide.

use std::ops::Range;

use tensord_plan::{Params, Plan, ScatterStep};
use tensord_shm::dtype::DType;
use tensord_shm::op::ScatterMode;

use crate::math::convert;
use crate::pool::Team;
use crate::prepare::sizes;
use crate::step::{part_len, positions};
use crate::strided::Strided;
use crate::tile::Table;
use crate::tile::rows::Cursor;

/// Elements of a row of updates taken at a time.
const CHUNK: usize = 256;

#[repr(align(64))]
struct Chunk([u64; CHUNK]);

/// Combines an element in place with an update.
type Place = unsafe fn(to: *mut u8, update: *const u8);

unsafe fn replace<T: Copy>(to: *mut u8, update: *const u8) {
    // SAFETY: the caller's: one element each.
    unsafe { *to.cast::<T>() = *update.cast::<T>() };
}

macro_rules! adder {
    ($name:ident, $x:ty, $add:expr) => {
        unsafe fn $name(to: *mut u8, update: *const u8) {
            // SAFETY: the caller's: one element each.
            unsafe {
                let to = to.cast::<$x>();
                *to = $add(*to, *update.cast::<$x>());
            }
        }
    };
}

adder!(add_bool, u8, |a, b| a | b);
adder!(add_u8, u8, u8::wrapping_add);
adder!(add_u16, u16, u16::wrapping_add);
adder!(add_u32, u32, u32::wrapping_add);
adder!(add_u64, u64, u64::wrapping_add);
adder!(add_f32, f32, |a: f32, b: f32| a + b);
adder!(add_f64, f64, |a: f64, b: f64| a + b);
adder!(add_f16, u16, |a, b| convert::f32_to_f16(
    convert::f16_to_f32(a) + convert::f16_to_f32(b)
));
adder!(add_bf16, u16, |a, b| convert::f32_to_bf16(
    convert::bf16_to_f32(a) + convert::bf16_to_f32(b)
));

fn place_of(mode: ScatterMode, dtype: DType) -> Place {
    match (mode, dtype) {
        (ScatterMode::Replace, _) => match dtype.size() {
            1 => replace::<u8>,
            2 => replace::<u16>,
            4 => replace::<u32>,
            _ => replace::<u64>,
        },
        (ScatterMode::Add, DType::Bool) => add_bool,
        (ScatterMode::Add, DType::I8 | DType::U8) => add_u8,
        (ScatterMode::Add, DType::I16 | DType::U16) => add_u16,
        (ScatterMode::Add, DType::I32 | DType::U32) => add_u32,
        (ScatterMode::Add, DType::I64 | DType::U64) => add_u64,
        (ScatterMode::Add, DType::F16) => add_f16,
        (ScatterMode::Add, DType::Bf16) => add_bf16,
        (ScatterMode::Add, DType::F32) => add_f32,
        (ScatterMode::Add, DType::F64) => add_f64,
    }
}

struct Scatter<'a> {
    table: Table<'a>,
    index: Strided,
    updates: Strided,
    to: Strided,
    /// Of the index, the updates, and the rows of the result.
    sizes: [Vec<u64>; 3],
    extent: i64,
    stride_bytes: isize,
    size: usize,
    place: Place,
    /// Elements of the index, and of the axes behind.
    counts: [u64; 2],
}

impl Scatter<'_> {
    /// Updates by some elements of the index, at one position `before` of the outer axes.
    unsafe fn rows(&self, instance: usize, before: u64, range: Range<u64>) {
        let [indices, behind] = self.counts;
        let mut chunk = Chunk([0; CHUNK]);
        let update = chunk.0.as_mut_ptr().cast::<u8>();
        for k in range {
            let mut index = 0i64;
            // SAFETY: `Params` checked the access of the index.
            unsafe {
                let to = std::ptr::from_mut(&mut index).cast();
                self.index
                    .read(&self.table, instance, Cursor::new(&self.sizes[0], k), to, 1);
            }
            if index < 0 {
                index = index.wrapping_add(self.extent);
            }
            if !(0..self.extent).contains(&index) {
                continue;
            }
            for done in (0..behind).step_by(CHUNK) {
                let n = (behind - done).min(CHUNK as u64) as usize;
                let from = Cursor::new(&self.sizes[1], (before * indices + k) * behind + done);
                // SAFETY: `Params` checked the accesses, that of the result widened by the scattered axis; the index is in range.
                unsafe {
                    self.updates.read(&self.table, instance, from, update, n);
                    for j in 0..n {
                        let row = before * behind + done + j as u64;
                        let at = Cursor::new(&self.sizes[2], row);
                        let to = self.to.address(&self.table, instance, &at);
                        let to = to.wrapping_offset(index as isize * self.stride_bytes);
                        (self.place)(to, update.add(j * self.size));
                    }
                }
            }
        }
    }
}

/// Updates at a position of the outer axes from which on they are cut in parts.
const LONG: u64 = 1 << 16;

/// Runs a scatter over the instances of a table.
///
/// # Safety
/// As `step::run`.
pub unsafe fn run(
    plan: &Plan,
    step: &ScatterStep,
    params: &Params,
    table: Table<'_>,
    team: &mut Team<'_>,
) {
    let ranks = [step.before, step.index_rank, step.behind].map(usize::from);
    let all = sizes(params, step.sizes, ranks.iter().sum());
    let (before, rest) = all.split_at(ranks[0]);
    let (index, behind) = rest.split_at(ranks[1]);
    let outer: u64 = before.iter().product();
    let size = step.to.dtype.size();
    let scatter = Scatter {
        table,
        index: Strided::new(plan, params, &step.index, ranks[1]),
        updates: Strided::new(plan, params, &step.updates, all.len()),
        to: Strided::new(plan, params, &step.to, ranks[0] + ranks[2]),
        sizes: [index.to_vec(), all.clone(), [before, behind].concat()],
        extent: params.get(step.extent),
        stride_bytes: params.get(step.stride) as isize * size as isize,
        size,
        place: place_of(step.mode, step.to.dtype),
        counts: [index.iter().product(), behind.iter().product()],
    };
    let total = outer * table.count() as u64;
    let row = (scatter.counts[0] * scatter.counts[1]).max(1);
    if total == 0 {
        return;
    }
    if total < team.workers() as u64 || row >= LONG {
        // Updates of one element come in the order of the index.
        let part = part_len(scatter.counts[1]) / scatter.counts[1].max(1);
        for at in 0..total {
            let indices = scatter.counts[0];
            team.each_in_order(indices.div_ceil(part) as usize, &|_, parts| {
                let indices = positions(parts, part, indices);
                // SAFETY: the caller's; nothing else runs meanwhile.
                unsafe { scatter.rows((at / outer) as usize, at % outer, indices) };
            });
        }
        return;
    }
    let part = part_len(row) / row;
    team.each(total.div_ceil(part) as usize, &|_, parts| {
        for at in positions(parts, part, total) {
            let indices = 0..scatter.counts[0];
            // SAFETY: the caller's; parts write at different outer positions, and no two indices of the result share an element.
            unsafe { scatter.rows((at / outer) as usize, at % outer, indices) };
        }
    });
}
