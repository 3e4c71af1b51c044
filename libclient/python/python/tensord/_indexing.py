"""The parts of indexing and display that are too rare or too long to be Rust.

Several index arrays become one gather over flattened axes. A boolean mask has a shape that depends on its values: the
mask is read, once and synchronously, through NumPy, and its positions become index arrays. Assignment makes a new tensor
from the old one: the flat positions that a key names are found by indexing an array of positions with the same key,
and the values are scattered there.
"""

import numpy as np

from . import _tensord as core


def iterate(x):
    """Yields `x[0]`, `x[1]`, ..."""
    if x.ndim == 0:
        raise TypeError("iteration over an array without axes")
    return (x[index] for index in range(x.shape[0]))


def represent(x):
    """`Array([...], dtype=float32)`, with the values."""
    body = np.array2string(_printable(x), separator=", ", prefix="Array(")
    shape = f", shape={x.shape}" if 0 in x.shape else ""
    return f"Array({body}{shape}, dtype={x.dtype})"


def text(x):
    """The values alone."""
    return str(_printable(x))


def _printable(x):
    return core.asnumpy(x.astype(core.float32) if x.dtype == core.bfloat16 else x)


def unpickle(value, dtype):
    """Uploads the value of a pickled array."""
    return core.asarray(value, dtype=dtype)


def prepare(value, dtype):
    """A row-major, native NumPy array of a dtype that tensord has, for `asarray`."""
    if isinstance(value, (list, tuple)):
        value = _unwrapped(value)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise TypeError("asarray: the value is no array of numbers (ragged lists, or Python objects)")
    if array.dtype.kind == "c":
        raise NotImplementedError("tensord has no complex dtypes: no operation of the table takes them")
    if dtype is None:
        # Python's floats have no dtype of their own: they take the default one.
        own = type(value) in (float, list, tuple) and array.dtype == np.float64
        dtype = "float32" if own else array.dtype.name
    _check_range(value, array, dtype)
    return np.ascontiguousarray(array.astype(_numpy_dtype(dtype), copy=False)).reshape(array.shape)


def _check_range(value, array, dtype):
    if not isinstance(value, (int, list, tuple)) or array.dtype.kind not in "iu" or array.size == 0:
        return
    wanted = np.dtype(_numpy_dtype(dtype))
    if wanted.kind in "iu":
        low, high = np.iinfo(wanted).min, np.iinfo(wanted).max
        for bound in (int(array.min()), int(array.max())):
            if not low <= bound <= high:
                raise OverflowError(f"Python integer {bound} is out of range for {dtype} ({low} to {high})")


def _unwrapped(value):
    """Nested lists with arrays in them, as nested lists of NumPy values."""
    if isinstance(value, core.Array):
        return core.asnumpy(value)
    if isinstance(value, (list, tuple)):
        return [_unwrapped(item) for item in value]
    return value


def _numpy_dtype(name):
    if name != "bfloat16":
        return name
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("NumPy's bfloat16 comes from the package ml_dtypes: install it") from None
    return ml_dtypes.bfloat16


# ------------------------------------------------------------------------------------------------- reading


def getitem(x, key):
    """`x[key]` for keys with several index arrays, masks, lists or NumPy arrays."""
    key = _expanded(x, key)
    arrays = [(place, item) for place, item in enumerate(key) if isinstance(item, core.Array)]
    basic = tuple(slice(None) if isinstance(item, core.Array) else item for item in key)
    # Integers beside index arrays are index arrays of one element, as in NumPy.
    if arrays:
        numbers = [(place, item) for place, item in enumerate(key) if _is_integer(item)]
        arrays = sorted(arrays + [(place, core.asarray(int(item))) for place, item in numbers], key=lambda pair: pair[0])
        basic = tuple(slice(None) if _is_integer(item) else item for item in basic)
    x = x[basic]
    if not arrays:
        return x
    axes = [place for place, _ in arrays]
    return _gather(x, axes, [item for _, item in arrays])


def _is_integer(item):
    return not isinstance(item, (slice, core.Array)) and item is not None and item is not Ellipsis


def _expanded(x, key):
    """The key as a tuple with one item for each axis of the result of its basic part; masks made index arrays."""
    items = []
    for item in key if isinstance(key, tuple) else (key,):
        if isinstance(item, bool) or (isinstance(item, np.generic) and item.dtype == bool):
            raise NotImplementedError("tensord has no indexing by a Python bool: use an array of bool")
        if isinstance(item, (list, np.ndarray)):
            value = np.asarray(item)
            if value.size == 0:
                value = value.astype(np.int64)
            item = core.asarray(value)
        if isinstance(item, core.Array) and item.dtype == core.bool:
            items.extend(_positions(item))
        else:
            items.append(item)
    named = sum(item is not None and item is not Ellipsis for item in items)
    if named > x.ndim:
        raise IndexError(f"too many indices: {named} for an array of shape {x.shape}")
    if sum(item is Ellipsis for item in items) > 1:
        raise IndexError("an index can have one ellipsis ('...')")
    rest = [slice(None)] * (x.ndim - named)
    where = next((place for place, item in enumerate(items) if item is Ellipsis), None)
    items = items + rest if where is None else items[:where] + rest + items[where + 1 :]
    _check_masks(x, key, items)
    return tuple(items)


