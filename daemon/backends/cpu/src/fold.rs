//! The inner loops of reductions: how elements join lanes, lanes join a block, and blocks join each other.
//!
//! Position p of a reduction goes to lane `p % 16` of block `p / 1024`; see `tensord_plan::Reduce` for the whole order. A
//! [`Fold`] works on `width` reductions side by side (1 for a reduction along contiguous elements): lane `l` of
//! reduction `w` stands at `l * width + w`, so both shapes run along vector lanes and give the same bits.

use tensord_shm::dtype::DType;
use tensord_shm::op::Reduction;

use crate::isa::Isa;
use crate::math::{basic, convert, integer};

/// Lanes of a block.
pub const LANES: usize = 16;
/// Elements of a block.
pub const BLOCK: usize = 1024;

type RowsFn = unsafe fn(*mut u8, *const u8, u64, usize, usize);
type CloseFn = unsafe fn(*mut u8, usize, usize);
type JoinFn = unsafe fn(*mut u8, *const u8, usize);
type BlocksFn = unsafe fn(*mut u8, &Blocks);
type TreeFn = unsafe fn(*mut u8, usize);

/// Blocks that lie in memory as they are.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// The first element of the first.
    pub x: *const u8,
    /// Elements of each, 1 to [`BLOCK`].
    pub filled: usize,
    /// From the first element of one to that of the next, in elements.
    pub apart: isize,
    /// How many.
    pub count: usize,
    /// Position of the first element of the first.
    pub position: u64,
    /// From the position of one block's first element to that of the next.
    pub advance: u64,
}

/// How one reduction of one dtype runs. Accumulators are plain data of `size` bytes, 16-byte aligned at most.
#[derive(Clone, Copy, Debug)]
pub struct Fold {
    /// Bytes of an accumulator.
    pub size: usize,
    /// `(lanes, x, position, rows, width)`: joins `rows` elements of each of `width` reductions, element `r` of reduction `w` at
    /// `x[r * width + w]`, the first of them at `position` of the reduction.
    pub rows: RowsFn,
    /// `(sums, blocks)`: each block joined to one accumulator. Bits as by `rows` and `close`, without a dependence from block to block.
    pub blocks: BlocksFn,
    /// `(sums, count)`: joins block sums as a balanced tree into the first of them.
    pub tree: TreeFn,
    /// `(lanes, filled, width)`: joins the lanes of a block of `filled` elements into lane 0.
    pub close: CloseFn,
    /// `(a, b, width)`: joins block sums `b` behind block sums `a`, into `a`.
    pub join: JoinFn,
    /// `(to, from, width)`: results as elements of a tile.
    pub finish: unsafe fn(*mut u8, *const u8, usize),
    /// `(to, width)`: results for no elements.
    pub empty: unsafe fn(*mut u8, usize),
}

/// One way to combine elements of a tile.
trait Rule {
    /// Element of the value's tile.
    type X: Copy;
    /// Accumulator.
    type A: Copy;
    /// Element of the result's tile.
    type R: Copy;
    fn lift(x: Self::X, position: u64) -> Self::A;
    fn join(a: Self::A, b: Self::A) -> Self::A;
    fn finish(a: Self::A) -> Self::R;
    fn empty() -> Self::R;
}

#[inline(always)]
unsafe fn rows<F: Rule>(lanes: *mut u8, x: *const u8, position: u64, rows: usize, width: usize) {
    let (lanes, x) = (lanes.cast::<F::A>(), x.cast::<F::X>());
    // SAFETY: the caller's: `lanes` has 16 * width accumulators, `x` rows * width elements.
    unsafe {
        // A part may be one column of several, whose elements come one by one.
        if width == 1 && (position as usize).is_multiple_of(LANES) && rows > 1 {
            return row::<F>(lanes, x, position, rows);
        }
        for r in 0..rows {
            let at = position + r as u64;
            let lane = lanes.add(at as usize % LANES * width);
            let x = x.add(r * width);
            if at as usize % BLOCK < LANES {
                (0..width).for_each(|w| *lane.add(w) = F::lift(*x.add(w), at));
            } else {
                (0..width)
                    .for_each(|w| *lane.add(w) = F::join(*lane.add(w), F::lift(*x.add(w), at)));
            }
        }
    }
}

