"""Each operation x dtype x layout against NumPy: exact where IEEE 754 says so, within units of the last place elsewhere.

One test is one operation and dtype over all layouts; a failure names the layout and the first element that differs.
"""

import numpy as np
import oracle
import pytest
from oracle import ALL, BF16, BOOL, EXACT, FLOATS, FUNCTIONS, INTEGERS, NUMBERS

# name: (shape of the base, view by the array's own operators)
LAYOUTS = {
    "row_major": ((6, 7), lambda x, m: x),
    "strided": ((12, 21), lambda x, m: x[::2, 1::3]),
    "reversed": ((6, 7), lambda x, m: x[::-1, ::-1]),
    "reversed_step": ((13, 7), lambda x, m: x[-1::-3, ::-1]),
    "permuted": ((3, 4, 5), lambda x, m: m.permute_dims(x, (2, 0, 1))),
    "broadcast": ((1, 9), lambda x, m: m.broadcast_to(x, (5, 9))),
    "column": ((40, 1), lambda x, m: x),
    "empty": ((0, 5), lambda x, m: x),
    "empty_slice": ((4, 5), lambda x, m: x[2:2]),
    "rank_0": ((), lambda x, m: x),
    "rank_1": ((2050,), lambda x, m: x),
    "rank_12": ((1, 2, 1, 2, 1, 3, 1, 1, 2, 1, 1, 2), lambda x, m: x),
    "rank_12_permuted": ((1, 2, 1, 2, 1, 3, 1, 1, 2, 1, 1, 2), lambda x, m: m.permute_dims(x, (11, 3, 2, 1, 0, 5, 4, 7, 6, 8, 10, 9))),
}
SMALL = [name for name in LAYOUTS if name not in ("rank_1",)]


def pair(xp, layout, dtype, seed=0):
    """The same values in the same layout, here and there."""
    shape, view = LAYOUTS[layout]
    base = oracle.values(dtype, int(np.prod(shape)), seed).reshape(shape)
    return view(xp.asarray(base), xp), view(base, np)


def differs(have, want, allowed=0):
    """The first element that differs, in words; None where none does."""
    if have.shape != want.shape or have.dtype != want.dtype:
        return f"{have.dtype} {have.shape}, not {want.dtype} {want.shape}"
    if oracle.is_float(want.dtype):
        bad = oracle.ulps(have, want) > allowed
        if not allowed:
            # Zeros have signs, and these are part of the promise.
            zeros = (want == 0) & (have == 0)
            bad = bad | (zeros & (np.signbit(have.astype(np.float32)) != np.signbit(want.astype(np.float32))))
    else:
        bad = have != want
    if not np.any(bad):
        return None
    at = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(bad)))
    return f"{np.sum(bad)} elements, first {at}: {np.atleast_1d(have)[at]!r}, not {np.atleast_1d(want)[at]!r}"


