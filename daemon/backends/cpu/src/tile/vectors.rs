//! The vectors that runs keep their values in: arithmetic on a few elements at once, for each element type and level.
//!
//! # Invariant
//! Every function gives the bits of the function of `math` with its name, but for which NaN.

/// Vectors of one element type at one level.
pub trait Vector: Copy {
    /// Element.
    type T: Copy;
    /// Elements of a vector.
    const LANES: usize;
    /// Reads a vector at any address.
    unsafe fn load(from: *const Self::T) -> Self;
    /// Writes it at any address.
    unsafe fn store(self, to: *mut Self::T);
    /// As `store`, around the cache; `to` is aligned.
    unsafe fn store_around(self, to: *mut Self::T);
    /// Orders what was stored around the cache before what is stored later.
    unsafe fn fence();
    /// One element for all.
    unsafe fn splat(value: Self::T) -> Self;
    /// self + x
    unsafe fn add(self, x: Self) -> Self;
    /// self - x
    unsafe fn sub(self, x: Self) -> Self;
    /// self * x
    unsafe fn mul(self, x: Self) -> Self;
    /// self / x
    unsafe fn div(self, x: Self) -> Self;
    /// The greater, as `math` defines it.
    unsafe fn maximum(self, x: Self) -> Self;
    /// The lesser, as `math` defines it.
    unsafe fn minimum(self, x: Self) -> Self;
    /// x where it is greater, else the value itself.
    unsafe fn at_least(self, x: Self) -> Self;
    /// x where it is less, else the value itself.
    unsafe fn at_most(self, x: Self) -> Self;
    /// self * x + y, rounded once.
    unsafe fn fused(self, x: Self, y: Self) -> Self;
    /// -self
    unsafe fn neg(self) -> Self;
    /// |self|
    unsafe fn abs(self) -> Self;
    /// Square root.
    unsafe fn sqrt(self) -> Self;
}