def _check_masks(x, key, items):
    for item in key if isinstance(key, tuple) else (key,):
        mask = isinstance(item, (core.Array, np.ndarray)) and item.dtype == core.bool
        if mask and len(items) == x.ndim and not isinstance(key, tuple):
            if tuple(item.shape) != x.shape[: item.ndim]:
                raise IndexError(f"a mask of shape {tuple(item.shape)} does not fit an array of shape {x.shape}")


def _positions(mask):
    """Index arrays of the true elements: one synchronous read of the mask."""
    if mask.ndim == 0:
        raise NotImplementedError("tensord has no indexing by a bool array without axes: use where")
    return [core.asarray(positions.astype(np.int64)) for positions in np.nonzero(core.asnumpy(mask))]


def _gather(x, axes, indices):
    """Elements of `x` at `indices` along `axes`, which are broadcast against each other."""
    shape = np.broadcast_shapes(*(index.shape for index in indices))
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if together else 0
    if not together:
        others = [axis for axis in range(x.ndim) if axis not in axes]
        x = core.permute_dims(x, tuple(axes + others))
    sizes = x.shape[first : first + len(axes)]
    if len(axes) == 1:
        return core.gather(x, core.broadcast_to(indices[0], shape), first)
    flat = core.reshape(x, (*x.shape[:first], int(np.prod(sizes, dtype=np.int64)), *x.shape[first + len(axes) :]))
    return core.gather(flat, core.broadcast_to(_linear(sizes, indices), shape), first)


def _linear(sizes, indices):
    """Row-major positions of index tuples; a tuple out of range becomes a position out of range."""
    position, inside = None, None
    for size, index in zip(sizes, indices):
        index = index.astype(core.int64)
        index = core.where(index < 0, index + size, index)
        fits = core.logical_and(index >= 0, index < size)
        position = index if position is None else position * size + index
        inside = fits if inside is None else core.logical_and(inside, fits)
    beyond = 1
    for size in sizes:
        beyond *= size
    return core.where(inside, position, beyond)


# ------------------------------------------------------------------------------------------------- writing


def setitem(x, key, value):
    """`x[key] = value`: `x` names a new tensor from now on."""
    if isinstance(value, core.Array):
        if value.dtype != x.dtype and core.result_type(value, x) != x.dtype:
            raise TypeError(f"cannot assign {value.dtype} to a part of an array of {x.dtype}; convert it with astype")
        value = value.astype(x.dtype)
    elif isinstance(value, (bool, int, float)):
        if core.result_type(x, value) != x.dtype:
            raise TypeError(f"cannot assign {value!r} to a part of an array of {x.dtype}")
        value = core.full((), value, dtype=x.dtype)
    else:
        value = core.asarray(value, dtype=x.dtype)
    if isinstance(key, np.ndarray):
        key = core.asarray(key)
    if isinstance(key, core.Array) and key.dtype == core.bool and value.ndim == 0:
        x._rebind(_masked(x, key, value))
        return
    if key is Ellipsis or key == slice(None) if not isinstance(key, (core.Array, tuple)) else False:
        x._rebind(_fitted(x, value, x.shape))
        return
    positions = core.reshape(core.iota((x.size,), 0, 0, 1, "int64"), x.shape)[key]
    value = _fitted(x, value, positions.shape)
    if positions.size == 0:
        return
    flat = core.scatter(
        core.reshape(x, (x.size,)), core.reshape(positions, (positions.size,)), core.reshape(value, (positions.size,)), 0, False
    )
    x._rebind(core.reshape(flat, x.shape))


def _fitted(x, value, shape):
    """`value` broadcast to the part that it replaces; leading axes of size 1 are dropped, as in NumPy."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = core.squeeze(value, 0)
    try:
        return core.broadcast_to(value, shape)
    except ValueError:
        raise ValueError(
            f"cannot assign a value of shape {value.shape} to a part of shape {tuple(shape)} of an array of shape {x.shape}"
        ) from None


def _masked(x, mask, value):
    if mask.shape != x.shape[: mask.ndim]:
        raise IndexError(f"a mask of shape {mask.shape} does not fit an array of shape {x.shape}")
    mask = core.reshape(mask, mask.shape + (1,) * (x.ndim - mask.ndim))
    return core.where(mask, value, x)
