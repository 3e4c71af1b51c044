//! Plans over the rows of a matrix, as the fuser makes steps of such windows: softmax, layer norm, and what breaks them up.
//!
//! Slots of all of them: rows, columns, 0, strides of the matrix, strides of what every column shares, the stride of one for each row,
//! elements, strides of the transposed matrix, of one element for all. Immediates: 0 and 1, f32.

use std::sync::Arc;

use tensord_plan::{
    Access, Body, Buffer, Immediate, Instr, Map, Params, Plan, Reduce, Slot, Step, Store, TempSpec,
    ValueId,
};
use tensord_shm::dtype::DType;
use tensord_shm::op::{Elementwise, Reduction};

const F32: DType = DType::F32;
pub const X: Buffer = Buffer::Input(0);
pub const Y: Buffer = Buffer::Output(0);

fn access(buffer: Buffer, strides: u32) -> Access {
    Access {
        buffer,
        dtype: F32,
        offset: Slot(2),
        strides: Slot(strides),
        padded: vec![],
        fill: None,
    }
}

/// A plan of one input and one output of `result` elements.
pub fn plan(steps: Vec<Step>, temps: Vec<TempSpec>, result: Slot) -> Plan {
    let operations = steps.len() as u32;
    Plan {
        steps,
        temps,
        inputs: vec![F32],
        outputs: vec![(F32, result)],
        slots: 13,
        immediates: 2,
        operations,
        ..Plan::default()
    }
}

/// What the slots hold.
pub fn values(rows: i64, columns: i64) -> Vec<i64> {
    vec![
        rows,
        columns,
        0,
        columns,
        1,
        1,
        0,
        1,
        rows * columns,
        1,
        rows,
        0,
        0,
    ]
}

pub fn params(plan: &Plan, rows: i64, columns: i64) -> Arc<Params> {
    Arc::new(Params::new(plan, values(rows, columns)).unwrap())
}

pub const MATRIX: u32 = 3;
pub const SHARED: u32 = 5;
pub const COLUMN: u32 = 7;
/// Element (r, c) stands at c * rows + r.
pub const TRANSPOSED: u32 = 9;
/// One element for all.
pub const NOTHING: u32 = 11;
pub const ROWS: Slot = Slot(0);
pub const ALL: Slot = Slot(8);

pub fn body(loads: &[(Buffer, u32)], functions: &[(Elementwise, [u32; 2])]) -> Body {
    let accesses = loads
        .iter()
        .map(|&(buffer, strides)| access(buffer, strides));
    let mut instrs: Vec<Instr> = (0..loads.len()).map(|k| Instr::Load(k as u32)).collect();
    instrs.extend(functions.iter().map(|&(function, [a, b])| Instr::Apply {
        function,
        dtype: F32,
        args: [ValueId(a), ValueId(b), ValueId(a)],
    }));
    Body {
        loads: accesses.collect(),
        instrs,
    }
}

fn last(body: &Body) -> ValueId {
    ValueId(body.instrs.len() as u32 - 1)
}

fn stores(body: &Body, buffer: Buffer, strides: u32) -> Vec<Store> {
    vec![Store {
        value: last(body),
        access: access(buffer, strides),
    }]
}

pub fn map(body: Body, to: Buffer) -> Step {
    Step::Map(Map {
        sizes: Slot(0),
        rank: 2,
        stores: stores(&body, to, MATRIX),
        body,
    })
}

pub fn reduce(
    kind: Reduction,
    body: Body,
    epilogue: &[(Elementwise, [u32; 2])],
    to: Buffer,
) -> Step {
    let immediate = |slot| Instr::Immediate {
        slot: Immediate(slot),
        dtype: F32,
    };
    let mut after = Body {
        loads: vec![],
        instrs: vec![Instr::Reduced { dtype: F32 }],
    };
    if !epilogue.is_empty() {
        after.instrs.extend([immediate(0), immediate(1)]);
    }
    after
        .instrs
        .extend(epilogue.iter().map(|&(function, [a, b])| Instr::Apply {
            function,
            dtype: F32,
            args: [ValueId(a), ValueId(b), ValueId(a)],
        }));
    Step::Reduce(Reduce {
        sizes: Slot(0),
        outer: 1,
        inner: 1,
        value: last(&body),
        body,
        dtype: F32,
        kind,
        stores: stores(&after, to, COLUMN),
        epilogue: after,
    })
}

pub fn temp(count: Slot, first: u32, last: u32) -> TempSpec {
    TempSpec {
        dtype: F32,
        count,
        live: (first, last),
    }
}

pub fn softmax() -> Plan {
    let [high, powers, sum] = [0, 1, 2].map(Buffer::Temp);
    let steps = vec![
        reduce(Reduction::Max, body(&[(X, MATRIX)], &[]), &[], high),
        map(
            body(
                &[(X, MATRIX), (high, SHARED)],
                &[(Elementwise::Sub, [0, 1]), (Elementwise::Exp, [2, 2])],
            ),
            powers,
        ),
        reduce(Reduction::Sum, body(&[(powers, MATRIX)], &[]), &[], sum),
        map(
            body(
                &[(powers, MATRIX), (sum, SHARED)],
                &[(Elementwise::Div, [0, 1])],
            ),
            Y,
        ),
    ];
    plan(
        steps,
        vec![temp(ROWS, 0, 1), temp(ALL, 1, 3), temp(ROWS, 2, 3)],
        ALL,
    )
}

pub fn layer_norm() -> Plan {
    let [mean, scale] = [0, 1].map(Buffer::Temp);
    let centred = (Elementwise::Sub, [0, 1]);
    let steps = vec![
        reduce(
            Reduction::Sum,
            body(&[(X, MATRIX)], &[]),
            &[(Elementwise::Mul, [0, 1])],
            mean,
        ),
        reduce(
            Reduction::Sum,
            body(
                &[(X, MATRIX), (mean, SHARED)],
                &[centred, (Elementwise::Mul, [2, 2])],
            ),
            &[
                (Elementwise::Mul, [0, 1]),
                (Elementwise::Add, [3, 2]),
                (Elementwise::Rsqrt, [4, 4]),
            ],
            scale,
        ),
        map(
            body(
                &[(X, MATRIX), (mean, SHARED), (scale, SHARED)],
                &[centred, (Elementwise::Mul, [3, 2])],
            ),
            Y,
        ),
    ];
    plan(steps, vec![temp(ROWS, 0, 2), temp(ROWS, 1, 2)], ALL)
}
