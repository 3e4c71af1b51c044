//! What combines many elements into one: reductions, scans and contractions, in the order that the definitions fix.

use tensord_shm::dtype::DType;
use tensord_shm::op::{AxisSet, Elementwise, Meta, Reduction, Scan, contract_sizes};

use super::number::{double, from_single, integer, single, wrapped};
use super::value::{Index, Value, ravel, unravel};
use super::{elementwise, number};

pub(super) fn reduce(kind: Reduction, axes: AxisSet, x: &Value, meta: &Meta) -> Vec<u64> {
    let shape = &x.meta.shape;
    let kept: Vec<usize> = (0..shape.rank()).filter(|&a| !axes.contains(a)).collect();
    let gone: Vec<usize> = (0..shape.rank()).filter(|&a| axes.contains(a)).collect();
    let sizes = |axes: &[usize]| -> Vec<u64> { axes.iter().map(|&axis| shape[axis]).collect() };
    let (kept_sizes, gone_sizes) = (sizes(&kept), sizes(&gone));
    let n: u64 = gone_sizes.iter().product();
    (0..meta.shape.count())
        .map(|position| {
            let mut index = vec![0; shape.rank()];
            for (&axis, at) in kept.iter().zip(unravel(position, &kept_sizes)) {
                index[axis] = at;
            }
            let elements: Vec<u64> = (0..n)
                .map(|inner| {
                    for (&axis, at) in gone.iter().zip(unravel(inner, &gone_sizes)) {
                        index[axis] = at;
                    }
                    x.bits[ravel(&index, shape)]
                })
                .collect();
            reduced(kind, &elements, x.meta.dtype)
        })
        .collect()
}

fn reduced(kind: Reduction, elements: &[u64], dtype: DType) -> u64 {
    let is_set = |&bits: &u64| {
        if dtype.is_float() {
            double(bits, dtype) != 0.0
        } else {
            bits != 0
        }
    };
    match kind {
        Reduction::Any => elements.iter().any(is_set).into(),
        Reduction::All => elements.iter().all(is_set).into(),
        Reduction::ArgMin | Reduction::ArgMax => first_extreme(kind, elements, dtype),
        Reduction::Min | Reduction::Max => extreme(kind, elements, dtype),
        Reduction::Sum | Reduction::Prod => total(kind == Reduction::Sum, elements, dtype),
    }
}

fn extreme(kind: Reduction, elements: &[u64], dtype: DType) -> u64 {
    let function = match kind {
        Reduction::Min => Elementwise::Minimum,
        _ => Elementwise::Maximum,
    };
    let join = |a: u64, b: &u64| elementwise::element(function, dtype, [a, *b, 0]);
    let infinity = if kind == Reduction::Min {
        f64::INFINITY
    } else {
        f64::NEG_INFINITY
    };
    match elements.split_first() {
        Some((&first, rest)) => rest.iter().fold(first, join),
        None => number::cast(infinity.to_bits(), DType::F64, dtype),
    }
}

fn first_extreme(kind: Reduction, elements: &[u64], dtype: DType) -> u64 {
    let beats = |a: u64, b: u64| {
        if !dtype.is_float() {
            let (a, b) = (integer(a, dtype), integer(b, dtype));
            return if kind == Reduction::ArgMin {
                a < b
            } else {
                a > b
            };
        }
        let (a, b) = (double(a, dtype), double(b, dtype));
        let ahead = if kind == Reduction::ArgMin {
            a < b
        } else {
            a > b
        };
        !b.is_nan() && (ahead || a.is_nan())
    };
    let mut best = 0;
    for (at, &bits) in elements.iter().enumerate() {
        if beats(bits, elements[best]) {
            best = at;
        }
    }
    best as u64
}

/// The lanes, blocks and tree of a sum or product, over an accumulator type.
fn tree<A: Copy>(elements: &[A], join: impl Fn(A, A) -> A) -> Option<A> {
    let block = |elements: &[A]| -> A {
        let mut lanes: Vec<Option<A>> = (0..16)
            .map(|lane| {
                elements
                    .iter()
                    .skip(lane)
                    .step_by(16)
                    .copied()
                    .reduce(&join)
            })
            .collect();
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] = match (lanes[lane], lanes[lane + half]) {
                    (Some(a), Some(b)) => Some(join(a, b)),
                    (a, b) => a.or(b),
                };
            }
        }
        lanes[0].expect("a block has an element")
    };
    let mut sums: Vec<A> = elements.chunks(1024).map(block).collect();
    while sums.len() > 1 {
        let pair = |pair: &[A]| match pair {
            [a, b] => join(*a, *b),
            odd => odd[0],
        };
        sums = sums.chunks(2).map(pair).collect();
    }
    sums.pop()
}

