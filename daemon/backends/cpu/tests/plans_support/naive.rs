//! A naive interpreter of plans: one element at a time, straight from the definitions of the steps.
//!
//! It shares nothing with the tile machine but the functions of single elements (which have tests of their own): a value is
//! the 64 bits of one element as a tile would hold it.

use half::{bf16, f16};
use tensord_cpu::math;
use tensord_cpu::{Isa, math::LANES};
use tensord_plan::{
    Access, Body, Buffer, Contract, Guard, Instr, Map, Params, Plan, Reduce, ScanStep, ScatterStep,
    Slot, Step, Store,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Elementwise, Reduction, Scan, ScatterMode};

/// Memory of one instance.
pub struct Memory {
    pub inputs: Vec<Vec<u8>>,
    pub outputs: Vec<Vec<u8>>,
    pub temps: Vec<Vec<u8>>,
    pub immediates: Vec<Scalar>,
}

#[repr(align(64))]
struct Tile([u8; LANES * 8]);

fn tile(bits: u64, dtype: DType) -> Tile {
    let mut tile = Tile([0; LANES * 8]);
    let size = math::tile_size(dtype);
    for lane in tile.0.chunks_mut(size).take(LANES) {
        lane.copy_from_slice(&bits.to_le_bytes()[..size]);
    }
    tile
}

fn lane(tile: &Tile, dtype: DType) -> u64 {
    let mut bits = [0; 8];
    let size = math::tile_size(dtype);
    bits[..size].copy_from_slice(&tile.0[..size]);
    u64::from_le_bytes(bits)
}

fn run(kernel: math::Kernel, args: [(u64, DType); 3], to: DType) -> u64 {
    let [a, b, c] = args.map(|(bits, dtype)| tile(bits, dtype));
    let mut out = Tile([0; LANES * 8]);
    // SAFETY: each tile holds `LANES` elements of up to eight bytes; the portable level is always there.
    unsafe {
        kernel.run(
            out.0.as_mut_ptr(),
            a.0.as_ptr(),
            b.0.as_ptr(),
            c.0.as_ptr(),
            LANES,
        )
    };
    lane(&out, to)
}

pub fn apply(function: Elementwise, dtype: DType, args: [(u64, DType); 3]) -> u64 {
    let kernel = math::elementwise(Isa::Portable, function, dtype).unwrap();
    run(kernel, args, function.result(dtype))
}

fn widen(bits: u64, dtype: DType) -> u64 {
    match dtype {
        DType::F16 => f16::from_bits(bits as u16).to_f32().to_bits().into(),
        DType::Bf16 => bf16::from_bits(bits as u16).to_f32().to_bits().into(),
        _ => bits,
    }
}

fn narrow(bits: u64, dtype: DType) -> u64 {
    match dtype {
        DType::F16 => f16::from_f32(f32::from_bits(bits as u32)).to_bits().into(),
        DType::Bf16 => bf16::from_f32(f32::from_bits(bits as u32)).to_bits().into(),
        _ => bits,
    }
}

fn dot(first: i64, strides: &[i64], index: &[u64]) -> i64 {
    strides
        .iter()
        .zip(index)
        .fold(first, |sum, (s, &i)| sum + s * i as i64)
}

fn indices(sizes: &[u64]) -> Vec<Vec<u64>> {
    let mut all = vec![vec![]];
    for &size in sizes {
        all = all
            .into_iter()
            .flat_map(|head: Vec<u64>| (0..size).map(move |i| [&head[..], &[i]].concat()))
            .collect();
    }
    all
}

pub struct Naive<'a> {
    pub plan: &'a Plan,
    pub params: &'a Params,
    pub memory: Memory,
}

