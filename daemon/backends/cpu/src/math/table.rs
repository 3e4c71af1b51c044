//! Picks the tile function of a function, a cast or an index for a dtype and an instruction set.

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::Elementwise;

use super::kernel::{binary, ternary, unary};
use super::{Kernel, TileFn, basic, convert, double, integer, single};
use crate::isa::Isa;

/// The elementwise function on operands of `dtype`; `None` where its domain leaves the dtype out. Operands are tiles of
/// `dtype`, except the condition of `Select` (bool); the result is a tile of `function.result(dtype)`.
pub fn elementwise(isa: Isa, function: Elementwise, dtype: DType) -> Option<Kernel> {
    if !function.info().domain.contains(dtype) {
        return None;
    }
    let main = match dtype {
        DType::Bool => bool_function(isa, function)?,
        DType::I8 => i8_function(isa, function)?,
        DType::I16 => i16_function(isa, function)?,
        DType::I32 => i32_function(isa, function)?,
        DType::I64 => i64_function(isa, function)?,
        DType::U8 => u8_function(isa, function)?,
        DType::U16 => u16_function(isa, function)?,
        DType::U32 => u32_function(isa, function)?,
        DType::U64 => u64_function(isa, function)?,
        DType::F16 => match function {
            Elementwise::NextAfter => binary!(isa, f32 => f32, convert::next_after_f16),
            _ => f32_function(isa, function)?,
        },
        DType::Bf16 => match function {
            Elementwise::NextAfter => binary!(isa, f32 => f32, convert::next_after_bf16),
            _ => f32_function(isa, function)?,
        },
        DType::F32 => f32_function(isa, function)?,
        DType::F64 => f64_function(isa, function)?,
    };
    let then = if function.result(dtype) == dtype && !stays_in_dtype(function) {
        round(isa, dtype)
    } else {
        None
    };
    Some(Kernel { main, then })
}

/// Rounds f32 values in a tile to f16 or bf16; nothing for other dtypes.
pub fn round(isa: Isa, dtype: DType) -> Option<TileFn> {
    match dtype {
        DType::F16 => Some(unary!(isa, f32 => f32, convert::round_f16)),
        DType::Bf16 => Some(unary!(isa, f32 => f32, convert::round_bf16)),
        _ => None,
    }
}

/// Does the function yield only values that the operands' own float format holds?
fn stays_in_dtype(function: Elementwise) -> bool {
    use Elementwise::*;
    matches!(
        function,
        Neg | Abs
            | Sign
            | Ceil
            | Floor
            | Trunc
            | Round
            | Maximum
            | Minimum
            | Clamp
            | CopySign
            | NextAfter
            | Fmod
            | Select
    )
}

/// The functions that integers and floats define alike.
macro_rules! number_functions {
    ($isa:ident, $function:ident, $T:ident, $lane:ident) => {
        match $function {
            Neg => unary!($isa, $T => $T, $lane::neg),
            Abs => unary!($isa, $T => $T, $lane::abs),
            Sign => unary!($isa, $T => $T, $lane::sign),
            Square => unary!($isa, $T => $T, $lane::square),
            Signbit => unary!($isa, $T => u8, $lane::signbit),
            LogicalNot => unary!($isa, $T => u8, $lane::logical_not),
            Add => binary!($isa, $T => $T, $lane::add),
            Sub => binary!($isa, $T => $T, $lane::sub),
            Mul => binary!($isa, $T => $T, $lane::mul),
            Maximum => binary!($isa, $T => $T, $lane::maximum),
            Minimum => binary!($isa, $T => $T, $lane::minimum),
            Eq => binary!($isa, $T => u8, $lane::eq),
            Ne => binary!($isa, $T => u8, $lane::ne),
            Lt => binary!($isa, $T => u8, $lane::lt),
            Le => binary!($isa, $T => u8, $lane::le),
            Gt => binary!($isa, $T => u8, $lane::gt),
            Ge => binary!($isa, $T => u8, $lane::ge),
            LogicalAnd => binary!($isa, $T => u8, $lane::logical_and),
            LogicalOr => binary!($isa, $T => u8, $lane::logical_or),
            LogicalXor => binary!($isa, $T => u8, $lane::logical_xor),
            Select => ternary!($isa, u8, $T => $T, $lane::select),
            Clamp => ternary!($isa, $T, $T => $T, $lane::clamp),
            _ => return None,
        }
    };
}

