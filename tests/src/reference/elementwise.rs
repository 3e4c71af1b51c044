//! Elementwise functions, one element at a time, as the operation table defines them.
//!
//! Integers go through 128-bit arithmetic and are wrapped at the end. f16 and bf16 are computed in f32 and rounded. What
//! IEEE 754 defines is exact; for the others, by [`tolerance`], the reference is an f64 function of libm.
//!
//! The cpu backend's own test (`math_exact`) writes the integer definitions out once more, and on purpose shares none with
//! this file: it holds the code of every width to a second reading of the table, with the division and the power
//! derived in another way. A definition misread in one place is found by the other.

use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise::{self, *};

use super::number::{double, from_double, from_single, integer, single, wrapped};

/// Units of the last place by which a result may differ from the reference; 0 where it is exact.
pub fn tolerance(function: Elementwise, dtype: DType) -> u32 {
    if !dtype.is_float() {
        return 0;
    }
    // In f64 the reference has an error of its own.
    let reference = if dtype == DType::F64 { 2 } else { 0 };
    if function == LogAddExp && dtype == DType::F64 {
        // Near zero two terms cancel, of which each is within its bound.
        return 1 << 30;
    }
    match function {
        Exp | Expm1 | Log | Log1p | Log2 | Log10 | Sin | Cos | Tan | Asin | Acos | Atan | Tanh
        | Sigmoid | Exp2 | Erf => 2 + reference,
        Sinh | Cosh | Asinh | Acosh | Atanh | Pow | Atan2 | Hypot | LogAddExp => 4 + reference,
        _ => 0,
    }
}

/// One element. `dtype` is that of the operands; for `Select` of the last two.
pub fn element(function: Elementwise, dtype: DType, x: [u64; 3]) -> u64 {
    if function == Select {
        return if x[0] & 0xff != 0 { x[1] } else { x[2] };
    }
    match dtype {
        DType::F64 => float_f64(function, x),
        DType::F32 | DType::F16 | DType::Bf16 => float_f32(function, dtype, x),
        _ => of_integers(function, dtype, x),
    }
}

fn of_integers(function: Elementwise, dtype: DType, x: [u64; 3]) -> u64 {
    let [a, b, c] = x.map(|bits| integer(bits, dtype));
    let width = 8 * dtype.size() as i128;
    let truth = i128::from;
    let floor_div = |a: i128, b: i128| {
        let quotient = a / b;
        quotient - truth(a % b != 0 && (a < 0) != (b < 0))
    };
    let value = match function {
        Neg => -a,
        Abs => a.abs(),
        Sign => a.signum(),
        Ceil | Floor | Trunc | Round => a,
        Square => a.wrapping_mul(a),
        IsNan | IsInf => 0,
        IsFinite => 1,
        Signbit => truth(a < 0),
        LogicalNot => truth(a == 0),
        BitNot if dtype == DType::Bool => truth(a == 0),
        BitNot => !a,
        Add => a + b,
        Sub => a - b,
        Mul => a.wrapping_mul(b),
        FloorDiv | Remainder if b == 0 => 0,
        FloorDiv => floor_div(a, b),
        Remainder => a - floor_div(a, b) * b,
        Pow if b < 0 => match a {
            1 => 1,
            -1 => 1 - 2 * (b & 1),
            _ => 0,
        },
        Pow => power(a, b),
        Maximum => a.max(b),
        Minimum => a.min(b),
        Eq => truth(a == b),
        Ne => truth(a != b),
        Lt => truth(a < b),
        Le => truth(a <= b),
        Gt => truth(a > b),
        Ge => truth(a >= b),
        LogicalAnd => truth(a != 0 && b != 0),
        LogicalOr => truth(a != 0 || b != 0),
        LogicalXor => truth((a != 0) != (b != 0)),
        BitAnd => a & b,
        BitOr => a | b,
        BitXor => a ^ b,
        ShiftLeft if (0..width).contains(&b) => a << b,
        ShiftLeft => 0,
        ShiftRight if (0..width).contains(&b) => a >> b,
        ShiftRight => -truth(a < 0),
        Clamp => a.max(b).min(c),
        _ => unreachable!("{} takes no integers", function.info().name),
    };
    wrapped(value, function.result(dtype))
}