impl Naive<'_> {
    pub fn run(&mut self) {
        for step in &self.plan.steps {
            match step {
                Step::Map(map) => self.map(map),
                Step::Reduce(reduce) => self.reduce(reduce),
                Step::Contract(contract) => self.contract(contract),
                Step::Scan(scan) => self.scan(scan),
                Step::Scatter(scatter) => self.scatter(scatter),
            }
        }
    }

    fn sizes(&self, slot: Slot, rank: usize) -> Vec<u64> {
        self.params
            .run(slot, rank)
            .iter()
            .map(|&s| s as u64)
            .collect()
    }

    fn buffer(&mut self, buffer: Buffer) -> &mut Vec<u8> {
        match buffer {
            Buffer::Input(k) => &mut self.memory.inputs[k as usize],
            Buffer::Output(k) => &mut self.memory.outputs[k as usize],
            Buffer::Temp(k) => &mut self.memory.temps[k as usize],
        }
    }

    fn get(&mut self, access: &Access, element: i64) -> u64 {
        let size = access.dtype.size();
        let at = element as usize * size;
        let mut bits = [0; 8];
        bits[..size].copy_from_slice(&self.buffer(access.buffer)[at..at + size]);
        widen(u64::from_le_bytes(bits), access.dtype)
    }

    fn put(&mut self, access: &Access, element: i64, bits: u64) {
        let size = access.dtype.size();
        let at = element as usize * size;
        let bits = narrow(bits, access.dtype).to_le_bytes();
        self.buffer(access.buffer)[at..at + size].copy_from_slice(&bits[..size]);
    }

    fn holds(&self, guard: &Guard, index: &[u64]) -> Option<i64> {
        let coefficients = self.params.run(guard.coefficients, index.len());
        let at = dot(self.params.get(guard.offset), coefficients, index);
        (0..self.params.get(guard.extent))
            .contains(&at)
            .then_some(at)
    }

    /// Element of an access; `None` outside its guards.
    fn place(&self, access: &Access, index: &[u64]) -> Option<i64> {
        let strides = self.params.run(access.strides, index.len());
        let mut at = dot(self.params.get(access.offset), strides, index);
        for axis in &access.padded {
            at += self.holds(&axis.guard, index)? * self.params.get(axis.stride);
        }
        Some(at)
    }

    fn immediate(&self, k: u32, dtype: DType) -> u64 {
        widen(self.memory.immediates[k as usize].0, dtype)
    }

    fn load(&mut self, access: &Access, index: &[u64]) -> u64 {
        match self.place(access, index) {
            Some(at) => self.get(access, at),
            None => self.immediate(access.fill.unwrap().0, access.dtype),
        }
    }

    fn body(&mut self, body: &Body, index: &[u64], reduced: u64) -> Vec<(u64, DType)> {
        let mut values: Vec<(u64, DType)> = Vec::new();
        for instr in &body.instrs {
            let value = match instr {
                Instr::Load(k) => {
                    let access = &body.loads[*k as usize];
                    (self.load(access, index), access.dtype)
                }
                Instr::Immediate { slot, dtype } => (self.immediate(slot.0, *dtype), *dtype),
                Instr::Iota {
                    axis,
                    dtype,
                    start,
                    step,
                } => {
                    let at = [index[usize::from(*axis)] as i64; LANES];
                    let [start, step] = [start, step].map(|k| self.memory.immediates[k.0 as usize]);
                    let mut out = Tile([0; LANES * 8]);
                    // SAFETY: both hold `LANES` elements.
                    unsafe {
                        math::iota(*dtype).unwrap()(
                            out.0.as_mut_ptr(),
                            at.as_ptr(),
                            start,
                            step,
                            LANES,
                        );
                    }
                    (lane(&out, *dtype), *dtype)
                }
                Instr::Random {
                    dtype,
                    distribution,
                    key,
                    offset,
                    strides,
                } => {
                    let strides = self.params.run(*strides, index.len());
                    let at = [dot(self.params.get(*offset), strides, index); LANES];
                    let key = self.memory.immediates[key.0 as usize].0;
                    let draw = math::random(Isa::Portable, *distribution, *dtype).unwrap();
                    let mut out = Tile([0; LANES * 8]);
                    // SAFETY: both hold `LANES` elements.
                    unsafe { draw(out.0.as_mut_ptr(), at.as_ptr(), key, LANES) };
                    (lane(&out, *dtype), *dtype)
                }
                Instr::Apply {
                    function,
                    dtype,
                    args,
                } => {
                    let args = args.map(|arg| values[arg.0 as usize]);
                    (apply(*function, *dtype, args), function.result(*dtype))
                }
                Instr::Cast { from, to, arg } => {
                    let kernel = math::cast(Isa::Portable, *from, *to);
                    (run(kernel, [values[arg.0 as usize]; 3], *to), *to)
                }
                Instr::Mask {
                    dtype,
                    arg,
                    guards,
                    fill,
                } => {
                    match guards
                        .iter()
                        .all(|guard| self.holds(guard, index).is_some())
                    {
                        true => values[arg.0 as usize],
                        false => (self.immediate(fill.0, *dtype), *dtype),
                    }
                }
                Instr::Gather {
                    load,
                    index: value,
                    extent,
                    stride,
                } => {
                    let access = &body.loads[*load as usize];
                    let extent = self.params.get(*extent);
                    let mut at = values[value.0 as usize].0 as i64;
                    if at < 0 {
                        at = at.wrapping_add(extent);
                    }
                    let bits = match self.place(access, index) {
                        None => self.immediate(access.fill.unwrap().0, access.dtype),
                        Some(_) if !(0..extent).contains(&at) => 0,
                        Some(base) => self.get(access, base + at * self.params.get(*stride)),
                    };
                    (bits, access.dtype)
                }
                Instr::Reduced { dtype } => (reduced, *dtype),
            };
            values.push(value);
        }
        values
    }

    fn store(&mut self, stores: &[Store], index: &[u64], values: &[(u64, DType)]) {
        for store in stores {
            let at = self.place(&store.access, index).unwrap();
            self.put(&store.access, at, values[store.value.0 as usize].0);
        }
    }

    fn map(&mut self, map: &Map) {
        for index in indices(&self.sizes(map.sizes, map.rank.into())) {
            let values = self.body(&map.body, &index, 0);
            self.store(&map.stores, &index, &values);
        }
    }

    fn reduce(&mut self, reduce: &Reduce) {
        let (outer, inner) = (usize::from(reduce.outer), usize::from(reduce.inner));
        let sizes = self.sizes(reduce.sizes, outer + inner);
        for at in indices(&sizes[..outer]) {
            let elements: Vec<u64> = indices(&sizes[outer..])
                .iter()
                .map(|rest| {
                    let index = [&at[..], &rest[..]].concat();
                    self.body(&reduce.body, &index, 0)[reduce.value.0 as usize].0
                })
                .collect();
            let result = reduced(reduce.kind, reduce.dtype, &elements);
            let values = self.body(&reduce.epilogue, &at, result);
            self.store(&reduce.stores, &at, &values);
        }
    }

    fn contract(&mut self, step: &Contract) {
        let ranks = [step.batch, step.m, step.n, step.k].map(usize::from);
        let all = self.sizes(step.sizes, ranks.iter().sum());
        let (batch, rest) = all.split_at(ranks[0]);
        let (m, rest) = rest.split_at(ranks[1]);
        let (n, k) = rest.split_at(ranks[2]);
        let to = match step.dtype {
            DType::I8 => DType::I32,
            other => other,
        };
        for index in indices(&[batch, m, n].concat()) {
            let (b, mn) = index.split_at(batch.len());
            let (row, column) = mn.split_at(m.len());
            let mut total = None;
            let ks = indices(k);
            for block in ks.chunks(256) {
                let mut sum = 0u64;
                for k in block {
                    let x = self
                        .body(&step.a, &[b, row, k].concat(), 0)
                        .last()
                        .unwrap()
                        .0;
                    let y = self
                        .body(&step.b, &[b, column, k].concat(), 0)
                        .last()
                        .unwrap()
                        .0;
                    sum = fused(step.dtype, x, y, sum);
                }
                total = Some(match total {
                    None => sum,
                    Some(before) => plus(step.dtype, before, sum),
                });
            }
            let total = round(to, total.unwrap_or(0));
            let values = self.body(&step.epilogue, &index, total);
            self.store(&step.stores, &index, &values);
        }
    }

    fn scan(&mut self, scan: &ScanStep) {
        let sizes = self.sizes(scan.sizes, scan.rank.into());
        let dtype = scan.from.dtype;
        let mut carry = 0;
        for index in indices(&sizes) {
            let x = self.load(&scan.from, &index);
            carry = match index.last() {
                Some(&at) if at > 0 => match scan.kind {
                    Scan::Sum => plus(dtype, carry, x),
                    Scan::Prod => times(dtype, carry, x),
                },
                _ => x,
            };
            let at = self.place(&scan.to, &index).unwrap();
            self.put(&scan.to, at, round(dtype, carry));
        }
    }

    fn scatter(&mut self, step: &ScatterStep) {
        let ranks = [step.before, step.index_rank, step.behind].map(usize::from);
        let sizes = self.sizes(step.sizes, ranks.iter().sum());
        let extent = self.params.get(step.extent);
        for at in indices(&sizes) {
            let (before, rest) = at.split_at(ranks[0]);
            let (middle, behind) = rest.split_at(ranks[1]);
            let mut index = self.load(&step.index, middle) as i64;
            if index < 0 {
                index = index.wrapping_add(extent);
            }
            if !(0..extent).contains(&index) {
                continue;
            }
            let update = self.load(&step.updates, &at);
            let base = self.place(&step.to, &[before, behind].concat()).unwrap();
            let element = base + index * self.params.get(step.stride);
            let bits = match step.mode {
                ScatterMode::Replace => update,
                ScatterMode::Add if step.to.dtype == DType::Bool => {
                    self.get(&step.to, element) | update
                }
                ScatterMode::Add => {
                    let sum = plus(step.to.dtype, self.get(&step.to, element), update);
                    round(step.to.dtype, sum)
                }
            };
            self.put(&step.to, element, bits);
        }
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn mask(dtype: DType, bits: u64) -> u64 {
    Scalar(bits)
        .truncated(match dtype {
            DType::Bool => DType::U8,
            other => other,
        })
        .0
}

fn plus(dtype: DType, a: u64, b: u64) -> u64 {
    match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => (f(a) + f(b)).to_bits().into(),
        DType::F64 => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        DType::I8 => mask(DType::I32, a.wrapping_add(b)),
        _ => mask(dtype, a.wrapping_add(b)),
    }
}