macro_rules! integer_functions {
    ($name:ident, $int:ident) => {
        fn $name(isa: Isa, function: Elementwise) -> Option<TileFn> {
            use Elementwise::*;
            use integer::$int as lane;
            type T = $int;
            Some(match function {
                Ceil | Floor | Trunc | Round => unary!(isa, T => T, lane::same),
                IsNan | IsInf => unary!(isa, T => u8, lane::no),
                IsFinite => unary!(isa, T => u8, lane::yes),
                BitNot => unary!(isa, T => T, lane::bit_not),
                FloorDiv => binary!(isa, T => T, lane::floor_div),
                Remainder => binary!(isa, T => T, lane::remainder),
                Pow => binary!(isa, T => T, lane::pow),
                BitAnd => binary!(isa, T => T, lane::bit_and),
                BitOr => binary!(isa, T => T, lane::bit_or),
                BitXor => binary!(isa, T => T, lane::bit_xor),
                ShiftLeft => binary!(isa, T => T, lane::shift_left),
                ShiftRight => binary!(isa, T => T, lane::shift_right),
                _ => number_functions!(isa, function, T, lane),
            })
        }
    };
}

integer_functions!(i8_function, i8);
integer_functions!(i16_function, i16);
integer_functions!(i32_function, i32);
integer_functions!(i64_function, i64);
integer_functions!(u8_function, u8);
integer_functions!(u16_function, u16);
integer_functions!(u32_function, u32);
integer_functions!(u64_function, u64);

/// On bytes 0 and 1 the bitwise functions are the logical ones.
fn bool_function(isa: Isa, function: Elementwise) -> Option<TileFn> {
    use Elementwise::*;
    let function = match function {
        LogicalAnd => BitAnd,
        LogicalOr => BitOr,
        LogicalXor | Ne => BitXor,
        BitNot => LogicalNot,
        other => other,
    };
    u8_function(isa, function)
}

macro_rules! float_functions {
    ($name:ident, $float:ident, $module:ident) => {
        fn $name(isa: Isa, function: Elementwise) -> Option<TileFn> {
            use Elementwise::*;
            use basic::$module as lane;
            type T = $float;
            Some(match function {
                Ceil => unary!(isa, T => T, lane::ceil),
                Floor => unary!(isa, T => T, lane::floor),
                Trunc => unary!(isa, T => T, lane::trunc),
                Round => unary!(isa, T => T, lane::round),
                Sqrt => unary!(isa, T => T, lane::sqrt),
                Reciprocal => unary!(isa, T => T, lane::reciprocal),
                Rsqrt => unary!(isa, T => T, lane::rsqrt),
                IsNan => unary!(isa, T => u8, lane::is_nan),
                IsInf => unary!(isa, T => u8, lane::is_inf),
                IsFinite => unary!(isa, T => u8, lane::is_finite),
                Div => binary!(isa, T => T, lane::div),
                FloorDiv => binary!(isa, T => T, lane::floor_div, rare lane::fmod_is_rare, lane::floor_div_rare),
                Remainder => binary!(isa, T => T, lane::remainder, rare lane::fmod_is_rare, lane::remainder_rare),
                Fmod => binary!(isa, T => T, lane::fmod, rare lane::fmod_is_rare, lane::fmod_rare),
                CopySign => binary!(isa, T => T, lane::copy_sign),
                NextAfter => binary!(isa, T => T, lane::next_after),
                Fma => ternary!(isa, T, T => T, lane::fma),
                Exp => unary!(isa, T => T, $module::exp),
                Exp2 => unary!(isa, T => T, $module::exp2),
                Expm1 => unary!(isa, T => T, $module::expm1),
                Log => unary!(isa, T => T, $module::log),
                Log1p => unary!(isa, T => T, $module::log1p),
                Log2 => unary!(isa, T => T, $module::log2),
                Log10 => unary!(isa, T => T, $module::log10),
                Sin => unary!(isa, T => T, $module::sin, rare $module::is_huge, $module::sin_huge),
                Cos => unary!(isa, T => T, $module::cos, rare $module::is_huge, $module::cos_huge),
                Tan => unary!(isa, T => T, $module::tan, rare $module::is_huge, $module::tan_huge),
                Asin => unary!(isa, T => T, $module::asin),
                Acos => unary!(isa, T => T, $module::acos),
                Atan => unary!(isa, T => T, $module::atan),
                Sinh => unary!(isa, T => T, $module::sinh),
                Cosh => unary!(isa, T => T, $module::cosh),
                Tanh => unary!(isa, T => T, $module::tanh),
                Asinh => unary!(isa, T => T, $module::asinh),
                Acosh => unary!(isa, T => T, $module::acosh),
                Atanh => unary!(isa, T => T, $module::atanh),
                Sigmoid => unary!(isa, T => T, $module::sigmoid),
                Erf => unary!(isa, T => T, $module::erf),
                Pow => binary!(isa, T => T, $module::pow),
                Atan2 => binary!(isa, T => T, $module::atan2),
                Hypot => binary!(isa, T => T, $module::hypot),
                LogAddExp => binary!(isa, T => T, $module::log_add_exp),
                _ => number_functions!(isa, function, T, lane),
            })
        }
    };
}

