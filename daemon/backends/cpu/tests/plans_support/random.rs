//! Random plans with parameters that fit them: every kind of step, access and instruction.

use tensord_plan::{
    Access, Body, Buffer, Contract, Guard, Immediate, Instr, Map, PaddedAxis, Plan, Reduce,
    ScanStep, ScatterStep, Slot, Step, Store, TempSpec, ValueId,
};
use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::{Distribution, Elementwise, Reduction, Scan, ScatterMode};

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An element with its share of zeros, NaNs, infinities and extremes.
    pub fn scalar(&mut self, dtype: DType) -> Scalar {
        if dtype == DType::Bool {
            return Scalar(self.below(2));
        }
        let value = match self.below(12) {
            0 => self.pick(&[0.0, -0.0, 1.0, -1.0, 0.5]),
            1 if dtype.is_float() => self.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e30]),
            1 => return Scalar(self.next()).truncated(dtype),
            _ => (self.next() as i64 as f64) / (1u64 << 62) as f64 * 3.0,
        };
        let scale = if dtype.is_float() { 1.0 } else { 20.0 };
        Scalar::from_f64(value * scale, dtype)
    }
}

const DTYPES: [DType; 9] = [
    DType::F32,
    DType::F32,
    DType::F64,
    DType::F16,
    DType::Bf16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::Bool,
];

pub struct Builder {
    pub rng: Rng,
    pub plan: Plan,
    pub values: Vec<i64>,
    pub immediates: Vec<DType>,
    /// Inputs whose elements are indices below this.
    pub index_inputs: Vec<(u32, u64)>,
}

impl Builder {
    pub fn new(seed: u64) -> Builder {
        Builder {
            rng: Rng(seed),
            plan: Plan {
                operations: 1,
                ..Plan::default()
            },
            values: Vec::new(),
            immediates: Vec::new(),
            index_inputs: Vec::new(),
        }
    }

    fn slots(&mut self, values: &[i64]) -> Slot {
        let first = Slot(self.values.len() as u32);
        self.values.extend(values);
        first
    }

    fn sizes(&mut self, sizes: &[u64]) -> Slot {
        let sizes: Vec<i64> = sizes.iter().map(|&s| s as i64).collect();
        self.slots(&sizes)
    }

    fn immediate(&mut self, dtype: DType) -> Immediate {
        self.immediates.push(dtype);
        Immediate(self.immediates.len() as u32 - 1)
    }

    fn input(&mut self, dtype: DType) -> Buffer {
        self.plan.inputs.push(dtype);
        Buffer::Input(self.plan.inputs.len() as u32 - 1)
    }

    /// A space of `rank` axes with about `target` elements.
    pub fn sizes_of(&mut self, rank: usize, target: u64) -> Vec<u64> {
        self.space(rank, target)
    }

    fn space(&mut self, rank: usize, target: u64) -> Vec<u64> {
        let mut left = self.rng.below(target).max(1);
        let mut sizes: Vec<u64> = (0..rank)
            .map(|axis| {
                let size = if axis + 1 == rank {
                    left
                } else {
                    self.rng.below(left.min(40)) + 1
                };
                left = (left / size).max(1);
                size
            })
            .collect();
        for k in (1..rank).rev() {
            sizes.swap(k, self.rng.below(k as u64 + 1) as usize);
        }
        if self.rng.one_in(40) && rank > 0 {
            sizes[0] = 0;
        }
        sizes
    }

    /// Strides of some layout of a space, and the offset that keeps it above 0. `whole`: each element once.
    fn strides(&mut self, sizes: &[u64], whole: bool) -> (i64, Vec<i64>) {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        if self.rng.one_in(3) {
            for k in (1..order.len()).rev() {
                order.swap(k, self.rng.below(k as u64 + 1) as usize);
            }
        }
        let (mut offset, mut step) = (0, 1);
        let mut strides = vec![0; sizes.len()];
        if !whole && self.rng.one_in(4) {
            offset = self.rng.below(70) as i64;
        }
        for &axis in order.iter().rev() {
            let size = sizes[axis].max(1) as i64;
            if !whole && self.rng.one_in(5) {
                continue;
            }
            if !whole && self.rng.one_in(8) {
                step *= 2;
            }
            strides[axis] = step;
            if self.rng.one_in(8) {
                strides[axis] = -step;
                offset += step * (size - 1);
            }
            step *= size;
        }
        (offset, strides)
    }

