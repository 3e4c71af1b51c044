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

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::Elementwise;

use super::affine::{self, Folds};
use super::program::Value;
use super::vectors::{PlainF32, PlainF64, Vector};
use crate::isa::Isa;

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
///
/// The most frequent ones are told apart by conditions before the jump for all others: conditions are guessed from longer
/// histories, and a jump that is guessed wrong costs more than three of them.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: What,
    /// Is it `Add` or `Mul`?
    plain: bool,
    /// Of these, is it `Mul`?
    product: bool,
    /// Of `Scale` and `Gather`, which operands are scalars: bit 0 for x, bit 1 for y.
    broadcast: u8,
    /// Of `Affine`, how many pairs; 0 for all others.
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
    /// Does the result go around the cache?
    around: bool,
}

impl Steps {
    /// Takes over the pairs that a program knows ahead, with the scalars of an instance.
    pub fn fill(&mut self, folds: &Folds, scalars: &[Scalar]) {
        folds.fill(scalars, &mut self.pairs);
    }

    /// Begins another run, whose own pairs come behind the `known` ones. With `around` its result goes around the cache, and lies at
    /// a multiple of 64 bytes.
    pub fn begin(&mut self, known: usize, around: bool) {
        self.list.clear();
        self.pairs.truncate(known);
        self.around = around;
    }

    fn push(&mut self, what: What, x: *const u8, y: *const u8) {
        self.list.push(Step {
            what,
            plain: matches!(what, What::Add | What::Mul),
            product: matches!(what, What::Mul),
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
            plain: false,
            product: false,
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
        match what {
            What::Add => self.push(what, x.at, x.at),
            _ => self.push(what, x.at, y.at),
        }
    }
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
            if step.count > 0 {
                let from = step.from as usize;
                for [a, b] in &steps.pairs[from..from + usize::from(step.count)] {
                    let (a, b) = (word(a), word(b));
                    alone!(|v| v.mul(a));
                    alone!(|v| v.add(b));
                }
                continue;
            }
            if step.plain {
                if step.product {
                    with_tile!(step, |v, x| v.mul(x));
                } else {
                    // From y: the compiler would load what both branches load before it decides, and run out of registers.
                    for (k, slot) in v.iter_mut().enumerate() {
                        *slot = slot.add(tile(step.y, k));
                    }
                }
                continue;
            }
            match step.what {
                // Above.
                What::Affine | What::Add | What::Mul => {}
                What::Sub => with_tile!(step, |v, x| v.sub(x)),
                What::From => with_tile!(step, |v, x| x.sub(v)),
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
        let to = to.cast::<V::T>().add(at);
        if steps.around {
            for (k, v) in v.iter().enumerate() {
                v.store_around(to.add(k * V::LANES));
            }
        } else {
            for (k, v) in v.iter().enumerate() {
                v.store(to.add(k * V::LANES));
            }
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
        if steps.around {
            V::fence();
        }
    }
}

/// Executes a run over `n` elements.
///
/// # Safety
/// `n` is a multiple of 16; a result that goes around the cache is aligned as [`Steps::begin`] says; each tile is good for `n` elements and `to` and the kept ones for as many writes; `to` may be one of the
/// operands, the kept ones none of them. The processor has the level that the function was picked for.
pub type RunFn = unsafe fn(first: Source, steps: &Steps, to: *mut u8, n: usize);

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
    use super::super::vectors::x86::{F32x8, F64x4};
    use super::{Source, Steps, run};

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
        // 256-bit vectors serve both levels: wider ones would pay for long runs of scalar arithmetic alone.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => [x86::f32s, x86::f64s],
        _ => [plain_f32, plain_f64],
    }
}