/// By squaring, modulo 2^128, of which the low bits are right.
fn power(mut base: i128, mut exponent: i128) -> i128 {
    let mut result = 1i128;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

/// As CPython computes `//`: from the exact remainder, so that the quotient is the floor of the true one.
macro_rules! floor_div {
    ($float:ty, $a:expr, $b:expr) => {{
        let (a, b): ($float, $float) = ($a, $b);
        let r = a % b;
        let mut quotient = (a - r) / b;
        if r != 0.0 && (r < 0.0) != (b < 0.0) {
            quotient -= 1.0;
        }
        let floor = quotient.floor();
        match () {
            () if b == 0.0 => a / b,
            () if quotient == 0.0 => (0.0 as $float).copysign(a / b),
            () if quotient - floor > 0.5 => floor + 1.0,
            () => floor,
        }
    }};
}

macro_rules! exact {
    ($name:ident, $float:ty) => {
        /// The functions that IEEE 754 or the table define exactly; numbers or truths, `None` for the others.
        fn $name(
            function: Elementwise,
            a: $float,
            b: $float,
            c: $float,
        ) -> Option<Result<$float, bool>> {
            let remainder = |a: $float, b: $float| {
                let r = a % b;
                match r {
                    r if r == 0.0 => (0.0 as $float).copysign(b),
                    r if (r < 0.0) != (b < 0.0) => r + b,
                    r => r,
                }
            };
            let maximum = |a: $float, b: $float| match () {
                () if a.is_nan() || b.is_nan() => <$float>::NAN,
                () if a == b => {
                    if a.is_sign_negative() {
                        b
                    } else {
                        a
                    }
                }
                () => {
                    if a > b {
                        a
                    } else {
                        b
                    }
                }
            };
            let minimum = |a: $float, b: $float| -maximum(-a, -b);
            Some(Ok(match function {
                Neg => -a,
                Abs => a.abs(),
                Sign if a == 0.0 || a.is_nan() => a,
                Sign => (1.0 as $float).copysign(a),
                Ceil => a.ceil(),
                Floor => a.floor(),
                Trunc => a.trunc(),
                Round => a.round_ties_even(),
                Sqrt => a.sqrt(),
                Square => a * a,
                Reciprocal => 1.0 / a,
                Rsqrt => 1.0 / a.sqrt(),
                Add => a + b,
                Sub => a - b,
                Mul => a * b,
                Div => a / b,
                FloorDiv => floor_div!($float, a, b),
                Remainder => remainder(a, b),
                Fmod => a % b,
                Maximum => maximum(a, b),
                Minimum => minimum(a, b),
                CopySign => a.copysign(b),
                Clamp => minimum(maximum(a, b), c),
                Fma => a.mul_add(b, c),
                IsNan => return Some(Err(a.is_nan())),
                IsInf => return Some(Err(a.is_infinite())),
                IsFinite => return Some(Err(a.is_finite())),
                Signbit => return Some(Err(a.is_sign_negative())),
                LogicalNot => return Some(Err(a == 0.0)),
                Eq => return Some(Err(a == b)),
                Ne => return Some(Err(a != b)),
                Lt => return Some(Err(a < b)),
                Le => return Some(Err(a <= b)),
                Gt => return Some(Err(a > b)),
                Ge => return Some(Err(a >= b)),
                LogicalAnd => return Some(Err(a != 0.0 && b != 0.0)),
                LogicalOr => return Some(Err(a != 0.0 || b != 0.0)),
                LogicalXor => return Some(Err((a != 0.0) != (b != 0.0))),
                _ => return None,
            }))
        }
    };
}

exact!(exact_f32, f32);
exact!(exact_f64, f64);

fn float_f64(function: Elementwise, x: [u64; 3]) -> u64 {
    let [a, b, c] = x.map(f64::from_bits);
    match exact_f64(function, a, b, c) {
        Some(Ok(value)) => value.to_bits(),
        Some(Err(truth)) => truth.into(),
        None if function == NextAfter => next_after(x[0], x[1], DType::F64),
        None => approximate(function, a, b).to_bits(),
    }
}

fn float_f32(function: Elementwise, dtype: DType, x: [u64; 3]) -> u64 {
    let [a, b, c] = x.map(|bits| single(bits, dtype));
    match exact_f32(function, a, b, c) {
        Some(Ok(value)) => from_single(value, dtype),
        Some(Err(truth)) => truth.into(),
        None if function == NextAfter => next_after(x[0], x[1], dtype),
        None => from_double(approximate(function, a.into(), b.into()), dtype),
    }
}

fn next_after(from: u64, to: u64, dtype: DType) -> u64 {
    let (a, b) = (double(from, dtype), double(to, dtype));
    let sign = 1u64 << (8 * dtype.size() - 1);
    match () {
        () if a.is_nan() || b.is_nan() => from_double(f64::NAN, dtype),
        () if a == b => to,
        () if a == 0.0 => (to & sign) | 1,
        () if (b > a) == (a > 0.0) => from + 1,
        () => from - 1,
    }
}

/// The functions that need a tolerance.
fn approximate(function: Elementwise, a: f64, b: f64) -> f64 {
    match function {
        Exp => libm::exp(a),
        Expm1 => libm::expm1(a),
        Log => libm::log(a),
        Log1p => libm::log1p(a),
        Log2 => libm::log2(a),
        Log10 => libm::log10(a),
        Sin => libm::sin(a),
        Cos => libm::cos(a),
        Tan => libm::tan(a),
        Asin => libm::asin(a),
        Acos => libm::acos(a),
        Atan => libm::atan(a),
        Sinh => libm::sinh(a),
        Cosh => libm::cosh(a),
        Tanh => libm::tanh(a),
        Asinh => libm::asinh(a),
        Acosh if a < 1.0 => f64::NAN,
        Acosh => libm::acosh(a),
        Atanh => libm::atanh(a),
        Sigmoid if a >= 0.0 => 1.0 / (1.0 + libm::exp(-a)),
        Sigmoid => libm::exp(a) / (1.0 + libm::exp(a)),
        Erf => libm::erf(a),
        Exp2 => libm::exp2(a),
        Pow => libm::pow(a, b),
        Atan2 => libm::atan2(a, b),
        Hypot if a.is_infinite() || b.is_infinite() => f64::INFINITY,
        Hypot => libm::hypot(a, b),
        LogAddExp if a == b => a + std::f64::consts::LN_2,
        LogAddExp if a.is_nan() || b.is_nan() => f64::NAN,
        LogAddExp => a.max(b) + libm::log1p(libm::exp(-(a - b).abs())),
        _ => unreachable!("{} is exact", function.info().name),
    }
}