    fn guard(&mut self, sizes: &[u64]) -> Guard {
        let mut coefficients = vec![0; sizes.len()];
        if let Some(axis) = sizes.len().checked_sub(1) {
            let axis = self.rng.below(axis as u64 + 1) as usize;
            coefficients[axis] = self.rng.pick(&[1, 1, 2, -1, 3]);
            if self.rng.one_in(3) {
                let other = self.rng.below(sizes.len() as u64) as usize;
                coefficients[other] = self.rng.pick(&[1, -2]);
            }
        }
        let offset = self.rng.below(9) as i64 - 4;
        let extent = self.rng.below(30) as i64;
        Guard {
            offset: self.slots(&[offset]),
            coefficients: self.slots(&coefficients),
            extent: self.slots(&[extent]),
        }
    }

    fn access(&mut self, buffer: Buffer, dtype: DType, sizes: &[u64]) -> Access {
        let (offset, strides) = self.strides(sizes, false);
        let mut padded = Vec::new();
        while padded.len() < 3 && self.rng.one_in(4) {
            let guard = self.guard(sizes);
            let stride = self.rng.pick(&[1, 1, 7, 0]);
            padded.push(PaddedAxis {
                guard,
                stride: self.slots(&[stride]),
            });
        }
        Access {
            buffer,
            dtype,
            offset: self.slots(&[offset]),
            strides: self.slots(&strides),
            fill: (!padded.is_empty()).then(|| self.immediate(dtype)),
            padded,
        }
    }

    /// Row-major, of a temporary that an earlier step wrote.
    fn plain(&mut self, buffer: Buffer, dtype: DType, sizes: &[u64]) -> Access {
        let mut strides = vec![1i64; sizes.len()];
        for k in (1..sizes.len()).rev() {
            strides[k - 1] = strides[k] * sizes[k].max(1) as i64;
        }
        Access {
            buffer,
            dtype,
            offset: self.slots(&[0]),
            strides: self.slots(&strides),
            padded: vec![],
            fill: None,
        }
    }

    fn dtype(&mut self) -> DType {
        self.rng.pick(&DTYPES)
    }

    /// Random code; `first` stands at its beginning, `from` are buffers of the same space to read row-major.
    fn body(
        &mut self,
        sizes: &[u64],
        first: Option<DType>,
        from: &[(Buffer, DType)],
    ) -> (Body, Vec<DType>) {
        let mut body = Body::default();
        let mut dtypes = Vec::new();
        if let Some(dtype) = first {
            body.instrs.push(Instr::Reduced { dtype });
            dtypes.push(dtype);
        }
        for &(buffer, dtype) in from {
            let access = self.plain(buffer, dtype, sizes);
            body.loads.push(access);
            body.instrs.push(Instr::Load(body.loads.len() as u32 - 1));
            dtypes.push(dtype);
        }
        if first.is_none() || self.rng.one_in(2) {
            for _ in 0..=self.rng.below(3) {
                let dtype = self.dtype();
                let buffer = self.input(dtype);
                let access = self.access(buffer, dtype, sizes);
                body.loads.push(access);
                body.instrs.push(Instr::Load(body.loads.len() as u32 - 1));
                dtypes.push(dtype);
            }
        }
        for _ in 0..self.rng.below(12) {
            self.instr(sizes, &mut body, &mut dtypes);
        }
        (body, dtypes)
    }

    fn value(
        &mut self,
        dtypes: &[DType],
        dtype: DType,
        body: &mut Body,
        made: &mut Vec<DType>,
    ) -> ValueId {
        let have: Vec<u32> = (0..dtypes.len() as u32)
            .filter(|&k| dtypes[k as usize] == dtype)
            .collect();
        if !have.is_empty() && !self.rng.one_in(5) {
            // Chains matter most: prefer the newest.
            let newest = *have.last().unwrap();
            return ValueId(if self.rng.one_in(2) {
                newest
            } else {
                self.rng.pick(&have)
            });
        }
        let slot = self.immediate(dtype);
        body.instrs.push(Instr::Immediate { slot, dtype });
        made.push(dtype);
        ValueId(body.instrs.len() as u32 - 1)
    }

