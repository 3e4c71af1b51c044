//! Random contractions, the reference that they are held against, and the ways to run one.

mod reference;
mod shapes;

use std::sync::{Arc, OnceLock};

use tensord_cpu::Isa;
use tensord_cpu::contract::{
    Binding, Bodies, Contraction, Fill, Finish, Form, LanesMut, Packs, Scratch, Side,
};
use tensord_plan::{BufferId, Contract, Instance, Operand, Params, Plan, Step};
use tensord_shm::dtype::{DType, Scalar};

pub use reference::reference;
pub use shapes::{Case, Layout};
use shapes::{Computed, build};

/// Every instruction set of this processor.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Memory at a 64-byte boundary.
pub struct Memory {
    lines: Vec<Line>,
    len: usize,
}

impl Memory {
    pub fn new(len: usize) -> Memory {
        let lines = vec![Line([0x7ff4_dead_7fa4_beef; 8]); len.div_ceil(64) + 1];
        assert_eq!(size_of_val(&lines[0].0), 64);
        Memory { lines, len }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines are initialised and longer than `len`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// An instance's tensors, dense and as they lie in memory.
pub struct Tensors {
    /// Dense, row-major over batch, m, k, in the bits of the dtype.
    pub a: Vec<u64>,
    pub b: Vec<u64>,
    pub a_memory: Arc<Memory>,
    pub b_memory: Arc<Memory>,
    /// What stands in the padding of a and of b.
    pub fills: [Scalar; 2],
}

/// One launch of a contraction.
pub struct Launch {
    pub sizes: [usize; 4],
    pub dtype: DType,
    pub plan: Arc<Plan>,
    pub params: Arc<Params>,
    /// Made by the first run, and kept as a plan's binding keeps it.
    pub form: OnceLock<Form>,
    pub out: Layout,
    pub computed: Computed,
    pub constant: [bool; 2],
    pub instances: Vec<Tensors>,
}

/// What may be varied without changing results.
#[derive(Clone, Copy)]
pub struct How {
    pub isa: Isa,
    /// Run units in this many interleaved sets, each with a scratch of its own, last set first.
    pub division: usize,
}

impl Launch {
    pub fn contract(&self) -> &Contract {
        match &self.plan.steps[0] {
            Step::Contract(contract) => contract,
            other => panic!("{other:?}"),
        }
    }

    /// Runs it; results dense over batch, m, n for each instance.
    pub fn run(&self, how: How, packs: &mut Packs) -> Vec<Vec<u64>> {
        let out_bytes = self.params.output_bytes()[0] as usize;
        let mut outs: Vec<Memory> = self
            .instances
            .iter()
            .map(|_| Memory::new(out_bytes))
            .collect();
        let mut ids: Vec<*const Memory> = Vec::new();
        let mut id = |memory: &Arc<Memory>| {
            let at = Arc::as_ptr(memory);
            let found = ids.iter().position(|&have| have == at);
            BufferId(found.unwrap_or_else(|| {
                ids.push(at);
                ids.len() - 1
            }) as u32)
        };
        let instances: Vec<Instance> = self
            .instances
            .iter()
            .map(|tensors| {
                let operand = |buffer, constant| Operand {
                    buffer,
                    offset: 0,
                    constant,
                };
                Instance {
                    params: self.params.clone(),
                    immediates: tensors.fills.to_vec(),
                    inputs: vec![
                        operand(id(&tensors.a_memory), self.constant[0]),
                        operand(id(&tensors.b_memory), self.constant[1]),
                    ],
                    outputs: vec![operand(BufferId(1000), false)],
                }
            })
            .collect();
        let bindings: Vec<Binding<'_>> = instances
            .iter()
            .zip(&self.instances)
            .zip(&mut outs)
            .map(|((instance, tensors), out)| Binding {
                instance,
                form: self
                    .form
                    .get_or_init(|| Form::new(self.contract(), &self.params)),
                a: tensors.a_memory.bytes().as_ptr(),
                b: tensors.b_memory.bytes().as_ptr(),
                out: out.bytes_mut().as_mut_ptr(),
            })
            .collect();
        let mut bodies = Oracle::new(self);
        // SAFETY: every address starts memory of the size that the checked parameters ask for; constants are forgotten
        // by the callers that set them; the instruction set is available.
        let contraction = unsafe { Contraction::new(self.contract(), &bindings, how.isa, packs) };
        for part in (0..how.division).rev() {
            let mut scratch = Scratch::new();
            for unit in (part..contraction.units()).step_by(how.division) {
                // SAFETY: each unit is in one part, and nothing else touches the results.
                unsafe { contraction.run_unit(unit, &mut scratch, &mut bodies) };
            }
        }
        if self.computed.out {
            bodies.results()
        } else {
            let dtype = shapes::result_dtype(self.dtype);
            let dims = [self.sizes[0], self.sizes[1], self.sizes[2]];
            outs.iter()
                .map(|out| self.out.dense(dims, out.bytes(), dtype, Scalar(0)))
                .collect()
        }
    }
}

/// Computes operands and takes results as a tile machine would: from dense values.
struct Oracle<'a> {
    launch: &'a Launch,
    results: Vec<Vec<Option<u64>>>,
}

impl<'a> Oracle<'a> {
    fn new(launch: &'a Launch) -> Oracle<'a> {
        let [batch, m, n, _] = launch.sizes;
        Oracle {
            launch,
            results: vec![vec![None; batch * m * n]; launch.instances.len()],
        }
    }

    fn results(self) -> Vec<Vec<u64>> {
        let each = |result: Option<u64>| result.expect("every element is finished");
        let rows = self.results.into_iter();
        rows.map(|values| values.into_iter().map(each).collect())
            .collect()
    }
}

macro_rules! each_integer {
    ($lanes:expr, $values:ident, $t:ident => $integer:expr, $f32:expr, $f64:expr) => {
        match $lanes {
            LanesMut::I8($values) => {
                type $t = i8;
                $integer
            }
            LanesMut::I16($values) => {
                type $t = i16;
                $integer
            }
            LanesMut::I32($values) => {
                type $t = i32;
                $integer
            }
            LanesMut::I64($values) => {
                type $t = i64;
                $integer
            }
            LanesMut::U8($values) => {
                type $t = u8;
                $integer
            }
            LanesMut::U16($values) => {
                type $t = u16;
                $integer
            }
            LanesMut::U32($values) => {
                type $t = u32;
                $integer
            }
            LanesMut::U64($values) => {
                type $t = u64;
                $integer
            }
            LanesMut::F32($values) => $f32,
            LanesMut::F64($values) => $f64,
        }
    };
}

impl Bodies for Oracle<'_> {
    fn fill(&mut self, what: &Fill, mut out: LanesMut<'_>) {
        let launch = self.launch;
        let tensors = &launch.instances[what.instance];
        let (dense, computed) = match what.side {
            Side::A => (&tensors.a, launch.computed.a),
            Side::B => (&tensors.b, launch.computed.b),
        };
        assert!(computed);
        let k_count = launch.sizes[3];
        let at = what
            .rows
            .clone()
            .flat_map(|row| what.k.clone().map(move |k| (row, k)));
        for (row, k) in at {
            let bits = dense[row * k_count + k];
            let to = (row - what.rows.start) * what.stride + k - what.k.start;
            each_integer!(&mut out, values, T => values[to] = bits as T,
                values[to] = reference::to_f32(bits, launch.dtype),
                values[to] = f64::from_bits(bits));
        }
    }

