//! Every instruction set gives the bits of the portable code, for every function, cast and draw of every dtype.

mod math_support;

use math_support::*;
use tensord_cpu::Isa;
use tensord_cpu::math::{self, convert};
use tensord_shm::dtype::DType;
use tensord_shm::op::{Distribution, Elementwise};

/// Bytes of a tile of operands: special values and draws, each a legal value of the dtype's tile.
fn operands(dtype: DType, seed: u64, count: usize) -> Tile {
    let mut draws = Draws(seed);
    let bits: Vec<u64> = (0..count).map(|_| draws.next()).collect();
    let float = |i: usize, bits: u64| match i % 4 {
        0 => f32::from_bits(bits as u32),
        1 => SPECIAL_SINGLE[(bits % 26) as usize],
        2 => (bits as i32) as f32 / 1e8,
        _ => (bits as i8) as f32,
    };
    let singles = || bits.iter().enumerate().map(|(i, &b)| float(i, b));
    match dtype {
        DType::Bool => Tile::of(
            &bits
                .iter()
                .map(|&b| (b >> 20) as u8 & 1)
                .collect::<Vec<_>>(),
        ),
        DType::F16 => Tile::of(&singles().map(convert::round_f16).collect::<Vec<_>>()),
        DType::Bf16 => Tile::of(&singles().map(convert::round_bf16).collect::<Vec<_>>()),
        DType::F32 => Tile::of(&singles().collect::<Vec<_>>()),
        DType::F64 => Tile::of(
            &bits
                .iter()
                .enumerate()
                .map(|(i, &b)| match i % 5 {
                    0 => f64::from_bits(b),
                    1 => SPECIAL_DOUBLE[(b % 26) as usize],
                    _ => f64::from(float(i, b)),
                })
                .collect::<Vec<_>>(),
        ),
        _ => {
            // Small numbers often, so that shifts, powers and divisions meet.
            let values = bits.iter().map(|&b| match b >> 60 {
                0..6 => (b as i8 as i64 % 70) as u64,
                6 => 1 << (b % 64),
                7 => u64::MAX << (b % 64),
                _ => b,
            });
            match dtype.size() {
                1 => Tile::of(&values.map(|v| v as u8).collect::<Vec<_>>()),
                2 => Tile::of(&values.map(|v| v as u16).collect::<Vec<_>>()),
                4 => Tile::of(&values.map(|v| v as u32).collect::<Vec<_>>()),
                _ => Tile::of(&values.collect::<Vec<_>>()),
            }
        }
    }
}

/// The bits of a tile, with all NaNs made one.
fn canonical(tile: &Tile, dtype: DType) -> Vec<u64> {
    match (dtype.is_float(), math::tile_size(dtype)) {
        (true, 8) => tile
            .to_vec::<f64>()
            .iter()
            .map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() })
            .collect(),
        (true, _) => tile
            .to_vec::<f32>()
            .iter()
            .map(|x| {
                if x.is_nan() {
                    u64::MAX
                } else {
                    x.to_bits().into()
                }
            })
            .collect(),
        (_, 1) => tile.to_vec::<u8>().into_iter().map(u64::from).collect(),
        (_, 2) => tile.to_vec::<u16>().into_iter().map(u64::from).collect(),
        (_, 4) => tile.to_vec::<u32>().into_iter().map(u64::from).collect(),
        _ => tile.to_vec::<u64>(),
    }
}

/// Is every element a value of the dtype? A narrow float must survive its own rounding.
fn assert_rounded(tile: &Tile, dtype: DType, what: &str) {
    let round = match dtype {
        DType::F16 => convert::round_f16,
        DType::Bf16 => convert::round_bf16,
        _ => return,
    };
    for x in tile.to_vec::<f32>() {
        assert!(
            x.is_nan() || round(x).to_bits() == x.to_bits(),
            "{what}: {x:e} is no {dtype}"
        );
    }
}

