//! Microkernels for x86-64: AVX2 with FMA, and AVX-512.
//!
//! A panel is two vectors wide. With 16 registers six rows of one panel are 12 sums, which hide the latency of the
//! fused multiply-add twice over and leave room for the panel and a broadcast; fewer rows take more panels, down to
//! one row of six panels, so that even a single row runs at the speed of the memory its columns come from.

use std::arch::x86_64::{
    __m256, __m256d, __m512, __m512d, _mm256_add_pd, _mm256_add_ps, _mm256_broadcast_sd,
    _mm256_broadcast_ss, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd, _mm256_loadu_ps,
    _mm256_permute2f128_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_shuffle_ps,
    _mm256_storeu_pd, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_pd,
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
                        let place = out.add(t.c_at + v * $lanes);
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

/// # Safety
/// See [`super::Turn`].
#[target_feature(enable = "avx2")]
unsafe fn turn_f32(rows: &[*const f32], length: usize, to: *mut f32, nr: usize) {
    let (lanes, whole) = (rows.len() / 8 * 8, length / 8 * 8);
    for lane in (0..lanes).step_by(8) {
        let eight: [*const f32; 8] = std::array::from_fn(|r| rows[lane + r]);
        for k in (0..whole).step_by(8) {
            // SAFETY: eight elements from k are there in each row, and eight lanes from each of eight k in `to`.
            unsafe {
                let loaded = eight.map(|row| _mm256_loadu_ps(row.add(k)));
                for (j, turned) in turn_eight(loaded).into_iter().enumerate() {
                    _mm256_storeu_ps(to.add((k + j) * nr + lane), turned);
                }
            }
        }
    }
    for (lane, row) in rows.iter().enumerate() {
        for k in (if lane < lanes { whole } else { 0 })..length {
            // SAFETY: an element of the row, and its place.
            unsafe { *to.add(k * nr + lane) = *row.add(k) };
        }
    }
}

/// Transposes eight vectors: pairs, then quadruples, then halves change places.
#[target_feature(enable = "avx2")]
fn turn_eight(rows: [__m256; 8]) -> [__m256; 8] {
    let pair = |a: usize, b: usize| {
        (
            _mm256_unpacklo_ps(rows[a], rows[b]),
            _mm256_unpackhi_ps(rows[a], rows[b]),
        )
    };
    let four = |(a_low, a_high): (__m256, __m256), (b_low, b_high): (__m256, __m256)| {
        [
            _mm256_shuffle_ps::<0x44>(a_low, b_low),
            _mm256_shuffle_ps::<0xee>(a_low, b_low),
            _mm256_shuffle_ps::<0x44>(a_high, b_high),
            _mm256_shuffle_ps::<0xee>(a_high, b_high),
        ]
    };
    let upper = four(pair(0, 1), pair(2, 3));
    let lower = four(pair(4, 5), pair(6, 7));
    std::array::from_fn(|k| match k {
        0..4 => _mm256_permute2f128_ps::<0x20>(upper[k], lower[k]),
        _ => _mm256_permute2f128_ps::<0x31>(upper[k - 4], lower[k - 4]),
    })
}

macro_rules! kernels {
    ($static:ident, $element:ty, $kernel:ident, $small:ident, $turn:expr, $nr:literal, $rows:literal, $($mr:literal x $panels:literal),*) => {
        pub(super) static $static: Kernels<$element> = {
            let mut table: [[Option<super::Kernel<$element>>; PANELS_MAX]; ROWS_MAX] =
                [[None; PANELS_MAX]; ROWS_MAX];
            $(table[$mr - 1][$panels - 1] = Some($kernel::<$mr, { 2 * $panels }>);)*
            Kernels { nr: $nr, rows: $rows, table, turn: $turn, small: small::$small::<$element> }
        };
    };
}

kernels!(
    F32_AVX2, f32, f32_avx2, avx2, Some(turn_f32), 16, 6,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 3, 3 x 1, 3 x 2, 4 x 1, 5 x 1, 6 x 1
);
kernels!(
    F64_AVX2, f64, f64_avx2, avx2, None, 8, 6,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 3, 3 x 1, 3 x 2, 4 x 1, 5 x 1, 6 x 1
);
kernels!(
    F32_AVX512, f32, f32_avx512, avx512, Some(turn_f32), 32, 8,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 4, 3 x 1, 3 x 2, 4 x 1, 4 x 2, 5 x 1, 5 x 2,
    6 x 1, 6 x 2, 7 x 1, 8 x 1
);
kernels!(
    F64_AVX512, f64, f64_avx512, avx512, None, 16, 8,
    1 x 1, 1 x 2, 1 x 4, 1 x 6, 2 x 1, 2 x 2, 2 x 4, 3 x 1, 3 x 2, 4 x 1, 4 x 2, 5 x 1, 5 x 2,
    6 x 1, 6 x 2, 7 x 1, 8 x 1
);