    fn finish(&mut self, what: &Finish, block: LanesMut<'_>) {
        let launch = self.launch;
        assert!(launch.computed.out);
        let n_count = launch.sizes[2];
        for row in what.rows.clone() {
            for column in what.columns.clone() {
                let from = (row - what.rows.start) * what.stride + column - what.columns.start;
                let bits = each_integer!(&block, values, T => {
                        let mut bytes = [0; 8];
                        bytes[..size_of::<T>()].copy_from_slice(&values[from].to_le_bytes());
                        u64::from_le_bytes(bytes)
                    },
                    reference::from_f32(values[from], launch.dtype),
                    values[from].to_bits());
                let place = &mut self.results[what.instance][row * n_count + column];
                assert!(place.replace(bits).is_none(), "{what:?} finished twice");
            }
        }
    }
}

/// Compares; any NaN equals any NaN.
pub fn same_bits(have: u64, want: u64, dtype: DType) -> bool {
    let nan = |bits: u64| match dtype {
        DType::F16 => half::f16::from_bits(bits as u16).is_nan(),
        DType::Bf16 => half::bf16::from_bits(bits as u16).is_nan(),
        DType::F32 => f32::from_bits(bits as u32).is_nan(),
        DType::F64 => f64::from_bits(bits).is_nan(),
        _ => false,
    };
    have == want || nan(have) && nan(want)
}

fn compare(what: &str, case: &Case, have: &[u64], want: &[u64]) {
    let dtype = shapes::result_dtype(case.dtype);
    assert_eq!(have.len(), want.len(), "{what} of {case:?}");
    for (at, (&have, &want)) in have.iter().zip(want).enumerate() {
        assert!(
            same_bits(have, want, dtype),
            "{what} of {case:?}: element {at} is {have:#x} instead of {want:#x}"
        );
    }
}

/// Runs a case in every way and compares.
pub fn check_case(case: &Case) {
    let launch = build(case, Computed::default());
    let sizes = launch.sizes;
    let wants: Vec<Vec<u64>> = launch
        .instances
        .iter()
        .map(|t| reference(&t.a, &t.b, sizes, case.dtype))
        .collect();
    let best = Isa::detect();
    for (index, isa) in isas().into_iter().enumerate() {
        let division = 1 + (case.seed + index) % 4;
        check(case, &launch, How { isa, division }, &wants, "whole");
    }
    let how = How {
        isa: best,
        division: 1,
    };
    for which in 0..launch.instances.len() {
        let alone = launch.only(which);
        check(case, &alone, how, &wants[which..=which], "one instance");
    }
    let computed = Computed::random(case.seed);
    let bodies = build(case, computed);
    check(case, &bodies, how, &wants, "computed");
    check(
        case,
        &launch.laid_out_anew(case),
        how,
        &wants,
        "laid out anew",
    );
    if let Some((row, alone)) = shapes::one_row(case, &launch) {
        let [batch, m, n, _] = sizes;
        let rows: Vec<Vec<u64>> = wants
            .iter()
            .map(|want| {
                (0..batch)
                    .flat_map(|b| want[(b * m + row) * n..][..n].iter().copied())
                    .collect()
            })
            .collect();
        check(case, &alone, how, &rows, "one row");
    }
}

fn check(case: &Case, launch: &Launch, how: How, wants: &[Vec<u64>], what: &str) {
    let mut packs = Packs::new(1 << 24);
    let have = launch.run(how, &mut packs);
    assert_eq!(have.len(), wants.len());
    for (have, want) in have.iter().zip(wants) {
        compare(&format!("{what}, {}", how.isa), case, have, want);
    }
}

impl Launch {
    fn like(&self, instances: Vec<Tensors>) -> Launch {
        Launch {
            sizes: self.sizes,
            dtype: self.dtype,
            plan: self.plan.clone(),
            params: self.params.clone(),
            form: OnceLock::new(),
            out: self.out.clone(),
            computed: self.computed,
            constant: self.constant,
            instances,
        }
    }