float_functions!(f32_function, f32, single);
float_functions!(f64_function, f64, double);

/// The conversion of tiles of `from` to tiles of `to`. The two tiles may have elements of different sizes.
pub fn cast(isa: Isa, from: DType, to: DType) -> Kernel {
    let main = match from {
        DType::Bool | DType::U8 => cast_u8(isa, to),
        DType::I8 => cast_i8(isa, to),
        DType::I16 => cast_i16(isa, to),
        DType::I32 => cast_i32(isa, to),
        DType::I64 => cast_i64(isa, to),
        DType::U16 => cast_u16(isa, to),
        DType::U32 => cast_u32(isa, to),
        DType::U64 => cast_u64(isa, to),
        DType::F16 | DType::Bf16 | DType::F32 => cast_f32(isa, to),
        DType::F64 => return cast_f64(isa, to),
    };
    let exact = from == to || from == DType::Bool;
    let then = if exact { None } else { round(isa, to) };
    Kernel { main, then }
}

macro_rules! cast_integer {
    ($($name:ident $int:ident)*) => {$(
        fn $name(isa: Isa, to: DType) -> TileFn {
            type T = $int;
            match to {
                DType::Bool => unary!(isa, T => u8, |x| (x != 0) as u8),
                DType::I8 => unary!(isa, T => i8, |x| x as i8),
                DType::I16 => unary!(isa, T => i16, |x| x as i16),
                DType::I32 => unary!(isa, T => i32, |x| x as i32),
                DType::I64 => unary!(isa, T => i64, |x| x as i64),
                DType::U8 => unary!(isa, T => u8, |x| x as u8),
                DType::U16 => unary!(isa, T => u16, |x| x as u16),
                DType::U32 => unary!(isa, T => u32, |x| x as u32),
                DType::U64 => unary!(isa, T => u64, |x| x as u64),
                DType::F16 | DType::Bf16 | DType::F32 => unary!(isa, T => f32, |x| x as f32),
                DType::F64 => unary!(isa, T => f64, |x| x as f64),
            }
        }
    )*};
}

cast_integer!(cast_i8 i8 cast_i16 i16 cast_i32 i32 cast_i64 i64);
cast_integer!(cast_u8 u8 cast_u16 u16 cast_u32 u32 cast_u64 u64);

fn cast_f32(isa: Isa, to: DType) -> TileFn {
    match to {
        DType::Bool => unary!(isa, f32 => u8, |x| (x != 0.0) as u8),
        DType::I8 => unary!(isa, f32 => i8, convert::f32_to_i8),
        DType::I16 => unary!(isa, f32 => i16, convert::f32_to_i16),
        DType::I32 => unary!(isa, f32 => i32, convert::f32_to_i32),
        DType::I64 => unary!(isa, f32 => i64, |x| x as i64),
        DType::U8 => unary!(isa, f32 => u8, convert::f32_to_u8),
        DType::U16 => unary!(isa, f32 => u16, convert::f32_to_u16),
        DType::U32 => unary!(isa, f32 => u32, |x| x as u32),
        DType::U64 => unary!(isa, f32 => u64, |x| x as u64),
        DType::F16 | DType::Bf16 | DType::F32 => unary!(isa, f32 => f32, |x| x),
        DType::F64 => unary!(isa, f32 => f64, f64::from),
    }
}