    fn instr(&mut self, sizes: &[u64], body: &mut Body, dtypes: &mut Vec<DType>) {
        let newest = dtypes.len() as u32 - 1;
        let arg = ValueId(if self.rng.one_in(2) {
            newest
        } else {
            self.rng.below(dtypes.len() as u64) as u32
        });
        let dtype = dtypes[arg.0 as usize];
        let (instr, result) = match self.rng.below(14) {
            0 => {
                let to = self.dtype();
                (
                    Instr::Cast {
                        from: dtype,
                        to,
                        arg,
                    },
                    to,
                )
            }
            1 => {
                let guards = (0..=self.rng.below(2)).map(|_| self.guard(sizes)).collect();
                (
                    Instr::Mask {
                        dtype,
                        arg,
                        guards,
                        fill: self.immediate(dtype),
                    },
                    dtype,
                )
            }
            2 if !sizes.is_empty() => {
                let to =
                    self.rng
                        .pick(&[DType::F32, DType::I64, DType::F16, DType::U8, DType::F64]);
                let axis = self.rng.below(sizes.len() as u64) as u8;
                let (start, step) = (self.immediate(to), self.immediate(to));
                (
                    Instr::Iota {
                        axis,
                        dtype: to,
                        start,
                        step,
                    },
                    to,
                )
            }
            3 => {
                let (to, distribution) = self.rng.pick(&[
                    (DType::F32, Distribution::Normal),
                    (DType::F64, Distribution::Uniform),
                    (DType::Bf16, Distribution::Uniform),
                    (DType::I64, Distribution::Bits),
                    (DType::U8, Distribution::Bits),
                ]);
                let (offset, strides) = self.strides(sizes, false);
                let instr = Instr::Random {
                    dtype: to,
                    distribution,
                    key: self.immediate(DType::U64),
                    offset: self.slots(&[offset]),
                    strides: self.slots(&strides),
                };
                (instr, to)
            }
            4 => return self.gather(sizes, body, dtypes),
            _ => {
                // Of a NaN's sign nothing is promised, and these show it.
                let unfit = [
                    Elementwise::Select,
                    Elementwise::CopySign,
                    Elementwise::Signbit,
                ];
                let functions: Vec<Elementwise> = Elementwise::ALL
                    .iter()
                    .copied()
                    .filter(|f| f.info().domain.contains(dtype) && !unfit.contains(f))
                    .collect();
                let simple = [
                    Elementwise::Add,
                    Elementwise::Mul,
                    Elementwise::Sub,
                    Elementwise::Maximum,
                    Elementwise::Fma,
                    Elementwise::Neg,
                ];
                let function = match self.rng.one_in(2) {
                    true => self.rng.pick(&simple),
                    false => self.rng.pick(&functions),
                };
                let function = match functions.contains(&function) {
                    true => function,
                    false => self.rng.pick(&functions),
                };
                let mut args = [arg; 3];
                let known = dtypes.clone();
                for other in args.iter_mut().take(function.arity()).skip(1) {
                    *other = self.value(&known, dtype, body, dtypes);
                }
                if function.arity() == 2 && self.rng.one_in(3) {
                    args.swap(0, 1);
                    args[2] = args[0];
                }
                (
                    Instr::Apply {
                        function,
                        dtype,
                        args,
                    },
                    function.result(dtype),
                )
            }
        };
        body.instrs.push(instr);
        dtypes.push(result);
    }

    fn gather(&mut self, sizes: &[u64], body: &mut Body, dtypes: &mut Vec<DType>) {
        let extent = self.rng.below(20);
        let index = self.input(DType::I64);
        let Buffer::Input(number) = index else {
            unreachable!()
        };
        self.index_inputs.push((number, extent));
        let access = self.access(index, DType::I64, sizes);
        body.loads.push(access);
        body.instrs.push(Instr::Load(body.loads.len() as u32 - 1));
        dtypes.push(DType::I64);
        let dtype = self.dtype();
        let buffer = self.input(dtype);
        let access = self.access(buffer, dtype, sizes);
        body.loads.push(access);
        let stride = self.rng.below(5) as i64;
        body.instrs.push(Instr::Gather {
            load: body.loads.len() as u32 - 1,
            index: ValueId(body.instrs.len() as u32 - 1),
            extent: self.slots(&[extent as i64]),
            stride: self.slots(&[stride]),
        });
        dtypes.push(dtype);
    }

