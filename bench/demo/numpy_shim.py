"""NumPy with the two functions that tensord has beyond the Array API, so that one network runs under both.

Slow and plain on purpose: it is the reference that says what `window` and `contract` mean.
"""

import numpy
from numpy import *  # noqa: F403  the namespace is NumPy's, with additions
from numpy.lib.stride_tricks import as_strided


def _each(value, count):
    return (value,) * count if isinstance(value, int) else tuple(value)


def window(x, axes, sizes, strides=1, dilations=1, padding=0):
    """A view of `x` whose named axes hold window positions and whose window axes come last, in the order named."""
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    axes = tuple(axis % x.ndim for axis in axes)
    sizes, strides, dilations, padding = (_each(value, len(axes)) for value in (sizes, strides, dilations, padding))
    if any(padding):
        widths = [(0, 0)] * x.ndim
        for axis, width in zip(axes, padding):
            widths[axis] = (width, width)
        x = numpy.pad(x, widths)
    shape, steps = list(x.shape), list(x.strides)
    for axis, size, stride, dilation in zip(axes, sizes, strides, dilations):
        shape[axis] = (x.shape[axis] - dilation * (size - 1) - 1) // stride + 1
        steps[axis] = x.strides[axis] * stride
        shape.append(size)
        steps.append(x.strides[axis] * dilation)
    return as_strided(x, shape, steps, writeable=False)


def contract(a, b, labels):
    """Sum of products over labelled axes: einsum of two operands with explicit output labels."""
    return numpy.einsum(labels, a, b, optimize=True)


def constant(x):
    """NumPy has nobody to share with: the array itself."""
    return numpy.ascontiguousarray(x)
