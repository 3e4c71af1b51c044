//! Element types: how they lie in memory, and the type in which their products are summed.
//!
//! f16 and bf16 are summed in f32 and rounded once, i8 in i32, every other dtype in itself. Unsigned integers run
//! as the signed type of their width: wrapping sums and products have the same bits.

use half::{bf16, f16};

use super::LanesMut;
use super::kernel::Kernels;
use crate::contract::Isa;
use tensord_shm::dtype::{DType, Scalar};

/// A type in which products are summed.
pub(super) trait Compute:
    Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static
{
    /// Positive zero.
    const ZERO: Self;

    /// `a * b + c`, rounded once (integers wrap).
    fn fused(a: Self, b: Self, c: Self) -> Self;

    /// `a + b` of two block sums.
    fn sum(a: Self, b: Self) -> Self;

    /// The microkernels for this type.
    fn kernels(isa: Isa) -> &'static Kernels<Self>;
}

/// A type as it lies in memory.
pub(super) trait Storage: Copy + Send + Sync + 'static {
    /// What its products are summed in.
    type Compute: Compute;
    /// What a result is stored as.
    type Out: Copy + Send + Sync + 'static;
    /// What a prologue computes and [`LanesMut`] holds: f32 for f16 and bf16, the type itself otherwise.
    type Lane: Copy + Send + Sync + 'static;
    /// Elements need no conversion before they enter a kernel.
    const SAME: bool;

    /// Exact.
    fn widen(self) -> Self::Compute;

    /// Exact.
    fn from_lane(lane: Self::Lane) -> Self::Compute;

    /// The one rounding at the end.
    fn round(sum: Self::Compute) -> Self::Out;

    /// A result rounded to the dtype, in the form in which an epilogue takes it.
    fn rounded(sum: Self::Compute) -> Self::Compute;

    /// The element whose bits these are.
    fn from_scalar(scalar: Scalar) -> Self;

    /// Lanes of operands of `dtype`, one of those that run as this type.
    fn lanes(dtype: DType, values: &mut [Self::Lane]) -> LanesMut<'_>;

    /// Results for operands of `dtype`, one of those that run as this type.
    fn results(dtype: DType, values: &mut [Self::Compute]) -> LanesMut<'_>;
}

macro_rules! compute_integer {
    ($($t:ty),*) => {$(
        impl Compute for $t {
            const ZERO: Self = 0;

            #[inline(always)]
            fn fused(a: Self, b: Self, c: Self) -> Self {
                a.wrapping_mul(b).wrapping_add(c)
            }

            #[inline(always)]
            fn sum(a: Self, b: Self) -> Self {
                a.wrapping_add(b)
            }

            fn kernels(isa: Isa) -> &'static Kernels<Self> {
                super::kernel::integer::<Self>(isa)
            }
        }
    )*};
}

compute_integer!(i8, i16, i32, i64);

macro_rules! compute_float {
    ($($t:ty, $kernels:path);*) => {$(
        impl Compute for $t {
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn fused(a: Self, b: Self, c: Self) -> Self {
                a.mul_add(b, c)
            }

            #[inline(always)]
            fn sum(a: Self, b: Self) -> Self {
                a + b
            }

            fn kernels(isa: Isa) -> &'static Kernels<Self> {
                $kernels(isa)
            }
        }
    )*};
}

compute_float!(f32, super::kernel::f32; f64, super::kernel::f64);

/// Reinterprets a slice as one of a type of the same size and kind.
fn same_width<A, B>(values: &mut [A]) -> &mut [B] {
    assert_eq!(size_of::<A>(), size_of::<B>());
    assert_eq!(align_of::<A>(), align_of::<B>());
    // SAFETY: same size and alignment, and only called between integers of one width, for which all bits are values.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

macro_rules! storage_same {
    ($($t:ty, $bits:ty, $signed:ident, $unsigned:ident, $signed_type:ident, $unsigned_type:ident);*) => {$(
        impl Storage for $t {
            type Compute = $t;
            type Out = $t;
            type Lane = $t;
            const SAME: bool = true;

            #[inline(always)]
            fn widen(self) -> $t {
                self
            }

            #[inline(always)]
            fn from_lane(lane: $t) -> $t {
                lane
            }

            #[inline(always)]
            fn round(sum: $t) -> $t {
                sum
            }

            #[inline(always)]
            fn rounded(sum: $t) -> $t {
                sum
            }

            fn from_scalar(scalar: Scalar) -> Self {
                <$t>::from_ne_bytes((scalar.0 as $bits).to_ne_bytes())
            }

            fn lanes(dtype: DType, values: &mut [$t]) -> LanesMut<'_> {
                if dtype == DType::$unsigned_type {
                    LanesMut::$unsigned(same_width(values))
                } else {
                    debug_assert_eq!(dtype, DType::$signed_type);
                    LanesMut::$signed(same_width(values))
                }
            }

            fn results(dtype: DType, values: &mut [$t]) -> LanesMut<'_> {
                Self::lanes(dtype, values)
            }
        }
    )*};
}

