//! Values worth testing: short and long significands, and of each dtype what it holds at its ends.

use tensord_shm::dtype::{DType, Kind};

use crate::random::Random;
use crate::reference::number;

/// An element of a dtype. `extreme`: one in a few is a special value.
pub(super) fn element(random: &mut Random, dtype: DType, extreme: bool) -> u64 {
    let special = extreme && random.once_in(5);
    match dtype.kind() {
        Kind::Bool => random.below(2),
        Kind::Float if special => {
            let largest = [f64::MAX, 3.4e38, 65_504.0, 1e30];
            let least = [5e-324, 1e-45, 6e-8, 1e-39];
            let value = match random.below(8) {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => f64::NEG_INFINITY,
                3 => -0.0,
                4 => *random.pick(&largest),
                5 => -*random.pick(&largest),
                6 => *random.pick(&least),
                _ => (random.word() as i64) as f64,
            };
            number::from_double(value, dtype)
        }
        Kind::Float => {
            let value = (random.below(2_049) as f64 - 1_024.0) / 64.0;
            // Some have long significands, so that roundings show.
            let value = if random.once_in(2) {
                value / 3.0
            } else {
                value
            };
            number::from_double(value, dtype)
        }
        _ if special => match random.below(4) {
            0 => number::cast(f64::INFINITY.to_bits(), DType::F64, dtype),
            1 => number::cast(f64::NEG_INFINITY.to_bits(), DType::F64, dtype),
            _ => number::wrapped(random.word().into(), dtype),
        },
        _ => number::wrapped(i128::from(random.below(21)) - 10, dtype),
    }
}
