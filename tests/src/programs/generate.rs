//! Draws a program: shapes, dtypes, values and operations, each as likely as it is worth testing.
//!
//! Structure comes from one source of randomness and values from another. An operation that does not fit what is there is
//! not made; the draw goes on.

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::layout::{RANK_MAX, Shape};
use tensord_shm::op::{
    AxisList, AxisSet, Distribution, Elementwise, Labels, Meta, Op, Reduction, Scan, ScatterMode,
};

use super::element::element;
use super::{Arg, Program, Step};
use crate::random::Random;
use crate::reference::{Value, elementwise};

/// Most elements of a tensor of a program.
const COUNT_MAX: u64 = 6_000;
/// Most multiplications of one contraction.
const WORK_MAX: u64 = 60_000;

struct Builder {
    random: Random,
    data: Random,
    steps: Vec<Step>,
    /// What can be used: step and meta.
    live: Vec<(usize, Meta)>,
}

fn shape(sizes: &[u64]) -> Option<Shape> {
    Shape::new(sizes).filter(|shape| shape.count() <= COUNT_MAX)
}

fn list<T: Copy + Default>(items: &[T]) -> AxisList<T> {
    AxisList::new(items).expect("at most twelve axes")
}

impl Builder {
    fn size(&mut self) -> u64 {
        *self
            .random
            .pick(&[1, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 31, 33, 64, 100])
    }

    fn shape(&mut self) -> Shape {
        loop {
            let rank = match self.random.below(40) {
                0..4 => 0,
                4..16 => 1,
                16..28 => 2,
                28..34 => 3,
                34..38 => 4,
                _ => 5 + self.random.below(8),
            };
            let mut sizes: Vec<u64> = (0..rank).map(|_| self.size()).collect();
            if rank > 4 {
                sizes.iter_mut().for_each(|size| *size = (*size).min(2));
            }
            match self.random.below(30) {
                0 if rank > 0 => sizes[0] = 0,
                1..4 if rank > 1 => sizes[rank as usize - 1] = 1,
                4 if rank == 1 => sizes[0] = 1_025 + self.random.below(4_000),
                _ => {}
            }
            if let Some(shape) = shape(&sizes) {
                return shape;
            }
        }
    }

    fn dtype(&mut self) -> DType {
        match self.random.below(10) {
            0..5 => DType::F32,
            5 => DType::F64,
            6 => DType::F16,
            _ => *self.random.pick(&DType::ALL),
        }
    }

    fn input(&mut self, meta: Meta) -> usize {
        let constant = self.random.once_in(6);
        let extreme = self.random.once_in(5);
        let source = if constant {
            &mut self.random
        } else {
            &mut self.data
        };
        let mut own = Random(source.word());
        let bits = (0..meta.shape.count())
            .map(|_| element(&mut own, meta.dtype, extreme))
            .collect();
        let value = Value::new(meta, bits);
        self.push(Step::Input { value, constant }, meta)
    }

    fn push(&mut self, step: Step, meta: Meta) -> usize {
        self.steps.push(step);
        self.live.push((self.steps.len() - 1, meta));
        self.steps.len() - 1
    }

    /// A live tensor, more often a young one.
    fn slot(&mut self) -> (usize, Meta) {
        let count = self.live.len() as u64;
        let back = self.random.below(count).min(self.random.below(count));
        self.live[(count - 1 - back) as usize]
    }

    fn immediate(&mut self, dtype: DType) -> Scalar {
        let extreme = self.data.once_in(12);
        Scalar(element(&mut self.data, dtype, extreme))
    }

