//! f32 functions against f64 references of the system's library: bounds in units of the last place over all exponents.

mod math_support;

use math_support::*;
use tensord_cpu::Isa;
use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise::{self, *};

unsafe extern "C" {
    safe fn erf(x: f64) -> f64;
}

type Reference = fn(f64) -> f64;

fn sigmoid(x: f64) -> f64 {
    if x < 0.0 {
        x.exp() / (1.0 + x.exp())
    } else {
        1.0 / (1.0 + (-x).exp())
    }
}

const UNARY: [(Elementwise, Reference, f64); 31] = [
    (Neg, |x| -x, 0.0),
    (Abs, f64::abs, 0.0),
    (Ceil, f64::ceil, 0.0),
    (Floor, f64::floor, 0.0),
    (Trunc, f64::trunc, 0.0),
    (Round, f64::round_ties_even, 0.0),
    (Sqrt, f64::sqrt, 0.5001),
    (Square, |x| x * x, 0.5001),
    (Reciprocal, |x| 1.0 / x, 0.5001),
    (Rsqrt, |x| 1.0 / x.sqrt(), 1.5),
    (Exp, f64::exp, 1.0),
    (Exp2, f64::exp2, 1.0),
    (Expm1, f64::exp_m1, 0.51),
    (Log, f64::ln, 1.0),
    (Log1p, f64::ln_1p, 0.51),
    (Log2, f64::log2, 0.51),
    (Log10, f64::log10, 0.51),
    (Sin, f64::sin, 1.0),
    (Cos, f64::cos, 1.0),
    (Tan, f64::tan, 0.51),
    (Asin, f64::asin, 0.51),
    (Acos, f64::acos, 0.51),
    (Atan, f64::atan, 0.51),
    (Sinh, f64::sinh, 0.51),
    (Cosh, f64::cosh, 0.51),
    (Tanh, f64::tanh, 2.0),
    (Asinh, f64::asinh, 0.51),
    (Acosh, f64::acosh, 0.51),
    (Atanh, f64::atanh, 0.51),
    (Sigmoid, sigmoid, 2.0),
    (Erf, |x| erf(x), 1.0),
];

#[test]
fn unary_functions_keep_their_bounds_over_all_exponents() {
    let operands: Vec<f32> = (0..=u32::MAX)
        .step_by(2003)
        .map(f32::from_bits)
        .chain(SPECIAL_SINGLE)
        .collect();
    let tile = Tile::of(&operands);
    let mut failures = Vec::new();
    for (function, reference, bound) in UNARY {
        let results = apply(Isa::detect(), function, DType::F32, &[&tile]).to_vec::<f32>();
        let (mut worst, mut at) = (0.0, 0.0);
        for (&x, &y) in operands.iter().zip(&results) {
            let off = ulps_single(y, reference(f64::from(x)));
            if off > worst {
                (worst, at) = (off, x);
            }
        }
        println!("{:12} {worst:.3} at {at:e}", function.info().name);
        if worst > bound {
            failures.push(format!(
                "{}: {worst} ulp at {at:e} ({:#x})",
                function.info().name,
                at.to_bits()
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A function of two operands, its definition in f64, and the bound of its error in ulp.
type BinaryCase = (Elementwise, fn(f64, f64) -> f64, f64);

const BINARY: [BinaryCase; 8] = [
    (Add, |a, b| a + b, 0.5001),
    (Sub, |a, b| a - b, 0.5001),
    (Mul, |a, b| a * b, 0.5001),
    (Div, |a, b| a / b, 0.5001),
    (Pow, f64::powf, 0.51),
    (Atan2, f64::atan2, 0.51),
    (Hypot, f64::hypot, 0.51),
    (Fmod, |a, b| a % b, 0.0),
];

/// Pairs of all magnitudes, of like magnitude, and of special values.
fn pairs() -> (Vec<f32>, Vec<f32>) {
    let mut draws = Draws(7);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for &x in &SPECIAL_SINGLE {
        for &y in &SPECIAL_SINGLE {
            a.push(x);
            b.push(y);
        }
    }
    for i in 0..400_000 {
        let bits = draws.next();
        a.push(f32::from_bits(bits as u32));
        let near = (bits as u32 & 0xff80_0000).wrapping_add((bits >> 32) as u32 & 0x01ff_ffff);
        b.push(match i % 4 {
            0 => f32::from_bits((bits >> 32) as u32),
            1 => f32::from_bits(near),
            2 => ((bits >> 40) as f32 / 1e6).floor(),
            _ => (bits >> 32) as i32 as f32 / 1e8,
        });
    }
    (a, b)
}

#[test]
fn binary_functions_keep_their_bounds() {
    let (a, b) = pairs();
    let (tile_a, tile_b) = (Tile::of(&a), Tile::of(&b));
    let mut failures = Vec::new();
    for (function, reference, bound) in BINARY {
        let results =
            apply(Isa::detect(), function, DType::F32, &[&tile_a, &tile_b]).to_vec::<f32>();
        let (mut worst, mut at) = (0.0, (0.0, 0.0, 0.0));
        for ((&x, &y), &z) in a.iter().zip(&b).zip(&results) {
            let off = ulps_single(z, reference(f64::from(x), f64::from(y)));
            if off > worst {
                (worst, at) = (off, (x, y, z));
            }
        }
        println!("{:12} {worst:.3} at {at:?}", function.info().name);
        if worst > bound {
            failures.push(format!("{}: {worst} ulp at {at:?}", function.info().name));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
