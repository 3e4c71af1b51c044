//! Transcendental lane functions of f64, which also serve the rarer functions of f32.
//!
//! Written from published methods: argument reduction and reconstruction follow Cody and Waite ("Software Manual for the Elementary
//! Functions", 1980), Tang, and the arrangement of error terms known from fdlibm; polynomials are our own
//! (`coefficients/generate.py`). No branches but selections, so that the loops over them vectorise.
//!
//! # Accuracy (in units of the last place; `tests/math_double.rs` holds the functions to the bounds)
//!
//! | bound | functions |
//! |---|---|
//! | 1 | exp, exp2, log, log2, log10, sin, cos, hypot, erf |
//! | 2 | expm1, log1p, asin, acos, atan, cosh, sigmoid, pow |
//! | 4 | tan, sinh, tanh, asinh, acosh, atanh, atan2 |
//!
//! logaddexp is within 2 units of the last place of the larger operand or of the result, whichever is larger: where
//! the two cancel the result has no more digits than its operands.

#![allow(
    missing_docs,
    reason = "lane functions have the names and definitions of the operation table"
)]

use super::basic::double::copy_sign;
use super::coefficients::*;
use super::pieces::double::{limit, polynomial};
use super::trigonometry::reduce_huge;

/// Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
const MAGIC: f64 = 6755399441055744.0;
const LN2: f64 = std::f64::consts::LN_2;
/// Below this magnitude x^2 does not reach the last place of x.
const TINY: f64 = f64::from_bits((1023 - 54) << 52);

/// 2^k for the k of normal numbers, given as wrapped bits.
#[inline(always)]
fn power_of_two(k: u64) -> f64 {
    const BIAS: u64 = f64::MAX_EXP as u64 - 1;
    f64::from_bits(k.wrapping_add(BIAS) << 52)
}

/// The logarithm of `x` where `y` is that of a positive finite number.
#[inline(always)]
fn log_special(x: f64, y: f64) -> f64 {
    let y = if x == f64::INFINITY { x } else { y };
    let y = if x == 0.0 { f64::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f64::NAN } else { y };
    if x.is_nan() { x } else { y }
}

/// `p * 2^k` for |k| <= 2000, rounded once.
#[inline(always)]
fn scale(p: f64, k: u64) -> f64 {
    let half = (k.wrapping_add(2048) >> 1).wrapping_sub(1024);
    p * power_of_two(half) * power_of_two(k.wrapping_sub(half))
}

/// `e^(x + lo) = (1 + e) 2^k` for |x| <= 1000.
#[inline(always)]
fn exp_core(x: f64, lo: f64) -> (f64, u64) {
    let shifted = x.mul_add(std::f64::consts::LOG2_E, MAGIC);
    let k = shifted - MAGIC;
    let r = k.mul_add(-LN2_64[0], x);
    let r = r - k.mul_add(LN2_64[1], -lo);
    let e = (r * r).mul_add(polynomial(r, &EXP_64), r);
    (e, shifted.to_bits().wrapping_sub(MAGIC.to_bits()))
}

#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let (e, k) = exp_core(limit(x, -1000.0, 1000.0), 0.0);
    scale(1.0 + e, k)
}

#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    let x = limit(x, -1400.0, 1400.0);
    let shifted = x + MAGIC;
    let r = (x - (shifted - MAGIC)) * LN2;
    let e = (r * r).mul_add(polynomial(r, &EXP_64), r);
    scale(1.0 + e, shifted.to_bits().wrapping_sub(MAGIC.to_bits()))
}

#[inline(always)]
pub fn expm1(x: f64) -> f64 {
    let (e, k) = exp_core(limit(x, -60.0, 709.9), 0.0);
    // Half of the result first: 2^1024 is no f64.
    let half = power_of_two(k.wrapping_sub(1));
    let y = 2.0 * half.mul_add(e, half - 0.5);
    if x.abs() < TINY { x } else { y }
}

/// `x = m 2^k` with m in sqrt(1/2)..sqrt(2), for positive finite x: m, k, and the bits of 2^-k.
#[inline(always)]
fn split(x: f64) -> (f64, f64, f64) {
    let small = x < f64::MIN_POSITIVE;
    let scaled = if small { x * 18014398509481984.0 } else { x };
    let bits = scaled.to_bits();
    // 0x3ff0000000000000 less the bits of sqrt(1/2): moves the boundary of the binades there.
    let exponent = bits.wrapping_add(0x0009_5f61_9980_c433) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(exponent.wrapping_sub(1023) << 52));
    let k = f64::from_bits(exponent | 0x4330_0000_0000_0000) - 4503599627371519.0;
    let inverse = f64::from_bits(2046u64.saturating_sub(exponent) << 52);
    (m, if small { k - 54.0 } else { k }, inverse)
}

