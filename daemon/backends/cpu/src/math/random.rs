//! Random draws: Philox 4x32-10, a block cipher over the element's position.
//!
//! Method: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). An element's draw depends on key and
//! row-major position alone, so it is the same however a tensor is cut.
//!
//! # Definition
//! The counter is (low word, high word of the position, 0, 0), the key the low and high word of the 64-bit key; the block is
//! words w0 to w3. Bits: the low bits of w0, or w0 + 2^32 w1 for 64-bit integers; bool: the lowest bit of w0. Uniform: as many
//! top bits of w0 as the significand holds (f16 11, bf16 8, f32 24), for f64 the top 53 of w0 + 2^32 w1, as a fraction. Normal, by Box and
//! Muller: sqrt(-2 log u) cos(2 pi v), where f32 takes u = (w0 + 1/2) / 2^32 (w0 rounded to f32 first) and v = w1 / 2^32 and f64 the
//! same with (w0, w1) / 2^64 and (w2, w3) / 2^64, the angle reduced exactly to within an eighth of a turn; f16 and bf16 round the f32 draw.

use tensord_shm::dtype::DType;
use tensord_shm::op::Distribution;

use super::{LANES, convert, double, single};
use crate::isa::Isa;

/// Draws for a tile of positions (i64).
///
/// # Safety
/// `n` is a multiple of [`LANES`], both tiles are aligned and good for `n` elements, and they do not overlap. The processor has
/// the level that the function was picked for.
pub type RandomFn = unsafe fn(dst: *mut u8, position: *const i64, key: u64, n: usize);

/// The block of a position.
#[inline(always)]
pub fn philox(position: u64, key: u64) -> [u32; 4] {
    let mut counter = [position as u32, (position >> 32) as u32, 0, 0];
    let mut key = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let even = 0xd251_1f53u64 * u64::from(counter[0]);
        let odd = 0xcd9e_8d57u64 * u64::from(counter[2]);
        counter = [
            (odd >> 32) as u32 ^ counter[1] ^ key[0],
            odd as u32,
            (even >> 32) as u32 ^ counter[3] ^ key[1],
            even as u32,
        ];
        key = [
            key[0].wrapping_add(0x9e37_79b9),
            key[1].wrapping_add(0xbb67_ae85),
        ];
    }
    counter
}

#[inline(always)]
fn low_pair(block: [u32; 4]) -> u64 {
    u64::from(block[0]) | u64::from(block[1]) << 32
}

#[inline(always)]
fn high_pair(block: [u32; 4]) -> u64 {
    u64::from(block[2]) | u64::from(block[3]) << 32
}