fn times(dtype: DType, a: u64, b: u64) -> u64 {
    match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => (f(a) * f(b)).to_bits().into(),
        DType::F64 => (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        _ => mask(dtype, a.wrapping_mul(b)),
    }
}

fn fused(dtype: DType, a: u64, b: u64, c: u64) -> u64 {
    match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => f(a).mul_add(f(b), f(c)).to_bits().into(),
        DType::F64 => f64::from_bits(a)
            .mul_add(f64::from_bits(b), f64::from_bits(c))
            .to_bits(),
        DType::I8 => {
            let product = i32::from(a as u8 as i8) * i32::from(b as u8 as i8);
            u64::from((c as i32).wrapping_add(product) as u32)
        }
        _ => mask(dtype, a.wrapping_mul(b).wrapping_add(c)),
    }
}

fn round(dtype: DType, bits: u64) -> u64 {
    match dtype {
        DType::F16 => f16::from_f32(f(bits)).to_f32().to_bits().into(),
        DType::Bf16 => bf16::from_f32(f(bits)).to_f32().to_bits().into(),
        DType::I32 => mask(DType::I32, bits),
        _ => mask(dtype, bits),
    }
}

fn join(kind: Reduction, dtype: DType, a: u64, b: u64) -> u64 {
    let minmax = |function| apply(function, dtype, [(a, dtype), (b, dtype), (a, dtype)]);
    match kind {
        Reduction::Sum => match dtype {
            DType::I8 => mask(DType::I8, a.wrapping_add(b)),
            _ => plus(dtype, a, b),
        },
        Reduction::Prod => times(dtype, a, b),
        Reduction::Min => minmax(Elementwise::Minimum),
        Reduction::Max => minmax(Elementwise::Maximum),
        _ => unreachable!("not a fold of values"),
    }
}

