//! The vector functions of `math` as the tile machine asks for them, and the generators over a stretch of a space.
//!
//! In a tile f16 and bf16 are f32 values rounded to the dtype; every other dtype is itself.

use tensord_shm::dtype::{DType, Scalar};
use tensord_shm::op::Elementwise;

use super::rows::{self, Cursor, Form};
use crate::isa::Isa;
use crate::math::{self, convert};

pub use crate::math::tile_size as lane_size;
pub use crate::math::{IotaFn, Kernel, LANES, RandomFn};

/// Positions that generators take at a time.
const CHUNK: usize = 256;

/// Is it one of the 16-bit floats?
pub const fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16)
}

/// Bits of a scalar as an element of a tile.
pub fn lane_scalar(dtype: DType, scalar: Scalar) -> u64 {
    match dtype {
        DType::F16 => u64::from(convert::f16_to_f32(scalar.0 as u16).to_bits()),
        DType::Bf16 => u64::from(convert::bf16_to_f32(scalar.0 as u16).to_bits()),
        _ => scalar.0,
    }
}

/// The function on operands of a dtype, which the fuser took from an accepted operation.
pub fn apply(isa: Isa, function: Elementwise, dtype: DType) -> Kernel {
    math::elementwise(isa, function, dtype)
        .expect("inference refuses functions of dtypes outside their domain")
}

/// Calls `make` with the positions that `form` gives for `n` elements from the cursor on, some at a time; the
/// length it is given is padded to whole lanes, the first argument is the number of elements before.
pub fn each_position(
    cursor: Cursor<'_>,
    form: &Form,
    n: usize,
    mut make: impl FnMut(usize, &[i64]),
) {
    let mut positions = Positions([0; CHUNK]);
    for from in (0..n).step_by(CHUNK) {
        let len = (n - from).min(CHUNK);
        rows::positions(cursor.ahead(from as u64), form, &mut positions.0[..len]);
        make(from, &positions.0[..len.next_multiple_of(LANES)]);
    }
}

#[repr(align(64))]
struct Positions([i64; CHUNK]);
