//! Joins multiplications by scalars and additions of scalars, once for each plan.
//!
//! Such operations in a row become pairs of a factor and an addend; the step that goes through them needs no decision for each
//! operation. What is left for each instance is to put its scalars where they belong.
//!
//! # Invariant
//! A factor of 1 and an addend of -0 give every number back bit for bit, so a pair in which one of the operations
//! is missing is exact. `v - x` is `v + -x` and `x - v` is `v * -1 + x`, rounded alike; a NaN keeps its sign in all of them.

use tensord_shm::dtype::{DType, Scalar};

use super::chain::{Code, Link};
use super::program::Value;

/// Where a scalar of the instance goes.
#[derive(Clone, Copy, Debug)]
struct Fill {
    immediate: u32,
    pair: u32,
    /// 0 for the factor of the pair, 1 for its addend.
    part: usize,
}

/// The pairs of a program, complete but for the scalars of the instance.
#[derive(Clone, Debug, Default)]
pub struct Folds {
    pairs: Vec<[u64; 2]>,
    fills: Vec<Fill>,
    /// Those of the fills that are negated afterwards.
    negated: Vec<(usize, DType)>,
}

/// A part of a run.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Links that `count` of the program's pairs stand for, and the last of these links.
    Affine {
        /// The first pair.
        from: u16,
        /// How many.
        count: u16,
        /// Index of a link.
        last: u16,
    },
    /// A link by itself.
    Link(u16),
}

impl Folds {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// The pairs with the scalars of an instance.
    pub fn fill(&self, scalars: &[Scalar], pairs: &mut Vec<[u64; 2]>) {
        pairs.clear();
        pairs.extend_from_slice(&self.pairs);
        for fill in &self.fills {
            pairs[fill.pair as usize][fill.part] = scalars[fill.immediate as usize].0;
        }
        for &(fill, dtype) in &self.negated {
            let fill = self.fills[fill];
            let bits = &mut pairs[fill.pair as usize][fill.part];
            *bits = negated(dtype, *bits);
        }
    }

    /// Splits a run on `dtype` into parts; `scalar` tells which values are scalars of the instance.
    pub fn join(
        &mut self,
        dtype: DType,
        links: &[Link],
        scalar: impl Fn(Value) -> Option<u32>,
    ) -> Box<[Part]> {
        let mut parts = Vec::new();
        for (index, link) in links.iter().enumerate() {
            let joins = matches!(link.code, Code::Add | Code::Sub | Code::From | Code::Mul);
            let Some(immediate) = scalar(link.others[0]).filter(|_| joins) else {
                parts.push(Part::Link(index as u16));
                continue;
            };
            let goes_on = match parts.last() {
                Some(Part::Affine { last, .. }) => !links[usize::from(*last)].kept,
                _ => false,
            };
            if !goes_on {
                parts.push(Part::Affine {
                    from: self.pairs.len() as u16,
                    count: 0,
                    last: 0,
                });
            }
            if let Some(Part::Affine { from, count, last }) = parts.last_mut() {
                self.append(dtype, link.code, immediate, usize::from(*from));
                *count = (self.pairs.len() - usize::from(*from)) as u16;
                *last = index as u16;
            }
        }
        parts.into()
    }

    /// Appends an operation to the pairs of a part that begins with pair `from`.
    fn append(&mut self, dtype: DType, code: Code, immediate: u32, from: usize) {
        // Only the last pair can be without an addend: nothing is put behind an addend.
        let with_addend = self.fills.last().is_none_or(|fill| fill.part == 1);
        let open = self.pairs.len() > from && !with_addend;
        let last = self.fills.len();
        if code == Code::Mul || !open {
            self.pairs.push(pair(code, dtype, 0));
        } else if code == Code::From {
            self.negated.push((last - 1, dtype));
        }
        if code == Code::Sub {
            self.negated.push((last, dtype));
        }
        self.fills.push(Fill {
            immediate,
            pair: self.pairs.len() as u32 - 1,
            part: usize::from(code != Code::Mul),
        });
    }
}

/// One operation as a pair.
pub fn pair(code: Code, dtype: DType, scalar: u64) -> [u64; 2] {
    let one = match dtype {
        DType::F64 => 1f64.to_bits(),
        _ => u64::from(1f32.to_bits()),
    };
    match code {
        Code::Mul => [scalar, sign(dtype)],
        Code::Sub => [one, negated(dtype, scalar)],
        Code::From => [one ^ sign(dtype), scalar],
        _ => [one, scalar],
    }
}

/// The bits of the negated number; NaN stays as it is, because a sum with it keeps its sign where a difference does.
fn negated(dtype: DType, bits: u64) -> u64 {
    match is_nan(dtype, bits) {
        true => bits,
        false => bits ^ sign(dtype),
    }
}

/// Is it NaN, as an element of a tile?
pub fn is_nan(dtype: DType, bits: u64) -> bool {
    match dtype {
        DType::F64 => f64::from_bits(bits).is_nan(),
        _ => f32::from_bits(bits as u32).is_nan(),
    }
}

/// The bit of the sign, as an element of a tile; alone it is -0.
pub fn sign(dtype: DType) -> u64 {
    match dtype {
        DType::F64 => 1 << 63,
        _ => 1 << 31,
    }
}

/// The bits of an element of a tile.
///
/// # Safety
/// `at` can be read.
pub unsafe fn bits(dtype: DType, at: *const u8) -> u64 {
    match dtype {
        // SAFETY: the caller's.
        DType::F64 => unsafe { at.cast::<u64>().read_unaligned() },
        // SAFETY: the caller's.
        _ => u64::from(unsafe { at.cast::<u32>().read_unaligned() }),
    }
}
