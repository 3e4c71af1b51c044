//! The definition of a contraction, element by element.

use half::{bf16, f16};
use tensord_shm::dtype::DType;

pub fn to_f32(bits: u64, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_bits(bits as u16).to_f32(),
        DType::Bf16 => bf16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits(bits as u32),
    }
}

pub fn from_f32(value: f32, dtype: DType) -> u64 {
    match dtype {
        DType::F16 => f16::from_f32(value).to_bits().into(),
        DType::Bf16 => bf16::from_f32(value).to_bits().into(),
        _ => value.to_bits().into(),
    }
}

fn integer(bits: u64, dtype: DType) -> i64 {
    match dtype {
        DType::I8 => (bits as i8).into(),
        DType::I16 => (bits as i16).into(),
        DType::I32 => (bits as i32).into(),
        _ => bits as i64,
    }
}

macro_rules! float_sum {
    ($name:ident, $t:ty) => {
        fn $name(pairs: &[($t, $t)]) -> $t {
            let mut blocks = pairs
                .chunks(256)
                .map(|block| block.iter().fold(0.0, |sum: $t, (a, b)| a.mul_add(*b, sum)));
            let first = blocks.next().unwrap_or(0.0);
            blocks.fold(first, |out, sum| out + sum)
        }
    };
}

float_sum!(sum_f32, f32);
float_sum!(sum_f64, f64);

/// Dense `a` over batch, m, k and `b` over batch, n, k, `sizes` batch, m, n, k: dense results over batch, m, n.
pub fn reference(a: &[u64], b: &[u64], sizes: [usize; 4], dtype: DType) -> Vec<u64> {
    let [batch, m, n, k] = sizes;
    let mut out = Vec::with_capacity(batch * m * n);
    for position in 0..batch {
        for row in 0..m {
            for column in 0..n {
                let a = &a[(position * m + row) * k..][..k];
                let b = &b[(position * n + column) * k..][..k];
                out.push(element(a, b, dtype));
            }
        }
    }
    out
}

fn element(a: &[u64], b: &[u64], dtype: DType) -> u64 {
    let pairs = a.iter().zip(b);
    match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => {
            let pairs: Vec<_> = pairs
                .map(|(&a, &b)| (to_f32(a, dtype), to_f32(b, dtype)))
                .collect();
            from_f32(sum_f32(&pairs), dtype)
        }
        DType::F64 => {
            let pairs: Vec<_> = pairs
                .map(|(&a, &b)| (f64::from_bits(a), f64::from_bits(b)))
                .collect();
            sum_f64(&pairs).to_bits()
        }
        _ => {
            let sum = pairs.fold(0i64, |sum, (&a, &b)| {
                integer(a, dtype)
                    .wrapping_mul(integer(b, dtype))
                    .wrapping_add(sum)
            });
            let bytes = super::shapes::result_dtype(dtype).size();
            sum as u64 & (u64::MAX >> (64 - 8 * bytes))
        }
    }
}
