//! Lane functions of f32 and f64 that IEEE 754 fixes to the last bit: arithmetic, rounding, comparison, remainders.
//!
//! Maxima and minima are written out because the machine's instructions order zeros and NaNs otherwise. The remainders
//! follow Python: `fmod` is exact for operands of any magnitude.

#![allow(
    missing_docs,
    reason = "lane functions have the names and definitions of the operation table"
)]

macro_rules! basics {
    ($module:ident, $float:ident, $bits:ident, $fraction_bits:literal, $quotient_max:literal) => {
        /// Lane functions of one float type.
        pub mod $module {
            const SIGN: $bits = 1 << ($bits::BITS - 1);

            #[inline(always)]
            pub fn neg(a: $float) -> $float {
                -a
            }
            #[inline(always)]
            pub fn abs(a: $float) -> $float {
                a.abs()
            }
            #[inline(always)]
            pub fn sign(a: $float) -> $float {
                let one = copy_sign(1.0, a);
                if a == 0.0 || a.is_nan() { a } else { one }
            }
            #[inline(always)]
            pub fn ceil(a: $float) -> $float {
                a.ceil()
            }
            #[inline(always)]
            pub fn floor(a: $float) -> $float {
                a.floor()
            }
            #[inline(always)]
            pub fn trunc(a: $float) -> $float {
                a.trunc()
            }
            #[inline(always)]
            pub fn round(a: $float) -> $float {
                a.round_ties_even()
            }
            #[inline(always)]
            pub fn sqrt(a: $float) -> $float {
                a.sqrt()
            }
            #[inline(always)]
            pub fn square(a: $float) -> $float {
                a * a
            }
            #[inline(always)]
            pub fn reciprocal(a: $float) -> $float {
                1.0 / a
            }
            #[inline(always)]
            pub fn rsqrt(a: $float) -> $float {
                1.0 / a.sqrt()
            }
            #[inline(always)]
            pub fn is_nan(a: $float) -> u8 {
                a.is_nan() as u8
            }
            #[inline(always)]
            pub fn is_inf(a: $float) -> u8 {
                (a.abs() == $float::INFINITY) as u8
            }
            #[inline(always)]
            pub fn is_finite(a: $float) -> u8 {
                (a.abs() < $float::INFINITY) as u8
            }
            #[inline(always)]
            pub fn signbit(a: $float) -> u8 {
                (a.to_bits() >> ($bits::BITS - 1)) as u8
            }
            #[inline(always)]
            pub fn logical_not(a: $float) -> u8 {
                (a == 0.0) as u8
            }
            #[inline(always)]
            pub fn add(a: $float, b: $float) -> $float {
                a + b
            }
            #[inline(always)]
            pub fn sub(a: $float, b: $float) -> $float {
                a - b
            }
            #[inline(always)]
            pub fn mul(a: $float, b: $float) -> $float {
                a * b
            }
            #[inline(always)]
            pub fn div(a: $float, b: $float) -> $float {
                a / b
            }
            /// The greater; equal operands differ at most in the sign of a zero, and the conjunction of their bits is +0.
            #[inline(always)]
            pub fn maximum(a: $float, b: $float) -> $float {
                let greater = if a > b { a } else { b };
                let equal = $float::from_bits(a.to_bits() & b.to_bits());
                let number = if a == b { equal } else { greater };
                if a.is_nan() { a } else { number }
            }
            /// The lesser; the disjunction of two zeros' bits is -0 if either is.
            #[inline(always)]
            pub fn minimum(a: $float, b: $float) -> $float {
                let lesser = if a < b { a } else { b };
                let equal = $float::from_bits(a.to_bits() | b.to_bits());
                let number = if a == b { equal } else { lesser };
                if a.is_nan() { a } else { number }
            }
            #[inline(always)]
            pub fn clamp(a: $float, low: $float, high: $float) -> $float {
                minimum(maximum(a, low), high)
            }
            #[inline(always)]
            pub fn fma(a: $float, b: $float, c: $float) -> $float {
                a.mul_add(b, c)
            }
            #[inline(always)]
            pub fn select(condition: u8, a: $float, b: $float) -> $float {
                if condition != 0 { a } else { b }
            }
            #[inline(always)]
            pub fn copy_sign(a: $float, b: $float) -> $float {
                $float::from_bits((a.to_bits() & !SIGN) | (b.to_bits() & SIGN))
            }
            #[inline(always)]
            pub fn next_after(a: $float, b: $float) -> $float {
                let bits = a.to_bits();
                let away = (b > a) == (a > 0.0);
                let step = if away {
                    bits.wrapping_add(1)
                } else {
                    bits.wrapping_sub(1)
                };
                let least = (b.to_bits() & SIGN) | 1;
                let next = $float::from_bits(if a == 0.0 { least } else { step });
                let moved = if a == b { b } else { next };
                if a.is_nan() || b.is_nan() {
                    a + b
                } else {
                    moved
                }
            }
            #[inline(always)]
            pub fn eq(a: $float, b: $float) -> u8 {
                (a == b) as u8
            }
            #[inline(always)]
            pub fn ne(a: $float, b: $float) -> u8 {
                (a != b) as u8
            }
            #[inline(always)]
            pub fn lt(a: $float, b: $float) -> u8 {
                (a < b) as u8
            }
            #[inline(always)]
            pub fn le(a: $float, b: $float) -> u8 {
                (a <= b) as u8
            }
            #[inline(always)]
            pub fn gt(a: $float, b: $float) -> u8 {
                (a > b) as u8
            }
            #[inline(always)]
            pub fn ge(a: $float, b: $float) -> u8 {
                (a >= b) as u8
            }
            #[inline(always)]
            pub fn logical_and(a: $float, b: $float) -> u8 {
                (a != 0.0) as u8 & (b != 0.0) as u8
            }
            #[inline(always)]
            pub fn logical_or(a: $float, b: $float) -> u8 {
                (a != 0.0) as u8 | (b != 0.0) as u8
            }
            #[inline(always)]
            pub fn logical_xor(a: $float, b: $float) -> u8 {
                (a != 0.0) as u8 ^ (b != 0.0) as u8
            }

            /// C's `fmod` for quotients that are not [`fmod_is_rare`]. The truncated quotient is off by at most one and the
            /// fused multiply-add is exact, because the remainder is a multiple of the divisor's last place.
            #[inline(always)]
            pub fn fmod(a: $float, b: $float) -> $float {
                let (x, y) = (a.abs(), b.abs());
                let quotient = (x / y).trunc();
                let r = (-quotient).mul_add(y, x);
                let r = if r < 0.0 { r + y } else { r };
                let r = if r >= y { r - y } else { r };
                // A divisor of infinity leaves a finite dividend as it is.
                let r = if x < y { x } else { r };
                let r = if b.is_nan() { b } else { r };
                copy_sign(r, a)
            }
            /// Is the quotient too large for one step?
            #[inline(always)]
            pub fn fmod_is_rare(a: $float, b: $float) -> bool {
                let (x, y) = (a.abs(), b.abs());
                x / y > $quotient_max && x < $float::INFINITY && y > 0.0
            }
            /// Long division of integers, a few bits of the quotient at a time.
            pub fn fmod_rare(a: $float, b: $float) -> $float {
                let split = |x: $float| {
                    let bits = x.to_bits() & !SIGN;
                    let exponent = bits >> $fraction_bits;
                    let fraction = bits & ((1 << $fraction_bits) - 1);
                    match exponent {
                        0 => (fraction as u64, 1u32),
                        _ => ((fraction | 1 << $fraction_bits) as u64, exponent as u32),
                    }
                };
                let ((mut r, from), (divisor, to)) = (split(a), split(b));
                r %= divisor;
                let mut left = from.saturating_sub(to);
                while left > 0 && r > 0 {
                    let step = left.min(u64::BITS - 1 - $fraction_bits);
                    r = (r << step) % divisor;
                    left -= step;
                }
                // The remainder is below the divisor, so both factors and their product are exact.
                let unit = if to > $fraction_bits {
                    $float::from_bits(((to - $fraction_bits) as $bits) << $fraction_bits)
                } else {
                    $float::from_bits(1 << (to - 1))
                };
                copy_sign(r as $float * unit, a)
            }

            #[inline(always)]
            fn remainder_of(mod_: $float, b: $float) -> $float {
                let other = (mod_ < 0.0) != (b < 0.0);
                let moved = if other { mod_ + b } else { mod_ };
                if mod_ == 0.0 {
                    copy_sign(0.0, b)
                } else {
                    moved
                }
            }
            #[inline(always)]
            pub fn remainder(a: $float, b: $float) -> $float {
                remainder_of(fmod(a, b), b)
            }
            pub fn remainder_rare(a: $float, b: $float) -> $float {
                remainder_of(fmod_rare(a, b), b)
            }

            /// Python's `//` as its reference implementation computes it from the exact remainder.
            #[inline(always)]
            fn floor_div_of(mod_: $float, a: $float, b: $float) -> $float {
                let div = (a - mod_) / b;
                let other = mod_ != 0.0 && (mod_ < 0.0) != (b < 0.0);
                let div = if other { div - 1.0 } else { div };
                let floor = div.floor();
                let floor = if div - floor > 0.5 {
                    floor + 1.0
                } else {
                    floor
                };
                let quotient = a / b;
                let whole = if div == 0.0 {
                    copy_sign(0.0, quotient)
                } else {
                    floor
                };
                if b == 0.0 { quotient } else { whole }
            }
            #[inline(always)]
            pub fn floor_div(a: $float, b: $float) -> $float {
                floor_div_of(fmod(a, b), a, b)
            }
            pub fn floor_div_rare(a: $float, b: $float) -> $float {
                floor_div_of(fmod_rare(a, b), a, b)
            }
        }
    };
}

basics!(single, f32, u32, 23, 4194304.0);
basics!(double, f64, u64, 52, 2251799813685248.0);
