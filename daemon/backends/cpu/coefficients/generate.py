#!/usr/bin/env python3
"""Computes the constants of src/math/coefficients.rs: python3 generate.py > ../src/math/coefficients.rs

Polynomials are least-squares fits in many Chebyshev nodes of the interval, which is within a small factor of minimax, and are
rounded to their format one coefficient at a time, the lowest first, the rest being fitted again to what remains.
"""
import struct
from mpmath import mp, mpf, matrix, lu_solve, cos, pi, log, exp, sin, atan, asin, erf, erfc, sqrt, floor, taylor

mp.prec = 400


def f64(x):
    return mpf(float(x))


def f32(x):
    return mpf(struct.unpack("f", struct.pack("f", float(x)))[0])


def nodes(low, high, count):
    return [(low + high) / 2 + (high - low) / 2 * cos((2 * i + 1) * pi / (2 * count)) for i in range(count)]


def least_squares(function, xs, powers):
    """By the normal equations, which the working precision easily carries."""
    n = len(powers)
    a, b = matrix(n, n), matrix(n, 1)
    for x in xs:
        row, value = [x**p for p in powers], function(x)
        for i in range(n):
            b[i] += row[i] * value
            for j in range(n):
                a[i, j] += row[i] * row[j]
    return list(lu_solve(a, b))


def fit(function, low, high, count, rounded):
    """Coefficients in ascending order, and the largest absolute error."""
    xs = nodes(mpf(low), mpf(high), 4 * count)
    values = {x: function(x) for x in xs}
    fixed = []
    while len(fixed) < count:
        def rest(x):
            return values[x] - sum(c * x**j for j, c in enumerate(fixed))
        fixed.append(rounded(least_squares(rest, xs, list(range(len(fixed), count)))[0]))
    worst = max(abs(function(x) - sum(c * x**j for j, c in enumerate(fixed))) for x in nodes(mpf(low), mpf(high), 200))
    return fixed, worst


def show(x, kind):
    return (repr(float(x)) if kind == "f64" else repr(shortest32(x)))


def shortest32(x):
    for digits in range(1, 18):
        candidate = float(f"%.{digits}g" % float(x))
        if f32(candidate) == f32(x):
            return candidate
    return float(x)


def array(name, doc, coefficients, kind):
    print(f"/// {doc}")
    print(f"pub const {name}: [{kind}; {len(coefficients)}] = [")
    for c in coefficients:
        print(f"    {show(c, kind)},")
    print("];")


def polynomial(name, doc, function, low, high, count, kind):
    # Near 0 most of these are quotients of small differences; 400 bits leave room for that, but 0 itself is left out.
    c, worst = fit(function, low, high, count, f64 if kind == "f64" else f32)
    array(name, f"{doc}; error {mp.nstr(worst, 2)}.", c, kind)


def parts(name, doc, value, bits, kind, count):
    """Splits a constant in a sum; each part but the last keeps `bits` bits."""
    out = []
    for i in range(count):
        if i + 1 < count:
            e = floor(mp.log(abs(value), 2))
            unit = mpf(2) ** (e - bits + 1)
            part = floor(value / unit + mpf(1) / 2) * unit
        else:
            part = value
        part = f64(part) if kind == "f64" else f32(part)
        out.append(part)
        value -= part
    array(name, doc, out, kind)


def series(value, x, terms):
    return sum(value(i) * x**i for i in range(terms))


ln2 = log(mpf(2))
print("//! Coefficients and split constants of the transcendental functions, as `coefficients/generate.py` computes them.")
print("//!")
print("//! Ascending powers. An error is absolute, of the polynomial as rounded, on the interval named.")
print()
print('#![allow(clippy::excessive_precision, clippy::approx_constant, clippy::unreadable_literal, reason = "generated")]')
print()

half_ln2 = ln2 / 2 * mpf("1.001")
polynomial("EXP_64", "(e^r - 1 - r) / r^2 on |r| <= log(2)/2", lambda r: (exp(r) - 1 - r) / r**2, -half_ln2, half_ln2, 11, "f64")
polynomial("EXP_32", "(e^r - 1 - r) / r^2 on |r| <= log(2)/2", lambda r: (exp(r) - 1 - r) / r**2, -half_ln2, half_ln2, 6, "f32")
polynomial("EXP2_32", "(2^r - 1) / r on |r| <= 1/2", lambda r: (2**r - 1) / r, -0.501, 0.501, 7, "f32")
parts("LN2_64", "log(2); the first part has 42 bits, so that its product with an exponent is exact", ln2, 42, "f64", 2)
parts("LN2_3_64", "log(2) in three parts", ln2, 42, "f64", 3)
parts("LN2_32", "log(2); the first part has 15 bits", ln2, 15, "f32", 2)
zmax = (sqrt(mpf(2)) - 1) ** 2 / (sqrt(mpf(2)) + 1) ** 2 * mpf("1.02")
atanh_z = lambda z: series(lambda i: mpf(2) / (2 * i + 3), z, 60)
polynomial("LOG_64", "(log((1 + s) / (1 - s)) / s - 2) / z for z = s^2, |s| <= 0.1716", atanh_z, mpf(10) ** -30, zmax, 8, "f64")
atanh_z2 = lambda z: series(lambda i: mpf(2) / (2 * i + 5), z, 60)
polynomial("LOG_TAIL_64", "((log((1 + s) / (1 - s)) / s - 2) / z - 2/3) / z for z = s^2", atanh_z2, mpf(10) ** -30, zmax, 8, "f64")
def log_tail(f):
    if abs(f) < mpf(10) ** -20:
        return mpf(1) / 3 - f / 4
    return (log(1 + f) - f + f * f / 2) / f**3
