"""Counter-based random numbers: a 64-bit key and a shape give the same values everywhere and at any time."""

from . import _tensord as _core


def _random(distribution, key, shape, dtype):
    if not 0 <= key < 2**64:
        raise ValueError(f"random: a key is an integer from 0 to 2**64 - 1, not {key}")
    return _core.random(distribution, key, shape, dtype)


def bits(key, shape, *, dtype=None):
    """Integers with all bits random; with dtype bool, fair coins."""
    return _random("bits", key, shape, _core.uint32 if dtype is None else dtype)


def uniform(key, shape, *, dtype=None):
    """Floats, uniform from 0 to 1, 1 not among them."""
    return _random("uniform", key, shape, _core.float32 if dtype is None else dtype)


def normal(key, shape, *, dtype=None):
    """Floats of the standard normal distribution."""
    return _random("normal", key, shape, _core.float32 if dtype is None else dtype)
