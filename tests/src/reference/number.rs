//! Elements as numbers: bits to values and back, with one rounding.

use half::{bf16, f16};
use tensord_shm::dtype::{DType, Kind};

/// An integer or bool element.
pub fn integer(bits: u64, dtype: DType) -> i128 {
    match dtype {
        DType::Bool => i128::from(bits & 0xff != 0),
        DType::I8 => (bits as i8).into(),
        DType::I16 => (bits as i16).into(),
        DType::I32 => (bits as i32).into(),
        DType::I64 => (bits as i64).into(),
        _ => bits.into(),
    }
}

/// The low bits of an integer, as many as the dtype has; for bool, whether it is not 0.
pub fn wrapped(value: i128, dtype: DType) -> u64 {
    match dtype {
        DType::Bool => u64::from(value != 0),
        _ => value as u64 & (u64::MAX >> (64 - 8 * dtype.size())),
    }
}

/// An element of f16, bf16 or f32.
pub fn single(bits: u64, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_bits(bits as u16).to_f32(),
        DType::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits(bits as u32),
    }
}

/// An f32 rounded to f16, bf16 or f32.
pub fn from_single(value: f32, dtype: DType) -> u64 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_bits().into(),
        DType::Bf16 => bf16::from_f32(value).to_bits().into(),
        _ => value.to_bits().into(),
    }
}

/// An element of any float dtype; exact.
pub fn double(bits: u64, dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(bits),
        _ => single(bits, dtype).into(),
    }
}

/// An f64 rounded once to any float dtype.
pub fn from_double(value: f64, dtype: DType) -> u64 {
    match dtype {
        DType::F64 => value.to_bits(),
        DType::F32 => (value as f32).to_bits().into(),
        _ => from_single(to_odd(value), dtype),
    }
}

/// An f64 cut to f32 with its last bit set if anything was lost, so that a second, coarser rounding is the only one.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if value.is_nan() || f64::from(near) == value {
        return near;
    }
    let toward_zero = if f64::from(near).abs() > value.abs() {
        f32::from_bits(near.to_bits() - 1)
    } else {
        near
    };
    f32::from_bits(toward_zero.to_bits() | 1)
}

/// An element converted, as `Op::Cast` defines it.
pub fn cast(bits: u64, from: DType, to: DType) -> u64 {
    match (from.is_float(), to.kind()) {
        (true, Kind::Bool) => u64::from(double(bits, from) != 0.0),
        (true, Kind::Float) => from_double(double(bits, from), to),
        (true, _) => saturated(double(bits, from), to),
        // The 16-bit floats take integers by way of f32.
        (false, Kind::Float) if to == DType::F64 => (integer(bits, from) as f64).to_bits(),
        (false, Kind::Float) => from_single(integer(bits, from) as f32, to),
        (false, _) => wrapped(integer(bits, from), to),
    }
}

fn saturated(value: f64, to: DType) -> u64 {
    let width = 8 * to.size() as u32;
    let (least, greatest) = match to.kind() {
        Kind::Signed => (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1),
        _ => (0, (1i128 << width) - 1),
    };
    // `as` truncates and makes NaN 0.
    wrapped((value as i128).clamp(least, greatest), to)
}

/// Distance of two floats of one dtype in units of the last place; 0 for two NaNs, the greatest where one is a NaN.
pub fn ulps(a: u64, b: u64, dtype: DType) -> u64 {
    let nan = |bits| double(bits, dtype).is_nan();
    if nan(a) || nan(b) {
        return if nan(a) && nan(b) { 0 } else { u64::MAX };
    }
    let sign = 1u64 << (8 * dtype.size() - 1);
    let line = |bits: u64| match bits & sign {
        0 => i128::from(bits),
        _ => -i128::from(bits & !sign),
    };
    u64::try_from(line(a).abs_diff(line(b))).unwrap_or(u64::MAX)
}