/// In a loop over chunks of 16 lanes: keeps LLVM from making vectors across the chunks, one for each lane, which it gathers where there
/// is AVX-512. Along the lanes lie the vectors that one wants, and these it finds by itself.
#[inline(always)]
fn one_vector_of_lanes() {
    // SAFETY: no instruction.
    unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
}

/// `rows` for one reduction: positions begin at a multiple of 16 and stay in one block.
#[inline(always)]
unsafe fn row<F: Rule>(lanes: *mut F::A, x: *const F::X, position: u64, n: usize) {
    debug_assert!(
        (position as usize).is_multiple_of(LANES) && position as usize % BLOCK + n <= BLOCK
    );
    let mut done = 0;
    // SAFETY: the caller's: 16 accumulators, n elements. A block's first elements only write.
    unsafe {
        if (position as usize).is_multiple_of(BLOCK) {
            done = n.min(LANES);
            (0..done).for_each(|l| *lanes.add(l) = F::lift(*x.add(l), position + l as u64));
        }
        if n - done >= LANES {
            let mut own = lanes.cast::<[F::A; LANES]>().read();
            while n - done >= LANES {
                one_vector_of_lanes();
                let chunk = x.add(done).cast::<[F::X; LANES]>().read();
                for l in 0..LANES {
                    own[l] = F::join(own[l], F::lift(chunk[l], position + (done + l) as u64));
                }
                done += LANES;
            }
            lanes.cast::<[F::A; LANES]>().write(own);
        }
        for l in 0..n - done {
            let next = F::lift(*x.add(done + l), position + (done + l) as u64);
            *lanes.add(l) = F::join(*lanes.add(l), next);
        }
    }
}

/// `K` blocks at once: a sum waits for the one before it in its own block only. At least 16 elements each.
#[inline(always)]
unsafe fn abreast<F: Rule, const K: usize>(sums: *mut F::A, blocks: &Blocks, first: usize) {
    let (chunks, rest) = (blocks.filled / LANES, blocks.filled % LANES);
    // SAFETY: the caller's: `filled` elements from the start of each block on.
    unsafe {
        let block = |k: usize| {
            let x = blocks.x.cast::<F::X>();
            x.offset((first + k) as isize * blocks.apart)
        };
        let position =
            |k: usize, at: usize| blocks.position + (first + k) as u64 * blocks.advance + at as u64;
        let mut own: [[F::A; LANES]; K] = std::array::from_fn(|k| {
            let chunk = block(k).cast::<[F::X; LANES]>().read();
            std::array::from_fn(|l| F::lift(chunk[l], position(k, l)))
        });
        for c in 1..chunks {
            one_vector_of_lanes();
            for (k, own) in own.iter_mut().enumerate() {
                let at = c * LANES;
                let chunk = block(k).add(at).cast::<[F::X; LANES]>().read();
                for l in 0..LANES {
                    own[l] = F::join(own[l], F::lift(chunk[l], position(k, at + l)));
                }
            }
        }
        // Through memory, which LLVM may not look through: it would keep lane l of all blocks in one vector for the sake of `close`.
        let lanes = std::ptr::from_mut(&mut own).cast::<[F::A; LANES]>();
        std::arch::asm!("/* {0} */", in(reg) lanes, options(nostack, preserves_flags));
        for k in 0..K {
            let mut own = lanes.add(k).read();
            let at = chunks * LANES;
            for (l, own) in own.iter_mut().enumerate().take(rest) {
                let next = F::lift(*block(k).add(at + l), position(k, at + l));
                *own = F::join(*own, next);
            }
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    own[l] = F::join(own[l], own[l + half]);
                }
            }
            *sums.add(k) = own[0];
            one_vector_of_lanes();
        }
    }
}