fn cast_f64(isa: Isa, to: DType) -> Kernel {
    let main = match to {
        DType::Bool => unary!(isa, f64 => u8, |x| (x != 0.0) as u8),
        DType::I8 => unary!(isa, f64 => i8, convert::f64_to_i8),
        DType::I16 => unary!(isa, f64 => i16, convert::f64_to_i16),
        DType::I32 => unary!(isa, f64 => i32, convert::f64_to_i32),
        DType::I64 => unary!(isa, f64 => i64, |x| x as i64),
        DType::U8 => unary!(isa, f64 => u8, convert::f64_to_u8),
        DType::U16 => unary!(isa, f64 => u16, convert::f64_to_u16),
        DType::U32 => unary!(isa, f64 => u32, |x| x as u32),
        DType::U64 => unary!(isa, f64 => u64, |x| x as u64),
        DType::F16 => unary!(isa, f64 => f32, convert::f64_to_f16),
        DType::Bf16 => unary!(isa, f64 => f32, convert::f64_to_bf16),
        DType::F32 => unary!(isa, f64 => f32, |x| x as f32),
        DType::F64 => unary!(isa, f64 => f64, |x| x),
    };
    Kernel { main, then: None }
}

/// `start + step * index`: `index` is a tile of i64, `dst` a tile of the dtype that the function was picked for, `start` and `step`
/// scalars of that dtype.
///
/// # Safety
/// `n` is a multiple of [`super::LANES`], both tiles are aligned and good for `n` elements, and they do not overlap.
pub type IotaFn = unsafe fn(dst: *mut u8, index: *const i64, start: Scalar, step: Scalar, n: usize);

/// The function behind `Op::Iota`: floats take one fused multiply-add in f64 of the index converted to f64, then one
/// rounding; integers wrap. `None` for bool.
pub fn iota(dtype: DType) -> Option<IotaFn> {
    Some(match dtype {
        DType::Bool => return None,
        DType::I8 | DType::U8 => iota_integer::<u8>,
        DType::I16 | DType::U16 => iota_integer::<u16>,
        DType::I32 | DType::U32 => iota_integer::<u32>,
        DType::I64 | DType::U64 => iota_integer::<u64>,
        DType::F16 => iota_f16,
        DType::Bf16 => iota_bf16,
        DType::F32 => iota_f32,
        DType::F64 => iota_f64,
    })
}

/// Keeps the low bits.
trait Truncate {
    fn truncate(wide: u64) -> Self;
}

macro_rules! truncate {
    ($($int:ident)*) => {$(
        impl Truncate for $int {
            fn truncate(wide: u64) -> $int {
                wide as $int
            }
        }
    )*};
}

truncate!(u8 u16 u32 u64);

/// Signed and unsigned integers wrap alike, and their low bits do not depend on the high ones.
unsafe fn iota_integer<T: Truncate>(
    dst: *mut u8,
    index: *const i64,
    start: Scalar,
    step: Scalar,
    n: usize,
) {
    for i in 0..n {
        // SAFETY: the caller's tiles are good for n elements.
        let position = unsafe { index.add(i).read() } as u64;
        let value = start.0.wrapping_add(step.0.wrapping_mul(position));
        // SAFETY: as above.
        unsafe { dst.cast::<T>().add(i).write(T::truncate(value)) };
    }
}

macro_rules! iota_float {
    ($($name:ident $dtype:ident $held:ident $round:expr;)*) => {$(
        unsafe fn $name(
            dst: *mut u8,
            index: *const i64,
            start: Scalar,
            step: Scalar,
            n: usize,
        ) {
            let (start, step) = (start.to_f64(DType::$dtype), step.to_f64(DType::$dtype));
            for i in 0..n {
                // SAFETY: the caller's tiles are good for n elements.
                let position = unsafe { index.add(i).read() } as f64;
                let value = $round(position.mul_add(step, start));
                // SAFETY: as above.
                unsafe { dst.cast::<$held>().add(i).write(value) };
            }
        }
    )*};
}

iota_float! {
    iota_f16 F16 f32 convert::f64_to_f16;
    iota_bf16 Bf16 f32 convert::f64_to_bf16;
    iota_f32 F32 f32 |x| x as f32;
    iota_f64 F64 f64 |x| x;
}