    fn only(&self, which: usize) -> Launch {
        let t = &self.instances[which];
        self.like(vec![Tensors {
            a: t.a.clone(),
            b: t.b.clone(),
            a_memory: t.a_memory.clone(),
            b_memory: t.b_memory.clone(),
            fills: t.fills,
        }])
    }

    fn laid_out_anew(&self, case: &Case) -> Launch {
        shapes::laid_out_anew(case, self)
    }
}

/// A launch that is run again and again with the same packs.
pub struct Runner {
    case: Case,
    launch: Launch,
    packs: Packs,
}

impl Runner {
    pub fn new(case: &Case) -> Runner {
        Runner {
            case: case.clone(),
            launch: build(case, Computed::default()),
            packs: Packs::new(1 << 24),
        }
    }

    pub fn constant_b(&mut self) {
        self.launch.constant = [false, true];
    }

    pub fn packed_bytes(&self) -> u64 {
        self.packs.bytes()
    }

    /// Buffers are numbered in order: a is 0, b is 1.
    pub fn forget_b(&mut self) {
        self.packs.forget(BufferId(1));
    }

    /// The values of b in reverse, in a buffer with the number of the one before.
    pub fn reverse_b(&mut self) {
        let size = self.case.dtype.size();
        for t in &mut self.launch.instances {
            t.b.reverse();
            let mut memory = Memory::new(t.b_memory.bytes().len());
            let elements = t.b_memory.bytes().rchunks_exact(size);
            for (to, from) in memory.bytes_mut().chunks_exact_mut(size).zip(elements) {
                to.copy_from_slice(from);
            }
            t.b_memory = Arc::new(memory);
        }
    }

    pub fn check(&mut self) {
        let how = How {
            isa: Isa::detect(),
            division: 1,
        };
        let have = self.launch.run(how, &mut self.packs);
        for (have, t) in have.iter().zip(&self.launch.instances) {
            let want = reference(&t.a, &t.b, self.launch.sizes, self.case.dtype);
            compare("packed", &self.case, have, &want);
        }
    }
}

/// Constants of several sizes under a budget that holds few of them.
pub fn packs_within_budget() {
    let bytes_max = 3 * 64 * 64 * 4;
    let mut packs = Packs::new(bytes_max);
    for size in [64, 48, 64, 32, 16, 64, 200] {
        let case = Case::plain(size, DType::F32, &[], &[4], &[size], &[64]);
        let mut launch = build(&case, Computed::default());
        launch.constant = [false, true];
        let how = How {
            isa: Isa::detect(),
            division: 1,
        };
        for _ in 0..2 {
            // Packs of other layouts of one buffer stand side by side; contents are those of the last launch.
            packs.forget(BufferId(0));
            let have = launch.run(how, &mut packs);
            let t = &launch.instances[0];
            let want = reference(&t.a, &t.b, launch.sizes, case.dtype);
            compare("budget", &case, &have[0], &want);
            assert!(packs.bytes() <= bytes_max);
        }
        packs.forget(BufferId(1));
        assert_eq!(packs.bytes(), 0);
    }
}