/// `rows` and `close` are those of the level.
#[inline(always)]
unsafe fn blocks<F: Rule>(sums: *mut u8, blocks: &Blocks, rows: RowsFn, close: CloseFn) {
    let filled = blocks.filled;
    debug_assert!((1..=BLOCK).contains(&filled));
    let sums = sums.cast::<F::A>();
    let mut done = 0;
    // SAFETY: the caller's: `count` accumulators, and what `blocks` names.
    unsafe {
        // Wider accumulators are chains enough by themselves.
        if size_of::<F::A>() <= 8 && filled >= LANES {
            while blocks.count - done >= 2 {
                abreast::<F, 2>(sums.add(done), blocks, done);
                done += 2;
            }
        }
        for k in done..blocks.count {
            let x = blocks.x.cast::<F::X>().offset(k as isize * blocks.apart);
            let position = blocks.position + k as u64 * blocks.advance;
            let mut lanes = std::mem::MaybeUninit::<[F::A; LANES]>::uninit();
            let lanes = lanes.as_mut_ptr().cast();
            // The first elements of a block write their lanes, and `close` reads those only.
            rows(lanes, x.cast(), position, filled, 1);
            close(lanes, filled, 1);
            *sums.add(k) = lanes.cast::<F::A>().read();
        }
    }
}

/// Adjacent pairs, again and again, an odd last one carried up.
#[inline(always)]
unsafe fn tree<F: Rule>(sums: *mut u8, mut count: usize) {
    let sums = sums.cast::<F::A>();
    // SAFETY: the caller's: `count` accumulators. A pair lies at or behind the place of its sum.
    unsafe {
        while count > 1 {
            let pairs = count / 2;
            for k in 0..pairs {
                *sums.add(k) = F::join(*sums.add(2 * k), *sums.add(2 * k + 1));
            }
            if count % 2 == 1 {
                *sums.add(pairs) = *sums.add(count - 1);
            }
            count = count.div_ceil(2);
        }
    }
}

#[inline(always)]
unsafe fn close<F: Rule>(lanes: *mut u8, filled: usize, width: usize) {
    let lanes = lanes.cast::<F::A>();
    let mut live = filled.min(LANES);
    for half in [8, 4, 2, 1] {
        for l in half..live.min(2 * half) {
            for w in 0..width {
                // SAFETY: lanes l and l - half of the caller's 16 * width accumulators.
                unsafe {
                    let a = lanes.add((l - half) * width + w);
                    *a = F::join(*a, *lanes.add(l * width + w));
                }
            }
        }
        live = live.min(half);
    }
}

#[inline(always)]
unsafe fn join<F: Rule>(a: *mut u8, b: *const u8, width: usize) {
    let (a, b) = (a.cast::<F::A>(), b.cast::<F::A>());
    // SAFETY: the caller's: width accumulators each.
    (0..width).for_each(|w| unsafe { *a.add(w) = F::join(*a.add(w), *b.add(w)) });
}

unsafe fn finish<F: Rule>(to: *mut u8, from: *const u8, width: usize) {
    let (to, from) = (to.cast::<F::R>(), from.cast::<F::A>());
    // SAFETY: the caller's: width elements each.
    (0..width).for_each(|w| unsafe { *to.add(w) = F::finish(*from.add(w)) });
}

unsafe fn empty<F: Rule>(to: *mut u8, width: usize) {
    // SAFETY: the caller's: width elements.
    (0..width).for_each(|w| unsafe { *to.cast::<F::R>().add(w) = F::empty() });
}