def check(xp, cases, allowed=0):
    """Cases are (name, array, wanted); all are submitted before the first is read."""
    wrong = []
    for name, have, want in cases:
        why = differs(np.asarray(xp.asnumpy(have)), np.asarray(want), allowed)
        if why:
            wrong.append(f"{name}: {why}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_exact_functions(xp, name, dtype):
    arity, dtypes, want = EXACT[name]
    if dtype not in dtypes:
        # The table does not take it: the call says so, or the client promotes; nothing to compare.
        return
    cases = []
    for layout in SMALL:
        operands = [pair(xp, layout, dtype, seed) for seed in range(arity)]
        have = getattr(xp, name)(*(x for x, _ in operands))
        cases.append((layout, have, want(*(x for _, x in operands))))
    if arity == 2:
        # Layouts that differ, and broadcasting against each other.
        (a, x), (b, y) = pair(xp, "row_major", dtype, 3), pair(xp, "reversed", dtype, 4)
        cases.append(("mixed", getattr(xp, name)(a, b), want(x, y)))
        cases.append(("outer", getattr(xp, name)(a[:, :1], b[:1]), want(x[:, :1], y[:1])))
    check(xp, cases)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_within_their_bounds(xp, name, dtype):
    arity, allowed, _ = FUNCTIONS[name]
    cases = []
    for layout in SMALL + ["rank_1"]:
        operands = [pair(xp, layout, dtype, seed) for seed in range(arity)]
        have = getattr(xp, name)(*(x for x, _ in operands))
        want = oracle.function(name, *(x for _, x in operands))
        if name == "logaddexp":
            # Near zero two terms cancel, of which each is within its bound: what is near zero is compared as 0.
            near = np.abs(want.astype(np.float64)) < 2.0**-3
            have, want = xp.where(xp.asarray(near), xp.zeros_like(have), have), np.where(near, np.zeros_like(want), want)
        cases.append((layout, have, want))
    check(xp, cases, allowed)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_powers_of_integers(xp, dtype):
    cases = []
    for layout in SMALL:
        (a, x), (b, y) = pair(xp, layout, dtype, 1), pair(xp, layout, dtype, 2)
        cases.append((layout, xp.pow(a, b), oracle.power(x, y)))
    check(xp, cases)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fused_multiply_add_rounds_once(xp, dtype):
    cases = []
    for layout in SMALL:
        operands = [pair(xp, layout, dtype, seed) for seed in range(3)]
        a, b, c = (x.astype(np.longdouble) for _, x in operands)
        if dtype == np.float64:
            continue  # extended precision does not hold the product; the Rust suites compare bits
        with np.errstate(all="ignore"):
            want = (a * b + c).astype(np.float32).astype(dtype)
        cases.append((layout, xp.fma(*(x for x, _ in operands)), want))
    # 64 bits of significand hold the product of two f32 exactly, but not always the sum: one unit for that.
    check(xp, cases, 1)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_where(xp, dtype):
    cases = []
    for layout in SMALL:
        (c, n), (a, x), (b, y) = pair(xp, layout, BOOL, 1), pair(xp, layout, dtype, 2), pair(xp, layout, dtype, 3)
        cases.append((layout, xp.where(c, a, b), np.where(n, x, y)))
    check(xp, cases)


@pytest.mark.parametrize("to", ALL, ids=str)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_casts(xp, dtype, to):
    target = getattr(xp, str(to))
    cases = []
    for layout in SMALL:
        a, x = pair(xp, layout, dtype, 5)
        cases.append((layout, xp.astype(a, target), oracle.cast(x, to)))
    check(xp, cases)


def sum_in_order(x, product=False):
    """Sixteen lanes in blocks of 1,024, lanes joined 8, 4, 2, 1, blocks as a tree of adjacent pairs."""
    join = np.multiply if product else np.add
    blocks = []
    for start in range(0, len(x), 1024):
        block = x[start : start + 1024]
        lanes = []
        for lane in range(min(16, len(block))):
            total = block[lane]
            for element in block[lane + 16 :: 16]:
                total = join(total, element)
            lanes.append(total)
        for half in (8, 4, 2, 1):
            lanes = [join(a, lanes[k + half]) if k + half < len(lanes) else a for k, a in enumerate(lanes[:half])]
        blocks.append(lanes[0])
    while len(blocks) > 1:
        blocks = [join(*blocks[k : k + 2]) if k + 1 < len(blocks) else blocks[k] for k in range(0, len(blocks), 2)]
    return blocks[0] if blocks else x.dtype.type(1 if product else 0)


def reduced(x, axis, function):
    """A function of 1-d arrays over one axis, or over all axes in row-major order."""
    if axis is None:
        return np.asarray(function(np.ravel(x)))
    moved = np.moveaxis(x, axis, -1)
    # Said in full: an axis of no elements leaves nothing to infer the other from.
    rows = moved.reshape(int(np.prod(moved.shape[:-1])), moved.shape[-1])
    out = [function(row) for row in rows]
    return np.array(out).reshape(moved.shape[:-1])


def axes_of(x):
    return [None] + [axis for axis in (0, x.ndim - 1) if x.ndim]


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["sum", "prod"])
def test_sums_keep_their_order(xp, name, dtype):
    cases = []
    for layout in LAYOUTS:
        a, x = pair(xp, layout, dtype, 6)
        for axis in axes_of(x):
            have = getattr(xp, name)(a, axis=axis, dtype=a.dtype)
            with np.errstate(all="ignore"):
                order = lambda row: sum_in_order(oracle.wide(row), name == "prod")  # noqa: E731
                want = reduced(x, axis, order).astype(dtype)
            cases.append((f"{layout} axis {axis}", have, want))
    check(xp, cases)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_extremes(xp, name, dtype):
    cases = []
    for layout in LAYOUTS:
        a, x = pair(xp, layout, dtype, 7)
        if not x.size:
            continue
        for axis in axes_of(x):
            have = getattr(xp, name)(a, axis=axis)
            if name.startswith("arg"):
                want = reduced(oracle.wide(x), axis, getattr(np, name)).astype(np.int64)
            else:
                pick = oracle.extreme(name == "max")

                def fold(row):
                    total = row[:1]
                    for k in range(1, len(row)):
                        total = pick(total, row[k : k + 1])
                    return total[0]

                want = reduced(x, axis, fold).astype(dtype)
            cases.append((f"{layout} axis {axis}", have, want))
    check(xp, cases)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("name", ["any", "all"])
def test_truths(xp, name, dtype):
    cases = []
    for layout in LAYOUTS:
        a, x = pair(xp, layout, dtype, 8)
        for axis in axes_of(x):
            want = np.asarray(getattr(np, name)(x != 0, axis=axis))
            cases.append((f"{layout} axis {axis}", getattr(xp, name)(a, axis=axis), want))
    check(xp, cases)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
def test_scans(xp, name, dtype):
    cases = []
    accumulate = np.add.accumulate if name.endswith("sum") else np.multiply.accumulate
    for layout in LAYOUTS:
        a, x = pair(xp, layout, dtype, 9)
        for axis in range(x.ndim)[:3]:
            with np.errstate(all="ignore"):
                want = accumulate(oracle.wide(x), axis=axis).astype(dtype)
            cases.append((f"{layout} axis {axis}", getattr(xp, name)(a, axis=axis, dtype=a.dtype), want))
    check(xp, cases)