    /// A second operand that goes with the first: live, immediate, or made for it.
    fn partner(&mut self, meta: Meta, dtype: DType) -> Arg {
        if self.random.once_in(4) {
            let scalar = self.immediate(dtype);
            return Arg::Immediate(dtype, scalar);
        }
        let fits = |other: &Meta| {
            let both = other.shape.broadcast(&meta.shape);
            other.dtype == dtype && both.is_some_and(|both| both.count() <= COUNT_MAX)
        };
        let fitting: Vec<usize> = self
            .live
            .iter()
            .filter(|(_, other)| fits(other))
            .map(|(step, _)| *step)
            .collect();
        if !fitting.is_empty() && !self.random.once_in(4) {
            return Arg::Slot(*self.random.pick(&fitting));
        }
        // Some axes broadcast, some leading ones are left out.
        let drop = self.random.below(meta.shape.rank() as u64 + 1) as usize;
        let keep_all = self.random.once_in(2);
        let mut sizes = meta.shape[if keep_all { 0 } else { drop }..].to_vec();
        for size in &mut sizes {
            if self.random.once_in(4) {
                *size = 1;
            }
        }
        let shape = Shape::new(&sizes).expect("smaller than the other one");
        Arg::Slot(self.input(Meta { dtype, shape }))
    }

    fn meta_of(&self, arg: &Arg) -> Meta {
        match arg {
            Arg::Slot(step) => {
                let found = self.live.iter().find(|(live, _)| live == step);
                found.expect("only live tensors are operands").1
            }
            Arg::Immediate(dtype, _) => tensord_shm::op::scalar_meta(*dtype),
        }
    }

    /// Adds an operation, unless it does not fit or grows too large.
    fn compute(&mut self, op: Op, args: Vec<Arg>, immediates: [Scalar; 2]) -> Option<usize> {
        let metas: Vec<Meta> = args.iter().map(|arg| self.meta_of(arg)).collect();
        let meta = op.infer(&metas.iter().collect::<Vec<_>>()).ok()?;
        if meta.shape.count() > COUNT_MAX || meta.shape.iter().any(|&size| size > COUNT_MAX) {
            return None;
        }
        let step = Step::Compute {
            op,
            args,
            immediates,
        };
        Some(self.push(step, meta))
    }

    fn elementwise(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let fits: Vec<Elementwise> = Elementwise::ALL
            .iter()
            .copied()
            .filter(|f| f.info().domain.contains(meta.dtype))
            .collect();
        let mut function = *self.random.pick(&fits);
        // What is not exact ends the comparison with the reference: less often.
        while elementwise::tolerance(function, meta.dtype) > 0 && !self.random.once_in(5) {
            function = *self.random.pick(&fits);
        }
        let mut args = vec![Arg::Slot(step)];
        if function == Elementwise::Select {
            // The client takes scalars of one dtype only.
            let mut condition = self.partner(meta, DType::Bool);
            while matches!(condition, Arg::Immediate(..)) {
                condition = self.partner(meta, DType::Bool);
            }
            args.insert(0, condition);
        }
        while args.len() < function.arity() {
            let partner = self.partner(meta, meta.dtype);
            args.push(partner);
        }
        if args.len() == 2 && self.random.once_in(3) {
            args.reverse();
        }
        self.compute(Op::Elementwise(function), args, [Scalar(0); 2])
    }

    fn unary(&mut self, step: usize, op: Op) -> Option<usize> {
        self.compute(op, vec![Arg::Slot(step)], [Scalar(0); 2])
    }

    fn reduction(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let kind = *self.random.pick(&Reduction::ALL);
        let axes = match self.random.below(3) {
            0 => AxisSet::all(meta.shape.rank()),
            1 if meta.shape.rank() > 0 => AxisSet(1 << self.random.below(meta.shape.rank() as u64)),
            _ => AxisSet((self.random.word() & 0xfff) as u16 & AxisSet::all(meta.shape.rank()).0),
        };
        let keep = self.random.once_in(2);
        self.unary(step, Op::Reduce { kind, axes, keep })
    }

    fn axis(&mut self, meta: &Meta) -> Option<u8> {
        match meta.shape.rank() as u64 {
            0 => None,
            rank => Some(self.random.below(rank) as u8),
        }
    }

