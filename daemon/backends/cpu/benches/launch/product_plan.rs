//! The plan of a row-major product of f32 matrices, (m, k) times (k, n), as the benchmarks launch it.

use tensord_plan::{
    Access, Body, BoundsError, Buffer, Contract, Instr, Params, Plan, Slot, Step, Store, ValueId,
};
use tensord_shm::dtype::DType;

/// Of both operands and of the result.
pub const DTYPE: DType = DType::F32;

/// The same product so many times. Slots: m, n, k, 0, strides of a (m, k), of b (n, k), of the result (m, n), elements.
pub fn products(count: usize) -> Plan {
    let access = |buffer, strides| Access {
        buffer,
        dtype: DTYPE,
        offset: Slot(3),
        strides: Slot(strides),
        padded: vec![],
        fill: None,
    };
    let load = |buffer, strides| Body {
        loads: vec![access(buffer, strides)],
        instrs: vec![Instr::Load(0)],
    };
    let product = Step::Contract(Box::new(Contract {
        sizes: Slot(0),
        batch: 0,
        m: 1,
        n: 1,
        k: 1,
        dtype: DTYPE,
        a: load(Buffer::Input(0), 4),
        b: load(Buffer::Input(1), 6),
        epilogue: Body {
            loads: vec![],
            instrs: vec![Instr::Reduced { dtype: DTYPE }],
        },
        stores: vec![Store {
            value: ValueId(0),
            access: access(Buffer::Output(0), 8),
        }],
    }));
    Plan {
        steps: vec![product; count],
        inputs: vec![DTYPE; 2],
        outputs: vec![(DTYPE, Slot(10))],
        slots: 11,
        operations: count as u32,
        ..Plan::default()
    }
}

/// Its parameters for matrices of these sizes.
pub fn params(plan: &Plan, [m, k, n]: [usize; 3]) -> Result<Params, BoundsError> {
    let slots = [m, n, k, 0, k, 1, 1, n, n, 1, m * n];
    Params::new(plan, slots.map(|slot| slot as i64).to_vec())
}
