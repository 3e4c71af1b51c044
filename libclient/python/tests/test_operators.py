"""Operators and elementwise functions against NumPy: results, promotion, Python scalars, errors at the call."""

import operator

import numpy as np
import pytest
from check import same, values

NUMBERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
INTEGERS = NUMBERS[:8]
FLOATS = ["float32", "float64"]
ARITHMETIC = [operator.add, operator.sub, operator.mul]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
BITWISE = [operator.and_, operator.or_, operator.xor]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("op", ARITHMETIC + COMPARISONS, ids=lambda op: op.__name__)
def test_arithmetic_and_comparisons(xp, op, dtype):
    a, b = values((3, 4), dtype, 1), values((4,), dtype, 2)
    same(xp, op(xp.asarray(a), xp.asarray(b)), op(a, b))


@pytest.mark.parametrize("dtype", FLOATS)
def test_division(xp, dtype):
    a, b = values((5,), dtype, 1), values((5,), dtype, 2)
    x, y = xp.asarray(a), xp.asarray(b)
    same(xp, x / y, a / b)
    same(xp, x // y, a // b)
    same(xp, x % y, a % b, rtol=1e-6)
    same(xp, 1.0 / y, np.dtype(dtype).type(1) / b)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_division_and_shifts(xp, dtype):
    a = values((6,), dtype, 1)
    b = np.array([1, 2, 3, 4, 5, 6], dtype)
    x, y = xp.asarray(a), xp.asarray(b)
    same(xp, x // y, a // b)
    same(xp, x % y, a % b)
    same(xp, x << 1, a << np.dtype(dtype).type(1))
    same(xp, x >> 1, a >> np.dtype(dtype).type(1))
    for op in BITWISE:
        same(xp, op(x, y), op(a, b))
    same(xp, ~x, ~a)


def test_bool_operators(xp):
    a, b = values((8,), bool, 1), values((8,), bool, 2)
    x, y = xp.asarray(a), xp.asarray(b)
    for op in BITWISE:
        same(xp, op(x, y), op(a, b))
    same(xp, ~x, ~a)
    same(xp, x == y, a == b)
    same(xp, x & True, a)


@pytest.mark.parametrize(
    "name", ["sqrt", "exp", "log", "sin", "cos", "tanh", "floor", "ceil", "trunc", "abs", "sign", "square", "expm1", "log1p"]
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_functions(xp, name, dtype):
    a = np.abs(values((7,), dtype, 3)) + np.dtype(dtype).type(0.25)
    same(xp, getattr(xp, name)(xp.asarray(a)), getattr(np, name)(a), rtol=1e-6 if dtype == "float32" else 1e-13)


def test_functions_of_special_values(xp):
    a = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], np.float32)
    x = xp.asarray(a)
    for name in ("isnan", "isinf", "isfinite", "signbit"):
        same(xp, getattr(xp, name)(x), getattr(np, name)(a))
    same(xp, xp.maximum(x, 0.5), np.maximum(a, np.float32(0.5)))
    same(xp, xp.minimum(0.5, x), np.minimum(np.float32(0.5), a))


def test_beyond_the_standard(xp):
    a = np.array([-2.0, -0.5, 0.0, 1.5], np.float32)
    x = xp.asarray(a)
    same(xp, xp.sigmoid(x), 1 / (1 + np.exp(-a.astype(np.float64))), dtype="float32", rtol=1e-6)
    same(xp, xp.rsqrt(xp.abs(x) + 1.0), 1 / np.sqrt(np.abs(a) + 1), rtol=1e-6)
    same(xp, xp.fma(x, 2.0, 1.0), a * 2 + 1)
    same(xp, xp.erf(xp.zeros((2,))), np.zeros(2, np.float32))
    same(xp, xp.exp2(x), np.exp2(a), rtol=1e-6)


def test_power(xp):
    a = np.array([1.0, 2.0, -3.0], np.float32)
    same(xp, xp.asarray(a) ** 2, a**2)
    same(xp, xp.asarray(a) ** 3, a**3, rtol=1e-6)
    same(xp, 2.0 ** xp.asarray(a), np.float32(2) ** a, rtol=1e-6)
    same(xp, xp.asarray(np.array([2, 3])) ** 2, np.array([4, 9]))


def test_unary_operators(xp):
    a = values((4,), "float32")
    x = xp.asarray(a)
    same(xp, -x, -a)
    same(xp, abs(x), abs(a))
    same(xp, +x, a)


def test_clip_and_where(xp):
    a = values((9,), "float32")
    x = xp.asarray(a)
    same(xp, xp.clip(x, -0.5, 0.5), np.clip(a, np.float32(-0.5), np.float32(0.5)))
    same(xp, xp.clip(x, min=0), np.maximum(a, 0))
    same(xp, xp.clip(x), a)
    same(xp, xp.where(x > 0, x, 0.0), np.where(a > 0, a, np.float32(0)))
    same(xp, xp.where(x > 0, 1, 2), np.where(a > 0, 1, 2))


# ------------------------------------------------------------------------------------------------ promotion

LATTICE = {
    ("int8", "int16"): "int16", ("int8", "int64"): "int64", ("int16", "int32"): "int32", ("int32", "int64"): "int64",
    ("uint8", "uint16"): "uint16", ("uint8", "uint64"): "uint64", ("uint32", "uint64"): "uint64",
    ("int8", "uint8"): "int16", ("int8", "uint16"): "int32", ("int8", "uint32"): "int64", ("int16", "uint8"): "int16",
    ("int16", "uint16"): "int32", ("int16", "uint32"): "int64", ("int32", "uint8"): "int32", ("int32", "uint16"): "int32",
    ("int32", "uint32"): "int64", ("int64", "uint8"): "int64", ("int64", "uint16"): "int64", ("int64", "uint32"): "int64",
    ("float32", "float64"): "float64", ("float16", "float32"): "float32", ("bfloat16", "float32"): "float32",
    ("float16", "bfloat16"): "float32", ("bool", "bool"): "bool",
}  # fmt: skip


@pytest.mark.parametrize("pair", LATTICE, ids=lambda pair: "-".join(pair))
def test_promotion_table(xp, pair):
    a, b = (getattr(xp, name) for name in pair)
    want = getattr(xp, LATTICE[pair])
    assert xp.result_type(a, b) == want
    assert xp.result_type(b, a) == want
    if pair[0] != "bool":
        assert (xp.ones((2,), dtype=a) + xp.ones((2,), dtype=b)).dtype == want


@pytest.mark.parametrize(
    "pair", [("int32", "float32"), ("uint8", "float64"), ("bool", "int8"), ("bool", "float32"), ("int64", "uint64")]
)
def test_kinds_do_not_mix(xp, pair):
    a, b = (xp.ones((2,), dtype=getattr(xp, name)) for name in pair)
    with pytest.raises(TypeError, match=f"{pair[0]}.*{pair[1]}"):
        a * b
    with pytest.raises(TypeError):
        xp.result_type(a, b)


@pytest.mark.parametrize("dtype", NUMBERS + ["float16", "bfloat16"])
def test_python_scalars_take_the_array_dtype(xp, dtype):
    x = xp.ones((3,), dtype=getattr(xp, dtype))
    assert (x + 1).dtype == x.dtype
    assert (2 * x).dtype == x.dtype
    if dtype not in INTEGERS:
        assert (x * 1.5).dtype == x.dtype
        assert xp.maximum(x, 0.0).dtype == x.dtype


def test_python_float_beside_integers_is_the_default_float(xp):
    x = xp.asarray(np.array([1, 2, 3], np.int32))
    same(xp, x * 1.5, np.array([1.5, 3.0, 4.5], np.float32))


@pytest.mark.parametrize("value, dtype", [(128, "int8"), (-1, "uint8"), (2**63, "int64"), (2**64, "uint64"), (256, "uint8")])
def test_python_integers_do_not_wrap(xp, value, dtype):
    with pytest.raises(OverflowError, match=f"out of range for {dtype}"):
        xp.ones((2,), dtype=getattr(xp, dtype)) + value


def test_numpy_scalars_count_as_python_scalars(xp):
    x = xp.ones((2,))
    assert (x * np.float32(2)).dtype == xp.float32
    assert (np.float64(2) * x).dtype == xp.float32
    same(xp, x + np.int64(2), np.full(2, 3, np.float32))


def test_foreign_operands(xp):
    x = xp.ones((2,))
    with pytest.raises(TypeError):
        x + np.ones(2, np.float32)
    with pytest.raises(TypeError):
        np.ones(2, np.float32) + x
    with pytest.raises(TypeError):
        x + "a"
    assert (x == "a") is False
    with pytest.raises(TypeError, match="asarray"):
        xp.add(x, [1.0, 2.0])


# -------------------------------------------------------------------------------------- in place, and errors


def test_in_place_operators_rebind(xp):
    x = xp.asarray(np.array([1.0, 2.0], np.float32))
    view, same_object = x[:1], x
    x += 1
    x *= 2.0
    assert x is same_object
    same(xp, x, np.array([4.0, 6.0], np.float32))
    same(xp, view, np.array([1.0], np.float32))
    with pytest.raises(ValueError, match="in-place"):
        x += xp.ones((3, 2))
    with pytest.raises(TypeError, match="in-place"):
        x += xp.ones((2,), dtype=xp.float64)
    n = xp.asarray(np.array([1, 2]))
    with pytest.raises(TypeError, match="in-place"):
        n /= 2


def test_errors_name_shapes_and_dtypes(xp):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4,\)"):
        xp.ones((2, 3)) + xp.ones((4,))
    with pytest.raises(TypeError, match="sin.*int64"):
        xp.sin(xp.asarray(np.array([1, 2])))
    with pytest.raises(TypeError, match="bitwise_and.*float32"):
        xp.ones((2,)) & xp.ones((2,))
    with pytest.raises(NotImplementedError, match="complex"):
        xp.ones((2,)) * 1j


def test_scalar_conversions(xp):
    assert float(xp.asarray(2.5)) == 2.5
    assert int(xp.asarray(np.array([7]))) == 7
    assert bool(xp.asarray(True)) is True
    assert complex(xp.asarray(2.0)) == 2 + 0j
    assert [10, 20, 30][xp.asarray(1)] == 20
    assert int(xp.asarray(-2.75)) == -2
    assert xp.asarray(np.uint64(2**64 - 1)).item() == 2**64 - 1
    assert xp.asarray(np.int8(-5)).item() == -5
    with pytest.raises(TypeError, match=r"\(2,\)"):
        float(xp.ones((2,)))
    with pytest.raises(TypeError, match="float32"):
        [1, 2][xp.asarray(1.0)]
    with pytest.raises(TypeError, match="unhashable"):
        hash(xp.ones((2,)))
