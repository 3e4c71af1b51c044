//! Runs of arithmetic whose values stay in registers.
//!
//! A run is a sequence of f32 or f64 operations each of which takes the result of the one before. It is executed for a few
//! vectors at a time, all steps for one group of elements before the next group: the value passed on is never written, and the
//! cost of finding the next step is shared by the whole group.
//!
//! Finding a step is a jump that processors often guess wrong, which costs as much as the arithmetic of two steps. So consecutive
//! multiplications by scalars and additions of scalars are one step, however many they are (`affine` joins them): it goes through
//! pairs of a factor and an addend, where an operation that is missing in a pair is one that changes nothing. Measured for 64 such
//! operations on 1,024 f32 under AVX2: 150 ns each when every one is a jump, 21 ns as pairs.
//!
//! # Invariant
//! Each step gives the bits of the same function of `math`, on every level, each operation rounded for itself; only the NaN that
//! a NaN becomes may differ.

use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise;

use super::affine::{self, Folds};
use super::program::Value;
use crate::isa::Isa;
use tensord_shm::dtype::Scalar;

/// What an operation does with the value passed on (`v`) and its operands (`x`, `y`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// v + x
    Add,
    /// v - x
    Sub,
    /// x - v
    From,
    /// v * x
    Mul,
    /// v / x
    Div,
    /// x / v
    Into,
    /// The greater of v and x.
    Maximum,
    /// The lesser of v and x.
    Minimum,
    /// v * x + y
    Scale,
    /// x * y + v
    Gather,
    /// v + v
    Double,
    /// v * v
    Square,
    /// -v
    Neg,
    /// |v|
    Abs,
    /// Square root of v.
    Sqrt,
}

/// One operation of a run, before its operands are known.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// What it does.
    pub code: Code,
    /// Operands beside the value passed on; entries that the code does not use repeat it.
    pub others: [Value; 2],
    /// The value that it makes.
    pub value: Value,
    /// Does anybody but the next step read it?
    pub kept: bool,
}

/// How a function continues a run whose last value is `before`; `None` where it does not.
pub fn link(function: Elementwise, args: [Value; 3], before: Value) -> Option<(Code, [Value; 2])> {
    let [a, b, c] = args;
    let own = [before; 2];
    let (left, right) = (a == before, b == before);
    let binary = |plain: Code, turned: Code| match (left, right) {
        (true, false) => Some((plain, [b, before])),
        (false, true) => Some((turned, [a, before])),
        _ => None,
    };
    match function {
        Elementwise::Add if left && right => Some((Code::Double, own)),
        Elementwise::Mul if left && right => Some((Code::Square, own)),
        Elementwise::Add => binary(Code::Add, Code::Add),
        Elementwise::Sub => binary(Code::Sub, Code::From),
        Elementwise::Mul => binary(Code::Mul, Code::Mul),
        Elementwise::Div => binary(Code::Div, Code::Into),
        Elementwise::Maximum => binary(Code::Maximum, Code::Maximum),
        Elementwise::Minimum => binary(Code::Minimum, Code::Minimum),
        Elementwise::Fma => match (left, right, c == before) {
            (true, false, false) => Some((Code::Scale, [b, c])),
            (false, true, false) => Some((Code::Scale, [a, c])),
            (false, false, true) => Some((Code::Gather, [a, b])),
            _ => None,
        },
        Elementwise::Square if left => Some((Code::Square, own)),
        Elementwise::Neg if left => Some((Code::Neg, own)),
        Elementwise::Abs if left => Some((Code::Abs, own)),
        Elementwise::Sqrt if left => Some((Code::Sqrt, own)),
        _ => None,
    }
}

/// An operand of a step: a tile, or one element for all.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its elements.
    pub at: *const u8,
    /// One element for all?
    pub broadcast: bool,
}

/// What a step does, once it is known which operands are tiles.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum What {
    /// v * a + b, rounded twice, for each of some pairs of scalars.
    Affine,
    /// v + x
    Add,
    /// v - x
    Sub,
    /// x - v
    From,
    /// v * x
    Mul,
    /// v / x
    Div,
    /// v / x for a scalar.
    DivScalar,
    /// x / v
    Into,
    /// x / v for a scalar.
    IntoScalar,
    /// The greater of v and x.
    Maximum,
    /// The greater of v and a scalar.
    MaximumScalar,
    /// The greater of v and a scalar that is a number and not +0.
    AtLeast,
    /// The greater of v and +0.
    Rectify,
    /// The lesser of v and x.
    Minimum,
    /// The lesser of v and a scalar.
    MinimumScalar,
    /// The lesser of v and a scalar that is a number and not -0.
    AtMost,
    /// v * x + y
    Scale,
    /// x * y + v
    Gather,
    /// v + v
    Double,
    /// v * v
    Square,
    /// -v
    Neg,
    /// |v|
    Abs,
    /// Square root of v.
    Sqrt,
    /// v goes to x: somebody else reads it too.
    Keep,
}

