//! f64 functions against values computed in extended precision (`coefficients/reference.py`), and special cases against the
//! system's library.

mod math_support;

use math_support::*;
use tensord_cpu::Isa;
use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise::{self, *};

/// A function and its reference.
type Unary = (Elementwise, fn(f64) -> f64);
type Binary = (Elementwise, fn(f64, f64) -> f64);

fn bound(function: Elementwise) -> f64 {
    match function {
        Exp | Exp2 | Log | Log2 | Log10 | Sin | Cos | Hypot | Erf => 1.0,
        Expm1 | Log1p | Asin | Acos | Atan | Cosh | Sigmoid | Pow | LogAddExp => 2.0,
        _ => 4.0,
    }
}

/// The function of f64 operands, or of the first ones where it takes one.
fn of_pairs(function: Elementwise, a: &[f64], b: &[f64]) -> Vec<f64> {
    let operands = [&Tile::of(a), &Tile::of(b)];
    apply(Isa::detect(), function, DType::F64, &operands).to_vec()
}

#[test]
fn functions_keep_their_bounds() {
    let table = include_str!("math_double.txt");
    let mut failures = Vec::new();
    for &function in Elementwise::ALL {
        let name = function.info().name;
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|row| row[0] == name)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let number = |text: &str| {
            f64::from_bits(
                u64::from_str_radix(text, 16).expect("the table holds bits in hexadecimal"),
            )
        };
        let operand = |k: usize| rows.iter().map(|row| number(row[k])).collect::<Vec<_>>();
        let arity = function.arity();
        let (a, b) = (operand(1), operand(arity));
        let results = of_pairs(function, &a, &b);
        let (mut worst, mut at) = (0.0, (0.0, 0.0));
        for (i, row) in rows.iter().enumerate() {
            let near = number(row[arity + 1]);
            let rest: f64 = row[arity + 2].parse().expect("the table holds thousandths");
            let signed = if results[i] > near { 1.0 } else { -1.0 };
            let off = (signed * steps_double(results[i], near) as f64 - rest / 1000.0).abs();
            if off > worst {
                (worst, at) = (off, (a[i], b[i]));
            }
        }
        println!("{name:12} {worst:.3} at {at:?} ({} rows)", rows.len());
        if worst > bound(function) {
            failures.push(format!("{name}: {worst} ulp at {at:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn special_values_and_all_exponents_agree_with_the_library() {
    let mut draws = Draws(11);
    let operands: Vec<f64> = SPECIAL_DOUBLE
        .into_iter()
        .chain((0..120_000).map(|i| match i % 2 {
            0 => f64::from_bits(draws.next()),
            _ => (draws.next() as i64 >> 12) as f64 / 1e12,
        }))
        .collect();
    let tile = Tile::of(&operands);
    let rows: [Unary; 19] = [
        (Exp, f64::exp),
        (Exp2, f64::exp2),
        (Expm1, f64::exp_m1),
        (Log, f64::ln),
        (Log1p, f64::ln_1p),
        (Log2, f64::log2),
        (Log10, f64::log10),
        (Sin, f64::sin),
        (Cos, f64::cos),
        (Tan, f64::tan),
        (Asin, f64::asin),
        (Acos, f64::acos),
        (Atan, f64::atan),
        (Sinh, f64::sinh),
        (Cosh, f64::cosh),
        (Tanh, f64::tanh),
        (Round, f64::round_ties_even),
        (Sqrt, f64::sqrt),
        (Square, |x| x * x),
    ];
    for (function, reference) in rows {
        let results = apply(Isa::detect(), function, DType::F64, &[&tile]).to_vec::<f64>();
        for (&x, &y) in operands.iter().zip(&results) {
            let off = steps_double(y, reference(x));
            // The library itself is within one or two units.
            assert!(
                off <= 4,
                "{} of {x:e}: {y:e} is {off} from {:e}",
                function.info().name,
                reference(x)
            );
        }
    }
}

#[test]
fn powers_and_angles_have_the_special_cases_of_the_standard() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for &x in &SPECIAL_DOUBLE {
        for &y in &SPECIAL_DOUBLE {
            a.push(x);
            b.push(y);
        }
    }
    let rows: [Binary; 4] = [
        (Pow, f64::powf),
        (Atan2, f64::atan2),
        (Hypot, f64::hypot),
        (Fmod, |x, y| x % y),
    ];
    for (function, reference) in rows {
        let results = of_pairs(function, &a, &b);
        for (i, &have) in results.iter().enumerate() {
            let want = reference(a[i], b[i]);
            let off = steps_double(have, want);
            assert!(
                off <= 2,
                "{}({:e}, {:e}): {have:e}, not {want:e}",
                function.info().name,
                a[i],
                b[i]
            );
        }
    }
}
