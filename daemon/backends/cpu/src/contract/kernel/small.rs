//! Many small products, one behind the other without anything in between: batched matrix products of a few elements, such as
//! the 4x4 poses of capsules.
//!
//! Lanes run along the lane operand, copied to a local block where they are not adjacent; or, where a product has only a few
//! elements, across products. Both are array code, compiled once for each instruction set.

use std::mem::MaybeUninit;

use crate::contract::number::Compute;

/// Most lanes of a product.
pub(in crate::contract) const LANES_MAX: usize = 16;
/// Most elements of a product's lane operand, after rounding lanes up to 4, 8 or 16.
pub(in crate::contract) const LANE_ELEMENTS_MAX: usize = 2048;
/// Products side by side.
const ACROSS: usize = 8;
/// Products of at most this many elements run side by side.
const ACROSS_ELEMENTS_MAX: usize = 3;

/// Products of equal shape.
pub(in crate::contract) struct Small<'a, C> {
    /// Where the row operand of each product starts.
    pub a: &'a [*const C],
    /// Where the lane operand of each product starts.
    pub b: &'a [*const C],
    /// Where the result of each product starts.
    pub out: &'a [*mut C],
    pub shape: Steps,
}

/// Shape and steps, in elements, that all products have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::contract) struct Steps {
    pub rows: usize,
    pub lanes: usize,
    pub k: usize,
    pub a_row: isize,
    pub a_k: isize,
    pub b_lane: isize,
    pub b_k: isize,
    pub out_row: isize,
    pub out_lane: isize,
}

/// Runs products of equal shape.
///
/// # Safety
/// `a`, `b` and `out` have equal lengths; of each product every element that the steps reach is readable, and writable
/// in `out`, which overlaps nothing else. `k` is at most one block, lanes are at most `LANES_MAX`, and `k` times the lanes
/// rounded up at most `LANE_ELEMENTS_MAX`. The processor has the instructions that the function was chosen for.
pub(in crate::contract) type SmallKernel<C> = unsafe fn(&Small<'_, C>);

/// # Safety
/// See [`SmallKernel`].
#[inline(always)]
pub(super) unsafe fn small<C: Compute>(products: &Small<'_, C>) {
    let Steps { rows, lanes, .. } = products.shape;
    let mut done = 0;
    if rows * lanes <= ACROSS_ELEMENTS_MAX {
        while done + ACROSS <= products.a.len() {
            // SAFETY: handed on; that many products are left.
            unsafe { across(products, done) };
            done += ACROSS;
        }
    }
    for product in done..products.a.len() {
        // SAFETY: handed on; W is at least the lanes.
        unsafe {
            match lanes {
                0..=4 => one::<C, 4>(products, product),
                5..=8 => one::<C, 8>(products, product),
                _ => one::<C, 16>(products, product),
            }
        }
    }
}

/// Eight products, each element of all of them at once.
///
/// # Safety
/// See [`SmallKernel`]; `first..first + ACROSS` are products.
#[inline(always)]
unsafe fn across<C: Compute>(products: &Small<'_, C>, first: usize) {
    let s = &products.shape;
    let a: [*const C; ACROSS] = std::array::from_fn(|p| products.a[first + p]);
    let b: [*const C; ACROSS] = std::array::from_fn(|p| products.b[first + p]);
    for row in 0..s.rows as isize {
        for lane in 0..s.lanes as isize {
            let mut sums = [C::ZERO; ACROSS];
            let (mut a_at, mut b_at) = (row * s.a_row, lane * s.b_lane);
            for _ in 0..s.k {
                for (p, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: elements of the products' operands.
                    unsafe { *sum = C::fused(*a[p].offset(a_at), *b[p].offset(b_at), *sum) };
                }
                a_at += s.a_k;
                b_at += s.b_k;
            }
            for (p, sum) in sums.into_iter().enumerate() {
                let at = row * s.out_row + lane * s.out_lane;
                // SAFETY: an element of the product's result.
                unsafe { *products.out[first + p].offset(at) = sum };
            }
        }
    }
}

/// One product of up to `W` lanes.
///
/// # Safety
/// See [`SmallKernel`].
#[inline(always)]
unsafe fn one<C: Compute, const W: usize>(products: &Small<'_, C>, product: usize) {
    let s = &products.shape;
    let (a, b) = (products.a[product], products.b[product]);
    let out = products.out[product];
    let mut local = MaybeUninit::<[C; LANE_ELEMENTS_MAX]>::uninit();
    let (b, b_k) = if s.b_lane == 1 && s.lanes == W {
        (b, s.b_k)
    } else {
        let to: *mut C = local.as_mut_ptr().cast();
        for k in 0..s.k {
            for lane in 0..W {
                let from = b.wrapping_offset(k as isize * s.b_k + lane as isize * s.b_lane);
                // SAFETY: an element of the lane operand; `k * W` fits by the caller's contract.
                unsafe { *to.add(k * W + lane) = if lane < s.lanes { *from } else { C::ZERO } };
            }
        }
        (to.cast_const(), W as isize)
    };
    let mut row = 0;
    while row + 4 <= s.rows {
        // SAFETY: handed on; four rows are left.
        unsafe { some_rows::<C, W, 4>(s, a, (b, b_k), out, row) };
        row += 4;
    }
    while row < s.rows {
        // SAFETY: handed on; a row is left.
        unsafe { some_rows::<C, W, 1>(s, a, (b, b_k), out, row) };
        row += 1;
    }
}

/// # Safety
/// See [`SmallKernel`]; `b` has W adjacent elements at each of the k places.
#[inline(always)]
unsafe fn some_rows<C: Compute, const W: usize, const R: usize>(
    s: &Steps,
    a: *const C,
    (b, b_k): (*const C, isize),
    out: *mut C,
    row: usize,
) {
    let mut sums = [[C::ZERO; W]; R];
    let rows: [*const C; R] =
        std::array::from_fn(|r| a.wrapping_offset((row + r) as isize * s.a_row));
    for k in 0..s.k as isize {
        // SAFETY: W adjacent elements, as the caller says.
        let lanes = unsafe { b.offset(k * b_k).cast::<[C; W]>().read_unaligned() };
        for r in 0..R {
            // SAFETY: an element of the row operand.
            let value = unsafe { *rows[r].offset(k * s.a_k) };
            for (sum, lane) in sums[r].iter_mut().zip(lanes) {
                *sum = C::fused(value, lane, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let to = out.wrapping_offset((row + r) as isize * s.out_row);
        if s.out_lane == 1 && s.lanes == W {
            // SAFETY: a row of the result has W adjacent elements.
            unsafe { to.cast::<[C; W]>().write_unaligned(*sums) };
            continue;
        }
        for (lane, &sum) in sums[..s.lanes].iter().enumerate() {
            // SAFETY: an element of the result.
            unsafe { *to.offset(lane as isize * s.out_lane) = sum };
        }
    }
}

/// # Safety
/// See [`SmallKernel`].
pub(super) unsafe fn plain<C: Compute>(products: &Small<'_, C>) {
    // SAFETY: handed on.
    unsafe { small(products) }
}

/// # Safety
/// See [`SmallKernel`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2<C: Compute>(products: &Small<'_, C>) {
    // SAFETY: handed on.
    unsafe { small(products) }
}

/// # Safety
/// See [`SmallKernel`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512<C: Compute>(products: &Small<'_, C>) {
    // SAFETY: handed on.
    unsafe { small(products) }
}
