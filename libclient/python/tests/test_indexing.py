"""`x[key]` and `x[key] = value` against NumPy, and what is out of range."""

import numpy as np
import pytest
from check import same, values

A = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)

BASIC = [
    0, -1, slice(None), slice(1, 3), slice(None, None, -1), slice(3, None, -2), slice(4, 1), slice(10, 20), slice(-3, -1), ...,
    None, (), (1, 2), (1, 2, 3), (-1, -1, -1), (slice(None), 2), (..., 2), (..., slice(None, None, 2)), (0, ..., 1),
    (None, 1), (slice(1, 3), None, 2), (..., None), (None, ..., None, 0), (slice(None), slice(None, None, -1), slice(5, 0, -2)),
    np.int64(2), (slice(0, 0), 1),
]  # fmt: skip


@pytest.mark.parametrize("key", BASIC, ids=repr)
def test_basic_keys(xp, key):
    same(xp, xp.asarray(A)[key], A[key])


def arrays():
    rows, columns = np.array([2, 0, 3]), np.array([[1], [4]])
    yield "one", (rows,)
    yield "two axes of positions", (np.array([[1], [3]]),)
    yield "second axis", (slice(None), columns)
    yield "with a slice", (slice(1, 3), np.array([0, 4]))
    yield "reversed and picked", (slice(None, None, -1), np.array([1, 1]), slice(0, 6, 2))
    yield "negative positions", (np.array([-1, -4]),)
    yield "two arrays", (rows, np.array([1, 2, 4]))
    yield "two arrays broadcast", (rows, columns)
    yield "last two", (slice(None), rows, np.array([1, 2, 4]))
    yield "apart", (rows, slice(None), np.array([1, 2, 4]))
    yield "three arrays", (rows, np.array([1, 2, 4]), np.array([5, 0, -1]))
    yield "int beside array", (1, rows)
    yield "empty", (np.array([], dtype=np.int64),)
    yield "mask", (A[:, 0, 0] > 20,)
    yield "mask of everything", (A > 60,)
    yield "mask of leading axes", (A[:, :, 0] % 4 == 0,)


@pytest.mark.parametrize("name, key", list(arrays()), ids=lambda value: value if isinstance(value, str) else "")
def test_arrays_as_keys(xp, name, key):
    device = tuple(xp.asarray(part) if isinstance(part, np.ndarray) else part for part in key)
    want = A[key]
    same(xp, xp.asarray(A)[device if len(device) > 1 else device[0]], want)


def test_lists_and_numpy_arrays_as_keys(xp):
    x = xp.asarray(A)
    same(xp, x[[1, 3]], A[[1, 3]])
    same(xp, x[np.array([1, 3])], A[[1, 3]])
    same(xp, x[[True, False, False, True]], A[[0, 3]])


def test_positions_out_of_range_read_zero(xp):
    x = xp.asarray(np.array([1.0, 2.0], np.float32))
    same(xp, x[xp.asarray(np.array([0, 5, -7]))], np.array([1, 0, 0], np.float32))


@pytest.mark.parametrize("key", [4, -5, (0, 5), (0, 0, 0, 0), (..., ...)], ids=repr)
def test_out_of_range(xp, key):
    with pytest.raises(IndexError):
        xp.asarray(A)[key]


def test_errors_say_which_axis_and_shape(xp):
    with pytest.raises(IndexError, match=r"index 9 .* axis 1 of size 5 .*\(4, 5, 6\)"):
        xp.asarray(A)[0, 9]
    with pytest.raises(TypeError, match="float32"):
        xp.asarray(A)[xp.ones((2,))]


@pytest.mark.parametrize("key", BASIC[:-1], ids=repr)
def test_assignment(xp, key):
    want, x = A.copy(), xp.asarray(A)
    want[key] = -1
    x[key] = -1.0
    same(xp, x, want)
    part = values(A[key].shape, "float32", 5)
    want[key] = part
    x[key] = xp.asarray(part)
    same(xp, x, want)


def test_assignment_with_arrays_and_masks(xp):
    want, x = A.copy(), xp.asarray(A)
    want[[0, 2]] = 7
    x[xp.asarray(np.array([0, 2]))] = 7.0
    want[:, [1, 2], 3] = 5
    x[:, xp.asarray(np.array([1, 2])), 3] = 5.0
    want[want > 50] = 0
    x[x > 50] = 0.0
    same(xp, x, want)
    mask = want[:, 0, 0] > 5
    want[mask] = np.float32(3)
    x[xp.asarray(mask)] = 3.0
    same(xp, x, want)


def test_assignment_leaves_other_arrays_alone(xp):
    x = xp.asarray(A)
    before, part = x + 0.0, x[0]
    x[0] = 9.0
    same(xp, before, A)
    same(xp, part, A[0])


def test_assignment_errors(xp):
    x = xp.asarray(A)
    with pytest.raises(ValueError, match=r"\(3,\).*\(5, 6\)"):
        x[0] = xp.ones((3,))
    with pytest.raises(TypeError, match="float64"):
        x[0] = xp.ones((6,), dtype=xp.float64)
    with pytest.raises(TypeError):
        xp.ones((2,), dtype=xp.int32)[0] = 1.5
    same(xp, x, A)


def test_length_and_iteration(xp):
    x = xp.asarray(A)
    assert len(x) == 4
    for row, want in zip(x, A):
        same(xp, row, want)
    with pytest.raises(TypeError):
        len(xp.asarray(1.0))
    with pytest.raises(TypeError):
        iter(xp.asarray(1.0))