/// A step with its operands.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: What,
    /// Of `Scale` and `Gather`, which operands are scalars: bit 0 for x, bit 1 for y.
    broadcast: u8,
    /// Of `Affine`, how many pairs.
    count: u16,
    /// Of `Affine`, the first pair.
    from: u32,
    x: *const u8,
    y: *const u8,
}

/// The steps of a run with their operands.
#[derive(Default)]
pub struct Steps {
    list: Vec<Step>,
    /// Factors and addends of the affine ones, in the low bytes of each word.
    pairs: Vec<[u64; 2]>,
}

impl Steps {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.list.clear();
        self.pairs.clear();
    }

    /// Takes over the pairs that a program knows ahead, with the scalars of an instance.
    pub fn fill(&mut self, folds: &Folds, scalars: &[Scalar]) {
        folds.fill(scalars, &mut self.pairs);
    }

    /// Begins another run, whose own pairs come behind the `known` ones.
    pub fn begin(&mut self, known: usize) {
        self.list.clear();
        self.pairs.truncate(known);
    }

    fn push(&mut self, what: What, x: *const u8, y: *const u8) {
        self.list.push(Step {
            what,
            broadcast: 0,
            count: 0,
            from: 0,
            x,
            y,
        });
    }

    /// Goes through `count` pairs from number `from` on.
    pub fn affine(&mut self, from: u32, count: u16) {
        self.list.push(Step {
            what: What::Affine,
            broadcast: 0,
            count,
            from,
            x: std::ptr::null(),
            y: std::ptr::null(),
        });
    }

    /// Writes the value passed on.
    pub fn keep(&mut self, to: *mut u8) {
        self.push(What::Keep, to, std::ptr::null());
    }

    /// One operation.
    ///
    /// # Safety
    /// An operand that the code uses and that is one element for all can be read, and has the width of `dtype`.
    pub unsafe fn operation(&mut self, code: Code, dtype: DType, x: Source, y: Source) {
        // SAFETY: the caller's, for an operand of one element.
        let scalar = || unsafe { affine::bits(dtype, x.at) };
        let what = match (code, x.broadcast) {
            (Code::Add | Code::Sub | Code::From | Code::Mul, true) => {
                let from = self.pairs.len() as u32;
                self.pairs.push(affine::pair(code, dtype, scalar()));
                return self.affine(from, 1);
            }
            (Code::Scale | Code::Gather, _) => {
                let what = match code {
                    Code::Scale => What::Scale,
                    _ => What::Gather,
                };
                self.push(what, x.at, y.at);
                if let Some(step) = self.list.last_mut() {
                    step.broadcast = u8::from(x.broadcast) | u8::from(y.broadcast) << 1;
                }
                return;
            }
            (Code::Maximum, true) if affine::is_nan(dtype, scalar()) => What::MaximumScalar,
            (Code::Maximum, true) if scalar() == 0 => What::Rectify,
            (Code::Maximum, true) => What::AtLeast,
            (Code::Minimum, true) => {
                let bits = scalar();
                let plain = !affine::is_nan(dtype, bits) && bits != affine::sign(dtype);
                if plain {
                    What::AtMost
                } else {
                    What::MinimumScalar
                }
            }
            (Code::Div, true) => What::DivScalar,
            (Code::Into, true) => What::IntoScalar,
            (Code::Add, false) => What::Add,
            (Code::Sub, false) => What::Sub,
            (Code::From, false) => What::From,
            (Code::Mul, false) => What::Mul,
            (Code::Div, false) => What::Div,
            (Code::Into, false) => What::Into,
            (Code::Maximum, false) => What::Maximum,
            (Code::Minimum, false) => What::Minimum,
            (Code::Double, _) => What::Double,
            (Code::Square, _) => What::Square,
            (Code::Neg, _) => What::Neg,
            (Code::Abs, _) => What::Abs,
            (Code::Sqrt, _) => What::Sqrt,
        };
        self.push(what, x.at, y.at);
    }
}

