#!/usr/bin/env python3
"""Computes tests/math_double.txt: python3 reference.py > ../tests/math_double.txt

Lines are: function, bits of the operands, bits of the nearest f64, and the rest in thousandths of a unit of the last place.
"""
import random
import struct
from mpmath import mp, mpf

mp.prec = 1400  # enough for sin(1e308)
random.seed(2)


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def line(name, operands, value):
    near = float(value)
    if near in (float("inf"), float("-inf")) or abs(near) < 1e-300 or abs(near) > 1e300:
        return
    _, exponent = mp.frexp(value)
    rest = (value - mpf(near)) * mpf(2) ** (53 - exponent)
    print(name, *(f"{bits(x):x}" for x in operands), f"{bits(near):x}", int(mp.nint(rest * 1000)))


def wide(low, high):
    return random.choice([-1, 1]) * 2.0 ** random.uniform(low, high)


def near(x, reach):
    return x + random.uniform(-reach, reach)


one = mpf(1)
UNARY = {
    "exp": (mp.exp, lambda: wide(-30, 9.4)),
    "exp2": (lambda x: mpf(2) ** x, lambda: wide(-30, 9.9)),
    "expm1": (mp.expm1, lambda: wide(-40, 6)),
    "log": (mp.log, lambda: random.choice([abs(wide(-990, 990)), near(1, 0.5), near(1, 1e-6)])),
    "log1p": (lambda x: mp.log(1 + x), lambda: random.choice([abs(wide(-60, 900)), near(0, 0.9), near(0, 0.4)])),
    "log2": (lambda x: mp.log(x) / mp.log(2), lambda: random.choice([abs(wide(-990, 990)), near(1, 0.5)])),
    "log10": (mp.log10, lambda: random.choice([abs(wide(-990, 990)), near(1, 0.5)])),
    "sin": (mp.sin, lambda: random.choice([wide(-20, 20), wide(20, 1000), near(3.141592653589793 * random.randint(1, 99999), 1e-6)])),
    "cos": (mp.cos, lambda: random.choice([wide(-20, 20), wide(20, 1000), near(1.5707963267948966 * random.randint(1, 99999), 1e-6)])),
    "tan": (mp.tan, lambda: random.choice([wide(-20, 20), wide(20, 1000)])),
    "asin": (mp.asin, lambda: near(0, 1)),
    "acos": (mp.acos, lambda: near(0, 1)),
    "atan": (mp.atan, lambda: wide(-20, 20)),
    "sinh": (mp.sinh, lambda: wide(-20, 9.4)),
    "cosh": (mp.cosh, lambda: wide(-20, 9.4)),
    "tanh": (mp.tanh, lambda: wide(-20, 5)),
    "asinh": (mp.asinh, lambda: wide(-20, 900)),
    "acosh": (mp.acosh, lambda: 1 + abs(wide(-40, 900))),
    "atanh": (mp.atanh, lambda: near(0, 1)),
    "sigmoid": (lambda x: 1 / (1 + mp.exp(-x)), lambda: wide(-10, 9)),
    "erf": (mp.erf, lambda: wide(-10, 2.8)),
}
BINARY = {
    "pow": (lambda x, y: x**y, lambda: (lambda x: (x, random.uniform(-690, 690) / float(mp.log(x))))(random.choice([abs(wide(-900, 900)), near(1, 0.5), near(1, 1e-4)]))),
    "atan2": (mp.atan2, lambda: (wide(-20, 20), wide(-20, 20))),
    "hypot": (mp.hypot, lambda: (wide(-500, 500), wide(-500, 500)) if random.random() < 0.3 else (wide(-3, 3), wide(-3, 3))),
    "logaddexp": (lambda a, b: mp.log(mp.exp(a) + mp.exp(b)), lambda: (abs(wide(-3, 5)), abs(wide(-3, 5)))),
}
for name, (function, draw) in UNARY.items():
    for _ in range(150):
        x = draw()
        line(name, (x,), function(mpf(x)))
for name, (function, draw) in BINARY.items():
    for _ in range(150):
        x, y = draw()
        line(name, (x, y), function(mpf(x), mpf(y)))