    /// Labels for a live tensor, then a second operand that has some of them.
    fn contraction(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let rank = meta.shape.rank();
        if rank > 5 || meta.dtype == DType::Bool {
            return None;
        }
        let a: Vec<u8> = (0..rank as u8).collect();
        let mut b = Vec::new();
        let mut sizes = Vec::new();
        for axis in 0..rank {
            if self.random.below(3) > 0 {
                b.push(axis as u8);
                sizes.push(if self.random.once_in(8) {
                    1
                } else {
                    meta.shape[axis]
                });
            }
        }
        for fresh in 0..self.random.below(3) {
            b.push((rank as u64 + fresh) as u8);
            sizes.push(self.size());
        }
        for k in (1..b.len()).rev() {
            let other = self.random.below(k as u64 + 1) as usize;
            b.swap(k, other);
            sizes.swap(k, other);
        }
        let own_shape = Shape::new(&sizes).filter(|s| s.count() <= COUNT_MAX)?;
        let mut out: Vec<u8> = Vec::new();
        let mut work = 1u64;
        for label in a
            .iter()
            .chain(b.iter().filter(|label| **label >= rank as u8))
        {
            let in_b = b.iter().position(|l| l == label).map_or(1, |at| sizes[at]);
            let in_a = meta.shape.get(usize::from(*label)).map_or(1, |&size| size);
            work = work.saturating_mul(in_a.max(in_b).max(1));
            // Shared labels are mostly summed, the others mostly kept.
            let shared = usize::from(*label) < rank && b.contains(label);
            if self.random.once_in(4) == shared {
                out.push(*label);
            }
        }
        if work > WORK_MAX {
            return None;
        }
        if self.random.once_in(3) {
            out.reverse();
        }
        let operand = self.input(Meta {
            dtype: meta.dtype,
            shape: own_shape,
        });
        let labels = |items: &[u8]| Labels::new(items).expect("few labels");
        let (first, second) = (labels(&a), labels(&b));
        let out = labels(&out);
        let args = vec![Arg::Slot(step), Arg::Slot(operand)];
        if self.random.once_in(2) {
            let op = Op::Contract {
                a: first,
                b: second,
                out,
            };
            return self.compute(op, args, [Scalar(0); 2]);
        }
        let op = Op::Contract {
            a: second,
            b: first,
            out,
        };
        self.compute(op, args.into_iter().rev().collect(), [Scalar(0); 2])
    }

    fn reshape(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let count = meta.shape.count();
        if count == 0 {
            return self.unary(step, Op::Reshape(Shape::new(&[3, 0]).expect("small")));
        }
        let mut sizes = Vec::new();
        let mut left = count;
        for factor in [2, 3, 5, 4, 7] {
            if left % factor == 0 && self.random.once_in(2) {
                sizes.push(factor);
                left /= factor;
            }
        }
        if self.random.once_in(3) {
            sizes.push(1);
        }
        sizes.insert(self.random.below(sizes.len() as u64 + 1) as usize, left);
        self.unary(step, Op::Reshape(Shape::new(&sizes)?))
    }

    fn permute(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let mut order: Vec<u8> = (0..meta.shape.rank() as u8).collect();
        for k in (1..order.len()).rev() {
            order.swap(k, self.random.below(k as u64 + 1) as usize);
        }
        self.unary(step, Op::Permute(list(&order)))
    }

    fn slice(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let (mut starts, mut steps, mut lens) = (Vec::new(), Vec::new(), Vec::new());
        for &size in meta.shape.iter() {
            if size == 0 || self.random.once_in(20) {
                starts.push(0);
                steps.push(1);
                lens.push(0);
                continue;
            }
            let stride = 1 + self.random.below(3) as i64;
            let len = 1 + self.random.below((size - 1) / stride as u64 + 1);
            let reach = (len as i64 - 1) * stride;
            let low = self.random.below(size - reach as u64) as i64;
            let backwards = self.random.once_in(3);
            starts.push(if backwards { low + reach } else { low });
            steps.push(if backwards { -stride } else { stride });
            lens.push(len);
        }
        let op = Op::Slice {
            starts: list(&starts),
            steps: list(&steps),
            lens: list(&lens),
        };
        self.unary(step, op)
    }