    /// Some values of a body, the last one among them, as outputs.
    fn stores(&mut self, sizes: &[u64], dtypes: &[DType]) -> Vec<Store> {
        let last = dtypes.len() as u32 - 1;
        let mut values = vec![last];
        while self.rng.one_in(3) {
            values.push(self.rng.below(dtypes.len() as u64) as u32);
        }
        values
            .into_iter()
            .map(|value| {
                let dtype = dtypes[value as usize];
                let (offset, strides) = self.strides(sizes, true);
                let count: u64 = sizes.iter().product();
                let count = self.slots(&[count as i64]);
                self.plan.outputs.push((dtype, count));
                Store {
                    value: ValueId(value),
                    access: Access {
                        buffer: Buffer::Output(self.plan.outputs.len() as u32 - 1),
                        dtype,
                        offset: self.slots(&[offset]),
                        strides: self.slots(&strides),
                        padded: vec![],
                        fill: None,
                    },
                }
            })
            .collect()
    }

    fn temp(&mut self, dtype: DType, sizes: &[u64], live: (u32, u32)) -> Buffer {
        let count: u64 = sizes.iter().product();
        let count = self.slots(&[count as i64]);
        self.plan.temps.push(TempSpec { dtype, count, live });
        Buffer::Temp(self.plan.temps.len() as u32 - 1)
    }

    pub fn map(&mut self, sizes: &[u64], from: &[(Buffer, DType)]) {
        let (body, dtypes) = self.body(sizes, None, from);
        let stores = self.stores(sizes, &dtypes);
        let first = self.sizes(sizes);
        let rank = sizes.len() as u8;
        self.plan.steps.push(Step::Map(Map {
            sizes: first,
            rank,
            body,
            stores,
        }));
    }

    pub fn reduce(&mut self, sizes: &[u64], outer: usize, from: &[(Buffer, DType)]) {
        let (body, dtypes) = self.body(sizes, None, from);
        let value = dtypes.len() as u32 - 1;
        let dtype = dtypes[value as usize];
        let kinds: Vec<Reduction> = Reduction::ALL
            .iter()
            .copied()
            .filter(|k| k.result(dtype).is_some())
            .collect();
        let kind = self.rng.pick(&kinds);
        let (epilogue, made) = self.body(&sizes[..outer], kind.result(dtype), &[]);
        let stores = self.stores(&sizes[..outer], &made);
        let first = self.sizes(sizes);
        self.plan.steps.push(Step::Reduce(Reduce {
            sizes: first,
            outer: outer as u8,
            inner: (sizes.len() - outer) as u8,
            body,
            value: ValueId(value),
            dtype,
            kind,
            epilogue,
            stores,
        }));
    }

    fn operand(&mut self, sizes: &[u64], dtype: DType) -> Body {
        let buffer = self.input(dtype);
        let access = self.access(buffer, dtype, sizes);
        let mut body = Body {
            loads: vec![access],
            instrs: vec![Instr::Load(0)],
        };
        if self.rng.one_in(2) {
            let slot = self.immediate(dtype);
            body.instrs.push(Instr::Immediate { slot, dtype });
            let args = [ValueId(0), ValueId(1), ValueId(0)];
            body.instrs.push(Instr::Apply {
                function: Elementwise::Mul,
                dtype,
                args,
            });
        }
        body
    }

    pub fn contract(&mut self) {
        let ranks: [usize; 4] = std::array::from_fn(|_| self.rng.below(3) as usize);
        let [batch, m, n, k] = ranks.map(|rank| {
            let target = self.rng.pick(&[4, 9, 30]);
            self.space(rank, target)
        });
        let dtype = self.rng.pick(&[
            DType::F32,
            DType::F32,
            DType::F64,
            DType::F16,
            DType::I32,
            DType::I8,
        ]);
        let a = self.operand(&[&batch[..], &m, &k].concat(), dtype);
        let b = self.operand(&[&batch[..], &n, &k].concat(), dtype);
        let out = [&batch[..], &m, &n].concat();
        let to = if dtype == DType::I8 {
            DType::I32
        } else {
            dtype
        };
        let (epilogue, made) = match self.rng.one_in(3) {
            true => (
                Body {
                    loads: vec![],
                    instrs: vec![Instr::Reduced { dtype: to }],
                },
                vec![to],
            ),
            false => self.body(&out, Some(to), &[]),
        };
        let stores = self.stores(&out, &made);
        let first = self.sizes(&[batch, m, n, k].concat());
        let [batch, m, n, k] = ranks.map(|rank| rank as u8);
        self.plan.steps.push(Step::Contract(Box::new(Contract {
            sizes: first,
            batch,
            m,
            n,
            k,
            dtype,
            a,
            b,
            epilogue,
            stores,
        })));
    }

