//! Turns a function of one element into a function of a tile, once for each instruction set.
//!
//! A lane function is a type with an `#[inline(always)]` function of single elements in plain IEEE arithmetic. The loops
//! here have a fixed length of [`LANES`], which the compiler turns into vector instructions of the level that the
//! wrapper enables; nothing in a lane function depends on the level.
//!
//! # Invariant
//! A lane function gives the same bits however it is vectorised: no reassociation, no contraction, no library function
//! whose result is not fixed by IEEE 754.

use crate::isa::Isa;

/// Length of the inner loops: tiles are padded to a multiple of it.
pub const LANES: usize = 16;

/// A function of tiles: `n` elements from `a`, `b` and `c` to `dst`. Operands beyond the arity are ignored and may dangle.
///
/// # Safety
/// `n` is a multiple of [`LANES`]. Each used pointer is aligned for its element type and good for `n` elements; `dst` either is
/// exactly an operand with elements of the same size, or overlaps none. The processor has the level that the function was picked for.
pub type TileFn = unsafe fn(dst: *mut u8, a: *const u8, b: *const u8, c: *const u8, n: usize);

/// A function of one operand.
pub trait Unary {
    /// Operand.
    type A: Copy;
    /// Result.
    type R: Copy + Default;
    /// Are there operands that `at` gets wrong and `rare` gets right?
    const HAS_RARE: bool = false;
    /// The function, without branches.
    fn at(a: Self::A) -> Self::R;
    /// Is `a` one for `rare`?
    #[inline(always)]
    fn is_rare(_a: Self::A) -> bool {
        false
    }
    /// The function where `is_rare`, as slow as it needs to be.
    fn rare(a: Self::A) -> Self::R {
        Self::at(a)
    }
}

/// A function of two operands of one type.
pub trait Binary {
    /// Operands.
    type A: Copy;
    /// Result.
    type R: Copy + Default;
    /// Are there operands that `at` gets wrong and `rare` gets right?
    const HAS_RARE: bool = false;
    /// The function, without branches.
    fn at(a: Self::A, b: Self::A) -> Self::R;
    /// Is this a pair for `rare`?
    #[inline(always)]
    fn is_rare(_a: Self::A, _b: Self::A) -> bool {
        false
    }
    /// The function where `is_rare`, as slow as it needs to be.
    fn rare(a: Self::A, b: Self::A) -> Self::R {
        Self::at(a, b)
    }
}

/// A function of three operands.
pub trait Ternary {
    /// First operand.
    type A: Copy;
    /// The others.
    type B: Copy;
    /// Result.
    type R: Copy + Default;
    /// The function, without branches.
    fn at(a: Self::A, b: Self::B, c: Self::B) -> Self::R;
}

/// Keeps the compiler from vectorising across the chunks of a tile, where it would gather single elements.
#[inline(always)]
fn chunk_boundary() {
    // SAFETY: empty.
    unsafe { std::arch::asm!("", options(nomem, nostack, preserves_flags)) };
}

#[inline(always)]
unsafe fn unary_tile<F: Unary>(dst: *mut u8, a: *const u8, n: usize) {
    let (dst, a) = (dst.cast::<[F::R; LANES]>(), a.cast::<[F::A; LANES]>());
    for chunk in 0..n / LANES {
        // SAFETY: the caller's pointers are aligned and good for n elements.
        let x = unsafe { a.add(chunk).read() };
        let mut y = [F::R::default(); LANES];
        for lane in 0..LANES {
            y[lane] = F::at(x[lane]);
        }
        if F::HAS_RARE {
            let mut any = false;
            for &x in &x {
                any |= F::is_rare(x);
            }
            if any {
                for lane in 0..LANES {
                    if F::is_rare(x[lane]) {
                        y[lane] = F::rare(x[lane]);
                    }
                }
            }
        }
        // SAFETY: as above; the operand's chunk was read before.
        unsafe { dst.add(chunk).write(y) };
        chunk_boundary();
    }
}

#[inline(always)]
unsafe fn binary_tile<F: Binary>(dst: *mut u8, a: *const u8, b: *const u8, n: usize) {
    let dst = dst.cast::<[F::R; LANES]>();
    let (a, b) = (a.cast::<[F::A; LANES]>(), b.cast::<[F::A; LANES]>());
    for chunk in 0..n / LANES {
        // SAFETY: the caller's pointers are aligned and good for n elements.
        let (x, z) = unsafe { (a.add(chunk).read(), b.add(chunk).read()) };
        let mut y = [F::R::default(); LANES];
        for lane in 0..LANES {
            y[lane] = F::at(x[lane], z[lane]);
        }
        if F::HAS_RARE {
            let mut any = false;
            for lane in 0..LANES {
                any |= F::is_rare(x[lane], z[lane]);
            }
            if any {
                for lane in 0..LANES {
                    if F::is_rare(x[lane], z[lane]) {
                        y[lane] = F::rare(x[lane], z[lane]);
                    }
                }
            }
        }
        // SAFETY: as above; the operands' chunks were read before.
        unsafe { dst.add(chunk).write(y) };
        chunk_boundary();
    }
}