#[test]
fn functions_agree_on_all_levels() {
    const COUNT: usize = 4099;
    let mut differ = Vec::new();
    for dtype in DType::ALL {
        let (a, b, c) = (
            operands(dtype, 1, COUNT),
            operands(dtype, 2, COUNT),
            operands(dtype, 3, COUNT),
        );
        let condition = operands(DType::Bool, 4, COUNT);
        for &function in Elementwise::ALL {
            if !function.info().domain.contains(dtype) {
                assert!(math::elementwise(Isa::Portable, function, dtype).is_none());
                continue;
            }
            let tiles = if function == Elementwise::Select {
                [&condition, &a, &b]
            } else {
                [&a, &b, &c]
            };
            let result = function.result(dtype);
            let mut portable = None;
            for isa in levels() {
                let name = format!("{} of {dtype} on {isa}", function.info().name);
                let out = apply(isa, function, dtype, &tiles);
                assert_rounded(&out, result, &name);
                let bits = canonical(&out, result);
                let first = portable.get_or_insert_with(|| bits.clone());
                if let Some(at) = (0..COUNT).find(|&i| first[i] != bits[i]) {
                    let (have, want) = (bits[at], first[at]);
                    differ.push(format!(
                        "{name}: element {at} is {have:#x}, portable {want:#x}"
                    ));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn a_tile_function_may_write_over_its_operand() {
    let isa = Isa::detect();
    for (function, dtype) in [
        (Elementwise::Exp, DType::F32),
        (Elementwise::Add, DType::I64),
    ] {
        let kernel = math::elementwise(isa, function, dtype).expect("in its domain");
        let (mut a, b) = (operands(dtype, 5, 160), operands(dtype, 6, 160));
        let want = canonical(&run(kernel, &[&a, &b], math::tile_size(dtype)), dtype);
        let at = a.as_mut();
        // SAFETY: the output is exactly the first operand.
        unsafe { kernel.run(at, at, b.as_ptr(), at, 160) };
        assert_eq!(canonical(&a, dtype), want);
    }
}

#[test]
fn casts_agree_on_all_levels() {
    for from in DType::ALL {
        let a = operands(from, 9, 4099);
        for to in DType::ALL {
            let mut portable = None;
            for isa in levels() {
                let out = run(math::cast(isa, from, to), &[&a], math::tile_size(to));
                assert_rounded(&out, to, "cast");
                let bits = canonical(&out, to);
                let first = portable.get_or_insert_with(|| bits.clone());
                assert!(*first == bits, "{from} to {to} on {isa}");
            }
        }
    }
}

#[test]
fn draws_agree_on_all_levels_and_follow_their_distribution() {
    const COUNT: usize = 1 << 16;
    let positions: Vec<i64> = (0..COUNT as i64).collect();
    let tile = Tile::of(&positions);
    for distribution in [
        Distribution::Bits,
        Distribution::Uniform,
        Distribution::Normal,
    ] {
        for dtype in DType::ALL {
            let mut portable = None;
            for isa in levels() {
                let Some(draw) = math::random(isa, distribution, dtype) else {
                    continue;
                };
                let mut out = Tile::zeroed(COUNT, math::tile_size(dtype));
                // SAFETY: both tiles hold COUNT elements, a multiple of LANES, and are aligned.
                unsafe {
                    draw(
                        out.as_mut(),
                        tile.as_ptr().cast(),
                        0x1234_5678_9abc_def0,
                        COUNT,
                    )
                };
                let bits = canonical(&out, dtype);
                let first = portable.get_or_insert_with(|| bits.clone());
                assert!(*first == bits, "{distribution:?} {dtype} on {isa}");
                if dtype == DType::F32 || dtype == DType::F16 {
                    let x: Vec<f64> = out.to_vec::<f32>().into_iter().map(f64::from).collect();
                    let mean = x.iter().sum::<f64>() / COUNT as f64;
                    let spread = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / COUNT as f64;
                    let (m, v) = match distribution {
                        Distribution::Uniform => (0.5, 1.0 / 12.0),
                        _ => (0.0, 1.0),
                    };
                    assert!(
                        (mean - m).abs() < 0.02 && (spread - v).abs() < 0.02,
                        "{mean} {spread}"
                    );
                }
            }
        }
    }
}

/// The known-answer vectors that the authors of Philox publish with it.
#[test]
fn philox_gives_the_published_blocks() {
    assert_eq!(
        math::random::philox(0, 0),
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
    );
}
