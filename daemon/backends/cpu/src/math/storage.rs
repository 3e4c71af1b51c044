//! Between tiles and memory: contiguous runs of any length and alignment.
//!
//! Memory holds each dtype in its own size; only f16 and bf16 change on the way. Both the conversion instructions and the
//! bit arithmetic give the same bits, which a test checks for every value.

use tensord_shm::dtype::DType;

use super::convert;
use crate::isa::Isa;

/// Reads `n` elements from memory into a tile.
///
/// # Safety
/// `from` is good for `n` elements of the dtype, in any alignment; `to` for `n` elements of the tile, aligned; they do not overlap. The
/// processor has the level that the function was picked for.
pub type LoadFn = unsafe fn(to: *mut u8, from: *const u8, n: usize);

/// Writes `n` elements of a tile to memory: exactly `n`, whatever the padding.
///
/// # Safety
/// As [`LoadFn`], with the sides exchanged.
pub type StoreFn = unsafe fn(to: *mut u8, from: *const u8, n: usize);

/// How a dtype is read.
pub fn load(isa: Isa, dtype: DType) -> LoadFn {
    match (dtype, isa) {
        #[cfg(target_arch = "x86_64")]
        (DType::F16, Isa::Avx2 | Isa::Avx512) => x86::load_f16,
        (DType::F16, _) => load_f16,
        #[cfg(target_arch = "x86_64")]
        (DType::Bf16, Isa::Avx2 | Isa::Avx512) => x86::load_bf16,
        (DType::Bf16, _) => load_bf16,
        _ => plain(dtype),
    }
}

/// How a dtype is written.
pub fn store(isa: Isa, dtype: DType) -> StoreFn {
    match (dtype, isa) {
        #[cfg(target_arch = "x86_64")]
        (DType::F16, Isa::Avx2 | Isa::Avx512) => x86::store_f16,
        (DType::F16, _) => store_f16,
        #[cfg(target_arch = "x86_64")]
        (DType::Bf16, Isa::Avx2 | Isa::Avx512) => x86::store_bf16,
        (DType::Bf16, _) => store_bf16,
        _ => plain(dtype),
    }
}

fn plain(dtype: DType) -> LoadFn {
    match dtype.size() {
        1 => copy::<1>,
        2 => copy::<2>,
        4 => copy::<4>,
        _ => copy::<8>,
    }
}

unsafe fn copy<const SIZE: usize>(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller's pointers are good for n elements and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from, to, n * SIZE) };
}

#[inline(always)]
unsafe fn widen(to: *mut u8, from: *const u8, n: usize, one: impl Fn(u16) -> f32) {
    let (to, from) = (to.cast::<f32>(), from.cast::<u16>());
    for i in 0..n {
        // SAFETY: the caller's pointers are good for n elements; memory may be unaligned.
        unsafe { to.add(i).write(one(from.add(i).read_unaligned())) };
    }
}

#[inline(always)]
unsafe fn narrow(to: *mut u8, from: *const u8, n: usize, one: impl Fn(f32) -> u16) {
    let (to, from) = (to.cast::<u16>(), from.cast::<f32>());
    for i in 0..n {
        // SAFETY: the caller's pointers are good for n elements; memory may be unaligned.
        unsafe { to.add(i).write_unaligned(one(from.add(i).read())) };
    }
}

unsafe fn load_f16(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller keeps the rules of `LoadFn`.
    unsafe { widen(to, from, n, convert::f16_to_f32) };
}

unsafe fn load_bf16(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller keeps the rules of `LoadFn`.
    unsafe { widen(to, from, n, convert::bf16_to_f32) };
}

unsafe fn store_f16(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller keeps the rules of `StoreFn`.
    unsafe { narrow(to, from, n, convert::f32_to_f16) };
}

unsafe fn store_bf16(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller keeps the rules of `StoreFn`.
    unsafe { narrow(to, from, n, convert::f32_to_bf16) };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::convert;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn load_f16(to: *mut u8, from: *const u8, n: usize) {
        let whole = n & !7;
        for i in (0..whole).step_by(8) {
            // SAFETY: elements i..i + 8 lie below n on both sides; neither access needs alignment.
            unsafe {
                let half = _mm_loadu_si128(from.add(i * 2).cast());
                _mm256_storeu_ps(to.add(i * 4).cast(), _mm256_cvtph_ps(half));
            }
        }
        // SAFETY: the rest of the caller's n elements.
        unsafe {
            super::widen(
                to.add(whole * 4),
                from.add(whole * 2),
                n - whole,
                convert::f16_to_f32,
            )
        };
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn store_f16(to: *mut u8, from: *const u8, n: usize) {
        let whole = n & !7;
        for i in (0..whole).step_by(8) {
            // SAFETY: elements i..i + 8 lie below n on both sides; neither access needs alignment.
            unsafe {
                let x = _mm256_loadu_ps(from.add(i * 4).cast());
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x);
                _mm_storeu_si128(to.add(i * 2).cast(), half);
            }
        }
        // SAFETY: the rest of the caller's n elements.
        unsafe {
            super::narrow(
                to.add(whole * 2),
                from.add(whole * 4),
                n - whole,
                convert::f32_to_f16,
            )
        };
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn load_bf16(to: *mut u8, from: *const u8, n: usize) {
        // SAFETY: the caller keeps the rules of `LoadFn`.
        unsafe { super::widen(to, from, n, convert::bf16_to_f32) };
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn store_bf16(to: *mut u8, from: *const u8, n: usize) {
        // SAFETY: the caller keeps the rules of `StoreFn`.
        unsafe { super::narrow(to, from, n, convert::f32_to_bf16) };
    }
}