fn reduced(kind: Reduction, dtype: DType, elements: &[u64]) -> u64 {
    let truth = |bits: u64| match dtype {
        DType::F16 | DType::Bf16 | DType::F32 => f(bits) != 0.0,
        DType::F64 => f64::from_bits(bits) != 0.0,
        _ => bits != 0,
    };
    match kind {
        Reduction::Any => return elements.iter().any(|&x| truth(x)).into(),
        Reduction::All => return elements.iter().all(|&x| truth(x)).into(),
        Reduction::ArgMin | Reduction::ArgMax => return best(kind, dtype, elements),
        _ => {}
    }
    if elements.is_empty() {
        return empty(kind, dtype);
    }
    let mut blocks: Vec<u64> = elements
        .chunks(1024)
        .map(|block| {
            let mut lanes: Vec<Option<u64>> = vec![None; 16];
            for (p, &x) in block.iter().enumerate() {
                let lane = &mut lanes[p % 16];
                *lane = Some(lane.map_or(x, |a| join(kind, dtype, a, x)));
            }
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    lanes[l] = match (lanes[l], lanes[l + half]) {
                        (Some(a), Some(b)) => Some(join(kind, dtype, a, b)),
                        (a, b) => a.or(b),
                    };
                }
            }
            lanes[0].unwrap()
        })
        .collect();
    while blocks.len() > 1 {
        blocks = blocks
            .chunks(2)
            .map(|pair| match pair {
                [a, b] => join(kind, dtype, *a, *b),
                _ => pair[0],
            })
            .collect();
    }
    match kind {
        Reduction::Sum | Reduction::Prod => round(dtype, blocks[0]),
        _ => blocks[0],
    }
}

