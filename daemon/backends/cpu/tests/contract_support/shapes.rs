//! Random shapes and layouts, and the plans that address them.

use std::sync::{Arc, OnceLock};

use tensord_plan::{
    Access, Body, Buffer, Contract, Guard, Immediate, Instr, PaddedAxis, Params, Plan, Slot, Step,
    Store, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};

use super::{Launch, Memory, Tensors};

/// A small generator (SplitMix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: usize) -> Random {
        Random(seed as u64 ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..=high`.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        low + (self.bits() % (high - low + 1) as u64) as i64
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }
}

/// The result's dtype.
pub fn result_dtype(dtype: DType) -> DType {
    match dtype {
        DType::I8 => DType::I32,
        other => other,
    }
}

/// A contraction to be checked.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: usize,
    pub dtype: DType,
    /// Sizes of the axes of batch, m, n, k.
    pub groups: [Vec<usize>; 4],
    /// Random strides, windows and padding, instead of row-major operands in some order of axes.
    pub wild: bool,
    /// So many instances, and so many different `b` among them, instead of a few that depend on the seed.
    pub instances: Option<(usize, usize)>,
}

impl Case {
    pub fn plain(
        seed: usize,
        dtype: DType,
        batch: &[usize],
        m: &[usize],
        n: &[usize],
        k: &[usize],
    ) -> Case {
        Case {
            seed,
            dtype,
            groups: [batch, m, n, k].map(<[usize]>::to_vec),
            wild: false,
            instances: None,
        }
    }

    pub fn random(seed: usize, dtype: DType) -> Case {
        let mut random = Random::new(seed);
        let limits = match random.within(0, 9) {
            0 => [1, 3, 40, 600],
            1 => [1, 40, 3, 300],
            2 => [40, 4, 4, 8],
            3 => [3, 30, 70, 20],
            4 => [2, 1, 130, 40],
            5 => [2, 130, 1, 40],
            _ => [3, 12, 24, 40],
        };
        let mut groups = limits.map(|limit| random_sizes(&mut random, limit));
        while groups.iter().flatten().product::<usize>() > 12_000 {
            let group = random.within(0, 3) as usize;
            if let Some(size) = groups[group].iter_mut().max() {
                *size = size.div_ceil(2);
            }
        }
        Case {
            seed,
            dtype,
            groups,
            wild: true,
            instances: None,
        }
    }
}

fn random_sizes(random: &mut Random, limit: usize) -> Vec<usize> {
    let axes = random.within(0, 3);
    let mut left = limit;
    (0..axes)
        .map(|_| {
            let size = random.within(1, left.max(1) as i64) as usize;
            left /= size;
            size
        })
        .collect()
}

/// Padding around an axis of the source.
#[derive(Clone, Debug)]
pub struct Pad {
    offset: i64,
    coefficients: Vec<i64>,
    extent: i64,
    stride: i64,
}

/// How three groups of axes lie in memory.
#[derive(Clone, Debug)]
pub struct Layout {
    sizes: [Vec<usize>; 3],
    strides: Vec<i64>,
    offset: i64,
    pads: Vec<Pad>,
}

fn indices(sizes: &[usize], mut position: usize) -> Vec<i64> {
    let mut index = vec![0; sizes.len()];
    for (axis, &size) in sizes.iter().enumerate().rev() {
        index[axis] = (position % size) as i64;
        position /= size;
    }
    index
}

fn dot(a: &[i64], b: &[i64]) -> i64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Layout {
    /// Row-major over some order of the axes; with `wild` also gaps, reversed axes, and, for operands, broadcast, overlap
    /// and padding.
    fn random(random: &mut Random, sizes: [&[usize]; 3], wild: bool, operand: bool) -> Layout {
        let all = sizes.concat();
        let mut order: Vec<usize> = (0..all.len()).collect();
        for k in (1..order.len()).rev() {
            order.swap(k, random.within(0, k as i64) as usize);
        }
        if random.chance(40) {
            order = (0..all.len()).rev().collect();
        }
        let mut strides = vec![0i64; all.len()];
        let mut running = 1i64;
        for &axis in &order {
            let size = all[axis] as i64;
            let kind = if wild { random.within(0, 19) } else { 19 };
            strides[axis] = match kind {
                0 | 1 if operand => 0,
                2 | 3 if operand => random.within(1, 3),
                _ => running * if kind == 4 { 2 } else { 1 },
            };
            running = running.max(strides[axis] * size.max(1));
            if wild && random.chance(12) {
                strides[axis] = -strides[axis];
            }
        }
        let mut pads = Vec::new();
        while wild && operand && pads.len() < 2 && random.chance(20) {
            let coefficients = all
                .iter()
                .map(|_| [0, 0, 1, 1, -1, 2][random.within(0, 5) as usize])
                .collect();
            pads.push(Pad {
                offset: random.within(-4, 4),
                coefficients,
                extent: random.within(1, 12),
                stride: random.within(-3, 5),
            });
        }
        let low: i64 = strides
            .iter()
            .zip(&all)
            .map(|(&stride, &size)| (stride * (size as i64 - 1)).min(0))
            .sum::<i64>()
            + pads
                .iter()
                .map(|pad| (pad.stride * (pad.extent - 1)).min(0))
                .sum::<i64>();
        Layout {
            sizes: sizes.map(<[usize]>::to_vec),
            strides,
            offset: -low + if wild { random.within(0, 3) } else { 0 },
            pads,
        }
    }

    /// The dense values, row-major over the three groups.
    pub fn dense(&self, dims: [usize; 3], bytes: &[u8], dtype: DType, fill: Scalar) -> Vec<u64> {
        let all = self.sizes.concat();
        let count = dims.iter().product();
        (0..count)
            .map(|position| {
                let index = indices(&all, position);
                let mut at = self.offset + dot(&index, &self.strides);
                for pad in &self.pads {
                    let coordinate = pad.offset + dot(&index, &pad.coefficients);
                    if !(0..pad.extent).contains(&coordinate) {
                        return fill.0;
                    }
                    at += coordinate * pad.stride;
                }
                read_bits(bytes, at as usize, dtype)
            })
            .collect()
    }

    /// Elements of memory that it needs, at least.
    fn count(&self) -> i64 {
        let all = self.sizes.concat();
        let high: i64 = self
            .strides
            .iter()
            .zip(&all)
            .map(|(&stride, &size)| (stride * (size as i64 - 1)).max(0))
            .sum();
        self.offset + high + 1
    }

    /// With the axes of group 1 at one position.
    fn at_row(&self, row: usize) -> Layout {
        let before = self.sizes[0].len();
        let index = indices(&self.sizes[1], row);
        let range = before..before + index.len();
        let mut layout = self.clone();
        layout.sizes[1] = vec![1; index.len()];
        layout.offset += dot(&index, &self.strides[range.clone()]);
        for pad in &mut layout.pads {
            pad.offset += dot(&index, &pad.coefficients[range.clone()]);
        }
        layout
    }
}

pub fn read_bits(bytes: &[u8], element: usize, dtype: DType) -> u64 {
    let size = dtype.size();
    let mut bits = [0; 8];
    bits[..size].copy_from_slice(&bytes[element * size..][..size]);
    u64::from_le_bytes(bits)
}

fn write_bits(bytes: &mut [u8], element: usize, dtype: DType, bits: u64) {
    let size = dtype.size();
    bytes[element * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
}

fn random_value(random: &mut Random, dtype: DType, special: bool) -> Scalar {
    if special && random.chance(2) {
        let value =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-40][random.within(0, 4) as usize];
        return Scalar::from_f64(value, dtype);
    }
    if !dtype.is_float() {
        return Scalar(random.bits()).truncated(dtype);
    }
    let fraction = random.within(-(1 << 24), 1 << 24) as f64 / f64::from(1 << 24);
    Scalar::from_f64(fraction * 2f64.powi(random.within(-3, 3) as i32), dtype)
}

/// Which parts the caller computes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Computed {
    pub a: bool,
    pub b: bool,
    pub out: bool,
}

impl Computed {
    pub fn random(seed: usize) -> Computed {
        let which = seed % 7 + 1;
        Computed {
            a: which & 1 > 0,
            b: which & 2 > 0,
            out: which & 4 > 0,
        }
    }
}

/// Slots being filled.
#[derive(Default)]
struct Slots(Vec<i64>);

impl Slots {
    fn run(&mut self, values: impl IntoIterator<Item = i64>) -> Slot {
        let slot = Slot(self.0.len() as u32);
        self.0.extend(values);
        slot
    }

    fn access(&mut self, layout: &Layout, buffer: Buffer, dtype: DType, fill: Immediate) -> Access {
        let padded: Vec<PaddedAxis> = layout
            .pads
            .iter()
            .map(|pad| PaddedAxis {
                guard: Guard {
                    offset: self.run([pad.offset]),
                    coefficients: self.run(pad.coefficients.iter().copied()),
                    extent: self.run([pad.extent]),
                },
                stride: self.run([pad.stride]),
            })
            .collect();
        Access {
            buffer,
            dtype,
            offset: self.run([layout.offset]),
            strides: self.run(layout.strides.iter().copied()),
            fill: (!padded.is_empty()).then_some(fill),
            padded,
        }
    }
}

fn body(access: Access, computed: bool) -> Body {
    let dtype = access.dtype;
    let mut instrs = vec![Instr::Load(0)];
    if computed {
        instrs.push(Instr::Cast {
            from: dtype,
            to: dtype,
            arg: ValueId(0),
        });
    }
    Body {
        loads: vec![access],
        instrs,
    }
}

fn plan(
    groups: &[Vec<usize>; 4],
    dtype: DType,
    [a, b, out]: [&Layout; 3],
    computed: Computed,
) -> (Plan, Params) {
    let mut slots = Slots::default();
    let sizes = slots.run(groups.iter().flatten().map(|&size| size as i64));
    let result = result_dtype(dtype);
    let a_access = slots.access(a, Buffer::Input(0), dtype, Immediate(0));
    let b_access = slots.access(b, Buffer::Input(1), dtype, Immediate(1));
    let store = slots.access(out, Buffer::Output(0), result, Immediate(0));
    let count = slots.run([out.count()]);
    let mut epilogue = Body {
        loads: Vec::new(),
        instrs: vec![Instr::Reduced { dtype: result }],
    };
    if computed.out {
        epilogue.instrs.push(Instr::Cast {
            from: result,
            to: result,
            arg: ValueId(0),
        });
    }
    let contract = Contract {
        sizes,
        batch: groups[0].len() as u8,
        m: groups[1].len() as u8,
        n: groups[2].len() as u8,
        k: groups[3].len() as u8,
        dtype,
        a: body(a_access, computed.a),
        b: body(b_access, computed.b),
        stores: vec![Store {
            value: ValueId(epilogue.instrs.len() as u32 - 1),
            access: store,
        }],
        epilogue,
    };
    let plan = Plan {
        steps: vec![Step::Contract(Box::new(contract))],
        inputs: vec![dtype; 2],
        outputs: vec![(result, count)],
        slots: slots.0.len() as u32,
        immediates: 2,
        operations: 1,
        ..Plan::default()
    };
    let params = Params::new(&plan, slots.0).expect("the layouts stay inside their memory");
    (plan, params)
}

fn products(groups: &[Vec<usize>; 4]) -> [usize; 4] {
    groups.each_ref().map(|sizes| sizes.iter().product())
}

/// The launch of a case: one to four instances, which share b, a, or nothing.
pub fn build(case: &Case, computed: Computed) -> Launch {
    let mut random = Random::new(case.seed.wrapping_mul(31));
    let [batch, m, n, k] = &case.groups;
    let a = Layout::random(&mut random, [batch, m, k], case.wild, true);
    let b = Layout::random(&mut random, [batch, n, k], case.wild, true);
    let out = Layout::random(&mut random, [batch, m, n], case.wild, false);
    let special = random.chance(20);
    let first_fills = [0, 1].map(|_| random_value(&mut random, case.dtype, special));
    let (plan, params) = plan(&case.groups, case.dtype, [&a, &b, &out], computed);
    let sizes = products(&case.groups);
    let count = match case.instances {
        Some((count, _)) => count,
        None if case.wild => 1 + case.seed % 4,
        None => 1,
    };
    let mut memory = |input: usize| {
        let mut memory = Memory::new(params.input_bytes()[input] as usize);
        let elements = memory.bytes().len() / case.dtype.size();
        for element in 0..elements {
            let value = random_value(&mut random, case.dtype, special);
            write_bits(memory.bytes_mut(), element, case.dtype, value.0);
        }
        Arc::new(memory)
    };
    let mut instances: Vec<Tensors> = Vec::new();
    for _ in 0..count {
        let (a_memory, b_memory) = match (case.seed / 4 % 3, instances.first()) {
            _ if case.instances.is_some_and(|(_, b)| instances.len() >= b) => {
                let b = case.instances.map_or(1, |(_, b)| b);
                (memory(0), instances[instances.len() % b].b_memory.clone())
            }
            (0, Some(first)) => (memory(0), first.b_memory.clone()),
            (1, Some(first)) => (first.a_memory.clone(), memory(1)),
            _ => (memory(0), memory(1)),
        };
        let [batch, m, n, k] = sizes;
        let mut fills = first_fills;
        fills[0] = Scalar::from_i64(instances.len() as i64, case.dtype);
        if case.seed.is_multiple_of(5) {
            fills[1] = Scalar::from_i64(instances.len() as i64 % 2, case.dtype);
        }
        instances.push(Tensors {
            a: a.dense([batch, m, k], a_memory.bytes(), case.dtype, fills[0]),
            b: b.dense([batch, n, k], b_memory.bytes(), case.dtype, fills[1]),
            a_memory,
            b_memory,
            fills,
        });
    }
    Launch {
        sizes,
        dtype: case.dtype,
        plan: Arc::new(plan),
        params: Arc::new(params),
        form: OnceLock::new(),
        out,
        computed,
        constant: [random.chance(20), random.chance(40)],
        instances,
    }
}

/// The same values in other layouts without padding, the axes in another order.
pub fn laid_out_anew(case: &Case, launch: &Launch) -> Launch {
    let mut random = Random::new(case.seed.wrapping_mul(77) + 5);
    let [batch, m, n, k] = &case.groups;
    let a = Layout::random(&mut random, [batch, m, k], false, true);
    let b = Layout::random(&mut random, [batch, n, k], false, true);
    let out = Layout::random(&mut random, [batch, m, n], false, false);
    let (plan, params) = plan(&case.groups, case.dtype, [&a, &b, &out], launch.computed);
    let lay = |layout: &Layout, dense: &[u64], input: usize| {
        let mut memory = Memory::new(params.input_bytes()[input] as usize);
        let all = layout.sizes.concat();
        for (position, &bits) in dense.iter().enumerate() {
            let at = layout.offset + dot(&indices(&all, position), &layout.strides);
            write_bits(memory.bytes_mut(), at as usize, case.dtype, bits);
        }
        Arc::new(memory)
    };
    let instances = launch
        .instances
        .iter()
        .map(|t| Tensors {
            a: t.a.clone(),
            b: t.b.clone(),
            a_memory: lay(&a, &t.a, 0),
            b_memory: lay(&b, &t.b, 1),
            fills: t.fills,
        })
        .collect();
    Launch {
        plan: Arc::new(plan),
        params: Arc::new(params),
        out,
        ..launch.like(instances)
    }
}

/// One row of the case by itself, m made 1, and which.
pub fn one_row(case: &Case, launch: &Launch) -> Option<(usize, Launch)> {
    let [batch, m, n, k] = &case.groups;
    let rows: usize = m.iter().product();
    if rows == 0 {
        return None;
    }
    let mut random = Random::new(case.seed.wrapping_mul(31));
    let a = Layout::random(&mut random, [batch, m, k], case.wild, true);
    let b = Layout::random(&mut random, [batch, n, k], case.wild, true);
    let row = case.seed % rows;
    let mut groups = case.groups.clone();
    groups[1] = vec![1; m.len()];
    let out = Layout::random(&mut random, [batch, &groups[1], n], false, false);
    let (plan, params) = plan(
        &groups,
        case.dtype,
        [&a.at_row(row), &b, &out],
        launch.computed,
    );
    let [batch, m, _, k] = launch.sizes;
    let instances = launch
        .instances
        .iter()
        .map(|t| Tensors {
            a: (0..batch)
                .flat_map(|p| t.a[(p * m + row) * k..][..k].iter().copied())
                .collect(),
            b: t.b.clone(),
            a_memory: t.a_memory.clone(),
            b_memory: t.b_memory.clone(),
            fills: t.fills,
        })
        .collect();
    let mut alone = launch.like(instances);
    alone.sizes[1] = 1;
    alone.plan = Arc::new(plan);
    alone.params = Arc::new(params);
    alone.out = out;
    Some((row, alone))
}
