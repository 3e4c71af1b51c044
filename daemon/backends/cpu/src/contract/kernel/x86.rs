//! Microkernels for x86-64: AVX2 with FMA, and AVX-512.
//!
//! A panel is two vectors wide. With 16 registers six rows of one panel are 12 sums, which hide the latency of the
//! fused multiply-add twice over and leave room for the panel and a broadcast; fewer rows take more panels, down to
//! one row of six panels, so that even a single row runs at the speed of the memory its columns come from.

use std::arch::x86_64::{
    __m256, __m256d, __m512, __m512d, _mm256_add_pd, _mm256_add_ps, _mm256_broadcast_sd,
    _mm256_broadcast_ss, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd, _mm256_loadu_ps,
    _mm256_setzero_pd, _mm256_setzero_ps, _mm256_storeu_pd, _mm256_storeu_ps, _mm512_add_pd,
    _mm512_add_ps, _mm512_fmadd_pd, _mm512_fmadd_ps, _mm512_loadu_pd, _mm512_loadu_ps,
    _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_storeu_pd,
    _mm512_storeu_ps,
};

use super::{Kernels, PANELS_MAX, ROWS_MAX, Tile, small};

macro_rules! microkernel {
    ($name:ident, $features:literal, $element:ty, $vector:ty, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $broadcast:expr, $fused:ident, $sum:ident) => {
        /// `V` vectors are `V / 2` panels.
        ///
        /// # Safety
        /// See [`super::Kernel`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const MR: usize, const V: usize>(t: &Tile<$element>) {
            // SAFETY: the caller's contract covers MR pointers in `a` and in `c`.
            let (rows, outs) = unsafe {
                (
                    *t.a.cast::<[*const $element; MR]>(),
                    *t.c.cast::<[*mut $element; MR]>(),
                )
            };
            let mut b = t.b;
            let mut at = 0isize;
            let mut sums: [[$vector; V]; MR] = [[$zero(); V]; MR];
            for _ in 0..t.k {
                let columns: [$vector; V] = std::array::from_fn(|v| {
                    let place = b.wrapping_offset((v / 2) as isize * t.b_panel);
                    // SAFETY: `b` is at one of the k places of each panel, where two vectors may be read.
                    unsafe { $load(place.add(v % 2 * $lanes)) }
                });
                for r in 0..MR {
                    // SAFETY: each row is readable at k places, `a_step` apart.
                    let a = unsafe { $broadcast(rows[r].wrapping_offset(at)) };
                    for v in 0..V {
                        sums[r][v] = $fused(a, columns[v], sums[r][v]);
                    }
                }
                at = at.wrapping_add(t.a_step);
                b = b.wrapping_offset(t.b_step);
            }
            for (out, sums) in outs.into_iter().zip(sums) {
                for (v, sum) in sums.into_iter().enumerate() {
                    // SAFETY: V vectors of each `c` may be written, and read if `add`.
                    unsafe {
                        let place = out.add(v * $lanes);
                        $store(place, if t.add { $sum($load(place), sum) } else { sum });
                    }
                }
            }
        }
    };
}

microkernel!(
    f32_avx2,
    "avx2,fma",
    f32,
    __m256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    |place: *const f32| _mm256_broadcast_ss(&*place),
    _mm256_fmadd_ps,
    _mm256_add_ps
);
microkernel!(
    f64_avx2,
    "avx2,fma",
    f64,
    __m256d,
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    |place: *const f64| _mm256_broadcast_sd(&*place),
    _mm256_fmadd_pd,
    _mm256_add_pd
);
microkernel!(
    f32_avx512,
    "avx512f",
    f32,
    __m512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    |place: *const f32| _mm512_set1_ps(*place),
    _mm512_fmadd_ps,
    _mm512_add_ps
);
microkernel!(
    f64_avx512,
    "avx512f",
    f64,
    __m512d,
    8,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    |place: *const f64| _mm512_set1_pd(*place),
    _mm512_fmadd_pd,
    _mm512_add_pd
);

macro_rules! kernels {
    ($static:ident, $element:ty, $kernel:ident, $small:ident, $nr:literal, $rows:literal, $($mr:literal x $panels:literal),*) => {
        pub(super) static $static: Kernels<$element> = {
            let mut table: [[Option<super::Kernel<$element>>; PANELS_MAX]; ROWS_MAX] =
                [[None; PANELS_MAX]; ROWS_MAX];
            $(table[$mr - 1][$panels - 1] = Some($kernel::<$mr, { 2 * $panels }>);)*
            Kernels { nr: $nr, rows: $rows, table, small: small::$small::<$element> }
        };
    };
}

kernels!(
    F32_AVX2, f32, f32_avx2, avx2, 16, 6,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 3, 3 x 1, 3 x 2, 4 x 1, 5 x 1, 6 x 1
);
kernels!(
    F64_AVX2, f64, f64_avx2, avx2, 8, 6,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 3, 3 x 1, 3 x 2, 4 x 1, 5 x 1, 6 x 1
);
kernels!(
    F32_AVX512, f32, f32_avx512, avx512, 32, 8,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 4, 3 x 1, 3 x 2, 4 x 1, 4 x 2, 5 x 1, 5 x 2,
    6 x 1, 6 x 2, 7 x 1, 8 x 1
);
kernels!(
    F64_AVX512, f64, f64_avx512, avx512, 16, 8,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 4, 3 x 1, 3 x 2, 4 x 1, 4 x 2, 5 x 1, 5 x 2,
    6 x 1, 6 x 2, 7 x 1, 8 x 1
);
