//! A naive interpreter of the operation table: operations on row-major host values, one element after the other.
//!
//! It is written from the table's definitions alone and shares no code with the engine or a backend beyond shape
//! inference. Where the definition fixes bits, so does this: orders of sums, roundings, signs of zeros. NaNs are NaNs,
//! whatever their payload. Functions without an exact definition carry a tolerance, and what is computed from them none.

pub mod elementwise;
mod fold;
pub mod number;
mod value;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::Shape;
use tensord_shm::op::{Distribution, Elementwise, Meta, Op, ScatterMode};

pub use value::{Accuracy, Value, agree, same_bits};

use fold::{contract, reduce, scan};
use number::{double, from_double, integer, wrapped};
use value::{Index, ravel, ravel_broadcast, unravel};

/// The value of an operation. The operands fit it: `Op::infer` has accepted them.
pub fn evaluate(op: &Op, operands: &[&Value], immediates: [Scalar; 2]) -> Value {
    let metas: Vec<&Meta> = operands.iter().map(|operand| &operand.meta).collect();
    let meta = op.infer(&metas).expect("the caller has checked the shapes");
    let count = meta.shape.count();
    let each = |element: &mut dyn FnMut(&[u64]) -> u64| -> Vec<u64> {
        (0..count)
            .map(|position| element(&unravel(position, &meta.shape)))
            .collect()
    };
    let bits = match op {
        Op::Elementwise(function) => {
            let dtype = operands.last().map_or(meta.dtype, |last| last.meta.dtype);
            each(&mut |index| {
                let mut x = [0; 3];
                for (x, operand) in x.iter_mut().zip(operands) {
                    *x = operand.bits[ravel_broadcast(index, &operand.meta.shape)];
                }
                elementwise::element(*function, dtype, x)
            })
        }
        Op::Cast(to) => {
            let from = operands[0].meta.dtype;
            let all = operands[0].bits.iter();
            all.map(|&bits| number::cast(bits, from, *to)).collect()
        }
        Op::Reduce { kind, axes, .. } => reduce(*kind, *axes, operands[0], &meta),
        Op::Scan { kind, axis } => scan(*kind, usize::from(*axis), operands[0]),
        Op::Contract { a, b, out } => contract(a, b, out, operands[0], operands[1], &meta),
        Op::Reshape(_) | Op::Copy => operands[0].bits.clone(),
        Op::Concat { axis } => each(&mut |index| concat(usize::from(*axis), operands, index)),
        Op::Gather { axis } => {
            each(&mut |index| gather(usize::from(*axis), operands[0], operands[1], index))
        }
        Op::Scatter { axis, mode } => scatter(usize::from(*axis), *mode, operands),
        Op::Full(_) => vec![immediates[0].truncated(meta.dtype).0; count as usize],
        Op::Iota { axis, .. } => {
            let at = |index: &[u64]| index[usize::from(*axis)];
            each(&mut |index| iota(at(index), immediates, meta.dtype))
        }
        Op::Random { distribution, .. } => (0..count)
            .map(|position| draw(*distribution, meta.dtype, position, immediates[0].0))
            .collect(),
        view => each(&mut |index| {
            let source = source_index(view, &operands[0].meta.shape, index);
            source.map_or(immediates[0].truncated(meta.dtype).0, |source| {
                operands[0].bits[ravel(&source, &operands[0].meta.shape)]
            })
        }),
    };
    Value {
        meta,
        bits,
        accuracy: accuracy(op, operands, meta.dtype),
    }
}

fn accuracy(op: &Op, operands: &[&Value], dtype: DType) -> Accuracy {
    let moves = op.is_view() || matches!(op, Op::Copy | Op::Pad { .. });
    let inherited = operands.iter().find(|o| o.accuracy != Accuracy::Exact);
    match (inherited, op) {
        (Some(operand), _) if moves => operand.accuracy,
        (Some(_), _) => Accuracy::Unknown,
        (None, Op::Elementwise(function)) if shows_sign_of_nan(*function, operands) => {
            Accuracy::Unknown
        }
        (None, Op::Elementwise(function)) => match elementwise::tolerance(*function, dtype) {
            0 => Accuracy::Exact,
            ulps => Accuracy::Ulps(ulps),
        },
        (None, Op::Random { distribution, .. }) if *distribution == Distribution::Normal => {
            Accuracy::Unknown
        }
        _ => Accuracy::Exact,
    }
}

/// Does a result depend on the sign of a NaN, which nothing promises?
fn shows_sign_of_nan(function: Elementwise, operands: &[&Value]) -> bool {
    let reads = match function {
        Elementwise::Signbit => operands[0],
        Elementwise::CopySign => operands[1],
        _ => return false,
    };
    let dtype = reads.meta.dtype;
    dtype.is_float() && reads.bits.iter().any(|&bits| double(bits, dtype).is_nan())
}