/// `log(1 + f)` as f - f^2/2 and the rest, for f in sqrt(1/2) - 1 .. sqrt(2) - 1.
#[inline(always)]
fn log_core(f: f64) -> (f64, f64) {
    let s = f / (2.0 + f);
    let z = s * s;
    let half_square = 0.5 * f * f;
    (
        half_square,
        s * z.mul_add(polynomial(z, &LOG_64), half_square),
    )
}

#[inline(always)]
pub fn log(x: f64) -> f64 {
    let (m, k, _) = split(x);
    let f = m - 1.0;
    let (half_square, rest) = log_core(f);
    let y = k * LN2_64[0] - ((half_square - k.mul_add(LN2_64[1], rest)) - f);
    log_special(x, y)
}

#[inline(always)]
pub fn log1p(x: f64) -> f64 {
    let u = 1.0 + x;
    let lost = if u < 2.0 {
        x - (u - 1.0)
    } else {
        1.0 - (u - x)
    };
    let (m, k, inverse) = split(u);
    let f = (m - 1.0) + lost * inverse;
    let (half_square, rest) = log_core(f);
    let y = k * LN2_64[0] - ((half_square - k.mul_add(LN2_64[1], rest)) - f);
    let y = log_special(u, y);
    if x.abs() < TINY { x } else { y }
}

/// Logarithm to a base: the reciprocal of the base's logarithm and the base's logarithm of 2, each in two parts.
#[inline(always)]
fn log_to_base(x: f64, reciprocal: [f64; 2], two: [f64; 2]) -> f64 {
    let (m, k, _) = split(x);
    let f = m - 1.0;
    let (half_square, rest) = log_core(f);
    let hi = f64::from_bits((f - half_square).to_bits() & 0xffff_ffff_0000_0000);
    let lo = ((f - hi) - half_square) + rest;
    let main = hi * reciprocal[0];
    let low = lo.mul_add(reciprocal[0], (lo + hi) * reciprocal[1]);
    let whole = k * two[0];
    let sum = whole + main;
    let y = k.mul_add(two[1], low) + ((whole - sum) + main) + sum;
    log_special(x, y)
}

#[inline(always)]
pub fn log2(x: f64) -> f64 {
    log_to_base(x, LOG2E_64, [1.0, 0.0])
}

#[inline(always)]
pub fn log10(x: f64) -> f64 {
    log_to_base(x, LOG10E_64, LOG10_2_64)
}

/// Is the angle finite and too large for [`sin`], [`cos`] and [`tan`]?
#[inline(always)]
pub fn is_huge(x: f64) -> bool {
    let a = x.abs();
    a > 1048576.0 && a < f64::INFINITY
}

/// Quadrant and rest of an angle up to 2^20.
#[inline(always)]
fn reduce(x: f64) -> (u64, f64, f64) {
    let shifted = x.mul_add(std::f64::consts::FRAC_2_PI, MAGIC);
    let n = shifted - MAGIC;
    // Exact: both terms are multiples of 2^-53 and the difference is below 1.
    let first = n.mul_add(-HALF_PI_64[0], x);
    let part = n * HALF_PI_64[1];
    let part_error = n.mul_add(HALF_PI_64[1], -part);
    let r = first - part;
    let back = r - first;
    let sum_error = (first - (r - back)) - (part + back);
    let lo = n.mul_add(-HALF_PI_64[2], sum_error - part_error);
    (shifted.to_bits(), r, lo)
}

#[inline(always)]
fn sin_core(r: f64, lo: f64) -> f64 {
    let z = r * r;
    r + (r * z).mul_add(polynomial(z, &SIN_64), (-0.5 * z).mul_add(lo, lo))
}

#[inline(always)]
fn cos_core(r: f64, lo: f64) -> f64 {
    let z = r * r;
    let half = 0.5 * z;
    let w = 1.0 - half;
    w + (((1.0 - w) - half) + (z * z).mul_add(polynomial(z, &COS_64), -r * lo))
}

