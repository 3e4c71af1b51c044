"""What NumPy says: exact results where IEEE 754 and two's complement define them, wide ones for the functions.

The operation table is total, NumPy is not: where NumPy raises, warns or leaves a result open, the table's definition is
written out here.
"""

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
INTEGERS = [np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")]
FLOATS = [np.dtype("float16"), BF16, np.dtype("float32"), np.dtype("float64")]
BOOL = np.dtype(bool)
NUMBERS = INTEGERS + FLOATS
ALL = [BOOL] + NUMBERS


def is_float(dtype):
    return dtype in FLOATS


def values(dtype, count, seed=0):
    """Numbers of a dtype with its extremes among them."""
    rng = np.random.default_rng(seed)
    if dtype == BOOL:
        return rng.integers(0, 2, count).astype(bool)
    if not is_float(dtype):
        info = np.iinfo(dtype)
        some = rng.integers(info.min, info.max, count, dtype=dtype, endpoint=True)
        small = rng.integers(-9 if info.min else 0, 10, count).astype(dtype)
        x = np.where(rng.random(count) < 0.6, small, some)
        special = np.array([info.min, info.max, info.max - 1, 0, 1], dtype)
    else:
        info = ml_dtypes.finfo(dtype)
        scale = np.exp2(rng.integers(-12, 7, count))
        x = (rng.normal(size=count) * scale).astype(dtype)
        tiny, least = float(info.tiny), float(info.smallest_subnormal)
        special = np.array(
            [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, float(info.max), float(info.min), tiny, least, -least, 1e4]
        ).astype(dtype)
    x[: len(special)] = rng.permutation(special)[:count]
    return rng.permutation(x)


def wide(x):
    """For exact functions: f16 and bf16 are computed in f32."""
    return x.astype(np.float32) if x.dtype in (np.dtype("float16"), BF16) else x


def exactly(function):
    """A NumPy function in the dtype, or in f32 and rounded."""

    def apply(*operands):
        dtype = operands[-1].dtype
        with np.errstate(all="ignore"):
            result = function(*(wide(x) for x in operands))
        return result if result.dtype == bool else result.astype(dtype)

    return apply


def power(a, b):
    """Integers wrap; a negative exponent gives 0 but for a base of 1 or -1."""
    bits = a.dtype.itemsize * 8
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, a.dtype)
    for at in np.ndindex(a.shape):
        base, exponent = int(a[at]), int(b[at])
        if exponent < 0:
            value = {1: 1, -1: 1 if exponent % 2 == 0 else -1}.get(base, 0)
        else:
            value = pow(base, exponent, 1 << bits)
        out[at] = np.array(value % (1 << bits), np.uint64).astype(a.dtype)
    return out


def shift(left):
    def apply(a, b):
        width = a.dtype.itemsize * 8
        inside = (b >= 0) & (b < width) if b.dtype.kind == "i" else b < width
        safe = np.where(inside, b, 0).astype(a.dtype)
        if left:
            return np.where(inside, np.left_shift(a, safe), 0).astype(a.dtype)
        return np.where(inside, np.right_shift(a, safe), np.where(a < 0, -1, 0).astype(a.dtype))

    return apply


def integer_division(function):
    def apply(a, b):
        if is_float(a.dtype):
            return exactly(function)(a, b)
        with np.errstate(all="ignore"):
            return np.where(b == 0, 0, function(a, np.where(b == 0, 1, b))).astype(a.dtype)

    return apply


def extreme(greater):
    """NumPy leaves the sign of a zero open; the table does not."""

    def apply(a, b):
        a, b = np.broadcast_arrays(a, b)
        result = exactly(np.maximum if greater else np.minimum)(a, b)
        if is_float(a.dtype):
            zeros = (a == 0) & (b == 0)
            negative = np.signbit(wide(a)) & np.signbit(wide(b)) if greater else np.signbit(wide(a)) | np.signbit(wide(b))
            result = np.where(zeros, np.where(negative, -0.0, 0.0).astype(a.dtype), result)
        return result

    return apply


def clip(a, low, high):
    return extreme(False)(extreme(True)(a, low), high)


def sign(a):
    if not is_float(a.dtype):
        return np.sign(a)
    x = wide(a)
    return np.where(np.isnan(x) | (x == 0), x, np.copysign(np.float32(1), x)).astype(a.dtype)


def rsqrt(a):
    return exactly(lambda x: x.dtype.type(1) / np.sqrt(x))(a)


