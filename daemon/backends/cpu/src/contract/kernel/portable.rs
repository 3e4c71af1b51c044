//! Microkernels as array code: for every processor, and for integers on all of them.
//!
//! LLVM keeps the arrays in registers where the target has enough; on aarch64, whose base set has fused multiply-adds, this is
//! what the float kernels compile to NEON from. Without hardware a fused multiply-add is a library call: slow, the same bits.

use super::{Isa, Kernel, Kernels, PANELS_MAX, ROWS_MAX, Tile, small};
use crate::contract::number::Compute;

/// Columns of a panel.
const NR: usize = 8;

/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn tile<C: Compute, const MR: usize, const NR: usize>(t: &Tile<C>) {
    // SAFETY: the caller's contract covers MR pointers in `a` and in `c`.
    let (mut rows, outs) = unsafe { (*t.a.cast::<[*const C; MR]>(), *t.c.cast::<[*mut C; MR]>()) };
    let mut b = t.b;
    let mut sums = [[C::ZERO; NR]; MR];
    for _ in 0..t.k {
        // SAFETY: `b` is at one of the k places where NR elements may be read.
        let columns = unsafe { b.cast::<[C; NR]>().read_unaligned() };
        for (row, sums) in rows.iter_mut().zip(&mut sums) {
            // SAFETY: each row is readable at k places, `a_step` apart.
            let a = unsafe { **row };
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = C::fused(a, column, *sum);
            }
            *row = row.wrapping_offset(t.a_step);
        }
        b = b.wrapping_offset(t.b_step);
    }
    for (out, sums) in outs.into_iter().zip(sums) {
        for (lane, sum) in sums.into_iter().enumerate() {
            // SAFETY: NR elements of each `c` may be written, and read if `add`.
            unsafe {
                let place = out.add(t.c_at + lane);
                *place = if t.add { C::sum(*place, sum) } else { sum };
            }
        }
    }
}

/// # Safety
/// See [`Kernel`].
unsafe fn plain<C: Compute, const MR: usize, const NR: usize>(t: &Tile<C>) {
    // SAFETY: handed on.
    unsafe { tile::<C, MR, NR>(t) }
}

const fn table<C>(rows: [Kernel<C>; 4]) -> [[Option<Kernel<C>>; PANELS_MAX]; ROWS_MAX] {
    let mut table = [[None; PANELS_MAX]; ROWS_MAX];
    let mut row = 0;
    while row < 4 {
        table[row][0] = Some(rows[row]);
        row += 1;
    }
    table
}

const fn kernels<C: Compute, const NR: usize>() -> Kernels<C> {
    Kernels {
        nr: NR,
        rows: 4,
        table: table([
            plain::<C, 1, NR>,
            plain::<C, 2, NR>,
            plain::<C, 3, NR>,
            plain::<C, 4, NR>,
        ]),
        turn: None,
        small: small::plain::<C>,
    }
}

pub(super) static F32: Kernels<f32> = kernels::<f32, NR>();
pub(super) static F64: Kernels<f64> = kernels::<f64, NR>();

/// Integers, whose array code is compiled once more for each instruction set.
pub(in crate::contract) trait Integer: Sized {
    /// The kernels for `isa`.
    fn table(isa: Isa) -> &'static Kernels<Self>;
}

#[cfg(target_arch = "x86_64")]
mod wider {
    use super::{Compute, Kernels, Tile, small, table, tile};

    /// # Safety
    /// See [`super::Kernel`].
    #[target_feature(enable = "avx2")]
    unsafe fn avx2<C: Compute, const MR: usize, const NR: usize>(t: &Tile<C>) {
        // SAFETY: handed on.
        unsafe { tile::<C, MR, NR>(t) }
    }

    /// # Safety
    /// See [`super::Kernel`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn avx512<C: Compute, const MR: usize, const NR: usize>(t: &Tile<C>) {
        // SAFETY: handed on.
        unsafe { tile::<C, MR, NR>(t) }
    }

    pub(super) const fn avx2_kernels<C: Compute, const NR: usize>() -> Kernels<C> {
        Kernels {
            nr: NR,
            rows: 4,
            table: table([
                avx2::<C, 1, NR>,
                avx2::<C, 2, NR>,
                avx2::<C, 3, NR>,
                avx2::<C, 4, NR>,
            ]),
            turn: None,
            small: small::avx2::<C>,
        }
    }

    pub(super) const fn avx512_kernels<C: Compute, const NR: usize>() -> Kernels<C> {
        Kernels {
            nr: NR,
            rows: 4,
            table: table([
                avx512::<C, 1, NR>,
                avx512::<C, 2, NR>,
                avx512::<C, 3, NR>,
                avx512::<C, 4, NR>,
            ]),
            turn: None,
            small: small::avx512::<C>,
        }
    }
}

macro_rules! integer {
    ($($t:ty, $nr:literal);*) => {$(
        impl Integer for $t {
            fn table(isa: Isa) -> &'static Kernels<$t> {
                static PORTABLE: Kernels<$t> = kernels::<$t, NR>();
                #[cfg(target_arch = "x86_64")]
                {
                    static AVX2: Kernels<$t> = wider::avx2_kernels::<$t, $nr>();
                    static AVX512: Kernels<$t> = wider::avx512_kernels::<$t, $nr>();
                    match isa {
                        Isa::Avx512 => return &AVX512,
                        Isa::Avx2 => return &AVX2,
                        _ => {}
                    }
                }
                let _ = isa;
                &PORTABLE
            }
        }
    )*};
}

integer!(i8, 32; i16, 32; i32, 16; i64, 8);
