//! Cumulative sums and products along the last axis of a space.
//!
//! # Invariant
//! Along the axis there is one chain, ascending, in the accumulator dtype and starting from the first element; each
//! element is the chain's value rounded once. Threads share rows, never a chain.

use std::ops::Range;

use tensord_plan::{Params, Plan, ScanStep};
use tensord_shm::dtype::DType;
use tensord_shm::op::Scan;

use crate::math::{basic, convert};
use crate::pool::Team;
use crate::prepare::sizes;
use crate::step::{part_len, positions};
use crate::strided::Strided;
use crate::tile::Table;
use crate::tile::rows::Cursor;

/// Elements read at a time.
const CHUNK: usize = 256;

/// Continues a chain over `n` elements in place; `first`: the chain begins here.
type Chain = unsafe fn(elements: *mut u8, n: usize, carry: &mut Carry, first: bool);

/// An accumulator's bits.
struct Carry(u64);

macro_rules! chain {
    ($name:ident, $x:ty, $acc:ident, $widen:expr, $join:expr, $narrow:expr) => {
        unsafe fn $name(elements: *mut u8, n: usize, carry: &mut Carry, first: bool) {
            let elements = elements.cast::<$x>();
            let mut acc = $acc::from_le_bytes(
                carry.0.to_le_bytes()[..size_of::<$acc>()]
                    .try_into()
                    .expect("as many bytes as the type has"),
            );
            for k in 0..n {
                // SAFETY: the caller's n elements.
                let at = unsafe { &mut *elements.add(k) };
                let x: $acc = $widen(*at);
                acc = if first && k == 0 { x } else { $join(acc, x) };
                *at = $narrow(acc);
            }
            let mut bits = [0; 8];
            bits[..size_of::<$acc>()].copy_from_slice(&acc.to_le_bytes());
            carry.0 = u64::from_le_bytes(bits);
        }
    };
}

macro_rules! chains {
    ($($sum:ident $prod:ident $x:ident;)*) => {$(
        chain!($sum, $x, $x, |x| x, $x::wrapping_add, |a| a);
        chain!($prod, $x, $x, |x| x, $x::wrapping_mul, |a| a);
    )*};
}

chains! {
    sum_u8 prod_u8 u8;
    sum_u16 prod_u16 u16;
    sum_u32 prod_u32 u32;
    sum_u64 prod_u64 u64;
}
chain!(sum_f32, f32, f32, |x| x, basic::single::add, |a| a);
chain!(prod_f32, f32, f32, |x| x, basic::single::mul, |a| a);
chain!(sum_f64, f64, f64, |x| x, basic::double::add, |a| a);
chain!(prod_f64, f64, f64, |x| x, basic::double::mul, |a| a);
chain!(
    sum_f16,
    u16,
    f32,
    convert::f16_to_f32,
    basic::single::add,
    convert::f32_to_f16
);
chain!(
    prod_f16,
    u16,
    f32,
    convert::f16_to_f32,
    basic::single::mul,
    convert::f32_to_f16
);
chain!(
    sum_bf16,
    u16,
    f32,
    convert::bf16_to_f32,
    basic::single::add,
    convert::f32_to_bf16
);
chain!(
    prod_bf16,
    u16,
    f32,
    convert::bf16_to_f32,
    basic::single::mul,
    convert::f32_to_bf16
);

/// Signed integers wrap to the same bits as unsigned ones.
fn chain_of(kind: Scan, dtype: DType) -> Chain {
    let [sum, prod]: [Chain; 2] = match dtype {
        DType::Bool | DType::I8 | DType::U8 => [sum_u8, prod_u8],
        DType::I16 | DType::U16 => [sum_u16, prod_u16],
        DType::I32 | DType::U32 => [sum_u32, prod_u32],
        DType::I64 | DType::U64 => [sum_u64, prod_u64],
        DType::F16 => [sum_f16, prod_f16],
        DType::Bf16 => [sum_bf16, prod_bf16],
        DType::F32 => [sum_f32, prod_f32],
        DType::F64 => [sum_f64, prod_f64],
    };
    match kind {
        Scan::Sum => sum,
        Scan::Prod => prod,
    }
}

#[repr(align(64))]
struct Chunk([u64; CHUNK]);

/// Elements of a row from which on it is cut in parts.
const LONG: u64 = 1 << 16;

/// Where the carry of a row lies between its parts.
#[derive(Clone, Copy)]
struct Kept(*mut Carry);
// SAFETY: the parts that use it run one after the other.
unsafe impl Sync for Kept {}

impl Kept {
    fn at(&self) -> *mut Carry {
        self.0
    }
}

/// Runs a scan over the instances of a table.
///
/// # Safety
/// As `step::run`.
pub unsafe fn run(
    plan: &Plan,
    step: &ScanStep,
    params: &Params,
    table: Table<'_>,
    team: &mut Team<'_>,
) {
    let rank = usize::from(step.rank);
    let sizes = sizes(params, step.sizes, rank);
    let from = Strided::new(plan, params, &step.from, rank);
    let to = Strided::new(plan, params, &step.to, rank);
    let chain = chain_of(step.kind, step.from.dtype);
    let len = sizes.last().copied().unwrap_or(1);
    let elements: u64 = sizes.iter().product();
    if elements == 0 {
        return;
    }
    let rows = elements / len;
    let total = rows * table.count() as u64;
    // A part of a row goes on from `carry`.
    let part_of_row = |row: u64, range: Range<u64>, mut carry: Carry| {
        let mut chunk = Chunk([0; CHUNK]);
        let at = chunk.0.as_mut_ptr().cast::<u8>();
        let instance = (row / rows) as usize;
        for done in range.clone().step_by(CHUNK) {
            let n = (range.end - done).min(CHUNK as u64) as usize;
            let cursor = Cursor::new(&sizes, row % rows * len + done);
            // SAFETY: `Params` checked both accesses; a row is read and written by one part at a time, and the chunk holds
            // `CHUNK` elements of any dtype.
            unsafe {
                from.read(&table, instance, cursor, at, n);
                chain(at, n, &mut carry, done == 0);
                to.write(&table, instance, cursor, at, n);
            }
        }
        carry
    };
    if len >= LONG && (team.is_sliced() || total < team.workers() as u64) {
        let carry = Kept(team.kept(size_of::<Carry>()).cast());
        let part = part_len(CHUNK as u64);
        for row in 0..total {
            team.each_in_order(len.div_ceil(part) as usize, &|_, parts| {
                // SAFETY: the memory was reserved for it, zeros are a carry, and parts run one after the other.
                unsafe {
                    let before = carry.at().read();
                    let range = positions(parts, part, len);
                    carry.at().write(part_of_row(row, range, before));
                }
            });
        }
        return;
    }
    let part = part_len(len) / len;
    team.each(total.div_ceil(part) as usize, &|_, parts| {
        for row in positions(parts, part, total) {
            part_of_row(row, 0..len, Carry(0));
        }
    });
}
