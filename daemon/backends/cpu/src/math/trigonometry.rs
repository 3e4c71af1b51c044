//! Reduction of huge angles modulo a quarter turn.
//!
//! Method: Payne and Hanek, "Radian reduction for trigonometric functions" (SIGNUM 1983): of the product with 2/pi only the bits
//! around the binary point matter, so only a window of 2/pi is multiplied, in integers.

use super::coefficients::{HALF_PI_64, TWO_OVER_PI};

/// Quadrant (modulo 4), and the rest within an eighth of a turn as a sum of two f64.
///
/// `x` is finite and at least 2^16 in magnitude.
pub fn reduce_huge(x: f64) -> (u64, f64, f64) {
    let bits = x.to_bits();
    let fraction = bits & ((1 << 52) - 1) | 1 << 52;
    let exponent = (bits >> 52 & 0x7ff) as i32 - 1075;
    // Bits of 2/pi in front of `skip` contribute multiples of 8 quadrants.
    let skip = (exponent - 3).max(0);
    let mut product = [0u64; 5];
    let mut carry = 0u128;
    for word in (0..4).rev() {
        let term =
            u128::from(fraction) * u128::from(window(skip as u32 + 64 * word as u32)) + carry;
        product[word + 1] = term as u64;
        carry = term >> 64;
    }
    product[0] = carry as u64;
    // The binary point stands `point` bits from the lowest; bring the two bits above it to the top.
    let point = 256 - (exponent - skip);
    let lift = (318 - point) as u32;
    let top = bits_from(&product, lift);
    let mut quadrant = top >> 62;
    let high = top << 2 | bits_from(&product, lift + 64) >> 62;
    let low = bits_from(&product, lift + 64) << 2 | bits_from(&product, lift + 128) >> 62;
    // As a signed fraction it is the distance to the nearest quadrant.
    let rest = (u128::from(high) << 64 | u128::from(low)) as i128;
    quadrant += u64::from(rest < 0);
    let unit = f64::from_bits((1023 - 128) << 52);
    let near = rest as f64;
    let left = rest.wrapping_sub(near as i128) as f64;
    let (near, left) = (near * unit, left * unit);
    let r = near * HALF_PI_64[0];
    let lo = near.mul_add(HALF_PI_64[0], -r) + near.mul_add(HALF_PI_64[1], left * HALF_PI_64[0]);
    // With |hi| + |lo| normalised the caller may drop `lo` at will.
    let hi = r + lo;
    let lo = lo - (hi - r);
    if x < 0.0 {
        (quadrant.wrapping_neg() & 3, -hi, -lo)
    } else {
        (quadrant & 3, hi, lo)
    }
}

/// 64 bits of 2/pi from a bit behind its binary point on.
fn window(bit: u32) -> u64 {
    bits_from(&TWO_OVER_PI, bit)
}

/// 64 bits from a bit on, counted from the top of the first word; 0 beyond the end.
fn bits_from(words: &[u64], bit: u32) -> u64 {
    let word = |k: u32| words.get(k as usize).copied().unwrap_or(0);
    let (k, shift) = (bit / 64, bit % 64);
    let pair = u128::from(word(k)) << 64 | u128::from(word(k + 1));
    (pair << shift >> 64) as u64
}