/// Sine of `quadrant` quarter turns and r + lo.
#[inline(always)]
pub fn sin_of_quadrant(quadrant: u64, r: f64, lo: f64) -> f64 {
    let y = if quadrant & 1 == 0 {
        sin_core(r, lo)
    } else {
        cos_core(r, lo)
    };
    f64::from_bits(y.to_bits() ^ (quadrant & 2) << 62)
}

/// Cosine of `quadrant` quarter turns and r + lo.
#[inline(always)]
pub fn cos_of_quadrant(quadrant: u64, r: f64, lo: f64) -> f64 {
    sin_of_quadrant(quadrant.wrapping_add(1), r, lo)
}

#[inline(always)]
fn tan_of_quadrant(quadrant: u64, r: f64, lo: f64) -> f64 {
    let (s, c) = (sin_core(r, lo), cos_core(r, lo));
    if quadrant & 1 == 0 { s / c } else { -c / s }
}

#[inline(always)]
pub fn sin(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce(x);
    let y = sin_of_quadrant(quadrant, r, lo);
    if x.abs() < TINY { x } else { y }
}

#[inline(always)]
pub fn cos(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce(x);
    cos_of_quadrant(quadrant, r, lo)
}

#[inline(always)]
pub fn tan(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce(x);
    let y = tan_of_quadrant(quadrant, r, lo);
    if x.abs() < TINY { x } else { y }
}

/// [`sin`] where [`is_huge`].
pub fn sin_huge(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce_huge(x);
    sin_of_quadrant(quadrant, r, lo)
}

/// [`cos`] where [`is_huge`].
pub fn cos_huge(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce_huge(x);
    cos_of_quadrant(quadrant, r, lo)
}

/// [`tan`] where [`is_huge`].
pub fn tan_huge(x: f64) -> f64 {
    let (quadrant, r, lo) = reduce_huge(x);
    tan_of_quadrant(quadrant, r, lo)
}

/// For asin and acos: the argument below 1/2 as it is, above it the half-angle's sine s, its rounding error, and the
/// polynomial's part.
#[inline(always)]
fn asin_core(a: f64) -> (f64, f64) {
    let upper = a > 0.5;
    let z = if upper { 0.5 * (1.0 - a) } else { a * a };
    let root = z.sqrt();
    let error = (-root).mul_add(root, z) / (2.0 * root);
    let error = if root == 0.0 { 0.0 } else { error };
    let s = if upper { root } else { a };
    let rest = (s * z).mul_add(polynomial(z, &ASIN_64), if upper { error } else { 0.0 });
    (s, rest)
}

#[inline(always)]
pub fn asin(x: f64) -> f64 {
    let a = x.abs();
    let (s, rest) = asin_core(a);
    let w = HALF_PI_64[0] - 2.0 * s;
    let w_error = (HALF_PI_64[0] - w) - 2.0 * s;
    let upper = w + (w_error + 2.0f64.mul_add(-rest, HALF_PI_64[1]));
    copy_sign(if a > 0.5 { upper } else { s + rest }, x)
}

#[inline(always)]
pub fn acos(x: f64) -> f64 {
    let a = x.abs();
    let (s, rest) = asin_core(a);
    // From a quarter or half turn subtract once or twice the signed part.
    let middle = a <= 0.5;
    let times = if middle { copy_sign(1.0, x) } else { 2.0 };
    let (hi, lo) = if middle {
        (HALF_PI_64[0], HALF_PI_64[1])
    } else {
        (2.0 * HALF_PI_64[0], 2.0 * HALF_PI_64[1])
    };
    let w = hi - times * s;
    let w_error = (hi - w) - times * s;
    let y = w + (w_error + times.mul_add(-rest, lo));
    if x > 0.5 { 2.0 * (s + rest) } else { y }
}

/// Arc tangent of a >= 0.
#[inline(always)]
fn atan_core(a: f64) -> f64 {
    const UPPER: f64 = 2.414213562373095;
    const LOWER: f64 = 0.41421356237309503;
    let (upper, middle) = (a > UPPER, a > LOWER);
    let numerator = if middle { a - 1.0 } else { a };
    let numerator = if upper { -1.0 } else { numerator };
    let denominator = if middle { a + 1.0 } else { 1.0 };
    let denominator = if upper { a } else { denominator };
    let r = numerator / denominator;
    let eighths = if upper { 1.0 } else { 0.5 };
    let eighths = if middle { eighths } else { 0.0 };
    let z = r * r;
    let rest = (r * z).mul_add(polynomial(z, &ATAN_64), eighths * HALF_PI_64[1]);
    eighths * HALF_PI_64[0] + (r + rest)
}