macro_rules! plain_vector {
    ($name:ident, $t:ident, $module:ident) => {
        /// Eight elements, as the compiler likes.
        #[derive(Clone, Copy)]
        pub struct $name([$t; 8]);

        impl $name {
            #[inline(always)]
            fn zip(self, x: Self, f: impl Fn($t, $t) -> $t) -> Self {
                $name(std::array::from_fn(|k| f(self.0[k], x.0[k])))
            }
        }

        // Each function is plain arithmetic; only `load` and `store` have a precondition, their caller's.
        impl Vector for $name {
            type T = $t;
            const LANES: usize = 8;
            #[inline(always)]
            unsafe fn load(from: *const $t) -> Self {
                // SAFETY: the caller's: eight elements.
                $name(unsafe { from.cast::<[$t; 8]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $t) {
                // SAFETY: the caller's: eight elements.
                unsafe { to.cast::<[$t; 8]>().write_unaligned(self.0) };
            }
            #[inline(always)]
            unsafe fn store_around(self, to: *mut $t) {
                // SAFETY: the caller's: eight elements.
                unsafe { self.store(to) };
            }
            #[inline(always)]
            unsafe fn fence() {}
            #[inline(always)]
            unsafe fn splat(value: $t) -> Self {
                $name([value; 8])
            }
            #[inline(always)]
            unsafe fn add(self, x: Self) -> Self {
                self.zip(x, |a, b| a + b)
            }
            #[inline(always)]
            unsafe fn sub(self, x: Self) -> Self {
                self.zip(x, |a, b| a - b)
            }
            #[inline(always)]
            unsafe fn mul(self, x: Self) -> Self {
                self.zip(x, |a, b| a * b)
            }
            #[inline(always)]
            unsafe fn div(self, x: Self) -> Self {
                self.zip(x, |a, b| a / b)
            }
            #[inline(always)]
            unsafe fn maximum(self, x: Self) -> Self {
                self.zip(x, crate::math::basic::$module::maximum)
            }
            #[inline(always)]
            unsafe fn minimum(self, x: Self) -> Self {
                self.zip(x, crate::math::basic::$module::minimum)
            }
            #[inline(always)]
            unsafe fn at_least(self, x: Self) -> Self {
                self.zip(x, |a, b| if b > a { b } else { a })
            }
            #[inline(always)]
            unsafe fn at_most(self, x: Self) -> Self {
                self.zip(x, |a, b| if b < a { b } else { a })
            }
            #[inline(always)]
            unsafe fn fused(self, x: Self, y: Self) -> Self {
                $name(std::array::from_fn(|k| self.0[k].mul_add(x.0[k], y.0[k])))
            }
            #[inline(always)]
            unsafe fn neg(self) -> Self {
                $name(self.0.map(|a| -a))
            }
            #[inline(always)]
            unsafe fn abs(self) -> Self {
                $name(self.0.map($t::abs))
            }
            #[inline(always)]
            unsafe fn sqrt(self) -> Self {
                $name(self.0.map($t::sqrt))
            }
        }
    };
}

plain_vector!(PlainF32, f32, single);
plain_vector!(PlainF64, f64, double);

#[cfg(target_arch = "x86_64")]
pub mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    /// `$max` returns its second operand for NaNs and equal operands, as `if a > b { a } else { b }` does.
    macro_rules! avx2 {
        ($name:ident, $t:ident, $v:ident, $lanes:literal, $load:ident $store:ident $stream:ident $splat:ident $add:ident $sub:ident $mul:ident
         $div:ident $max:ident $min:ident $fma:ident $xor:ident $andnot:ident $and:ident $or:ident $sqrt:ident $cmp:ident $blend:ident) => {
            /// 256 bits.
            #[derive(Clone, Copy)]
            pub struct $name($v);

            // SAFETY (all of them): the caller runs under AVX2 and FMA; `load` and `store` get addresses of whole vectors.
            impl Vector for $name {
                type T = $t;
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn load(from: *const $t) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $t) {
                    // SAFETY: as above.
                    unsafe { $store(to, self.0) };
                }
                #[inline(always)]
                unsafe fn store_around(self, to: *mut $t) {
                    // SAFETY: as above, and aligned.
                    unsafe { $stream(to, self.0) };
                }
                #[inline(always)]
                unsafe fn fence() {
                    // SAFETY: as above.
                    unsafe { _mm_sfence() };
                }
                #[inline(always)]
                unsafe fn splat(value: $t) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $splat(value) })
                }
                #[inline(always)]
                unsafe fn add(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $add(self.0, x.0) })
                }
                #[inline(always)]
                unsafe fn sub(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $sub(self.0, x.0) })
                }
                #[inline(always)]
                unsafe fn mul(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $mul(self.0, x.0) })
                }
                #[inline(always)]
                unsafe fn div(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $div(self.0, x.0) })
                }
                #[inline(always)]
                unsafe fn maximum(self, x: Self) -> Self {
                    // SAFETY: as above.
                    unsafe {
                        let equal = $cmp::<_CMP_EQ_OQ>(self.0, x.0);
                        let number = $blend($max(self.0, x.0), $and(self.0, x.0), equal);
                        $name($blend(number, self.0, $cmp::<_CMP_UNORD_Q>(self.0, self.0)))
                    }
                }
                #[inline(always)]
                unsafe fn minimum(self, x: Self) -> Self {
                    // SAFETY: as above.
                    unsafe {
                        let equal = $cmp::<_CMP_EQ_OQ>(self.0, x.0);
                        let number = $blend($min(self.0, x.0), $or(self.0, x.0), equal);
                        $name($blend(number, self.0, $cmp::<_CMP_UNORD_Q>(self.0, self.0)))
                    }
                }
                #[inline(always)]
                unsafe fn at_least(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $max(x.0, self.0) })
                }
                #[inline(always)]
                unsafe fn at_most(self, x: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $min(x.0, self.0) })
                }
                #[inline(always)]
                unsafe fn fused(self, x: Self, y: Self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $fma(self.0, x.0, y.0) })
                }
                #[inline(always)]
                unsafe fn neg(self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $xor(self.0, $splat(-0.0)) })
                }
                #[inline(always)]
                unsafe fn abs(self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $andnot($splat(-0.0), self.0) })
                }
                #[inline(always)]
                unsafe fn sqrt(self) -> Self {
                    // SAFETY: as above.
                    $name(unsafe { $sqrt(self.0) })
                }
            }
        };
    }

    avx2!(F32x8, f32, __m256, 8, _mm256_loadu_ps _mm256_storeu_ps _mm256_stream_ps _mm256_set1_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
        _mm256_div_ps _mm256_max_ps _mm256_min_ps _mm256_fmadd_ps _mm256_xor_ps _mm256_andnot_ps _mm256_and_ps _mm256_or_ps
        _mm256_sqrt_ps _mm256_cmp_ps _mm256_blendv_ps);
    avx2!(F64x4, f64, __m256d, 4, _mm256_loadu_pd _mm256_storeu_pd _mm256_stream_pd _mm256_set1_pd _mm256_add_pd _mm256_sub_pd _mm256_mul_pd
        _mm256_div_pd _mm256_max_pd _mm256_min_pd _mm256_fmadd_pd _mm256_xor_pd _mm256_andnot_pd _mm256_and_pd _mm256_or_pd
        _mm256_sqrt_pd _mm256_cmp_pd _mm256_blendv_pd);
}
