//! Element types: their wire numbers, sizes and kinds.

use std::fmt;

/// Element type of a tensor. The numbers are the wire format and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool = 1,
    /// Signed 8-bit integer.
    I8 = 2,
    /// Signed 16-bit integer.
    I16 = 3,
    /// Signed 32-bit integer.
    I32 = 4,
    /// Signed 64-bit integer.
    I64 = 5,
    /// Unsigned 8-bit integer.
    U8 = 6,
    /// Unsigned 16-bit integer.
    U16 = 7,
    /// Unsigned 32-bit integer.
    U32 = 8,
    /// Unsigned 64-bit integer.
    U64 = 9,
    /// IEEE 754 binary16; computed in f32, rounded after each operation.
    F16 = 10,
    /// bfloat16; computed in f32, rounded after each operation.
    Bf16 = 11,
    /// IEEE 754 binary32.
    F32 = 12,
    /// IEEE 754 binary64.
    F64 = 13,
}

/// What sort of number a [`DType`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// True or false.
    Bool,
    /// Signed integer, two's complement.
    Signed,
    /// Unsigned integer.
    Unsigned,
    /// Binary floating point.
    Float,
}

impl DType {
    /// Every dtype, in wire order.
    pub const ALL: [DType; 13] = [
        DType::Bool,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::Bf16,
        DType::F32,
        DType::F64,
    ];

    /// The dtype with this wire number, if there is one.
    #[inline]
    pub fn from_wire(number: u8) -> Option<DType> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The wire number.
    #[inline]
    pub fn wire(self) -> u8 {
        self as u8
    }

    /// Size of one element in bytes.
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            DType::Bool | DType::I8 | DType::U8 => 1,
            DType::I16 | DType::U16 | DType::F16 | DType::Bf16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
        }
    }

    /// What sort of number it holds.
    pub const fn kind(self) -> Kind {
        match self {
            DType::Bool => Kind::Bool,
            DType::I8 | DType::I16 | DType::I32 | DType::I64 => Kind::Signed,
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => Kind::Unsigned,
            DType::F16 | DType::Bf16 | DType::F32 | DType::F64 => Kind::Float,
        }
    }

    /// Floating point?
    pub const fn is_float(self) -> bool {
        matches!(self.kind(), Kind::Float)
    }

    /// Signed or unsigned integer?
    pub const fn is_integer(self) -> bool {
        matches!(self.kind(), Kind::Signed | Kind::Unsigned)
    }

    /// Name as in the Array API standard and NumPy (`float32`, `int8`, ...).
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "bool",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U8 => "uint8",
            DType::U16 => "uint16",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::F16 => "float16",
            DType::Bf16 => "bfloat16",
            DType::F32 => "float32",
            DType::F64 => "float64",
        }
    }

    /// The dtype in which sums and products of this dtype are accumulated inside one operation: f32 for
    /// f16 and bf16, the dtype itself otherwise.
    pub const fn accumulator(self) -> DType {
        match self {
            DType::F16 | DType::Bf16 => DType::F32,
            other => other,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Converts to f32 so that rounding the result again to fewer bits is one rounding of the original: an inexact result is the
/// neighbour with an odd last bit ("round to odd", Boldo and Melquiond 2005).
#[inline(always)]
pub fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let inward = if back.abs() > x.abs() { 1 } else { 0 };
    let odd = near.to_bits().wrapping_sub(inward) | 1;
    if back == x || x.is_nan() {
        near
    } else {
        f32::from_bits(odd)
    }
}

/// A scalar of some dtype as 64 bits: the element's own bits, zero-extended. The dtype stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Scalar(pub u64);

impl Scalar {
    /// Rounds or wraps a 64-bit float to `dtype`, as a cast does.
    pub fn from_f64(value: f64, dtype: DType) -> Scalar {
        let bits = match dtype {
            DType::Bool => u64::from(value != 0.0),
            DType::I8 => u64::from((value as i8) as u8),
            DType::I16 => u64::from((value as i16) as u16),
            DType::I32 => u64::from((value as i32) as u32),
            DType::I64 => (value as i64) as u64,
            DType::U8 => u64::from(value as u8),
            DType::U16 => u64::from(value as u16),
            DType::U32 => u64::from(value as u32),
            DType::U64 => value as u64,
            // Not `from_f64`: that rounds twice where the processor converts f32 only, and drops bits elsewhere.
            DType::F16 => u64::from(half::f16::from_f32(round_to_odd(value)).to_bits()),
            DType::Bf16 => u64::from(half::bf16::from_f32(round_to_odd(value)).to_bits()),
            DType::F32 => u64::from((value as f32).to_bits()),
            DType::F64 => value.to_bits(),
        };
        Scalar(bits)
    }

    /// Wraps an integer to `dtype` (floats are rounded).
    pub fn from_i64(value: i64, dtype: DType) -> Scalar {
        match dtype.kind() {
            Kind::Float => Scalar::from_f64(value as f64, dtype),
            Kind::Bool => Scalar(u64::from(value != 0)),
            _ => Scalar(value as u64).truncated(dtype),
        }
    }

    /// The value as f64 (64-bit integers may round).
    pub fn to_f64(self, dtype: DType) -> f64 {
        match dtype {
            DType::Bool => f64::from(u8::from(self.0 & 0xff != 0)),
            DType::I8 => f64::from(self.0 as u8 as i8),
            DType::I16 => f64::from(self.0 as u16 as i16),
            DType::I32 => f64::from(self.0 as u32 as i32),
            DType::I64 => (self.0 as i64) as f64,
            DType::U8 => f64::from(self.0 as u8),
            DType::U16 => f64::from(self.0 as u16),
            DType::U32 => f64::from(self.0 as u32),
            DType::U64 => self.0 as f64,
            DType::F16 => half::f16::from_bits(self.0 as u16).to_f64(),
            DType::Bf16 => half::bf16::from_bits(self.0 as u16).to_f64(),
            DType::F32 => f64::from(f32::from_bits(self.0 as u32)),
            DType::F64 => f64::from_bits(self.0),
        }
    }

    /// The same bits with everything above the element's size cleared, and a bool made 0 or 1: what the
    /// engine keeps of a client's immediate.
    #[inline]
    pub fn truncated(self, dtype: DType) -> Scalar {
        match dtype {
            DType::Bool => Scalar(u64::from(self.0 & 0xff != 0)),
            _ => match dtype.size() {
                8 => self,
                size => Scalar(self.0 & ((1u64 << (size * 8)) - 1)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_of_a_narrow_float_is_rounded_once_to_nearest_even() {
        for (dtype, largest) in [(DType::F16, 0x7bff), (DType::Bf16, 0x7f7f)] {
            for low in 0..largest {
                let (below, above) = (Scalar(low), Scalar(low + 1));
                // Exact: the operands have half the bits of f64.
                let middle = (below.to_f64(dtype) + above.to_f64(dtype)) / 2.0;
                let even = if low % 2 == 0 { below } else { above };
                let (less, more) = (middle.next_down(), middle.next_up());
                let rounded = [less, middle, more].map(|x| Scalar::from_f64(x, dtype));
                assert_eq!(rounded, [below, even, above], "{dtype} around {middle:e}");
            }
        }
    }
}