# name: (operands, dtypes, oracle); the result has the bits of the oracle.
EXACT = {
    "negative": (1, NUMBERS, exactly(np.negative)),
    "abs": (1, NUMBERS, exactly(np.abs)),
    "sign": (1, NUMBERS, sign),
    "ceil": (1, NUMBERS, exactly(np.ceil)),
    "floor": (1, NUMBERS, exactly(np.floor)),
    "trunc": (1, NUMBERS, exactly(np.trunc)),
    "round": (1, NUMBERS, exactly(np.round)),
    "sqrt": (1, FLOATS, exactly(np.sqrt)),
    "square": (1, NUMBERS, exactly(np.square)),
    "reciprocal": (1, FLOATS, exactly(lambda x: x.dtype.type(1) / x)),
    "rsqrt": (1, FLOATS, rsqrt),
    "isnan": (1, NUMBERS, lambda x: np.isnan(wide(x))),
    "isinf": (1, NUMBERS, lambda x: np.isinf(wide(x))),
    "isfinite": (1, NUMBERS, lambda x: np.isfinite(wide(x))),
    "signbit": (1, FLOATS, lambda x: np.signbit(wide(x))),
    "logical_not": (1, [BOOL], np.logical_not),
    "bitwise_invert": (1, [BOOL] + INTEGERS, np.invert),
    "add": (2, NUMBERS, exactly(np.add)),
    "subtract": (2, NUMBERS, exactly(np.subtract)),
    "multiply": (2, NUMBERS, exactly(np.multiply)),
    "divide": (2, FLOATS, exactly(np.divide)),
    "floor_divide": (2, NUMBERS, integer_division(np.floor_divide)),
    "remainder": (2, NUMBERS, integer_division(np.remainder)),
    "fmod": (2, FLOATS, exactly(np.fmod)),
    "maximum": (2, NUMBERS, extreme(True)),
    "minimum": (2, NUMBERS, extreme(False)),
    "copysign": (2, FLOATS, exactly(np.copysign)),
    "nextafter": (2, FLOATS, np.nextafter),
    "equal": (2, ALL, np.equal),
    "not_equal": (2, ALL, np.not_equal),
    "less": (2, NUMBERS, np.less),
    "less_equal": (2, NUMBERS, np.less_equal),
    "greater": (2, NUMBERS, np.greater),
    "greater_equal": (2, NUMBERS, np.greater_equal),
    "logical_and": (2, [BOOL], np.logical_and),
    "logical_or": (2, [BOOL], np.logical_or),
    "logical_xor": (2, [BOOL], np.logical_xor),
    "bitwise_and": (2, [BOOL] + INTEGERS, np.bitwise_and),
    "bitwise_or": (2, [BOOL] + INTEGERS, np.bitwise_or),
    "bitwise_xor": (2, [BOOL] + INTEGERS, np.bitwise_xor),
    "bitwise_left_shift": (2, INTEGERS, shift(True)),
    "bitwise_right_shift": (2, INTEGERS, shift(False)),
    "clip": (3, NUMBERS, clip),
}

# name: (operands, ulps, function of extended precision)
_sigmoid = lambda x: np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))  # noqa: E731
FUNCTIONS = {
    "exp": (1, 2, np.exp),
    "expm1": (1, 2, np.expm1),
    "exp2": (1, 2, np.exp2),
    "log": (1, 2, np.log),
    "log1p": (1, 2, np.log1p),
    "log2": (1, 2, np.log2),
    "log10": (1, 2, np.log10),
    "sin": (1, 2, np.sin),
    "cos": (1, 2, np.cos),
    "tan": (1, 2, np.tan),
    "asin": (1, 2, np.arcsin),
    "acos": (1, 2, np.arccos),
    "atan": (1, 2, np.arctan),
    "sinh": (1, 4, np.sinh),
    "cosh": (1, 4, np.cosh),
    "tanh": (1, 2, np.tanh),
    "asinh": (1, 4, np.arcsinh),
    "acosh": (1, 4, np.arccosh),
    "atanh": (1, 4, np.arctanh),
    "sigmoid": (1, 2, _sigmoid),
    "pow": (2, 4, np.power),
    "atan2": (2, 4, np.arctan2),
    "hypot": (2, 4, np.hypot),
    "logaddexp": (2, 4, np.logaddexp),
}


def function(name, *operands):
    """The value in extended precision, rounded to the dtype."""
    dtype = operands[0].dtype
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name][2](*(x.astype(np.longdouble) for x in operands))
        if dtype == BF16:
            return exact.astype(np.float32).astype(BF16)
        return exact.astype(dtype)


def cast(x, to):
    """Floats truncate and saturate, NaN becomes 0; integers wrap; to bool is `!= 0`."""
    if to == BOOL:
        return x != 0
    with np.errstate(all="ignore"):
        if is_float(x.dtype) and not is_float(to):
            info = np.iinfo(to)
            out = np.zeros(x.shape, to)
            for at in np.ndindex(x.shape):
                number = float(x[at])
                if number == number:
                    out[at] = info.max if number >= info.max else info.min if number <= info.min else int(number)
            return out
        if to in (BF16, np.dtype("float16")) and x.dtype != np.float64:
            return x.astype(np.float32).astype(to)
        if to == BF16:
            return to_bf16(x)
        return x.astype(to)


def to_bf16(x):
    """From f64 with one rounding: to odd in f32, then to nearest even."""
    near = x.astype(np.float32)
    away = np.abs(near.astype(np.float64)) > np.abs(x)
    cut = np.where(away, near.view(np.uint32) - np.uint32(1), near.view(np.uint32))
    odd = np.where((near.astype(np.float64) == x) | np.isnan(x), near.view(np.uint32), cut | np.uint32(1))
    return odd.astype(np.uint32).view(np.float32).astype(BF16)


def ulps(have, want):
    """Distances in units of the last place; 0 for two NaNs."""
    bits = np.dtype(f"int{8 * have.dtype.itemsize}")

    def line(x):
        number = np.ascontiguousarray(x).view(bits).astype(object)
        return np.where(number < 0, -(number - int(np.iinfo(bits).min)), number)

    apart = np.abs(line(have) - line(want))
    h, w = have.astype(np.float64), want.astype(np.float64)
    return np.where(np.isnan(h) | np.isnan(w), np.where(np.isnan(h) & np.isnan(w), 0, 1 << 62), apart)
