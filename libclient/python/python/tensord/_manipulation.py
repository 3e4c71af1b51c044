"""Functions that arrange elements: all of them views, joins and gathers."""

import builtins

import numpy as np

from . import _tensord as core


def _axis(x, axis, extra=0):
    rank = x.ndim + extra
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} is out of range for shape {x.shape}")
    return axis % rank


def broadcast_shapes(*shapes):
    """The shape in which shapes meet."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"shapes {', '.join(map(str, shapes))} cannot be broadcast together") from None


def broadcast_arrays(*arrays):
    """The arrays, each expanded to the shape in which they meet."""
    shape = broadcast_shapes(*(array.shape for array in arrays))
    return [core.broadcast_to(array, shape) for array in arrays]


def flip(x, /, *, axis=None):
    """The elements in reverse order along the axes: a view."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = {_axis(x, one) for one in axes}
    if not axes:
        return x
    return x[tuple(slice(None, None, -1) if one in axes else slice(None) for one in range(x.ndim))]


def moveaxis(x, source, destination, /):
    """Axes moved to other places, the others in their order."""
    source = (source,) if isinstance(source, int) else tuple(source)
    destination = (destination,) if isinstance(destination, int) else tuple(destination)
    source = [_axis(x, one) for one in source]
    destination = [_axis(x, one) for one in destination]
    if len(set(source)) != len(source) or len(set(destination)) != len(destination) or len(source) != len(destination):
        raise ValueError(f"moveaxis: {source} to {destination} names an axis twice, or not as many")
    order = [one for one in range(x.ndim) if one not in source]
    for to, one in sorted(zip(destination, source)):
        order.insert(to, one)
    return core.permute_dims(x, tuple(order))


def repeat(x, repeats, /, *, axis=None):
    """Each element repeated; `repeats` is a number, or one for each element along the axis."""
    if axis is None:
        x, axis = core.reshape(x, (-1,)) if x.size else core.reshape(x, (0,)), 0
    axis = _axis(x, axis)
    if isinstance(repeats, int):
        if repeats < 0:
            raise ValueError(f"repeat: {repeats} times")
        shape = x.shape
        wide = core.broadcast_to(core.expand_dims(x, axis=axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        return core.reshape(wide, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))
    # The result's shape depends on these values: they are read.
    counts = np.broadcast_to(core.asnumpy(repeats), (x.shape[axis],))
    return core.gather(x, core.asarray(np.repeat(np.arange(x.shape[axis], dtype=np.int64), counts)), axis)


def roll(x, /, shift, *, axis=None):
    """Elements moved along the axes; those that leave come in at the other end."""
    if axis is None:
        return core.reshape(roll(core.reshape(x, (x.size,)), shift, axis=0), x.shape)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shifts = (shift,) * len(axes) if isinstance(shift, int) else tuple(shift)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for one, by in zip(axes, shifts):
        one = _axis(x, one)
        size = x.shape[one]
        by = by % size if size else 0
        if by:
            lead = (slice(None),) * one
            x = core.concat([x[(*lead, slice(size - by, None))], x[(*lead, slice(None, size - by))]], axis=one)
    return x


def stack(arrays, /, *, axis=0):
    """Arrays of one shape joined along a new axis."""
    arrays = list(arrays)
    if not arrays:
        raise ValueError("stack needs at least one array")
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"stack: shapes differ: {', '.join(str(array.shape) for array in arrays)}")
    axis = _axis(arrays[0], axis, extra=1)
    return core.concat([core.expand_dims(array, axis=axis) for array in arrays], axis=axis)


def tile(x, repetitions, /):
    """The array repeated as a whole along its axes."""
    repetitions = tuple(repetitions)
    rank = builtins.max(x.ndim, len(repetitions))
    repetitions = (1,) * (rank - len(repetitions)) + repetitions
    shape = (1,) * (rank - x.ndim) + x.shape
    inner = core.reshape(x, tuple(size for one in shape for size in (1, one)))
    wide = core.broadcast_to(inner, tuple(size for pair in zip(repetitions, shape) for size in pair))
    return core.reshape(wide, tuple(count * size for count, size in zip(repetitions, shape)))


def unstack(x, /, *, axis=0):
    """The parts of an array along an axis, without that axis."""
    axis = _axis(x, axis)
    lead = (slice(None),) * axis
    return tuple(x[(*lead, index)] for index in range(x.shape[axis]))


def take(x, indices, /, *, axis=None):
    """Elements along an axis at integer positions."""
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: an array of shape {x.shape} needs an axis")
        axis = 0
    if indices.dtype.kind not in ("signed integer", "unsigned integer"):
        raise TypeError(f"take: positions are integers, not {indices.dtype}")
    return core.gather(x, indices, _axis(x, axis))


def take_along_axis(x, indices, /, *, axis=-1):
    """For each element of `indices` the element of `x` at that position along the axis."""
    axis = _axis(x, axis)
    if indices.ndim != x.ndim:
        raise ValueError(f"take_along_axis: {indices.ndim} axes of positions for shape {x.shape}")
    if indices.dtype.kind not in ("signed integer", "unsigned integer"):
        raise TypeError(f"take_along_axis: positions are integers, not {indices.dtype}")
    key = []
    for one in range(x.ndim):
        shape = [1] * x.ndim
        shape[one] = x.shape[one]
        key.append(indices if one == axis else core.reshape(core.iota((x.shape[one],), 0, 0, 1, "int64"), shape))
    return x[tuple(key)]


def nonzero(x, /):
    """Positions of the elements other than zero. Their number depends on the values: the array is read."""
    if x.ndim == 0:
        raise ValueError("nonzero of an array without axes")
    return tuple(core.asarray(positions.astype(np.int64)) for positions in np.nonzero(core.asnumpy(core.not_equal(x, 0) if x.dtype != core.bool else x)))


def count_nonzero(x, /, *, axis=None, keepdims=False):
    """How many elements are other than zero."""
    true = x if x.dtype == core.bool else core.not_equal(x, 0)
    return core.sum(true, axis=axis, keepdims=keepdims)



def diff(x, /, *, axis=-1, n=1, prepend=None, append=None):
    """Differences of neighbours along an axis, `n` times."""
    axis = _axis(x, axis)
    parts = [part for part in (prepend, x, append) if part is not None]
    if len(parts) > 1:
        x = core.concat(parts, axis=axis)
    lead = (slice(None),) * axis
    for _ in range(n):
        later, earlier = x[(*lead, slice(1, None))], x[(*lead, slice(None, -1))]
        x = core.not_equal(later, earlier) if x.dtype == core.bool else later - earlier
    return x


def scatter(x, indices, updates, /, *, axis=0, mode="replace"):
    """`x` with the parts at `indices` along `axis` replaced by `updates`, or with `mode="add"` increased by them."""
    if mode not in ("replace", "add"):
        raise ValueError(f'scatter: mode is "replace" or "add", not {mode!r}')
    return core.scatter(x, indices, updates, _axis(x, axis), mode == "add")


def gather(x, indices, /, *, axis=0):
    """Elements along `axis` at `indices`; negative ones count from the end, one out of range gives 0."""
    return core.gather(x, indices, _axis(x, axis))