storage_same!(
    i16, u16, I16, U16, I16, U16;
    i32, u32, I32, U32, I32, U32;
    i64, u64, I64, U64, I64, U64;
    f32, u32, F32, F32, F32, F32;
    f64, u64, F64, F64, F64, F64
);

/// u8, which wraps in itself; i8 is [`Narrow`].
impl Storage for i8 {
    type Compute = i8;
    type Out = i8;
    type Lane = i8;
    const SAME: bool = true;

    #[inline(always)]
    fn widen(self) -> i8 {
        self
    }

    #[inline(always)]
    fn from_lane(lane: i8) -> i8 {
        lane
    }

    #[inline(always)]
    fn round(sum: i8) -> i8 {
        sum
    }

    #[inline(always)]
    fn rounded(sum: i8) -> i8 {
        sum
    }

    fn from_scalar(scalar: Scalar) -> Self {
        scalar.0 as i8
    }

    fn lanes(_: DType, values: &mut [i8]) -> LanesMut<'_> {
        LanesMut::U8(same_width(values))
    }

    fn results(_: DType, values: &mut [i8]) -> LanesMut<'_> {
        LanesMut::U8(same_width(values))
    }
}

/// An i8 whose products are summed in i32.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Narrow(i8);

impl Storage for Narrow {
    type Compute = i32;
    type Out = i32;
    type Lane = i8;
    const SAME: bool = false;

    #[inline(always)]
    fn widen(self) -> i32 {
        i32::from(self.0)
    }

    #[inline(always)]
    fn from_lane(lane: i8) -> i32 {
        i32::from(lane)
    }

    #[inline(always)]
    fn round(sum: i32) -> i32 {
        sum
    }

    #[inline(always)]
    fn rounded(sum: i32) -> i32 {
        sum
    }

    fn from_scalar(scalar: Scalar) -> Self {
        Narrow(scalar.0 as i8)
    }

    fn lanes(_: DType, values: &mut [i8]) -> LanesMut<'_> {
        LanesMut::I8(values)
    }

    fn results(_: DType, values: &mut [i32]) -> LanesMut<'_> {
        LanesMut::I32(values)
    }
}

macro_rules! storage_half {
    ($($t:ty),*) => {$(
        impl Storage for $t {
            type Compute = f32;
            type Out = $t;
            type Lane = f32;
            const SAME: bool = false;

            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }

            #[inline(always)]
            fn from_lane(lane: f32) -> f32 {
                lane
            }

            #[inline(always)]
            fn round(sum: f32) -> $t {
                <$t>::from_f32(sum)
            }

            #[inline(always)]
            fn rounded(sum: f32) -> f32 {
                <$t>::from_f32(sum).to_f32()
            }

            fn from_scalar(scalar: Scalar) -> Self {
                <$t>::from_bits(scalar.0 as u16)
            }

            fn lanes(_: DType, values: &mut [f32]) -> LanesMut<'_> {
                LanesMut::F32(values)
            }

            fn results(_: DType, values: &mut [f32]) -> LanesMut<'_> {
                LanesMut::F32(values)
            }
        }
    )*};
}

storage_half!(f16, bf16);

/// Runs an expression with the storage type of a dtype.
macro_rules! with_storage {
    ($dtype:expr, $s:ident => $run:expr) => {{
        use tensord_shm::dtype::DType as D;
        match $dtype {
            D::F32 => {
                type $s = f32;
                $run
            }
            D::F64 => {
                type $s = f64;
                $run
            }
            D::F16 => {
                type $s = half::f16;
                $run
            }
            D::Bf16 => {
                type $s = half::bf16;
                $run
            }
            D::I8 => {
                type $s = $crate::contract::number::Narrow;
                $run
            }
            D::U8 | D::Bool => {
                type $s = i8;
                $run
            }
            D::I16 | D::U16 => {
                type $s = i16;
                $run
            }
            D::I32 | D::U32 => {
                type $s = i32;
                $run
            }
            D::I64 | D::U64 => {
                type $s = i64;
                $run
            }
        }
    }};
}
pub(super) use with_storage;