/// Where a view's or a pad's element comes from; `None` for padding.
fn source_index(op: &Op, from: &Shape, index: &[u64]) -> Option<Index> {
    let mut source = vec![0; from.rank()];
    match op {
        Op::Permute(order) => {
            for (k, &axis) in order.iter().enumerate() {
                source[usize::from(axis)] = index[k];
            }
        }
        Op::Slice { starts, steps, .. } => {
            for axis in 0..from.rank() {
                source[axis] = (starts[axis] + steps[axis] * index[axis] as i64) as u64;
            }
        }
        Op::Expand(to) => {
            for axis in 0..from.rank() {
                let at = index[to.rank() - from.rank() + axis];
                source[axis] = if from[axis] == 1 { 0 } else { at };
            }
        }
        Op::Window {
            axes,
            strides,
            dilations,
            ..
        } => {
            source.copy_from_slice(&index[..from.rank()]);
            for (k, &axis) in axes.iter().enumerate() {
                let at = &mut source[usize::from(axis)];
                *at = *at * strides[k] + index[from.rank() + k] * dilations[k];
            }
        }
        Op::Pad { low, .. } => {
            for axis in 0..from.rank() {
                source[axis] = index[axis]
                    .checked_sub(low[axis])
                    .filter(|&at| at < from[axis])?;
            }
        }
        other => unreachable!("{} is no view", other.name()),
    }
    Some(source)
}

fn concat(axis: usize, operands: &[&Value], index: &[u64]) -> u64 {
    let mut index = index.to_vec();
    for operand in operands {
        let size = operand.meta.shape[axis];
        if index[axis] < size {
            return operand.bits[ravel(&index, &operand.meta.shape)];
        }
        index[axis] -= size;
    }
    unreachable!("the sizes along the axis add up")
}

/// A place along an axis; negative ones count from the end.
fn place(index: u64, size: u64) -> Option<u64> {
    let index = index as i64;
    let from_start = if index < 0 {
        index.checked_add(size as i64)?
    } else {
        index
    };
    u64::try_from(from_start).ok().filter(|&at| at < size)
}

fn gather(axis: usize, x: &Value, index: &Value, at: &[u64]) -> u64 {
    let rank = index.meta.shape.rank();
    let row = index.bits[ravel(&at[axis..axis + rank], &index.meta.shape)];
    match place(row, x.meta.shape[axis]) {
        None => 0,
        Some(row) => {
            let source = [&at[..axis], &[row], &at[axis + rank..]].concat();
            x.bits[ravel(&source, &x.meta.shape)]
        }
    }
}

fn scatter(axis: usize, mode: ScatterMode, operands: &[&Value]) -> Vec<u64> {
    let [x, index, updates] = operands else {
        unreachable!("inference has counted them")
    };
    let (shape, dtype) = (&x.meta.shape, x.meta.dtype);
    let rank = index.meta.shape.rank();
    let mut out = x.bits.clone();
    for (position, &update) in updates.bits.iter().enumerate() {
        let at = unravel(position as u64, &updates.meta.shape);
        let row = index.bits[ravel(&at[axis..axis + rank], &index.meta.shape)];
        let Some(row) = place(row, shape[axis]) else {
            continue;
        };
        let to = &mut out[ravel(&[&at[..axis], &[row], &at[axis + rank..]].concat(), shape)];
        *to = match mode {
            ScatterMode::Replace => update,
            ScatterMode::Add if dtype == DType::Bool => *to | update,
            ScatterMode::Add => elementwise::element(Elementwise::Add, dtype, [*to, update, 0]),
        };
    }
    out
}

fn iota(at: u64, [start, step]: [Scalar; 2], dtype: DType) -> u64 {
    if dtype.is_float() {
        let (start, step) = (double(start.0, dtype), double(step.0, dtype));
        return from_double((at as f64).mul_add(step, start), dtype);
    }
    let (start, step) = (integer(start.0, dtype), integer(step.0, dtype));
    wrapped(start.wrapping_add(step.wrapping_mul(at.into())), dtype)
}

/// Philox 4x32-10 (Salmon et al., SC 2011) with the element's position as counter.
fn philox(position: u64, key: u64) -> [u32; 4] {
    let mut c = [position as u32, (position >> 32) as u32, 0, 0];
    let mut k = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let product = |m: u32, x: u32| u64::from(m) * u64::from(x);
        let (p0, p1) = (product(0xD251_1F53, c[0]), product(0xCD9E_8D57, c[2]));
        let high = |p: u64| (p >> 32) as u32;
        c = [
            high(p1) ^ c[1] ^ k[0],
            p1 as u32,
            high(p0) ^ c[3] ^ k[1],
            p0 as u32,
        ];
        k[0] = k[0].wrapping_add(0x9E37_79B9);
        k[1] = k[1].wrapping_add(0xBB67_AE85);
    }
    c
}

