//! Transcendental lane functions of f32.
//!
//! The functions that neural networks live on are written in f32; the rarer ones round the f64 function once. Methods as in
//! [`super::double`].
//!
//! # Accuracy (bounds in units of the last place; `tests/math_single.rs` holds the functions to them over all exponents)
//!
//! | bound | functions |
//! |---|---|
//! | 1 | all that go through f64: expm1, log1p, log2, log10, tan, asin, acos, atan, sinh, cosh, asinh, acosh, atanh, pow, atan2, hypot |
//! | 1 | exp, exp2, log, sin, cos, erf |
//! | 2 | tanh, sigmoid, rsqrt |
//! | 4 | logaddexp, where its operands cancel |

#![allow(
    missing_docs,
    reason = "lane functions have the names and definitions of the operation table"
)]

use super::basic::single::copy_sign;
use super::coefficients::*;
use super::double;
use super::pieces::single::{limit, polynomial};

/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
const MAGIC: f32 = 12582912.0;
/// Below this magnitude x^2 does not reach the last place of x.
const TINY: f32 = f32::from_bits((127 - 25) << 23);

/// As [`MAGIC`], with the integer 254 greater: that is twice the bias of an exponent.
const BIASED: f32 = MAGIC + 254.0;

/// Two powers of two whose product is 2^k for |k| <= 250, from the bits of `k + BIASED`: half of the exponent each, so that a number
/// times both is rounded once, even where the result is subnormal.
#[inline(always)]
fn powers(shifted: u32) -> (f32, f32) {
    let half = shifted >> 1;
    let rest = shifted.wrapping_sub(half);
    (f32::from_bits(half << 23), f32::from_bits(rest << 23))
}

#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = limit(x, -150.0, 150.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, BIASED);
    let k = shifted - BIASED;
    let r = k.mul_add(-LN2_32[0], x);
    let r = k.mul_add(-LN2_32[1], r);
    let e = (r * r).mul_add(polynomial(r, &EXP_32), r);
    let (first, second) = powers(shifted.to_bits());
    // (1 + e) * first with the rounding of the sum alone: `first` is a power of two far from the ends of the range.
    first.mul_add(e, first) * second
}

#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = limit(x, -200.0, 200.0);
    let shifted = x + BIASED;
    let r = x - (shifted - BIASED);
    let (first, second) = powers(shifted.to_bits());
    r.mul_add(polynomial(r, &EXP2_32), 1.0) * first * second
}

#[inline(always)]
pub fn log(x: f32) -> f32 {
    // Factor and exponent are chosen, not the results: compilers would compute both of them.
    let small = x < f32::MIN_POSITIVE;
    let bits = (x * if small { 33554432.0 } else { 1.0 }).to_bits();
    // Less the bits of sqrt(1/2): moves the boundary of the binades there.
    let moved = bits.wrapping_sub(0x3f35_04f3);
    let m = f32::from_bits(bits.wrapping_sub(moved & 0xff80_0000));
    let k = (moved.cast_signed() >> 23) as f32 - if small { 25.0 } else { 0.0 };
    let f = m - 1.0;
    let square = f * f;
    let rest = (square * f).mul_add(polynomial(f, &LOG_32), k * LN2_32[1]);
    let y = k.mul_add(LN2_32[0], f - (0.5f32.mul_add(square, -rest)));
    let other = if x == 0.0 {
        f32::NEG_INFINITY
    } else {
        f32::NAN
    };
    let y = if x > 0.0 { y } else { other };
    // Infinity and NaN stay.
    if x < f32::INFINITY { y } else { x }
}

/// Is the angle finite and too large for [`sin`] and [`cos`]?
#[inline(always)]
pub fn is_huge(x: f32) -> bool {
    let a = x.abs();
    a > 65536.0 && a < f32::INFINITY
}