#[inline(always)]
unsafe fn ternary_tile<F: Ternary>(
    dst: *mut u8,
    a: *const u8,
    b: *const u8,
    c: *const u8,
    n: usize,
) {
    let (dst, a) = (dst.cast::<[F::R; LANES]>(), a.cast::<[F::A; LANES]>());
    let (b, c) = (b.cast::<[F::B; LANES]>(), c.cast::<[F::B; LANES]>());
    for chunk in 0..n / LANES {
        // SAFETY: the caller's pointers are aligned and good for n elements.
        let (x, z, w) = unsafe {
            (
                a.add(chunk).read(),
                b.add(chunk).read(),
                c.add(chunk).read(),
            )
        };
        let mut y = [F::R::default(); LANES];
        for lane in 0..LANES {
            y[lane] = F::at(x[lane], z[lane], w[lane]);
        }
        // SAFETY: as above; the operands' chunks were read before.
        unsafe { dst.add(chunk).write(y) };
        chunk_boundary();
    }
}

macro_rules! level {
    ($level:ident $(, $features:literal)?) => {
        mod $level {
            use super::*;

            $(#[target_feature(enable = $features)])?
            pub unsafe fn unary<F: Unary>(
                dst: *mut u8,
                a: *const u8,
                _b: *const u8,
                _c: *const u8,
                n: usize,
            ) {
                // SAFETY: the caller keeps the rules of `TileFn`.
                unsafe { unary_tile::<F>(dst, a, n) }
            }

            $(#[target_feature(enable = $features)])?
            pub unsafe fn binary<F: Binary>(
                dst: *mut u8,
                a: *const u8,
                b: *const u8,
                _c: *const u8,
                n: usize,
            ) {
                // SAFETY: the caller keeps the rules of `TileFn`.
                unsafe { binary_tile::<F>(dst, a, b, n) }
            }

            $(#[target_feature(enable = $features)])?
            pub unsafe fn ternary<F: Ternary>(
                dst: *mut u8,
                a: *const u8,
                b: *const u8,
                c: *const u8,
                n: usize,
            ) {
                // SAFETY: the caller keeps the rules of `TileFn`.
                unsafe { ternary_tile::<F>(dst, a, b, c, n) }
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

/// The tile function of a lane function of one operand. NEON is part of the target on 64-bit ARM, so there the portable
/// wrapper is the vector code.
pub fn pick_unary<F: Unary>(isa: Isa) -> TileFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::unary::<F>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::unary::<F>,
        _ => portable::unary::<F>,
    }
}

/// The tile function of a lane function of two operands.
pub fn pick_binary<F: Binary>(isa: Isa) -> TileFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::binary::<F>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::binary::<F>,
        _ => portable::binary::<F>,
    }
}

/// The tile function of a lane function of three operands.
pub fn pick_ternary<F: Ternary>(isa: Isa) -> TileFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::ternary::<F>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::ternary::<F>,
        _ => portable::ternary::<F>,
    }
}

/// `unary!(isa, From => To, function)`, or with `, rare is_rare, slow_function` behind it.
macro_rules! unary {
    ($isa:expr, $a:ty => $r:ty, $function:expr) => {{
        struct Lane;
        impl $crate::math::kernel::Unary for Lane {
            type A = $a;
            type R = $r;
            #[inline(always)]
            fn at(a: $a) -> $r {
                $function(a)
            }
        }
        $crate::math::kernel::pick_unary::<Lane>($isa)
    }};
    ($isa:expr, $a:ty => $r:ty, $function:expr, rare $is_rare:expr, $slow:expr) => {{
        struct Lane;
        impl $crate::math::kernel::Unary for Lane {
            type A = $a;
            type R = $r;
            const HAS_RARE: bool = true;
            #[inline(always)]
            fn at(a: $a) -> $r {
                $function(a)
            }
            #[inline(always)]
            fn is_rare(a: $a) -> bool {
                $is_rare(a)
            }
            #[cold]
            #[inline(never)]
            fn rare(a: $a) -> $r {
                $slow(a)
            }
        }
        $crate::math::kernel::pick_unary::<Lane>($isa)
    }};
}

/// `binary!(isa, From => To, function)`, or with `, rare is_rare, slow_function` behind it.
macro_rules! binary {
    ($isa:expr, $a:ty => $r:ty, $function:expr) => {{
        struct Lane;
        impl $crate::math::kernel::Binary for Lane {
            type A = $a;
            type R = $r;
            #[inline(always)]
            fn at(a: $a, b: $a) -> $r {
                $function(a, b)
            }
        }
        $crate::math::kernel::pick_binary::<Lane>($isa)
    }};
    ($isa:expr, $a:ty => $r:ty, $function:expr, rare $is_rare:expr, $slow:expr) => {{
        struct Lane;
        impl $crate::math::kernel::Binary for Lane {
            type A = $a;
            type R = $r;
            const HAS_RARE: bool = true;
            #[inline(always)]
            fn at(a: $a, b: $a) -> $r {
                $function(a, b)
            }
            #[inline(always)]
            fn is_rare(a: $a, b: $a) -> bool {
                $is_rare(a, b)
            }
            #[cold]
            #[inline(never)]
            fn rare(a: $a, b: $a) -> $r {
                $slow(a, b)
            }
        }
        $crate::math::kernel::pick_binary::<Lane>($isa)
    }};
}

/// `ternary!(isa, First, Others => To, function)`.
macro_rules! ternary {
    ($isa:expr, $a:ty, $b:ty => $r:ty, $function:expr) => {{
        struct Lane;
        impl $crate::math::kernel::Ternary for Lane {
            type A = $a;
            type B = $b;
            type R = $r;
            #[inline(always)]
            fn at(a: $a, b: $b, c: $b) -> $r {
                $function(a, b, c)
            }
        }
        $crate::math::kernel::pick_ternary::<Lane>($isa)
    }};
}

pub(crate) use {binary, ternary, unary};