    pub fn scan(&mut self, sizes: &[u64]) {
        let dtype = self.rng.pick(&DTYPES[..8]);
        let buffer = self.input(dtype);
        let from = self.access(buffer, dtype, sizes);
        let to = self.stores(sizes, &[dtype]).remove(0).access;
        // `stores` may have made more outputs than this one; only it is written.
        let first = self.sizes(sizes);
        let kind = self.rng.pick(&[Scan::Sum, Scan::Prod]);
        self.plan.steps.push(Step::Scan(ScanStep {
            sizes: first,
            rank: sizes.len() as u8,
            kind,
            from,
            to,
        }));
    }

    pub fn scatter(&mut self) {
        let (before, middle, behind) = (self.space(1, 4), self.space(1, 12), self.space(2, 30));
        let extent = self.rng.below(8) + 1;
        let dtype = self.dtype();
        let all = [&before[..], &[extent], &behind].concat();
        let count: u64 = all.iter().product();
        // Fill the result first, then scatter.
        let count = self.slots(&[count as i64]);
        self.plan.outputs.push((dtype, count));
        let buffer = Buffer::Output(self.plan.outputs.len() as u32 - 1);
        let source = self.input(dtype);
        let load = self.access(source, dtype, &all);
        let access = self.plain(buffer, dtype, &all);
        let sizes = self.sizes(&all);
        self.plan.steps.push(Step::Map(Map {
            sizes,
            rank: all.len() as u8,
            body: Body {
                loads: vec![load],
                instrs: vec![Instr::Load(0)],
            },
            stores: vec![Store {
                value: ValueId(0),
                access,
            }],
        }));
        let index = self.input(DType::I64);
        let Buffer::Input(number) = index else {
            unreachable!()
        };
        self.index_inputs.push((number, extent));
        let index = self.access(index, DType::I64, &middle);
        let updates = self.input(dtype);
        let space = [&before[..], &middle, &behind].concat();
        let updates = self.access(updates, dtype, &space);
        let inner: u64 = behind.iter().map(|&s| s.max(1)).product();
        let to = {
            let (b0, b1) = (behind[0].max(1) as i64, behind[1].max(1) as i64);
            let _ = b0;
            Access {
                buffer,
                dtype,
                offset: self.slots(&[0]),
                strides: self.slots(&[(extent * inner) as i64, b1, 1]),
                padded: vec![],
                fill: None,
            }
        };
        let step = ScatterStep {
            sizes: self.sizes(&space),
            before: 1,
            index_rank: 1,
            behind: 2,
            mode: self.rng.pick(&[ScatterMode::Replace, ScatterMode::Add]),
            to,
            extent: self.slots(&[extent as i64]),
            stride: self.slots(&[inner as i64]),
            index,
            updates,
        };
        self.plan.steps.push(Step::Scatter(step));
    }

    /// A map into a temporary, then something that reads it.
    pub fn chained(&mut self, sizes: &[u64], outer: usize) {
        let step = self.plan.steps.len() as u32;
        let (body, dtypes) = self.body(sizes, None, &[]);
        let value = dtypes.len() as u32 - 1;
        let dtype = dtypes[value as usize];
        let temp = self.temp(dtype, sizes, (step, step + 1));
        let access = self.plain(temp, dtype, sizes);
        let first = self.sizes(sizes);
        let rank = sizes.len() as u8;
        let stores = vec![Store {
            value: ValueId(value),
            access,
        }];
        self.plan.steps.push(Step::Map(Map {
            sizes: first,
            rank,
            body,
            stores,
        }));
        match self.rng.one_in(2) {
            true => self.map(sizes, &[(temp, dtype)]),
            false => self.reduce(sizes, outer, &[(temp, dtype)]),
        }
    }

    pub fn any(&mut self) {
        let rank = self.rng.below(5) as usize;
        let target = self.rng.pick(&[20, 200, 3000]);
        let sizes = self.space(rank, target);
        let outer = self.rng.below(rank as u64 + 1) as usize;
        match self.rng.below(8) {
            0..=1 => self.map(&sizes, &[]),
            2..=3 => self.reduce(&sizes, outer, &[]),
            4 => self.contract(),
            5 if rank > 0 => self.scan(&sizes),
            6 => self.scatter(),
            _ => self.chained(&sizes, outer),
        }
    }

    pub fn finish(mut self) -> (Plan, Vec<i64>, Builder) {
        self.plan.slots = self.values.len() as u32;
        self.plan.immediates = self.immediates.len() as u32;
        (self.plan.clone(), self.values.clone(), self)
    }
}