/// Vectors of one element type at one level.
trait Vector: Copy {
    /// Element.
    type T: Copy;
    /// Elements of a vector.
    const LANES: usize;
    unsafe fn load(from: *const Self::T) -> Self;
    unsafe fn store(self, to: *mut Self::T);
    unsafe fn splat(value: Self::T) -> Self;
    unsafe fn add(self, x: Self) -> Self;
    unsafe fn sub(self, x: Self) -> Self;
    unsafe fn mul(self, x: Self) -> Self;
    unsafe fn div(self, x: Self) -> Self;
    unsafe fn maximum(self, x: Self) -> Self;
    unsafe fn minimum(self, x: Self) -> Self;
    /// x where it is greater, else the value itself.
    unsafe fn at_least(self, x: Self) -> Self;
    /// x where it is less, else the value itself.
    unsafe fn at_most(self, x: Self) -> Self;
    unsafe fn fused(self, x: Self, y: Self) -> Self;
    unsafe fn neg(self) -> Self;
    unsafe fn abs(self) -> Self;
    unsafe fn sqrt(self) -> Self;
}

/// All steps for `K` vectors from element `at` on.
#[inline(always)]
unsafe fn group<V: Vector, const K: usize>(first: Source, steps: &Steps, to: *mut u8, at: usize) {
    // SAFETY: the caller's: every tile is good for the elements of the group, a scalar for one.
    unsafe {
        let tile = |from: *const u8, k: usize| V::load(from.cast::<V::T>().add(at + k * V::LANES));
        let scalar = |from: *const u8| V::splat(from.cast::<V::T>().read_unaligned());
        let word = |word: &u64| V::splat(std::ptr::from_ref(word).cast::<V::T>().read());
        let mut v = [scalar(first.at); K];
        if !first.broadcast {
            for (k, v) in v.iter_mut().enumerate() {
                *v = tile(first.at, k);
            }
        }
        macro_rules! with_tile {
            ($step:ident, |$v:ident, $x:ident| $result:expr) => {
                for (k, slot) in v.iter_mut().enumerate() {
                    let ($v, $x) = (*slot, tile($step.x, k));
                    *slot = $result;
                }
            };
        }
        macro_rules! with_scalar {
            ($step:ident, |$v:ident, $x:ident| $result:expr) => {{
                let $x = scalar($step.x);
                for slot in v.iter_mut() {
                    let $v = *slot;
                    *slot = $result;
                }
            }};
        }
        macro_rules! with_two {
            ($step:ident, |$v:ident, $x:ident, $y:ident| $result:expr) => {{
                let (sx, sy) = (scalar($step.x), scalar($step.y));
                for (k, slot) in v.iter_mut().enumerate() {
                    let $v = *slot;
                    let $x = if $step.broadcast & 1 != 0 {
                        sx
                    } else {
                        tile($step.x, k)
                    };
                    let $y = if $step.broadcast & 2 != 0 {
                        sy
                    } else {
                        tile($step.y, k)
                    };
                    *slot = $result;
                }
            }};
        }
        macro_rules! alone {
            (|$v:ident| $result:expr) => {
                for slot in v.iter_mut() {
                    let $v = *slot;
                    *slot = $result;
                }
            };
        }
        for step in &steps.list {
            match step.what {
                What::Affine => {
                    let from = step.from as usize;
                    for [a, b] in &steps.pairs[from..from + usize::from(step.count)] {
                        let (a, b) = (word(a), word(b));
                        alone!(|v| v.mul(a));
                        alone!(|v| v.add(b));
                    }
                }
                What::Add => with_tile!(step, |v, x| v.add(x)),
                What::Sub => with_tile!(step, |v, x| v.sub(x)),
                What::From => with_tile!(step, |v, x| x.sub(v)),
                What::Mul => with_tile!(step, |v, x| v.mul(x)),
                What::Div => with_tile!(step, |v, x| v.div(x)),
                What::DivScalar => with_scalar!(step, |v, x| v.div(x)),
                What::Into => with_tile!(step, |v, x| x.div(v)),
                What::IntoScalar => with_scalar!(step, |v, x| x.div(v)),
                What::Maximum => with_tile!(step, |v, x| v.maximum(x)),
                What::MaximumScalar => with_scalar!(step, |v, x| v.maximum(x)),
                What::AtLeast => with_scalar!(step, |v, x| v.at_least(x)),
                // The sum turns the zero that came from -0 into +0 and leaves every other value as it is.
                What::Rectify => with_scalar!(step, |v, x| v.at_least(x).add(x)),
                What::Minimum => with_tile!(step, |v, x| v.minimum(x)),
                What::MinimumScalar => with_scalar!(step, |v, x| v.minimum(x)),
                What::AtMost => with_scalar!(step, |v, x| v.at_most(x)),
                What::Scale => with_two!(step, |v, x, y| v.fused(x, y)),
                What::Gather => with_two!(step, |v, x, y| x.fused(y, v)),
                What::Double => alone!(|v| v.add(v)),
                What::Square => alone!(|v| v.mul(v)),
                What::Neg => alone!(|v| v.neg()),
                What::Abs => alone!(|v| v.abs()),
                What::Sqrt => alone!(|v| v.sqrt()),
                What::Keep => {
                    for (k, v) in v.iter().enumerate() {
                        v.store(step.x.cast_mut().cast::<V::T>().add(at + k * V::LANES));
                    }
                }
            }
        }
        for (k, v) in v.iter().enumerate() {
            v.store(to.cast::<V::T>().add(at + k * V::LANES));
        }
    }
}