def contracted(a, b, dtype):
    """ik,kj->ij in the order of the table: blocks of 256, a chain of fused multiply-adds in each, from +0."""
    out = np.zeros((a.shape[0], b.shape[1]), np.int32 if dtype == np.int8 else dtype)
    if not oracle.is_float(dtype):
        return (a.astype(out.dtype)[:, :, None] * b.astype(out.dtype)[None]).sum(1, dtype=out.dtype)
    # f64 holds the product of two f32 exactly; its sum with an f32 is rounded twice, which the values here rule out.
    total = None
    for start in range(0, a.shape[1], 256):
        chain = np.zeros(out.shape, np.float32)
        for k in range(start, min(start + 256, a.shape[1])):
            product = a[:, k, None].astype(np.float64) * b[None, k, :].astype(np.float64)
            chain = (product + chain.astype(np.float64)).astype(np.float32)
        total = chain if total is None else total + chain
    return out if total is None else total.astype(dtype)


@pytest.mark.parametrize("dtype", INTEGERS + [np.dtype("float16"), BF16, np.dtype("float32")], ids=str)
def test_contractions(xp, dtype):
    rng = np.random.default_rng(11)
    cases = []
    for m, k, n in [(1, 1, 1), (3, 5, 4), (1, 300, 7), (9, 513, 1), (4, 0, 3), (0, 4, 2), (17, 64, 33)]:
        low = 0 if dtype.kind == "u" else -8
        make = lambda *shape: rng.integers(low, 9, shape).astype(dtype)  # noqa: E731
        x, y = make(m, k), make(k, n)
        if oracle.is_float(dtype):
            x = (x.astype(np.float32) / np.float32(4)).astype(dtype)
        want = contracted(x, y, dtype)
        a, b = xp.asarray(x), xp.asarray(y)
        cases.append((f"{m} {k} {n}", xp.contract(a, b, "ik,kj->ij"), want))
        turned = xp.permute_dims(xp.asarray(np.ascontiguousarray(x.T)), (1, 0))
        cases.append((f"{m} {k} {n} turned", xp.contract(turned, b, "ik,kj->ij"), want))
        flipped = xp.asarray(np.ascontiguousarray(y[::-1]))[::-1]
        cases.append((f"{m} {k} {n} flipped", xp.contract(a, flipped, "ik,kj->ij"), want))
        cases.append((f"{m} {k} {n} out turned", xp.contract(a, b, "ik,kj->ji"), want.T))
    check(xp, cases)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_movement(xp, dtype):
    cases = []
    for layout in SMALL:
        a, x = pair(xp, layout, dtype, 12)
        cases.append((f"{layout} reshape", xp.reshape(a, (-1,) if x.size else (0, 3)), x.reshape((-1,) if x.size else (0, 3))))
        cases.append((f"{layout} twice", xp.reshape(xp.reshape(a, x.shape[::-1]), x.shape), x.reshape(x.shape[::-1]).reshape(x.shape)))
        cases.append((f"{layout} as uploaded", a, x))
        if not x.ndim or x.ndim > 11:
            continue
        b, y = pair(xp, layout, dtype, 13)
        cases.append((f"{layout} concat", xp.concat([a, b, a], axis=-1), np.concatenate([x, y, x], axis=-1)))
        cases.append((f"{layout} stack", xp.stack([a, b]), np.stack([x, y])))
        cases.append((f"{layout} flip", xp.flip(a), np.flip(x)))
        cases.append((f"{layout} roll", xp.roll(a, 2, axis=0), np.roll(x, 2, axis=0)))
        if x.shape[0]:
            index = np.array([0, -1, x.shape[0] - 1, 0], np.int64)
            cases.append((f"{layout} take", xp.take(a, xp.asarray(index), axis=0), np.take(x, index, axis=0)))
    check(xp, cases)


@pytest.mark.parametrize("dtype", [BOOL, np.dtype("int16"), BF16, np.dtype("float32"), np.dtype("float64")], ids=str)
def test_windows(xp, dtype):
    x = oracle.values(dtype, 9 * 11, 14).reshape(9, 11)
    a = xp.asarray(x)
    cases = []
    for size, stride, dilation, padding in [(1, 1, 1, 0), (3, 1, 1, 0), (3, 2, 1, 1), (2, 3, 2, 2), (4, 1, 2, 0), (9, 1, 1, 0)]:
        padded = np.pad(x, [(0, 0), (padding, padding)])
        reach = (size - 1) * dilation + 1
        all_of_them = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=1)
        want = all_of_them[:, ::stride, ::dilation]
        have = xp.window(a, (1,), (size,), strides=stride, dilations=dilation, padding=padding)
        cases.append((f"{size} {stride} {dilation} {padding}", have, want))
    check(xp, cases)