#[inline(always)]
fn uniform_f64(block: [u32; 4]) -> f64 {
    (low_pair(block) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[inline(always)]
fn normal_f32(block: [u32; 4]) -> f32 {
    const TURN_32: f32 = (2.0 * std::f64::consts::PI / 4294967296.0) as f32;
    let u = (block[0] as f32).mul_add(1.0 / 4294967296.0, 0.5 / 4294967296.0);
    let eighth = block[1].wrapping_add(0x2000_0000);
    let rest = (block[1].wrapping_sub(eighth & 0xc000_0000)) as i32;
    let angle = rest as f32 * TURN_32;
    let cosine = single::cos_of_quadrant(eighth >> 30, angle, 0.0);
    (-2.0 * single::log(u)).sqrt() * cosine
}

#[inline(always)]
fn normal_f64(block: [u32; 4]) -> f64 {
    const SCALE: f64 = 1.0 / 18446744073709551616.0;
    const TURN_64: f64 = 2.0 * std::f64::consts::PI * SCALE;
    let (w, v) = (low_pair(block), high_pair(block));
    let u = (w as f64).mul_add(SCALE, 0.5 * SCALE);
    let eighth = v.wrapping_add(1 << 61);
    let rest = (v.wrapping_sub(eighth & 3 << 62)) as i64;
    let angle = rest as f64 * TURN_64;
    let cosine = double::cos_of_quadrant(eighth >> 62, angle, 0.0);
    (-2.0 * double::log(u)).sqrt() * cosine
}

/// One draw from a block.
trait Draw {
    type R: Copy + Default;
    fn draw(block: [u32; 4]) -> Self::R;
}

#[inline(always)]
unsafe fn draw_tile<D: Draw>(dst: *mut u8, position: *const i64, key: u64, n: usize) {
    let (dst, position) = (dst.cast::<[D::R; LANES]>(), position.cast::<[i64; LANES]>());
    for chunk in 0..n / LANES {
        // SAFETY: the caller's tiles are aligned and good for n elements.
        let at = unsafe { position.add(chunk).read() };
        let mut drawn = [D::R::default(); LANES];
        for lane in 0..LANES {
            drawn[lane] = D::draw(philox(at[lane] as u64, key));
        }
        // SAFETY: as above.
        unsafe { dst.add(chunk).write(drawn) };
    }
}

unsafe fn draw_portable<D: Draw>(dst: *mut u8, position: *const i64, key: u64, n: usize) {
    // SAFETY: the caller keeps the rules of `RandomFn`.
    unsafe { draw_tile::<D>(dst, position, key, n) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
unsafe fn draw_avx2<D: Draw>(dst: *mut u8, position: *const i64, key: u64, n: usize) {
    // SAFETY: the caller keeps the rules of `RandomFn`.
    unsafe { draw_tile::<D>(dst, position, key, n) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi1,bmi2")]
unsafe fn draw_avx512<D: Draw>(dst: *mut u8, position: *const i64, key: u64, n: usize) {
    // SAFETY: the caller keeps the rules of `RandomFn`.
    unsafe { draw_tile::<D>(dst, position, key, n) }
}

fn pick<D: Draw>(isa: Isa) -> RandomFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => draw_avx512::<D>,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => draw_avx2::<D>,
        _ => draw_portable::<D>,
    }
}

macro_rules! draw {
    ($isa:expr, $r:ty, $function:expr) => {{
        struct Lane;
        impl Draw for Lane {
            type R = $r;
            #[inline(always)]
            fn draw(block: [u32; 4]) -> $r {
                $function(block)
            }
        }
        pick::<Lane>($isa)
    }};
}

/// How a dtype is drawn; `None` where the distribution leaves it out. f16 and bf16 come rounded, as f32.
pub fn random(isa: Isa, distribution: Distribution, dtype: DType) -> Option<RandomFn> {
    use DType::*;
    type Block = [u32; 4];
    Some(match (distribution, dtype) {
        (Distribution::Bits, Bool) => draw!(isa, u8, |w: Block| (w[0] & 1) as u8),
        (Distribution::Bits, I8 | U8) => draw!(isa, u8, |w: Block| w[0] as u8),
        (Distribution::Bits, I16 | U16) => draw!(isa, u16, |w: Block| w[0] as u16),
        (Distribution::Bits, I32 | U32) => draw!(isa, u32, |w: Block| w[0]),
        (Distribution::Bits, I64 | U64) => draw!(isa, u64, low_pair),
        (Distribution::Uniform, F16) => {
            draw!(isa, f32, |w: Block| (w[0] >> 21) as i32 as f32
                * (1.0 / 2048.0))
        }
        (Distribution::Uniform, Bf16) => {
            draw!(isa, f32, |w: Block| (w[0] >> 24) as i32 as f32
                * (1.0 / 256.0))
        }
        (Distribution::Uniform, F32) => {
            draw!(isa, f32, |w: Block| (w[0] >> 8) as i32 as f32
                * (1.0 / 16777216.0))
        }
        (Distribution::Uniform, F64) => draw!(isa, f64, uniform_f64),
        (Distribution::Normal, F16) => {
            draw!(isa, f32, |w: Block| convert::round_f16(normal_f32(w)))
        }
        (Distribution::Normal, Bf16) => {
            draw!(isa, f32, |w: Block| convert::round_bf16(normal_f32(w)))
        }
        (Distribution::Normal, F32) => draw!(isa, f32, normal_f32),
        (Distribution::Normal, F64) => draw!(isa, f64, normal_f64),
        _ => return None,
    })
}