#[inline(always)]
pub fn atan(x: f64) -> f64 {
    copy_sign(atan_core(x.abs()), x)
}

#[inline(always)]
pub fn atan2(y: f64, x: f64) -> f64 {
    let (ay, ax) = (y.abs(), x.abs());
    let steep = ay > ax;
    let (low, high) = if steep { (ax, ay) } else { (ay, ax) };
    let ratio = low / high;
    let ratio = if high == 0.0 { 0.0 } else { ratio };
    let ratio = if low == f64::INFINITY { 1.0 } else { ratio };
    let angle = atan_core(ratio);
    let angle = if steep {
        HALF_PI_64[0] - (angle - HALF_PI_64[1])
    } else {
        angle
    };
    let back = 2.0 * HALF_PI_64[0] - (angle - 2.0 * HALF_PI_64[1]);
    let angle = if x.to_bits() >> 63 == 1 { back } else { angle };
    let angle = copy_sign(angle, y);
    if x.is_nan() || y.is_nan() {
        x + y
    } else {
        angle
    }
}

#[inline(always)]
pub fn sinh(x: f64) -> f64 {
    let a = x.abs();
    let (e, k) = exp_core(limit(a, 0.0, 1000.0), 0.0);
    let large = scale(1.0 + e, k.wrapping_sub(1));
    let t = expm1(limit(a, 0.0, 40.0));
    let small = 0.5 * (t + t / (t + 1.0));
    let small = if a < TINY { a } else { small };
    copy_sign(if a > 22.0 { large } else { small }, x)
}

#[inline(always)]
pub fn cosh(x: f64) -> f64 {
    let (e, k) = exp_core(limit(x.abs(), 0.0, 1000.0), 0.0);
    let half = scale(1.0 + e, k.wrapping_sub(1));
    half + 0.25 / half
}

#[inline(always)]
pub fn tanh(x: f64) -> f64 {
    let t = expm1(-2.0 * x.abs());
    copy_sign(-t / (t + 2.0), x)
}

#[inline(always)]
pub fn asinh(x: f64) -> f64 {
    let a = x.abs();
    let large = a > 1152921504606846976.0;
    let square = a * a;
    let near = a + square / (1.0 + (1.0 + square).sqrt());
    let y = log1p(if large { a } else { near });
    copy_sign(if large { y + LN2 } else { y }, x)
}

#[inline(always)]
pub fn acosh(x: f64) -> f64 {
    let large = x > 1152921504606846976.0;
    let t = x - 1.0;
    let near = t + (t * (t + 2.0)).sqrt();
    let y = log1p(if large { x } else { near });
    let y = if large { y + LN2 } else { y };
    if x < 1.0 { f64::NAN } else { y }
}

#[inline(always)]
pub fn atanh(x: f64) -> f64 {
    let a = x.abs();
    copy_sign(0.5 * log1p(2.0 * a / (1.0 - a)), x)
}

#[inline(always)]
pub fn sigmoid(x: f64) -> f64 {
    let e = exp(-x.abs());
    let y = if x < 0.0 { e } else { 1.0 };
    y / (1.0 + e)
}

#[inline(always)]
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let small = a.mul_add(polynomial(a * a, &ERF_64), a);
    let far = limit(a, 1.0, 6.0);
    let large = 1.0 - exp(-far * far) * polynomial(1.0 / (far + 2.0), &ERFC_64);
    copy_sign(if a < 1.0 { small } else { large }, x)
}

#[inline(always)]
pub fn hypot(x: f64, y: f64) -> f64 {
    let (ax, ay) = (x.abs(), y.abs());
    let (low, high) = if ax < ay { (ax, ay) } else { (ay, ax) };
    // Powers of two keep the squares in range without rounding.
    let large = high > f64::from_bits((1023 + 500) << 52);
    let small = high < f64::from_bits((1023 - 500) << 52);
    let down = if large {
        f64::from_bits((1023 - 600) << 52)
    } else {
        1.0
    };
    let by = if small {
        f64::from_bits((1023 + 600) << 52)
    } else {
        down
    };
    let (low, high) = (low * by, high * by);
    let square = low * low;
    let error = low.mul_add(low, -square);
    let root = (high.mul_add(high, square) + error).sqrt() / by;
    if ax == f64::INFINITY || ay == f64::INFINITY {
        f64::INFINITY
    } else {
        root
    }
}

