//! What the transcendental functions of f32 and of f64 are made of, where both widths do the same.
//!
//! One definition for both, so that a correction reaches both; what differs in more than the width stands in `single` and `double`.

macro_rules! pieces {
    ($name:ident, $float:ident) => {
        pub mod $name {
            /// A polynomial, its odd and even powers as two chains that run side by side.
            #[inline(always)]
            pub fn polynomial<const N: usize>(x: $float, coefficients: &[$float; N]) -> $float {
                let square = x * x;
                let (mut sum, mut other) = (coefficients[N - 1], coefficients[N - 2]);
                let mut i = N - 2;
                while i >= 2 {
                    i -= 2;
                    sum = sum.mul_add(square, coefficients[i + 1]);
                    other = other.mul_add(square, coefficients[i]);
                }
                // With an odd number of coefficients the constant is still to come, and the chains change places.
                if i == 1 {
                    sum.mul_add(square, other.mul_add(x, coefficients[0]))
                } else {
                    sum.mul_add(x, other)
                }
            }

            /// `x` limited to `low..=high`; NaN stays.
            #[inline(always)]
            pub fn limit(x: $float, low: $float, high: $float) -> $float {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            }
        }
    };
}

pieces!(single, f32);
pieces!(double, f64);
