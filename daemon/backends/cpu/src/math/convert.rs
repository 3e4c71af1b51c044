//! Conversions between dtypes, and the two 16-bit float formats.
//!
//! A tile holds f16 and bf16 as f32 values that are already rounded to the dtype, and bool as bytes 0 and 1; every other dtype
//! as itself. An integer becomes f16 or bf16 by way of f32 (both steps round to nearest even), an f64 directly, with one rounding.

#![allow(
    missing_docs,
    reason = "lane functions have the names and definitions of the operation table"
)]

use tensord_shm::dtype::round_to_odd;

/// Rounds to the nearest f16, halves to even, and keeps it as f32. NaN stays NaN (quiet, its payload cut as the hardware does).
#[inline(always)]
pub fn round_f16(x: f32) -> f32 {
    let bits = x.to_bits();
    let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
    // Adding just below half of the last place kept, plus its parity, rounds to nearest even; the carry may run into
    // the exponent as it should.
    let kept = magnitude.wrapping_add(0x0fff + (magnitude >> 13 & 1)) & !0x1fff;
    let normal = if kept > 0x477f_e000 {
        0x7f80_0000
    } else {
        kept
    };
    // 2^-24, the step of the subnormals, is the last place of 0.5.
    let small = (f32::from_bits(magnitude) + 0.5 - 0.5).to_bits();
    let number = if magnitude < 0x3880_0000 {
        small
    } else {
        normal
    };
    let nan = magnitude & !0x1fff | 0x0040_0000;
    let rounded = if magnitude > 0x7f80_0000 { nan } else { number };
    f32::from_bits(rounded | sign)
}

/// Rounds to the nearest bf16, halves to even, and keeps it as f32. NaN stays NaN.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    f32::from_bits(u32::from(f32_to_bf16(x)) << 16)
}

/// The f16 with these bits. Scaling by 2^112 turns its exponent, subnormals included, into that of an f32.
#[inline(always)]
pub fn f16_to_f32(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff) << 13;
    let sign = u32::from(half & 0x8000) << 16;
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let quiet = special | 0x0040_0000;
    let special = if magnitude > 0x0f80_0000 {
        quiet
    } else {
        special
    };
    f32::from_bits(
        if magnitude >= 0x0f80_0000 {
            special
        } else {
            scaled
        } | sign,
    )
}

/// Bits of the nearest f16.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let rounded = round_f16(x).to_bits();
    let (sign, magnitude) = (rounded >> 16 & 0x8000, rounded & 0x7fff_ffff);
    // 2^-112 is exact here: the value has 11 significant bits and lies above 2^-25.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x0780_0000)).to_bits();
    let bits = if magnitude >= 0x7f80_0000 {
        magnitude & 0x0fff_ffff
    } else {
        scaled
    };
    (bits >> 13 | sign) as u16
}

/// The bf16 with these bits.
#[inline(always)]
pub fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// Bits of the nearest bf16.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x0040;
    (if bits & 0x7fff_ffff > 0x7f80_0000 {
        nan
    } else {
        rounded
    }) as u16
}

/// f64 to f16, held as f32.
#[inline(always)]
pub fn f64_to_f16(x: f64) -> f32 {
    round_f16(round_to_odd(x))
}

/// f64 to bf16, held as f32.
#[inline(always)]
pub fn f64_to_bf16(x: f64) -> f32 {
    round_bf16(round_to_odd(x))
}

/// Float to integer: truncates, saturates, NaN is 0.
macro_rules! to_narrow {
    ($($name:ident $float:ident $int:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(x: $float) -> $int {
            let (low, high) = ($int::MIN as $float, $int::MAX as $float);
            let x = if x > low { x } else { low };
            let x = if x < high { x } else { high };
            // SAFETY: finite and, both limits being exact in this float, in the range of an i32.
            unsafe { x.to_int_unchecked::<i32>() as $int }
        }
    )*};
}

/// As a saturating conversion, with a NaN caught before it.
macro_rules! nan_is_zero {
    ($($name:ident $inner:ident $float:ident $int:ident;)*) => {$(
        #[inline(always)]
        pub fn $name(x: $float) -> $int {
            $inner(if x.is_nan() { 0.0 } else { x })
        }
    )*};
}

to_narrow! {
    number_f32_i8 f32 i8;
    number_f32_u8 f32 u8;
    number_f32_i16 f32 i16;
    number_f32_u16 f32 u16;
    number_f64_i8 f64 i8;
    number_f64_u8 f64 u8;
    number_f64_i16 f64 i16;
    number_f64_u16 f64 u16;
    number_f64_i32 f64 i32;
}

nan_is_zero! {
    f32_to_i8 number_f32_i8 f32 i8;
    f32_to_u8 number_f32_u8 f32 u8;
    f32_to_i16 number_f32_i16 f32 i16;
    f32_to_u16 number_f32_u16 f32 u16;
    f32_to_i32 number_f32_i32 f32 i32;
    f64_to_i8 number_f64_i8 f64 i8;
    f64_to_u8 number_f64_u8 f64 u8;
    f64_to_i16 number_f64_i16 f64 i16;
    f64_to_u16 number_f64_u16 f64 u16;
    f64_to_i32 number_f64_i32 f64 i32;
}

#[inline(always)]
fn number_f32_i32(x: f32) -> i32 {
    let inside = if x > -2147483648.0 { x } else { -2147483648.0 };
    let inside = if inside < 2147483520.0 {
        inside
    } else {
        2147483520.0
    };
    // SAFETY: in the range of an i32; 2147483520 is the greatest f32 below 2^31.
    let near = unsafe { inside.to_int_unchecked::<i32>() };
    if x >= 2147483648.0 { i32::MAX } else { near }
}

/// `nextafter` among the f16 values, which are held as f32.
#[inline(always)]
pub fn next_after_f16(a: f32, b: f32) -> f32 {
    let (from, to) = (f32_to_f16(a), f32_to_f16(b));
    let next = f16_to_f32(step_16(from, to, b > a, a > 0.0));
    settle(a, b, next)
}

/// `nextafter` among the bf16 values, which are held as f32.
#[inline(always)]
pub fn next_after_bf16(a: f32, b: f32) -> f32 {
    let (from, to) = (f32_to_bf16(a), f32_to_bf16(b));
    let next = bf16_to_f32(step_16(from, to, b > a, a > 0.0));
    settle(a, b, next)
}

#[inline(always)]
fn step_16(from: u16, to: u16, upward: bool, positive: bool) -> u16 {
    let step = if upward == positive {
        from.wrapping_add(1)
    } else {
        from.wrapping_sub(1)
    };
    if from & 0x7fff == 0 {
        to & 0x8000 | 1
    } else {
        step
    }
}

#[inline(always)]
fn settle(a: f32, b: f32, next: f32) -> f32 {
    let moved = if a == b { b } else { next };
    if a.is_nan() || b.is_nan() {
        a + b
    } else {
        moved
    }
}
