//! Runs tile functions over vectors of any length, and measures errors in units of the last place.
#![allow(dead_code, reason = "each test file uses a part")]

use tensord_cpu::Isa;
use tensord_cpu::math::{self, Kernel, LANES};
use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A tile: aligned, padded to a multiple of `LANES` elements.
pub struct Tile {
    lines: Vec<Line>,
    count: usize,
}

impl Tile {
    pub fn zeroed(count: usize, size: usize) -> Tile {
        let bytes = count.next_multiple_of(LANES) * size;
        Tile {
            lines: vec![Line([0; 64]); bytes.div_ceil(64).max(1)],
            count,
        }
    }

    pub fn of<T: Copy>(values: &[T]) -> Tile {
        let mut tile = Tile::zeroed(values.len(), size_of::<T>());
        // SAFETY: the tile has room for the values and shares nothing with them.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), tile.as_mut().cast(), values.len())
        };
        tile
    }

    pub fn to_vec<T: Copy>(&self) -> Vec<T> {
        // SAFETY: the tile holds `count` elements of at least this size, and any bits are a value of the number types used.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast::<T>(), self.count) }.to_vec()
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }

    pub fn as_mut(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }

    /// Elements with the padding.
    pub fn padded(&self) -> usize {
        self.count.next_multiple_of(LANES)
    }
}

/// The levels that this processor has; portable stands first.
pub fn levels() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
}

pub fn run(kernel: Kernel, operands: &[&Tile], size: usize) -> Tile {
    let mut out = Tile::zeroed(operands[0].count, size);
    let at = |k: usize| operands.get(k).unwrap_or(&operands[0]).as_ptr();
    // SAFETY: tiles are aligned and padded, the output is fresh, and `levels` gives only what the processor has.
    unsafe { kernel.run(out.as_mut(), at(0), at(1), at(2), operands[0].padded()) };
    out
}

pub fn apply(isa: Isa, function: Elementwise, dtype: DType, operands: &[&Tile]) -> Tile {
    let kernel = math::elementwise(isa, function, dtype).expect("in its domain");
    run(kernel, operands, math::tile_size(function.result(dtype)))
}

/// Distance of an f32 from the true value, in units of the last place of the true value. Special values must agree.
pub fn ulps_single(have: f32, want: f64) -> f64 {
    let rounded = want as f32;
    if rounded.is_nan() || rounded == 0.0 && want == 0.0 {
        let same = have.is_nan() == rounded.is_nan()
            && (rounded.is_nan()
                || have == rounded && have.is_sign_negative() == want.is_sign_negative());
        return if same { 0.0 } else { f64::INFINITY };
    }
    if rounded.is_infinite() || have.is_infinite() || have.is_nan() {
        let far = rounded.is_infinite()
            && have.abs() == f32::MAX
            && want.is_finite()
            && (have > 0.0) == (want > 0.0);
        return if have == rounded {
            0.0
        } else if far {
            1.0
        } else {
            f64::INFINITY
        };
    }
    let exponent = ((want.abs().to_bits() >> 52) as i32 - 1023).max(-126) - 23;
    (f64::from(have) - want).abs() * 2f64.powi(-exponent)
}

/// Distance of two f64 in representable values. Special values must agree.
pub fn steps_double(have: f64, want: f64) -> u64 {
    if have.is_nan() || want.is_nan() {
        return if have.is_nan() && want.is_nan() {
            0
        } else {
            u64::MAX
        };
    }
    let order = |x: f64| {
        let bits = x.to_bits() as i64;
        if bits < 0 {
            i64::MIN.wrapping_sub(bits)
        } else {
            bits
        }
    };
    if want == 0.0 || have == 0.0 {
        return if have.to_bits() == want.to_bits() {
            0
        } else {
            order(have).abs_diff(order(want)).max(1)
        };
    }
    order(have).abs_diff(order(want))
}

/// Xorshift: a small generator for operands.
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Zeros, small numbers, the limits of the type, infinities and NaN, and what else matters to it.
macro_rules! special {
    ($float:ident: $($own:expr),*) => {
        [
            0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1.5, -2.5,
            $float::from_bits(1), -$float::from_bits(1), $float::MIN_POSITIVE, -$float::MIN_POSITIVE,
            $float::MAX, $float::MIN, $float::INFINITY, $float::NEG_INFINITY, $float::NAN, $float::EPSILON,
            $($own),*
        ]
    };
}

pub const SPECIAL_SINGLE: [f32; 26] =
    special!(f32: 1.1754942e-38, 16777216.0, 16777214.0, -88.72284);

pub const SPECIAL_DOUBLE: [f64; 26] = special!(f64: 2.225073858507201e-308, 9007199254740992.0, 9007199254740991.0, -709.782712893384);