#[inline(always)]
pub fn log_add_exp(a: f64, b: f64) -> f64 {
    let high = if a > b { a } else { b };
    let y = high + log1p(exp(-(a - b).abs()));
    if a == b { a + LN2 } else { y }
}

/// Logarithm of a positive finite number as a sum of two f64, to about 2^-66 of its size.
#[inline(always)]
fn log_pair(x: f64) -> (f64, f64) {
    let (m, k, _) = split(x);
    let f = m - 1.0;
    // s = f / (2 + f), and what its rounding and that of the divisor lost.
    let divisor = m + 1.0;
    let divisor_lost = m - (divisor - 1.0);
    let s = f / divisor;
    let s_lo = ((-s).mul_add(divisor, f) - s * divisor_lost) / divisor;
    let z = s * s;
    let z_lo = s.mul_add(s, -z) + 2.0 * s * s_lo;
    // log((1 + s) / (1 - s)) = 2 s (1 + z/3 + z^2 tail/2), with the second term to twice the precision.
    const THIRD: f64 = 1.0 / 3.0;
    const THIRD_LO: f64 = 1.850371707708594e-17;
    let third = z * THIRD;
    let third_lo = z.mul_add(THIRD, -third) + z.mul_add(THIRD_LO, z_lo * THIRD);
    let third_lo = (0.5 * z * z).mul_add(polynomial(z, &LOG_TAIL_64), third_lo);
    let product = s * third;
    let product_lo = s.mul_add(third, -product) + s.mul_add(third_lo, s_lo * third);
    let (a, a_lo) = fast_two_sum(s, product);
    let (a, a_lo) = (2.0 * a, 2.0 * (a_lo + (s_lo + product_lo)));
    // k log(2): the first part is exact.
    let whole = k * LN2_3_64[0];
    let middle = k * LN2_3_64[1];
    let middle_lo = k.mul_add(LN2_3_64[1], -middle) + k * LN2_3_64[2];
    let (sum, sum_lo) = two_sum(whole, a);
    let (tail, tail_lo) = two_sum(middle, sum_lo);
    let (hi, lo) = fast_two_sum(sum, tail);
    fast_two_sum(hi, lo + (tail_lo + (a_lo + middle_lo)))
}

#[inline(always)]
fn fast_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let back = sum - a;
    (sum, (a - (sum - back)) + (b - back))
}

#[inline(always)]
pub fn pow(x: f64, y: f64) -> f64 {
    let (hi, lo) = log_pair(x.abs());
    let product = hi * y;
    let product_lo = hi.mul_add(y, -product) + lo * y;
    let inside = product.abs() < 1000.0;
    let (e, k) = exp_core(
        limit(product, -1000.0, 1000.0),
        if inside { product_lo } else { 0.0 },
    );
    pow_special(x, y, scale(1.0 + e, k))
}

/// The power of any x, where `magnitude` is that of |x| if that is positive and finite.
#[inline(always)]
pub fn pow_special(x: f64, y: f64, magnitude: f64) -> f64 {
    let a = x.abs();
    let extreme = if (a == 0.0) == (y < 0.0) {
        f64::INFINITY
    } else {
        0.0
    };
    let extreme = if y.is_nan() { y } else { extreme };
    let magnitude = if a == 0.0 || a == f64::INFINITY {
        extreme
    } else {
        magnitude
    };
    let magnitude = if a == 1.0 && !y.is_nan() {
        1.0
    } else {
        magnitude
    };
    let half = 0.5 * y;
    let whole = y == y.trunc();
    let odd = whole && half != half.trunc();
    let negative = x.to_bits() >> 63 == 1;
    let signed = if negative && odd {
        -magnitude
    } else {
        magnitude
    };
    let undefined = negative && !whole && a != 0.0 && a != f64::INFINITY;
    let signed = if undefined { f64::NAN } else { signed };
    let signed = if x.is_nan() { x } else { signed };
    if y == 0.0 || x == 1.0 { 1.0 } else { signed }
}

/// `x^y` for operands that are f32: one f64 logarithm is precise enough.
#[inline(always)]
pub fn pow_short(x: f64, y: f64) -> f64 {
    let product = log(x.abs()) * y;
    pow_special(x, y, exp(product))
}