macro_rules! level {
    ($level:ident $(, $features:literal)?) => {
        mod $level {
            use super::{Blocks, Rule};

            $(#[target_feature(enable = $features)])?
            pub unsafe fn blocks<F: Rule>(sums: *mut u8, blocks: &Blocks) {
                // SAFETY: the caller's.
                unsafe { super::blocks::<F>(sums, blocks, rows::<F>, close::<F>) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn tree<F: Rule>(sums: *mut u8, count: usize) {
                // SAFETY: the caller's.
                unsafe { super::tree::<F>(sums, count) }
            }

            $(#[target_feature(enable = $features)])?
            pub unsafe fn rows<F: Rule>(l: *mut u8, x: *const u8, p: u64, n: usize, w: usize) {
                // SAFETY: the caller's.
                unsafe { super::rows::<F>(l, x, p, n, w) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn close<F: Rule>(lanes: *mut u8, filled: usize, width: usize) {
                // SAFETY: the caller's.
                unsafe { super::close::<F>(lanes, filled, width) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn join<F: Rule>(a: *mut u8, b: *const u8, width: usize) {
                // SAFETY: the caller's.
                unsafe { super::join::<F>(a, b, width) }
            }
        }
    };
}

level!(portable);
#[cfg(target_arch = "x86_64")]
level!(avx2, "avx2,fma,f16c,bmi1,bmi2");
#[cfg(target_arch = "x86_64")]
level!(
    avx512,
    "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi1,bmi2"
);

fn of<F: Rule>(isa: Isa) -> Fold {
    macro_rules! at {
        ($level:ident) => {
            Fold {
                size: size_of::<F::A>(),
                rows: $level::rows::<F>,
                blocks: $level::blocks::<F>,
                tree: $level::tree::<F>,
                close: $level::close::<F>,
                join: $level::join::<F>,
                finish: finish::<F>,
                empty: empty::<F>,
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => at!(avx512),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => at!(avx2),
        _ => at!(portable),
    }
}

/// `rule!(isa, Element => Result, join, identity, round)`: an accumulator of the element's own type.
macro_rules! rule {
    ($isa:expr, $x:ty => $r:ty, $join:expr, $empty:expr, $finish:expr) => {{
        struct R;
        impl Rule for R {
            type X = $x;
            type A = $x;
            type R = $r;
            #[inline(always)]
            fn lift(x: $x, _: u64) -> $x {
                x
            }
            #[inline(always)]
            fn join(a: $x, b: $x) -> $x {
                $join(a, b)
            }
            #[inline(always)]
            fn finish(a: $x) -> $r {
                $finish(a)
            }
            #[inline(always)]
            fn empty() -> $r {
                $empty
            }
        }
        of::<R>($isa)
    }};
}

/// `truth!(isa, Element, is_not_zero, identity, join)`: any and all, with a byte as accumulator.
macro_rules! truth {
    ($isa:expr, $x:ty, $join:expr, $empty:literal) => {{
        struct R;
        impl Rule for R {
            type X = $x;
            type A = u8;
            type R = u8;
            #[inline(always)]
            fn lift(x: $x, _: u64) -> u8 {
                u8::from(x != <$x>::default())
            }
            #[inline(always)]
            fn join(a: u8, b: u8) -> u8 {
                $join(a, b)
            }
            #[inline(always)]
            fn finish(a: u8) -> u8 {
                a
            }
            #[inline(always)]
            fn empty() -> u8 {
                $empty
            }
        }
        of::<R>($isa)
    }};
}

/// `arg!(isa, Element, wins)`: the first position that no other beats. A NaN beats every number.
macro_rules! arg {
    ($isa:expr, $x:ty, $beats:expr) => {{
        struct R;
        impl Rule for R {
            type X = $x;
            type A = ($x, i64);
            type R = i64;
            #[inline(always)]
            fn lift(x: $x, position: u64) -> ($x, i64) {
                (x, position as i64)
            }
            #[inline(always)]
            fn join(a: ($x, i64), b: ($x, i64)) -> ($x, i64) {
                let (ab, ba): (bool, bool) = ($beats(a.0, b.0), $beats(b.0, a.0));
                let first = if a.1 < b.1 { a } else { b };
                if ab {
                    a
                } else if ba {
                    b
                } else {
                    first
                }
            }
            #[inline(always)]
            fn finish(a: ($x, i64)) -> i64 {
                a.1
            }
            #[inline(always)]
            fn empty() -> i64 {
                0
            }
        }
        of::<R>($isa)
    }};
}

macro_rules! float_fold {
    ($name:ident, $x:ident, $lane:ident, $round:expr) => {
        fn $name(isa: Isa, kind: Reduction) -> Fold {
            use basic::$lane as lane;
            type X = $x;
            fn less(a: X, b: X) -> bool {
                a < b || (a.is_nan() && !b.is_nan())
            }
            fn greater(a: X, b: X) -> bool {
                a > b || (a.is_nan() && !b.is_nan())
            }
            match kind {
                Reduction::Sum => rule!(isa, X => X, lane::add, 0.0, $round),
                Reduction::Prod => rule!(isa, X => X, lane::mul, 1.0, $round),
                Reduction::Min => rule!(isa, X => X, lane::minimum, X::INFINITY, |a| a),
                Reduction::Max => rule!(isa, X => X, lane::maximum, X::NEG_INFINITY, |a| a),
                Reduction::Any => truth!(isa, X, |a, b| a | b, 0),
                Reduction::All => truth!(isa, X, |a, b| a & b, 1),
                Reduction::ArgMin => arg!(isa, X, less),
                Reduction::ArgMax => arg!(isa, X, greater),
            }
        }
    };
}

float_fold!(f32_fold, f32, single, |a| a);
float_fold!(f64_fold, f64, double, |a| a);
float_fold!(f16_fold, f32, single, convert::round_f16);
float_fold!(bf16_fold, f32, single, convert::round_bf16);

macro_rules! integer_fold {
    ($($name:ident $int:ident)*) => {$(
        fn $name(isa: Isa, kind: Reduction) -> Fold {
            type X = $int;
            match kind {
                Reduction::Sum => rule!(isa, X => X, X::wrapping_add, 0, |a| a),
                Reduction::Prod => rule!(isa, X => X, X::wrapping_mul, 1, |a| a),
                Reduction::Min => rule!(isa, X => X, integer::$int::minimum, X::MAX, |a| a),
                Reduction::Max => rule!(isa, X => X, integer::$int::maximum, X::MIN, |a| a),
                Reduction::Any => truth!(isa, X, |a, b| a | b, 0),
                Reduction::All => truth!(isa, X, |a, b| a & b, 1),
                Reduction::ArgMin => arg!(isa, X, |a, b| a < b),
                Reduction::ArgMax => arg!(isa, X, |a, b| a > b),
            }
        }
    )*};
}

integer_fold! {
    i8_fold i8 i16_fold i16 i32_fold i32 i64_fold i64
    u8_fold u8 u16_fold u16 u32_fold u32 u64_fold u64
}

/// The reduction of values of `dtype`.
pub fn fold(isa: Isa, kind: Reduction, dtype: DType) -> Fold {
    match dtype {
        DType::Bool | DType::U8 => u8_fold(isa, kind),
        DType::I8 => i8_fold(isa, kind),
        DType::I16 => i16_fold(isa, kind),
        DType::I32 => i32_fold(isa, kind),
        DType::I64 => i64_fold(isa, kind),
        DType::U16 => u16_fold(isa, kind),
        DType::U32 => u32_fold(isa, kind),
        DType::U64 => u64_fold(isa, kind),
        DType::F16 => f16_fold(isa, kind),
        DType::Bf16 => bf16_fold(isa, kind),
        DType::F32 => f32_fold(isa, kind),
        DType::F64 => f64_fold(isa, kind),
    }
}
