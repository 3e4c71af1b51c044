//! Lane functions of the integer types, as the operation table defines them: wrapping, and total.

#![allow(
    missing_docs,
    reason = "lane functions have the names and definitions of the operation table"
)]

macro_rules! shared {
    ($int:ident) => {
        #[inline(always)]
        pub fn same(a: $int) -> $int {
            a
        }
        #[inline(always)]
        pub fn neg(a: $int) -> $int {
            a.wrapping_neg()
        }
        #[inline(always)]
        pub fn square(a: $int) -> $int {
            a.wrapping_mul(a)
        }
        #[inline(always)]
        pub fn logical_not(a: $int) -> u8 {
            (a == 0) as u8
        }
        #[inline(always)]
        pub fn bit_not(a: $int) -> $int {
            !a
        }
        #[inline(always)]
        pub fn yes(_a: $int) -> u8 {
            1
        }
        #[inline(always)]
        pub fn no(_a: $int) -> u8 {
            0
        }
        #[inline(always)]
        pub fn add(a: $int, b: $int) -> $int {
            a.wrapping_add(b)
        }
        #[inline(always)]
        pub fn sub(a: $int, b: $int) -> $int {
            a.wrapping_sub(b)
        }
        #[inline(always)]
        pub fn mul(a: $int, b: $int) -> $int {
            a.wrapping_mul(b)
        }
        #[inline(always)]
        pub fn maximum(a: $int, b: $int) -> $int {
            if a > b { a } else { b }
        }
        #[inline(always)]
        pub fn minimum(a: $int, b: $int) -> $int {
            if a < b { a } else { b }
        }
        #[inline(always)]
        pub fn clamp(a: $int, low: $int, high: $int) -> $int {
            minimum(maximum(a, low), high)
        }
        #[inline(always)]
        pub fn select(condition: u8, a: $int, b: $int) -> $int {
            if condition != 0 { a } else { b }
        }
        #[inline(always)]
        pub fn eq(a: $int, b: $int) -> u8 {
            (a == b) as u8
        }
        #[inline(always)]
        pub fn ne(a: $int, b: $int) -> u8 {
            (a != b) as u8
        }
        #[inline(always)]
        pub fn lt(a: $int, b: $int) -> u8 {
            (a < b) as u8
        }
        #[inline(always)]
        pub fn le(a: $int, b: $int) -> u8 {
            (a <= b) as u8
        }
        #[inline(always)]
        pub fn gt(a: $int, b: $int) -> u8 {
            (a > b) as u8
        }
        #[inline(always)]
        pub fn ge(a: $int, b: $int) -> u8 {
            (a >= b) as u8
        }
        #[inline(always)]
        pub fn logical_and(a: $int, b: $int) -> u8 {
            (a != 0) as u8 & (b != 0) as u8
        }
        #[inline(always)]
        pub fn logical_or(a: $int, b: $int) -> u8 {
            (a != 0) as u8 | (b != 0) as u8
        }
        #[inline(always)]
        pub fn logical_xor(a: $int, b: $int) -> u8 {
            (a != 0) as u8 ^ (b != 0) as u8
        }
        #[inline(always)]
        pub fn bit_and(a: $int, b: $int) -> $int {
            a & b
        }
        #[inline(always)]
        pub fn bit_or(a: $int, b: $int) -> $int {
            a | b
        }
        #[inline(always)]
        pub fn bit_xor(a: $int, b: $int) -> $int {
            a ^ b
        }
    };
}

macro_rules! signed {
    ($($int:ident $unsigned:ident),*) => {$(
        /// Lane functions of one signed type.
        pub mod $int {
            shared!($int);

            const WIDTH: $int = $int::BITS as $int;

            #[inline(always)]
            pub fn abs(a: $int) -> $int {
                a.wrapping_abs()
            }
            #[inline(always)]
            pub fn sign(a: $int) -> $int {
                (a > 0) as $int - (a < 0) as $int
            }
            #[inline(always)]
            pub fn signbit(a: $int) -> u8 {
                (a < 0) as u8
            }
            #[inline(always)]
            pub fn floor_div(a: $int, b: $int) -> $int {
                if b == 0 {
                    return 0;
                }
                let quotient = a.wrapping_div(b);
                let inexact = a.wrapping_rem(b) != 0;
                quotient - (inexact && (a < 0) != (b < 0)) as $int
            }
            #[inline(always)]
            pub fn remainder(a: $int, b: $int) -> $int {
                if b == 0 {
                    return 0;
                }
                let r = a.wrapping_rem(b);
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
            #[inline(always)]
            pub fn pow(a: $int, b: $int) -> $int {
                if b < 0 {
                    return match a {
                        1 => 1,
                        -1 => 1 - 2 * (b & 1),
                        _ => 0,
                    };
                }
                super::$unsigned::pow(a as $unsigned, b as $unsigned) as $int
            }
            #[inline(always)]
            pub fn shift_left(a: $int, b: $int) -> $int {
                let shifted = a.wrapping_shl(b as u32);
                if (0..WIDTH).contains(&b) { shifted } else { 0 }
            }
            #[inline(always)]
            pub fn shift_right(a: $int, b: $int) -> $int {
                let far = if (0..WIDTH).contains(&b) { b } else { WIDTH - 1 };
                a.wrapping_shr(far as u32)
            }
        }
    )*};
}

macro_rules! unsigned {
    ($($int:ident),*) => {$(
        /// Lane functions of one unsigned type.
        pub mod $int {
            shared!($int);

            const WIDTH: $int = $int::BITS as $int;

            #[inline(always)]
            pub fn abs(a: $int) -> $int {
                a
            }
            #[inline(always)]
            pub fn sign(a: $int) -> $int {
                (a > 0) as $int
            }
            #[inline(always)]
            pub fn signbit(_a: $int) -> u8 {
                0
            }
            #[inline(always)]
            pub fn floor_div(a: $int, b: $int) -> $int {
                a.checked_div(b).unwrap_or(0)
            }
            #[inline(always)]
            pub fn remainder(a: $int, b: $int) -> $int {
                a.checked_rem(b).unwrap_or(0)
            }
            /// By squaring: as many steps as the exponent has bits.
            #[inline(always)]
            pub fn pow(a: $int, b: $int) -> $int {
                let (mut base, mut left, mut power) = (a, b, 1 as $int);
                while left != 0 {
                    if left & 1 == 1 {
                        power = power.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    left >>= 1;
                }
                power
            }
            #[inline(always)]
            pub fn shift_left(a: $int, b: $int) -> $int {
                let shifted = a.wrapping_shl(b as u32);
                if b < WIDTH { shifted } else { 0 }
            }
            #[inline(always)]
            pub fn shift_right(a: $int, b: $int) -> $int {
                let shifted = a.wrapping_shr(b as u32);
                if b < WIDTH { shifted } else { 0 }
            }
        }
    )*};
}

signed!(i8 u8, i16 u16, i32 u32, i64 u64);
unsigned!(u8, u16, u32, u64);