    fn expand(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let mut sizes = meta.shape.to_vec();
        for size in &mut sizes {
            if *size == 1 && self.random.once_in(2) {
                *size = self.random.below(6);
            }
        }
        if sizes.len() < RANK_MAX && self.random.once_in(2) {
            sizes.insert(0, 1 + self.random.below(4));
        }
        self.unary(step, Op::Expand(shape(&sizes)?))
    }

    fn window(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let rank = meta.shape.rank();
        let mut axes: Vec<u8> = Vec::new();
        for axis in 0..rank.min(4) {
            if self.random.once_in(2) {
                axes.push(axis as u8);
            }
        }
        if axes.is_empty() || rank + axes.len() > RANK_MAX {
            return None;
        }
        let mut some = |bound: u64| -> Vec<u64> {
            let each = axes.iter();
            each.map(|_| 1 + self.random.below(bound)).collect()
        };
        let (sizes, strides, dilations) = (some(4), some(3), some(2));
        let op = Op::Window {
            axes: list(&axes),
            sizes: list(&sizes),
            strides: list(&strides),
            dilations: list(&dilations),
        };
        self.unary(step, op)
    }

    fn pad(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let mut some = || -> Vec<u64> {
            let each = 0..meta.shape.rank();
            each.map(|_| self.random.below(6).saturating_sub(2))
                .collect()
        };
        let op = Op::Pad {
            low: list(&some()),
            high: list(&some()),
        };
        let fill = self.immediate(meta.dtype);
        self.compute(op, vec![Arg::Slot(step)], [fill, Scalar(0)])
    }

    fn concat(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let axis = self.axis(&meta)?;
        let mut args = vec![Arg::Slot(step)];
        for _ in 0..1 + self.random.below(3) {
            let mut sizes = meta.shape.to_vec();
            sizes[usize::from(axis)] = self.random.below(5);
            let shape = Shape::new(&sizes)?;
            if self.random.once_in(3) {
                args.push(Arg::Slot(step));
            } else {
                let own = self.input(Meta {
                    dtype: meta.dtype,
                    shape,
                });
                args.push(Arg::Slot(own));
            }
        }
        self.compute(Op::Concat { axis }, args, [Scalar(0); 2])
    }

    /// Indices into an axis, some of them negative or out of range.
    fn index(&mut self, size: u64) -> (usize, Shape) {
        let rank = self.random.below(3);
        let sizes: Vec<u64> = (0..rank).map(|_| 1 + self.random.below(5)).collect();
        let shape = Shape::new(&sizes).expect("small");
        let bits = (0..shape.count()).map(|_| {
            let spread = self.data.below(2 * size + 4) as i64 - size as i64 - 2;
            spread as u64
        });
        let meta = Meta {
            dtype: DType::I64,
            shape,
        };
        let value = Value::new(meta, bits.collect());
        let constant = false;
        (self.push(Step::Input { value, constant }, meta), shape)
    }

    fn gather(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let axis = self.axis(&meta)?;
        if meta.shape.rank() > 6 {
            return None;
        }
        let (index, _) = self.index(meta.shape[usize::from(axis)]);
        let args = vec![Arg::Slot(step), Arg::Slot(index)];
        self.compute(Op::Gather { axis }, args, [Scalar(0); 2])
    }

