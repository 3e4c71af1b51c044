//! Integer functions, casts and 16-bit floats against definitions written out in wide integers.

mod math_support;

use math_support::*;
use tensord_cpu::Isa;
use tensord_cpu::math::{self, convert};
use tensord_shm::dtype::DType;
use tensord_shm::op::Elementwise::{self, *};

/// The table's definition in exact arithmetic, before wrapping. `width` is the dtype's.
fn define(function: Elementwise, a: i128, b: i128, width: i128) -> i128 {
    let truth = i128::from;
    match function {
        Neg => -a,
        Abs => a.abs(),
        Sign => a.signum(),
        Ceil | Floor | Trunc | Round => a,
        Square => a * a,
        IsNan | IsInf => 0,
        IsFinite => 1,
        Signbit => truth(a < 0),
        LogicalNot => truth(a == 0),
        BitNot => -a - 1,
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        FloorDiv if b == 0 => 0,
        FloorDiv => {
            (a - a.rem_euclid(b.abs())) / b.abs() * b.signum()
                - truth(b < 0 && a.rem_euclid(b.abs()) != 0)
        }
        Remainder if b == 0 => 0,
        Remainder => a - b * define(FloorDiv, a, b, width),
        Pow if b < 0 => match a {
            1 => 1,
            -1 if b % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        },
        Pow => (0..b).fold(1, |power, _| (power * a) & 0xff),
        Maximum => a.max(b),
        Minimum => a.min(b),
        Eq => truth(a == b),
        Ne => truth(a != b),
        Lt => truth(a < b),
        Le => truth(a <= b),
        Gt => truth(a > b),
        Ge => truth(a >= b),
        LogicalAnd => truth(a != 0 && b != 0),
        LogicalOr => truth(a != 0 || b != 0),
        LogicalXor => truth((a != 0) != (b != 0)),
        BitAnd => a & b,
        BitOr => a | b,
        BitXor => a ^ b,
        ShiftLeft if (0..width).contains(&b) => a << b,
        ShiftLeft => 0,
        ShiftRight if (0..width).contains(&b) => a.div_euclid(1 << b),
        ShiftRight => -truth(a < 0),
        Clamp => a.max(b).min(3),
        Select => a,
        _ => unreachable!("no integer function"),
    }
}

fn case(function: Elementwise, dtype: DType, x: i128, y: i128) -> String {
    format!("{} {dtype} {x} {y}", function.info().name)
}