fn empty(kind: Reduction, dtype: DType) -> u64 {
    let scalar = match (kind, dtype.is_float()) {
        (Reduction::Sum, _) => Scalar::from_i64(0, dtype),
        (Reduction::Prod, _) => Scalar::from_i64(1, dtype),
        (Reduction::Min, true) => Scalar::from_f64(f64::INFINITY, dtype),
        (_, true) => Scalar::from_f64(f64::NEG_INFINITY, dtype),
        (Reduction::Min, false) => Scalar::from_f64(f64::INFINITY, dtype),
        (_, false) => Scalar::from_f64(f64::NEG_INFINITY, dtype),
    };
    widen(scalar.0, dtype)
}

fn best(kind: Reduction, dtype: DType, elements: &[u64]) -> u64 {
    let compare = if kind == Reduction::ArgMin {
        Elementwise::Lt
    } else {
        Elementwise::Gt
    };
    let mut found = 0;
    let nan = |x| apply(Elementwise::IsNan, dtype, [(x, dtype); 3]) != 0;
    for (k, &x) in elements.iter().enumerate() {
        let have = elements[found];
        let beats = apply(compare, dtype, [(x, dtype), (have, dtype), (x, dtype)]) != 0;
        if !nan(have) && (beats || nan(x)) {
            found = k;
        }
    }
    found as u64
}
