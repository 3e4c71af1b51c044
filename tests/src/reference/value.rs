//! Values on the host: row-major elements as bits, how well they are known, and when two of them agree.

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::Shape;
use tensord_shm::op::Meta;

use super::number::{self, double, integer};

/// How well the reference knows a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accuracy {
    /// Every bit.
    Exact,
    /// Within so many units of the last place.
    Ulps(u32),
    /// Computed from values that are not exact: only equality between runs can be asked for.
    Unknown,
}

/// A tensor on the host, row-major.
#[derive(Clone, Debug)]
pub struct Value {
    /// Dtype and shape.
    pub meta: Meta,
    /// The elements' bits, zero-extended.
    pub bits: Vec<u64>,
    /// How well they are known.
    pub accuracy: Accuracy,
}

impl Value {
    /// An exact value.
    pub fn new(meta: Meta, bits: Vec<u64>) -> Value {
        assert_eq!(meta.shape.count(), bits.len() as u64);
        Value {
            meta,
            bits,
            accuracy: Accuracy::Exact,
        }
    }

    /// A scalar of rank 0.
    pub fn scalar(dtype: DType, scalar: Scalar) -> Value {
        let meta = Meta {
            dtype,
            shape: Shape::SCALAR,
        };
        Value::new(meta, vec![scalar.truncated(dtype).0])
    }

    /// The elements' bytes, row-major.
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self.meta.dtype.size();
        let each = self.bits.iter();
        each.flat_map(|bits| bits.to_le_bytes().into_iter().take(size))
            .collect()
    }

    /// Elements of bytes.
    pub fn bits_of(bytes: &[u8], dtype: DType) -> Vec<u64> {
        let word = |chunk: &[u8]| {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        bytes.chunks_exact(dtype.size()).map(word).collect()
    }

    /// Says where bytes that a daemon gave differ by more than the accuracy allows.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let dtype = self.meta.dtype;
        let have = Value::bits_of(bytes, dtype);
        if have.len() != self.bits.len() {
            return Err(format!("{} elements for {}", have.len(), self.meta.shape));
        }
        let allowed = match self.accuracy {
            Accuracy::Exact => 0,
            Accuracy::Ulps(ulps) => u64::from(ulps),
            Accuracy::Unknown => return Ok(()),
        };
        for (at, (&have, &want)) in have.iter().zip(&self.bits).enumerate() {
            if !agree(have, want, dtype, allowed) {
                return Err(format!(
                    "element {at} of {dtype} {}: {} ({have:#x}), the reference says {} ({want:#x}), {allowed} ulp allowed",
                    self.meta.shape,
                    shown(have, dtype),
                    shown(want, dtype)
                ));
            }
        }
        Ok(())
    }
}

/// Do two elements agree, within some units of the last place?
pub fn agree(a: u64, b: u64, dtype: DType, allowed: u64) -> bool {
    if a == b {
        return true;
    }
    if !dtype.is_float() {
        return false;
    }
    match allowed {
        0 => double(a, dtype).is_nan() && double(b, dtype).is_nan(),
        allowed => number::ulps(a, b, dtype) <= allowed,
    }
}

/// Are two downloads of one dtype the same, all NaNs being one?
pub fn same_bits(a: &[u8], b: &[u8], dtype: DType) -> bool {
    a == b
        || a.len() == b.len()
            && Value::bits_of(a, dtype)
                .into_iter()
                .zip(Value::bits_of(b, dtype))
                .all(|(a, b)| agree(a, b, dtype, 0))
}

fn shown(bits: u64, dtype: DType) -> String {
    if dtype.is_float() {
        format!("{:e}", double(bits, dtype))
    } else {
        integer(bits, dtype).to_string()
    }
}

/// A position in a shape.
pub(super) type Index = Vec<u64>;

pub(super) fn unravel(mut position: u64, sizes: &[u64]) -> Index {
    let mut index = vec![0; sizes.len()];
    for (at, &size) in index.iter_mut().zip(sizes).rev() {
        *at = position % size;
        position /= size;
    }
    index
}

pub(super) fn ravel(index: &[u64], sizes: &[u64]) -> usize {
    index
        .iter()
        .zip(sizes)
        .fold(0, |position, (&at, &size)| position * size + at) as usize
}

/// The position in `sizes` that broadcasting reads for `index` of a larger shape.
pub(super) fn ravel_broadcast(index: &[u64], sizes: &[u64]) -> usize {
    let own = &index[index.len() - sizes.len()..];
    let clipped: Index = own
        .iter()
        .zip(sizes)
        .map(|(&at, &size)| if size == 1 { 0 } else { at })
        .collect();
    ravel(&clipped, sizes)
}