fn total(sum: bool, elements: &[u64], dtype: DType) -> u64 {
    let identity = if sum { 0.0 } else { 1.0 };
    match dtype {
        DType::F64 => {
            let all: Vec<f64> = elements.iter().map(|&b| f64::from_bits(b)).collect();
            let made = tree(&all, |a, b| if sum { a + b } else { a * b });
            made.unwrap_or(identity).to_bits()
        }
        DType::F32 | DType::F16 | DType::Bf16 => {
            let all: Vec<f32> = elements.iter().map(|&b| single(b, dtype)).collect();
            let made = tree(&all, |a, b| if sum { a + b } else { a * b });
            from_single(made.unwrap_or(identity as f32), dtype)
        }
        _ => {
            let all = elements.iter().map(|&bits| integer(bits, dtype));
            let made = if sum {
                all.fold(0, i128::wrapping_add)
            } else {
                all.fold(1, i128::wrapping_mul)
            };
            wrapped(made, dtype)
        }
    }
}

pub(super) fn scan(kind: Scan, axis: usize, x: &Value) -> Vec<u64> {
    let (shape, dtype) = (&x.meta.shape, x.meta.dtype);
    let mut out = x.bits.clone();
    // The chain runs in the accumulator dtype; what is written is rounded, what is carried is not.
    let mut carried = vec![0u64; out.len()];
    let accumulator = dtype.accumulator();
    let function = match kind {
        Scan::Sum => Elementwise::Add,
        Scan::Prod => Elementwise::Mul,
    };
    for position in 0..shape.count() {
        let mut index = unravel(position, shape);
        let own = number::cast(x.bits[position as usize], dtype, accumulator);
        let joined = match index[axis] {
            0 => own,
            at => {
                index[axis] = at - 1;
                let before = carried[ravel(&index, shape)];
                elementwise::element(function, accumulator, [before, own, 0])
            }
        };
        carried[position as usize] = joined;
        out[position as usize] = number::cast(joined, accumulator, dtype);
    }
    out
}

pub(super) fn contract(
    a: &[u8],
    b: &[u8],
    out: &[u8],
    x: &Value,
    y: &Value,
    meta: &Meta,
) -> Vec<u64> {
    let list = |labels: &[u8]| tensord_shm::op::Labels::new(labels).expect("labels of an operand");
    let plan = contract_sizes(&list(a), &list(b), &list(out), &x.meta.shape, &y.meta.shape)
        .expect("inference accepted the labels");
    let summed: Vec<u64> = plan
        .summed
        .iter()
        .map(|&label| plan.sizes[usize::from(label)])
        .collect();
    let n: u64 = summed.iter().product();
    let read = |labels: &[u8], value: &Value, at: &[u64; 64]| {
        let index: Index = labels
            .iter()
            .zip(value.meta.shape.iter())
            .map(|(&label, &size)| if size == 1 { 0 } else { at[usize::from(label)] })
            .collect();
        value.bits[ravel(&index, &value.meta.shape)]
    };
    (0..meta.shape.count())
        .map(|position| {
            let mut at = [0u64; 64];
            for (&label, index) in out.iter().zip(unravel(position, &meta.shape)) {
                at[usize::from(label)] = index;
            }
            let pairs: Vec<(u64, u64)> = (0..n)
                .map(|k| {
                    for (&label, index) in plan.summed.iter().zip(unravel(k, &summed)) {
                        at[usize::from(label)] = index;
                    }
                    (read(a, x, &at), read(b, y, &at))
                })
                .collect();
            sum_of_products(&pairs, x.meta.dtype, meta.dtype)
        })
        .collect()
}

/// Blocks of 256, each one chain of fused multiply-adds from +0; block sums added from the first.
fn sum_of_products(pairs: &[(u64, u64)], from: DType, to: DType) -> u64 {
    match from {
        DType::F64 => {
            let float = f64::from_bits;
            let block = |pairs: &[(u64, u64)]| {
                let each = pairs.iter();
                each.fold(0.0, |sum, &(a, b)| float(a).mul_add(float(b), sum))
            };
            let sums = pairs.chunks(256).map(block);
            sums.reduce(|a, b| a + b).unwrap_or(0.0).to_bits()
        }
        DType::F32 | DType::F16 | DType::Bf16 => {
            let float = |bits| single(bits, from);
            let block = |pairs: &[(u64, u64)]| {
                let each = pairs.iter();
                each.fold(0.0, |sum, &(a, b)| float(a).mul_add(float(b), sum))
            };
            let sums = pairs.chunks(256).map(block);
            from_single(sums.reduce(|a, b| a + b).unwrap_or(0.0), to)
        }
        _ => {
            let sum = pairs.iter().fold(0i128, |sum, &(a, b)| {
                let product = integer(a, from).wrapping_mul(integer(b, from));
                sum.wrapping_add(product)
            });
            wrapped(sum, to)
        }
    }
}
