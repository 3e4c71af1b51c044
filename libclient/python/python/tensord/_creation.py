"""Creation functions that take more than one step, or more thought than speed."""

import math

from . import _tensord as core

_INTEGERS = (core.int8, core.int16, core.int32, core.int64, core.uint8, core.uint16, core.uint32, core.uint64)



def arange(start, /, stop=None, step=1, *, dtype=None, device=None):
    """Numbers from `start` (0 if there is one argument) to `stop`, `step` apart, `stop` not among them."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step is 0")
    if device is not None:
        core.empty((), device=device)
    if dtype is None:
        whole = all(isinstance(number, int) for number in (start, stop, step))
        dtype = core.int64 if whole else core.float32
    count = max(0, math.ceil((stop - start) / step))
    if all(isinstance(number, int) for number in (start, stop, step)):
        count = max(0, -((start - stop) // step))
    dtype = core.dtype(dtype)
    if dtype in _INTEGERS and not all(float(number).is_integer() for number in (start, step)):
        raise TypeError(f"arange: steps of {step} from {start} are no integers, and the dtype is {dtype}")
    if dtype in _INTEGERS:
        start, step = int(start), int(step)
        if step < 0 and dtype.kind == "unsigned integer":
            # The step wraps in the dtype, and so does the sum: the values are right.
            step %= 2 ** (8 * dtype.itemsize)
    return core.iota((count,), 0, start, step, dtype)


def linspace(start, stop, /, num, *, dtype=None, device=None, endpoint=True):
    """`num` numbers evenly from `start` to `stop`."""
    if num < 0:
        raise ValueError(f"linspace: num is {num}")
    if any(isinstance(number, complex) for number in (start, stop)):
        raise NotImplementedError("tensord has no complex dtypes: no operation of the table takes them")
    dtype = core.dtype(dtype) if dtype is not None else core.float32
    if device is not None:
        core.empty((), device=device)
    if num == 0:
        return core.empty((0,), dtype=dtype)
    parts = num - 1 if endpoint else num
    step = (stop - start) / parts if parts > 0 else 0.0
    # Numbers are made in float64 and rounded once to the dtype; the last one is `stop` itself.
    wide = core.iota((num,), 0, 0.0, 1.0, core.float64) * step + float(start)
    if endpoint and num > 1:
        wide = core.concat([wide[:-1], core.full((1,), float(stop), dtype=core.float64)])
    return wide.astype(dtype)


def full_like(x, /, fill_value, *, dtype=None, device=None):
    """An array of one value, in the shape of `x`."""
    return core.full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype, device=device)


def eye(n_rows, n_cols=None, /, *, k=0, dtype=None, device=None):
    """Ones on the k-th diagonal, zeros elsewhere."""
    n_cols = n_rows if n_cols is None else n_cols
    dtype = core.float32 if dtype is None else dtype
    if device is not None:
        core.empty((), device=device)
    rows = core.iota((n_rows, n_cols), 0, k, 1, core.int64)
    columns = core.iota((n_rows, n_cols), 1, 0, 1, core.int64)
    return core.equal(rows, columns).astype(dtype)


def _triangle(x, k, keep_low):
    if x.ndim < 2:
        raise ValueError(f"a triangle needs two axes; the shape is {x.shape}")
    rows = core.iota(x.shape[-2:], 0, k, 1, core.int64)
    columns = core.iota(x.shape[-2:], 1, 0, 1, core.int64)
    keep = core.less_equal(columns, rows) if keep_low else core.greater_equal(columns, rows)
    return core.where(keep, x, core.zeros((), dtype=x.dtype))


def tril(x, /, *, k=0):
    """The lower triangles of a stack of matrices."""
    return _triangle(x, k, True)


def triu(x, /, *, k=0):
    """The upper triangles of a stack of matrices."""
    return _triangle(x, k, False)


def meshgrid(*arrays, indexing="xy"):
    """Coordinates of a grid, one array for each axis."""
    if indexing not in ("xy", "ij"):
        raise ValueError(f'meshgrid: indexing is "xy" or "ij", not {indexing!r}')
    if any(array.ndim != 1 for array in arrays):
        raise ValueError("meshgrid takes arrays of one axis")
    if len({array.dtype.name for array in arrays}) > 1:
        raise ValueError("meshgrid takes arrays of one dtype")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = [1, 0]
    shape = [0] * len(arrays)
    for array, axis in zip(arrays, order):
        shape[axis] = array.shape[0]
    grid = []
    for array, axis in zip(arrays, order):
        sizes = [1] * len(arrays)
        sizes[axis] = array.shape[0]
        grid.append(core.broadcast_to(core.reshape(array, sizes), shape))
    return grid