#[test]
fn integer_functions_are_exact_on_every_pair_of_bytes() {
    for (dtype, signed) in [(DType::I8, true), (DType::U8, false)] {
        let pairs: Vec<(u8, u8)> = (0..=0xffffu16).map(|p| (p as u8, (p >> 8) as u8)).collect();
        let a = Tile::of(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
        let b = Tile::of(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
        let c = Tile::of(&vec![3u8; pairs.len()]);
        let ones = Tile::of(&vec![1u8; pairs.len()]);
        let number = |byte: u8| {
            if signed {
                i128::from(byte as i8)
            } else {
                i128::from(byte)
            }
        };
        for &function in Elementwise::ALL {
            if !function.info().domain.contains(dtype) {
                continue;
            }
            let tiles = if function == Select {
                [&ones, &a, &b]
            } else {
                [&a, &b, &c]
            };
            let results = apply(Isa::detect(), function, dtype, &tiles).to_vec::<u8>();
            for (&(x, y), &have) in pairs.iter().zip(&results) {
                let want = define(function, number(x), number(y), 8) as u8;
                let case = case(function, dtype, number(x), number(y));
                assert_eq!(have, want, "{case}");
            }
        }
    }
}

#[test]
fn wide_integers_are_exact_at_their_limits() {
    let values = [
        0i64,
        1,
        -1,
        2,
        -2,
        3,
        7,
        63,
        64,
        65,
        31,
        32,
        i64::MIN,
        i64::MIN + 1,
        i64::MAX,
        1 << 62,
    ];
    let pairs: Vec<(i64, i64)> = values
        .iter()
        .flat_map(|&a| values.iter().map(move |&b| (a, b)))
        .collect();
    let a = Tile::of(&pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let b = Tile::of(&pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    for function in [
        Add, Sub, FloorDiv, Remainder, Maximum, Minimum, ShiftLeft, ShiftRight, Lt, Ge,
    ] {
        for dtype in [DType::I64, DType::U64] {
            let out = apply(Isa::detect(), function, dtype, &[&a, &b]);
            let bool_result = function.result(dtype) == DType::Bool;
            for (i, &(x, y)) in pairs.iter().enumerate() {
                let number = |v: i64| {
                    if dtype == DType::I64 {
                        i128::from(v)
                    } else {
                        i128::from(v as u64)
                    }
                };
                let want = define(function, number(x), number(y), 64) as u64;
                let have = if bool_result {
                    out.to_vec::<u8>()[i].into()
                } else {
                    out.to_vec::<u64>()[i]
                };
                let case = case(function, dtype, number(x), number(y));
                assert_eq!(have, want, "{case}");
            }
        }
    }
}

/// Rounds to a float format by trying both neighbours, in f64, which holds all of their values exactly.
fn nearest(x: f32, widen: fn(u16) -> f64, infinity: u16, step_beyond: f64) -> u16 {
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let magnitude = f64::from(x.abs());
    let value = |bits: u16| {
        if bits == infinity {
            step_beyond
        } else {
            widen(bits)
        }
    };
    let (mut low, mut high) = (0u16, infinity);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if value(middle) <= magnitude {
            low = middle
        } else {
            high = middle
        }
    }
    let (down, up) = (magnitude - value(low), value(high) - magnitude);
    let bits = if down < up || down == up && low & 1 == 0 {
        low
    } else {
        high
    };
    sign | if magnitude >= step_beyond {
        infinity
    } else {
        bits
    }
}

#[test]
fn sixteen_bit_floats_load_store_and_round() {
    // Every value survives the way to a tile and back, on every level.
    let all: Vec<u16> = (0..=u16::MAX).collect();
    for dtype in [DType::F16, DType::Bf16] {
        for isa in levels() {
            let mut tile = Tile::zeroed(all.len(), 4);
            let mut back = vec![0u16; all.len()];
            // SAFETY: both sides hold all values; loads and stores take any alignment in memory.
            unsafe {
                math::load(isa, dtype)(tile.as_mut(), all.as_ptr().cast(), all.len());
                math::store(isa, dtype)(back.as_mut_ptr().cast(), tile.as_ptr(), all.len());
            }
            for (&bits, (&again, x)) in all.iter().zip(back.iter().zip(tile.to_vec::<f32>())) {
                let want = match dtype {
                    DType::F16 => half::f16::from_bits(bits).to_f32(),
                    _ => half::bf16::from_bits(bits).to_f32(),
                };
                assert_eq!(x.is_nan(), want.is_nan());
                if !want.is_nan() {
                    assert_eq!((x.to_bits(), again), (want.to_bits(), bits));
                }
            }
        }
    }
}

#[test]
fn rounding_to_sixteen_bits_is_to_nearest_even() {
    let f16 = |bits: u16| half::f16::from_bits(bits).to_f64();
    let bf16 = |bits: u16| half::bf16::from_bits(bits).to_f64();
    let operands: Vec<f32> = (0..=u32::MAX)
        .step_by(4099)
        // Exact ties, and their neighbours.
        .chain(
            (0..0x7c00u32)
                .map(|h| ((f16(h as u16) + f16((h + 1) as u16)) / 2.0) as f32)
                .map(f32::to_bits),
        )
        .chain((0..0x7f80u32).flat_map(|h| [h << 16 | 0x8000, h << 16 | 0x7fff, h << 16 | 0x8001]))
        .map(f32::from_bits)
        .filter(|x| !x.is_nan())
        .collect();
    for &x in &operands {
        assert_eq!(
            convert::f32_to_f16(x),
            nearest(x, f16, 0x7c00, 65536.0),
            "{x:e}"
        );
        assert_eq!(
            convert::f32_to_bf16(x),
            nearest(x, bf16, 0x7f80, 2f64.powi(128)),
            "{x:e}"
        );
        assert_eq!(
            convert::round_f16(x),
            convert::f16_to_f32(convert::f32_to_f16(x))
        );
    }
    let tile = Tile::of(&operands);
    for isa in levels() {
        let round = math::round(isa, DType::F16).expect("f16 is narrower than its tile");
        let mut out = Tile::zeroed(operands.len(), 4);
        // SAFETY: aligned, padded and disjoint.
        unsafe {
            round(
                out.as_mut(),
                tile.as_ptr(),
                tile.as_ptr(),
                tile.as_ptr(),
                tile.padded(),
            )
        };
        for (&x, have) in operands.iter().zip(out.to_vec::<f32>()) {
            assert_eq!(
                have.to_bits(),
                convert::round_f16(x).to_bits(),
                "{isa} {x:e}"
            );
        }
    }
    // An f64 just above a tie is rounded once.
    assert_eq!(
        convert::f64_to_f16(1.0 + 2f64.powi(-11) + 2f64.powi(-50)),
        1.0 + 2f32.powi(-10)
    );
    assert_eq!(
        convert::f64_to_bf16(1.0 + 2f64.powi(-8) + 2f64.powi(-50)),
        1.0 + 2f32.powi(-7)
    );
}

#[test]
fn casts_truncate_saturate_and_wrap() {
    let floats = [
        0.0,
        -0.0,
        0.99,
        -0.99,
        1.5,
        -1.5,
        126.9,
        127.5,
        128.0,
        -128.9,
        -129.0,
        255.9,
        256.0,
        32767.5,
        32768.0,
        -32769.0,
        65535.5,
        65536.0,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        -2147484000.0,
        4294967040.0,
        4294967296.0,
        9.2e18,
        9.3e18,
        -9.3e18,
        1.8e19,
        1.9e19,
        1e30,
        -1e30,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    let doubles = Tile::of(&floats);
    let singles = Tile::of(&floats.map(|x| x as f32));
    macro_rules! check {
        ($($int:ident $dtype:ident;)*) => {$(
            let have = run(math::cast(Isa::detect(), DType::F64, DType::$dtype), &[&doubles], size_of::<$int>());
            assert_eq!(have.to_vec::<$int>(), floats.map(|x| x as $int));
            let have = run(math::cast(Isa::detect(), DType::F32, DType::$dtype), &[&singles], size_of::<$int>());
            assert_eq!(have.to_vec::<$int>(), floats.map(|x| x as f32 as $int));
            let wide = [0u64, 1, 127, 128, 255, 256, u64::MAX, 1 << 63, 0x1234_5678_9abc_def0];
            let have = run(math::cast(Isa::detect(), DType::U64, DType::$dtype), &[&Tile::of(&wide)], size_of::<$int>());
            assert_eq!(have.to_vec::<$int>(), wide.map(|x| x as $int));
            let have = run(math::cast(Isa::detect(), DType::U64, DType::F32), &[&Tile::of(&wide)], 4);
            assert_eq!(have.to_vec::<f32>(), wide.map(|x| x as f32));
        )*};
    }
    check! { i8 I8; i16 I16; i32 I32; i64 I64; u8 U8; u16 U16; u32 U32; u64 U64; }
    let truth = run(
        math::cast(Isa::detect(), DType::F32, DType::Bool),
        &[&singles],
        1,
    );
    assert_eq!(
        truth.to_vec::<u8>(),
        floats.map(|x| u8::from(x as f32 != 0.0))
    );
}

#[test]
fn iota_rounds_floats_once_and_wraps_integers() {
    use tensord_shm::dtype::Scalar;
    let index: Vec<i64> = (0..64).map(|i| i * 3).collect();
    let positions = Tile::of(&index);
    let count = |dtype: DType, start: f64, step: f64| {
        let mut out = Tile::zeroed(64, math::tile_size(dtype));
        let (start, step) = (
            Scalar::from_f64(start, dtype),
            Scalar::from_f64(step, dtype),
        );
        let fill = math::iota(dtype).expect("a number");
        // SAFETY: both tiles hold 64 elements.
        unsafe { fill(out.as_mut(), positions.as_ptr().cast(), start, step, 64) };
        out
    };
    let bytes = count(DType::I8, 100.0, 5.0).to_vec::<i8>();
    let floats = count(DType::F32, 0.25, 0.1).to_vec::<f32>();
    for (&i, (&byte, &float)) in index.iter().zip(bytes.iter().zip(&floats)) {
        assert_eq!(byte, (100 + 5 * i) as i8);
        assert_eq!(float, (i as f64).mul_add(f64::from(0.1f32), 0.25) as f32);
    }
    assert!(math::iota(DType::Bool).is_none());
}

#[test]
fn floats_follow_python_at_the_edges() {
    let inf = f64::INFINITY;
    // a, b, a // b, a % b, fmod(a, b), maximum, minimum, nextafter
    let rows = [
        (7.0, 2.0, 3.0, 1.0, 1.0),
        (-7.0, 2.0, -4.0, 1.0, -1.0),
        (7.0, -2.0, -4.0, -1.0, 1.0),
        (-7.0, -2.0, 3.0, -1.0, -1.0),
        (6.0, -2.0, -3.0, -0.0, 0.0),
        (-1.0, inf, -1.0, inf, -1.0),
        (1.0, inf, 0.0, 1.0, 1.0),
        (1.0, 0.0, inf, f64::NAN, f64::NAN),
        (-0.0, 0.0, f64::NAN, f64::NAN, f64::NAN),
        (inf, 2.0, f64::NAN, f64::NAN, f64::NAN),
        (1e30, 3.0, (1e30 - 1e30 % 3.0) / 3.0, 1e30 % 3.0, 1e30 % 3.0),
    ];
    let a = Tile::of(&rows.map(|r| r.0));
    let b = Tile::of(&rows.map(|r| r.1));
    for (function, want) in [
        (FloorDiv, rows.map(|r| r.2)),
        (Remainder, rows.map(|r| r.3)),
        (Fmod, rows.map(|r| r.4)),
    ] {
        let have = apply(Isa::detect(), function, DType::F64, &[&a, &b]).to_vec::<f64>();
        for (i, (have, want)) in have.iter().zip(want).enumerate() {
            let same = have.to_bits() == want.to_bits() || have.is_nan() && want.is_nan();
            assert!(same, "{} row {i}: {have}, not {want}", function.info().name);
        }
    }
    let zero = |function, x: f32, y: f32| {
        apply(
            Isa::detect(),
            function,
            DType::F32,
            &[&Tile::of(&[x]), &Tile::of(&[y])],
        )
        .to_vec::<f32>()[0]
    };
    for (x, y) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert_eq!(zero(Maximum, x, y).to_bits(), 0);
        assert_eq!(zero(Minimum, x, y).to_bits(), 1 << 31);
    }
    for (x, y) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
        assert!(zero(Maximum, x, y).is_nan() && zero(Minimum, x, y).is_nan());
    }
    assert_eq!(zero(NextAfter, 0.0, -1.0).to_bits(), 1 << 31 | 1);
    assert_eq!(zero(NextAfter, 0.0, -0.0).to_bits(), 1 << 31);
    assert_eq!(zero(NextAfter, f32::MAX, f32::INFINITY), f32::INFINITY);
    assert_eq!(zero(NextAfter, 1.0, 0.0), 1.0 - f32::EPSILON / 2.0);
    assert_eq!(zero(NextAfter, -1.0, 0.0), f32::EPSILON / 2.0 - 1.0);
}
