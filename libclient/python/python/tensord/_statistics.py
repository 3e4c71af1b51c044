"""Statistics and products that are short sequences of operations."""

from . import _tensord as core
from ._manipulation import _axis


def var(x, /, *, axis=None, correction=0.0, keepdims=False):
    """Mean square distance from the mean."""
    if x.dtype.kind != "real floating":
        raise TypeError(f"var takes floats, not {x.dtype}")
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = 1
    for one in axes:
        count *= x.shape[_axis(x, one)]
    distance = x - core.mean(x, axis=axis, keepdims=True)
    total = core.sum(distance * distance, axis=axis, keepdims=keepdims)
    freedom = float(count - correction)
    return total / freedom if freedom > 0 else total * float("nan")


def std(x, /, *, axis=None, correction=0.0, keepdims=False):
    """Square root of the variance."""
    return core.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def _cumulative(x, product, axis, dtype, include_initial):
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"a cumulative operation over shape {x.shape} needs an axis")
        axis = 0
    axis = _axis(x, axis)
    result = core.scan(x, product, axis, dtype)
    if not include_initial:
        return result
    shape = list(result.shape)
    shape[axis] = 1
    return core.concat([core.full(shape, 1 if product else 0, dtype=result.dtype), result], axis=axis)


def cumulative_sum(x, /, *, axis=None, dtype=None, include_initial=False):
    """Running sums along an axis."""
    return _cumulative(x, False, axis, dtype, include_initial)


def cumulative_prod(x, /, *, axis=None, dtype=None, include_initial=False):
    """Running products along an axis."""
    return _cumulative(x, True, axis, dtype, include_initial)


def vecdot(x1, x2, /, *, axis=-1):
    """Dot products along an axis; the other axes are broadcast."""
    if not -min(x1.ndim, x2.ndim) <= axis < 0:
        raise ValueError(f"vecdot: axis {axis} must be negative and in both of {x1.shape} and {x2.shape}")
    if x1.shape[axis] != x2.shape[axis]:
        raise ValueError(f"vecdot: sizes {x1.shape[axis]} and {x2.shape[axis]} along axis {axis} differ")
    rank = max(x1.ndim, x2.ndim)
    labels = list(range(rank))
    summed = rank + axis
    return core.contract_numbers(
        x1, x2, labels[rank - x1.ndim :], labels[rank - x2.ndim :], labels[:summed] + labels[summed + 1 :]
    )


def tensordot(x1, x2, /, *, axes=2):
    """Sums of products over pairs of axes."""
    if isinstance(axes, int):
        if axes < 0 or axes > min(x1.ndim, x2.ndim):
            raise ValueError(f"tensordot: {axes} axes of {x1.shape} and {x2.shape}")
        pairs = [(x1.ndim - axes + k, k) for k in range(axes)]
    else:
        first, second = ([one] if isinstance(one, int) else list(one) for one in axes)
        if len(first) != len(second):
            raise ValueError(f"tensordot: {first} and {second} are not as many axes")
        pairs = [(_axis(x1, a), _axis(x2, b)) for a, b in zip(first, second)]
    for a, b in pairs:
        if x1.shape[a] != x2.shape[b]:
            raise ValueError(f"tensordot: sizes {x1.shape[a]} and {x2.shape[b]} of axes {a} and {b} differ")
    labels1 = list(range(x1.ndim))
    labels2 = list(range(x1.ndim, x1.ndim + x2.ndim))
    for a, b in pairs:
        labels2[b] = labels1[a]
    summed = {labels1[a] for a, _ in pairs}
    out = [label for label in labels1 + labels2 if label not in summed]
    return core.contract_numbers(x1, x2, labels1, labels2, out)
