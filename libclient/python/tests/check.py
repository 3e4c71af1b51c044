"""Comparison of an array with what NumPy has for the same."""

import numpy as np


def same(xp, result, want, *, dtype=None, rtol=0.0, atol=0.0):
    """Equal shape, dtype and values; NaN equals NaN. With a tolerance, close."""
    want = np.asarray(want)
    have = xp.asnumpy(result)
    assert have.shape == want.shape, f"shape {have.shape}, not {want.shape}"
    assert result.dtype.name == str(dtype or want.dtype), f"dtype {result.dtype}, not {dtype or want.dtype}"
    if rtol or atol:
        np.testing.assert_allclose(have.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(have, want)


def values(shape, dtype, seed=0):
    """Numbers of a dtype, small enough that integer products do not matter and floats have signs."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype == bool:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low = 0 if dtype.kind == "u" else -9
        return rng.integers(low, 10, shape).astype(dtype)
    return rng.normal(size=shape).astype(dtype)