/// Quadrant and rest of an angle up to 2^16.
#[inline(always)]
fn reduce(x: f32) -> (u32, f32, f32) {
    let shifted = x.mul_add(std::f32::consts::FRAC_2_PI, MAGIC);
    let n = shifted - MAGIC;
    // Exact: both terms are multiples of 2^-24 and the difference is below 1.
    let first = n.mul_add(-HALF_PI_32[0], x);
    let part = n * HALF_PI_32[1];
    let part_error = n.mul_add(HALF_PI_32[1], -part);
    let r = first - part;
    let back = r - first;
    let sum_error = (first - (r - back)) - (part + back);
    let lo = n.mul_add(-HALF_PI_32[2], sum_error - part_error);
    (shifted.to_bits(), r, lo)
}

/// Sine of `quadrant` quarter turns and r + lo.
#[inline(always)]
pub fn sin_of_quadrant(quadrant: u32, r: f32, lo: f32) -> f32 {
    let z = r * r;
    let sine = r + (r * z).mul_add(polynomial(z, &SIN_32), lo);
    let half = 0.5 * z;
    let w = 1.0 - half;
    let cosine = w + (((1.0 - w) - half) + (z * z).mul_add(polynomial(z, &COS_32), -r * lo));
    let y = if quadrant & 1 == 0 { sine } else { cosine };
    f32::from_bits(y.to_bits() ^ (quadrant & 2) << 30)
}

/// Cosine of `quadrant` quarter turns and r + lo.
#[inline(always)]
pub fn cos_of_quadrant(quadrant: u32, r: f32, lo: f32) -> f32 {
    sin_of_quadrant(quadrant.wrapping_add(1), r, lo)
}

#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (quadrant, r, lo) = reduce(x);
    let y = sin_of_quadrant(quadrant, r, lo);
    if x.abs() < TINY { x } else { y }
}

#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (quadrant, r, lo) = reduce(x);
    cos_of_quadrant(quadrant, r, lo)
}

macro_rules! huge {
    ($($name:ident $near:ident $far:ident;)*) => {$(
        /// The function where [`is_huge`].
        pub fn $name(x: f32) -> f32 {
            let x = f64::from(x);
            let y = if double::is_huge(x) { double::$far(x) } else { double::$near(x) };
            y as f32
        }
    )*};
}

huge! {
    sin_huge sin sin_huge;
    cos_huge cos cos_huge;
    tan_huge tan tan_huge;
}

#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = a * a;
    let small = (a * z).mul_add(polynomial(z, &TANH_32), a);
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    copy_sign(if a < 0.625 { small } else { large }, x)
}

#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let y = if x < 0.0 { e } else { 1.0 };
    let sum = 1.0 + e;
    // What the sum lost is worth a quarter of a unit.
    let lost = e - (sum - 1.0);
    let quotient = y / sum;
    quotient.mul_add(-lost, quotient)
}

#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let small = a.mul_add(polynomial(a * a, &ERF_32), a);
    let far = limit(a, 1.0, 4.0);
    let large = 1.0 - exp(-polynomial(far - 1.0, &ERFC_32));
    let y = if a < 1.0 { small } else { large };
    copy_sign(if a.is_nan() { a } else { y }, x)
}

#[inline(always)]
pub fn hypot(x: f32, y: f32) -> f32 {
    let (ax, ay) = (f64::from(x), f64::from(y));
    // The squares are exact in f64 and cannot overflow there.
    let root = ax.mul_add(ax, ay * ay).sqrt() as f32;
    if x.abs() == f32::INFINITY || y.abs() == f32::INFINITY {
        f32::INFINITY
    } else {
        root
    }
}

#[inline(always)]
pub fn pow(x: f32, y: f32) -> f32 {
    double::pow_short(f64::from(x), f64::from(y)) as f32
}

macro_rules! through_double {
    ($($name:ident)*) => {$(
        #[inline(always)]
        pub fn $name(x: f32) -> f32 {
            double::$name(f64::from(x)) as f32
        }
    )*};
    ($($name:ident)*, two) => {$(
        #[inline(always)]
        pub fn $name(x: f32, y: f32) -> f32 {
            double::$name(f64::from(x), f64::from(y)) as f32
        }
    )*};
}

through_double!(expm1 log1p log2 log10 tan asin acos atan sinh cosh asinh acosh atanh);
through_double!(atan2 log_add_exp, two);
