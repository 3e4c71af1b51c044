//! A naive interpreter of the operation table: operations on row-major host values, one element after the other.
//!
//! It is written from the table's definitions alone and shares no code with the engine or a backend beyond shape
//! inference. Where the definition fixes bits, so does this: orders of sums, roundings, signs of zeros. NaNs are NaNs,
//! whatever their payload. Functions without an exact definition carry a tolerance, and what is computed from them none.

pub mod elementwise;
pub mod number;

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::Shape;
use tensord_shm::op::{
    AxisSet, Distribution, Elementwise, Meta, Op, Reduction, Scan, ScatterMode, contract_sizes,
};

use number::{double, from_double, from_single, integer, single, wrapped};

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
type Index = Vec<u64>;

fn unravel(mut position: u64, sizes: &[u64]) -> Index {
    let mut index = vec![0; sizes.len()];
    for (at, &size) in index.iter_mut().zip(sizes).rev() {
        *at = position % size;
        position /= size;
    }
    index
}

fn ravel(index: &[u64], sizes: &[u64]) -> usize {
    index
        .iter()
        .zip(sizes)
        .fold(0, |position, (&at, &size)| position * size + at) as usize
}

/// The position in `sizes` that broadcasting reads for `index` of a larger shape.
fn ravel_broadcast(index: &[u64], sizes: &[u64]) -> usize {
    let own = &index[index.len() - sizes.len()..];
    let clipped: Index = own
        .iter()
        .zip(sizes)
        .map(|(&at, &size)| if size == 1 { 0 } else { at })
        .collect();
    ravel(&clipped, sizes)
}

/// The value of an operation. The operands fit it: `Op::infer` has accepted them.
pub fn evaluate(op: &Op, operands: &[&Value], immediates: [Scalar; 2]) -> Value {
    let metas: Vec<Meta> = operands.iter().map(|operand| operand.meta).collect();
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

fn reduce(kind: Reduction, axes: AxisSet, x: &Value, meta: &Meta) -> Vec<u64> {
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

fn scan(kind: Scan, axis: usize, x: &Value) -> Vec<u64> {
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

fn contract(a: &[u8], b: &[u8], out: &[u8], x: &Value, y: &Value, meta: &Meta) -> Vec<u64> {
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