fn draw(distribution: Distribution, dtype: DType, position: u64, key: u64) -> u64 {
    let w = philox(position, key);
    let low = u64::from(w[0]) | u64::from(w[1]) << 32;
    let fraction = |digits: i32, top: u64| from_double(top as f64 * 2f64.powi(-digits), dtype);
    match (distribution, dtype) {
        (Distribution::Bits, DType::Bool) => low & 1,
        (Distribution::Bits, _) => wrapped(low.into(), dtype),
        (Distribution::Uniform, DType::F16) => fraction(11, u64::from(w[0] >> 21)),
        (Distribution::Uniform, DType::Bf16) => fraction(8, u64::from(w[0] >> 24)),
        (Distribution::Uniform, DType::F32) => fraction(24, u64::from(w[0] >> 8)),
        (Distribution::Uniform, _) => fraction(53, low >> 11),
        // Known to a few units only: nothing is said of its bits, and what uses it is not checked here either.
        (Distribution::Normal, _) => from_double(0.0, dtype),
    }
}

#[cfg(test)]
mod tests {
    use tensord_shm::op::{AxisSet, Reduction};

    use super::*;

    fn value(dtype: DType, sizes: &[u64], numbers: &[f64]) -> Value {
        let shape = Shape::new(sizes).expect("small");
        let bits = numbers
            .iter()
            .map(|n| number::cast(n.to_bits(), DType::F64, dtype));
        Value::new(Meta { dtype, shape }, bits.collect())
    }

    fn numbers(value: &Value) -> Vec<f64> {
        let dtype = value.meta.dtype;
        let each = value.bits.iter();
        each.map(|&bits| Scalar(bits).to_f64(dtype)).collect()
    }

    #[test]
    fn sums_follow_lanes_and_blocks() {
        // 2^24 swallows a 1 that is added to it, so the order shows: lane 0 holds both, lane 1 two ones.
        let mut x = vec![0.0; 32];
        (x[0], x[16], x[1], x[17]) = (16_777_216.0, 1.0, 1.0, 1.0);
        let x = value(DType::F32, &[32], &x);
        let op = Op::Reduce {
            kind: Reduction::Sum,
            axes: AxisSet(1),
            keep: false,
        };
        let none = [Scalar(0); 2];
        assert_eq!(numbers(&evaluate(&op, &[&x], none)), [16_777_218.0]);
        let empty = value(DType::F32, &[0], &[]);
        assert_eq!(evaluate(&op, &[&empty], none).bits, [0]);
        let negative_zero = value(DType::F32, &[1], &[-0.0]);
        assert_eq!(evaluate(&op, &[&negative_zero], none).bits, [0x8000_0000]);
    }

    #[test]
    fn contractions_start_at_positive_zero_and_take_labels() {
        let labels = |l: &[u8]| tensord_shm::op::Labels::new(l).expect("few");
        let op = Op::Contract {
            a: labels(&[0, 1]),
            b: labels(&[1, 2]),
            out: labels(&[0, 2]),
        };
        let a = value(DType::I8, &[2, 2], &[1.0, 2.0, 3.0, 100.0]);
        let b = value(DType::I8, &[2, 1], &[5.0, 100.0]);
        let out = evaluate(&op, &[&a, &b], [Scalar(0); 2]);
        assert_eq!(
            (out.meta.dtype, numbers(&out)),
            (DType::I32, vec![205.0, 10_015.0])
        );
        let zero = value(DType::F32, &[1, 1], &[-0.0]);
        let one = value(DType::F32, &[1, 1], &[1.0]);
        assert_eq!(evaluate(&op, &[&zero, &one], [Scalar(0); 2]).bits, [0]);
    }

    #[test]
    fn views_and_padding_read_where_they_should() {
        let x = value(DType::I32, &[5], &[0.0, 1.0, 2.0, 3.0, 4.0]);
        let axes = |l: &[u64]| tensord_shm::op::AxisList::new(l).expect("few");
        let pad = Op::Pad {
            low: axes(&[1]),
            high: axes(&[1]),
        };
        let padded = evaluate(&pad, &[&x], [Scalar(9), Scalar(0)]);
        let window = Op::Window {
            axes: tensord_shm::op::AxisList::new(&[0]).expect("one"),
            sizes: axes(&[3]),
            strides: axes(&[2]),
            dilations: axes(&[2]),
        };
        let windows = evaluate(&window, &[&padded], [Scalar(0); 2]);
        assert_eq!(&windows.meta.shape[..], [2, 3]);
        assert_eq!(numbers(&windows), [9.0, 1.0, 3.0, 1.0, 3.0, 9.0]);
    }

    #[test]
    fn rounding_to_sixteen_bits_happens_once() {
        // Just above a tie of f16: by way of f32 it would round to even, downwards.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(from_double(above, DType::F16), 0x3c01);
        assert_eq!(from_double(1.0 + 2f64.powi(-11), DType::F16), 0x3c00);
        assert_eq!(number::cast(f64::NAN.to_bits(), DType::F64, DType::I8), 0);
        assert_eq!(number::cast(1e30f64.to_bits(), DType::F64, DType::U8), 255);
    }
}