polynomial("LOG_32", "(log(1 + f) - f + f^2/2) / f^3 on sqrt(1/2) - 1 <= f <= sqrt(2) - 1", log_tail, sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1, 10, "f32")
parts("LOG2E_64", "1/log(2)", 1 / ln2, 32, "f64", 2)
parts("LOG10E_64", "1/log(10)", 1 / log(mpf(10)), 32, "f64", 2)
parts("LOG10_2_64", "log10(2); the first part has 40 bits", log(mpf(2)) / log(mpf(10)), 40, "f64", 2)
parts("HALF_PI_64", "pi/2 in full parts", pi / 2, 53, "f64", 3)
parts("HALF_PI_32", "pi/2 in full parts", pi / 2, 24, "f32", 3)
q = (pi / 4 * mpf("1.01")) ** 2
sin_z = lambda z: (sin(sqrt(z)) / sqrt(z) - 1) / z
cos_z = lambda z: (cos(sqrt(z)) - 1 + z / 2) / z**2
tiny = mpf(10) ** -20
polynomial("SIN_64", "(sin(r)/r - 1) / z for z = r^2, |r| <= pi/4", sin_z, tiny, q, 7, "f64")
polynomial("COS_64", "(cos(r) - 1 + z/2) / z^2 for z = r^2", cos_z, tiny, q, 7, "f64")
q = (pi / 4 * mpf("1.02")) ** 2
polynomial("SIN_32", "(sin(r)/r - 1) / z for z = r^2, |r| <= pi/4", sin_z, tiny, q, 4, "f32")
polynomial("COS_32", "(cos(r) - 1 + z/2) / z^2 for z = r^2", cos_z, tiny, q, 4, "f32")
asin_z = lambda z: (asin(sqrt(z)) / sqrt(z) - 1) / z
polynomial("ASIN_64", "(asin(x)/x - 1) / z for z = x^2 <= 1/4", asin_z, tiny, mpf(1) / 4, 14, "f64")
atan_z = lambda z: (atan(sqrt(z)) / sqrt(z) - 1) / z
polynomial("ATAN_64", "(atan(x)/x - 1) / z for z = x^2, x <= sqrt(2) - 1", atan_z, tiny, (sqrt(mpf(2)) - 1) ** 2 * mpf("1.01"), 12, "f64")
erf_z = lambda z: erf(sqrt(z)) / sqrt(z)
polynomial("ERF_64", "erf(x)/x - 1 for z = x^2 <= 1", lambda z: erf_z(z) - 1, tiny, mpf(1), 14, "f64")
polynomial("ERF_32", "erf(x)/x - 1 for z = x^2 <= 1", lambda z: erf_z(z) - 1, tiny, mpf(1), 8, "f32")
def erfc_t(t):
    x = 1 / t - 2
    return erfc(x) * exp(x * x)
polynomial("ERFC_64", "erfc(x) e^(x^2) for t = 1/(x + 2), 1 <= x <= 6", erfc_t, mpf(1) / 8, mpf(1) / 3, 18, "f64")
polynomial("ERFC_32", "-log(erfc(x)) for 1 <= x <= 4, in x - 1", lambda t: -log(erfc(t + 1)), 0, 3, 11, "f32")
tanh_z = lambda z: (mp.tanh(sqrt(z)) / sqrt(z) - 1) / z
polynomial("TANH_32", "(tanh(x)/x - 1) / z for z = x^2, |x| <= 0.625", tanh_z, tiny, mpf("0.625") ** 2, 6, "f32")

mp.prec = 1400
value = 2 / pi
words = []
for _ in range(20):
    value *= mpf(2) ** 64
    word = int(floor(value))
    words.append(word)
    value -= word
print("/// The first 1,280 bits of 2/pi behind the binary point, 64 to a word.")
print("pub const TWO_OVER_PI: [u64; 20] = [")
for word in words:
    print(f"    {word:#018x},")
print("];")