/// `n` elements, a multiple of 16: as many as possible in groups of `WIDE` vectors (finding a step is paid once for a group),
/// the rest in groups of `MIDDLE` and of 16 elements.
#[inline(always)]
unsafe fn run<V: Vector, const WIDE: usize, const MIDDLE: usize, const SIXTEEN: usize>(
    first: Source,
    steps: &Steps,
    to: *mut u8,
    n: usize,
) {
    let mut at = 0;
    // SAFETY: the caller's; groups stay below n.
    unsafe {
        while at < n {
            let left = (n - at) / V::LANES;
            if left >= WIDE && left != 2 * MIDDLE {
                group::<V, WIDE>(first, steps, to, at);
                at += WIDE * V::LANES;
            } else if left >= MIDDLE {
                group::<V, MIDDLE>(first, steps, to, at);
                at += MIDDLE * V::LANES;
            } else {
                group::<V, SIXTEEN>(first, steps, to, at);
                at += SIXTEEN * V::LANES;
            }
        }
    }
}

/// Executes a run over `n` elements.
///
/// # Safety
/// `n` is a multiple of 16; each tile is good for `n` elements and `to` and the kept ones for as many writes; `to` may be one of the
/// operands, the kept ones none of them. The processor has the level that the function was picked for.
pub type RunFn = unsafe fn(first: Source, steps: &Steps, to: *mut u8, n: usize);

macro_rules! plain_vector {
    ($name:ident, $t:ident, $module:ident) => {
        #[derive(Clone, Copy)]
        struct $name([$t; 8]);

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

unsafe fn plain_f32(first: Source, steps: &Steps, to: *mut u8, n: usize) {
    // SAFETY: the caller keeps the rules of `RunFn`.
    unsafe { run::<PlainF32, 4, 4, 2>(first, steps, to, n) }
}

unsafe fn plain_f64(first: Source, steps: &Steps, to: *mut u8, n: usize) {
    // SAFETY: the caller keeps the rules of `RunFn`.
    unsafe { run::<PlainF64, 2, 2, 2>(first, steps, to, n) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Source, Steps, Vector, run};

    /// `$max` returns its second operand for NaNs and equal operands, as `if a > b { a } else { b }` does.
    macro_rules! avx2 {
        ($name:ident, $t:ident, $v:ident, $lanes:literal, $load:ident $store:ident $splat:ident $add:ident $sub:ident $mul:ident
         $div:ident $max:ident $min:ident $fma:ident $xor:ident $andnot:ident $and:ident $or:ident $sqrt:ident $cmp:ident $blend:ident) => {
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

    avx2!(F32x8, f32, __m256, 8, _mm256_loadu_ps _mm256_storeu_ps _mm256_set1_ps _mm256_add_ps _mm256_sub_ps _mm256_mul_ps
        _mm256_div_ps _mm256_max_ps _mm256_min_ps _mm256_fmadd_ps _mm256_xor_ps _mm256_andnot_ps _mm256_and_ps _mm256_or_ps
        _mm256_sqrt_ps _mm256_cmp_ps _mm256_blendv_ps);
    avx2!(F64x4, f64, __m256d, 4, _mm256_loadu_pd _mm256_storeu_pd _mm256_set1_pd _mm256_add_pd _mm256_sub_pd _mm256_mul_pd
        _mm256_div_pd _mm256_max_pd _mm256_min_pd _mm256_fmadd_pd _mm256_xor_pd _mm256_andnot_pd _mm256_and_pd _mm256_or_pd
        _mm256_sqrt_pd _mm256_cmp_pd _mm256_blendv_pd);

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f32s(first: Source, steps: &Steps, to: *mut u8, n: usize) {
        // SAFETY: the caller keeps the rules of `RunFn`.
        unsafe { run::<F32x8, 12, 8, 2>(first, steps, to, n) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn f64s(first: Source, steps: &Steps, to: *mut u8, n: usize) {
        // SAFETY: the caller keeps the rules of `RunFn`.
        unsafe { run::<F64x4, 12, 8, 4>(first, steps, to, n) }
    }
}

/// The functions that execute runs of f32 and of f64.
pub fn functions(isa: Isa) -> [RunFn; 2] {
    match isa {
        // 256-bit vectors serve both levels: a group of them is bound by its steps, not by its width.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => [x86::f32s, x86::f64s],
        _ => [plain_f32, plain_f64],
    }
}