    fn scatter(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let axis = self.axis(&meta)?;
        if meta.shape.rank() > 6 {
            return None;
        }
        let at = usize::from(axis);
        let (index, index_shape) = self.index(meta.shape[at]);
        let sizes = [&meta.shape[..at], &index_shape[..], &meta.shape[at + 1..]].concat();
        let updates = self.input(Meta {
            dtype: meta.dtype,
            shape: shape(&sizes)?,
        });
        let mode = *self.random.pick(&[ScatterMode::Replace, ScatterMode::Add]);
        let args = vec![Arg::Slot(step), Arg::Slot(index), Arg::Slot(updates)];
        self.compute(Op::Scatter { axis, mode }, args, [Scalar(0); 2])
    }

    fn scan(&mut self) -> Option<usize> {
        let (step, meta) = self.slot();
        let axis = self.axis(&meta)?;
        let kind = *self.random.pick(&[Scan::Sum, Scan::Prod]);
        self.unary(step, Op::Scan { kind, axis })
    }

    fn creation(&mut self) -> Option<usize> {
        let meta = Meta {
            dtype: self.dtype(),
            shape: self.shape(),
        };
        // Steps of `iota` are finite: 0 times infinity is no number to count from.
        let finite = |data: &mut Random| Scalar(element(data, meta.dtype, false));
        let (start, step) = (finite(&mut self.data), finite(&mut self.data));
        match self.random.below(3) {
            0 => self.compute(Op::Full(meta), Vec::new(), [start, Scalar(0)]),
            1 => {
                let axis = self.axis(&meta)?;
                self.compute(Op::Iota { meta, axis }, Vec::new(), [start, step])
            }
            _ => {
                let distribution = match (meta.dtype.is_float(), self.random.once_in(4)) {
                    (false, _) => Distribution::Bits,
                    (true, false) => Distribution::Uniform,
                    (true, true) => Distribution::Normal,
                };
                let key = Scalar(self.data.word());
                let op = Op::Random { meta, distribution };
                self.compute(op, Vec::new(), [key, Scalar(0)])
            }
        }
    }

    fn cast(&mut self) -> Option<usize> {
        let (step, _) = self.slot();
        let to = self.dtype();
        self.unary(step, Op::Cast(to))
    }

    fn any(&mut self) -> Option<usize> {
        match self.random.below(40) {
            0..18 => self.elementwise(),
            18..21 => self.reduction(),
            21..24 => self.contraction(),
            24 => self.reshape(),
            25 => self.permute(),
            26..28 => self.slice(),
            28 => self.expand(),
            29..31 => self.window(),
            31 => self.pad(),
            32 => self.concat(),
            33 => self.gather(),
            34 => self.scatter(),
            35 => self.scan(),
            36 => self.creation(),
            37 => {
                let (step, _) = self.slot();
                self.unary(step, Op::Copy)
            }
            _ => self.cast(),
        }
    }
}

impl Program {
    /// The program of a seed, on the values of another.
    pub fn random(seed: u64, data: u64) -> Program {
        let mut builder = Builder {
            random: Random(seed ^ 0x7465_6e73_6f72_6400),
            data: Random(data.wrapping_mul(0x9e37_79b9) ^ seed),
            steps: Vec::new(),
            live: Vec::new(),
        };
        let meta = Meta {
            dtype: builder.dtype(),
            shape: builder.shape(),
        };
        builder.input(meta);
        let wanted = 2 + builder.random.below(14);
        let mut made = 0;
        let mut last = 0;
        while made < wanted {
            if let Some(step) = builder.any() {
                made += 1;
                last = step;
            } else if builder.random.once_in(8) {
                made += 1;
            }
            if builder.live.len() > 2 && builder.random.once_in(3) {
                let at = builder.random.below(builder.live.len() as u64) as usize;
                if builder.live[at].0 != last {
                    let (step, _) = builder.live.remove(at);
                    builder.steps.push(Step::Release(step));
                }
            }
        }
        let mut results = vec![last];
        for (step, _) in &builder.live {
            if results.len() < 4 && *step != last && builder.random.once_in(4) {
                results.push(*step);
            }
        }
        Program {
            seed,
            release_first: !builder.random.once_in(4),
            steps: builder.steps,
            results,
        }
    }
}
