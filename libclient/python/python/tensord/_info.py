"""What the namespace offers: dtypes, their ranges and kinds, devices, capabilities."""

import dataclasses

from . import _tensord as core

BOOL = (core.bool,)
SIGNED = (core.int8, core.int16, core.int32, core.int64)
UNSIGNED = (core.uint8, core.uint16, core.uint32, core.uint64)
FLOATS = (core.float32, core.float64)
SMALL_FLOATS = (core.float16, core.bfloat16)
_KINDS = {
    "bool": BOOL,
    "signed integer": SIGNED,
    "unsigned integer": UNSIGNED,
    "integral": SIGNED + UNSIGNED,
    "real floating": FLOATS + SMALL_FLOATS,
    "complex floating": (),
    "numeric": SIGNED + UNSIGNED + FLOATS + SMALL_FLOATS,
}


@dataclasses.dataclass(frozen=True)
class IntegerInfo:
    """Range of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: core.DType


@dataclasses.dataclass(frozen=True)
class FloatInfo:
    """Precision and range of a float dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: core.DType


def _dtype(type):
    return type.dtype if isinstance(type, core.Array) else core.dtype(type)


def iinfo(type, /):
    """Range of an integer dtype."""
    dtype = _dtype(type)
    bits = 8 * dtype.itemsize
    if dtype in SIGNED:
        return IntegerInfo(bits, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), dtype)
    if dtype in UNSIGNED:
        return IntegerInfo(bits, 2**bits - 1, 0, dtype)
    raise TypeError(f"iinfo: {dtype} is no integer dtype")


# Bits of the significand without its leading one, and the largest exponent.
_FLOATS = {"float16": (10, 15), "bfloat16": (7, 127), "float32": (23, 127), "float64": (52, 1023)}


def finfo(type, /):
    """Precision and range of a float dtype."""
    dtype = _dtype(type)
    if dtype.name not in _FLOATS:
        raise TypeError(f"finfo: {dtype} is no float dtype")
    significand, exponent = _FLOATS[dtype.name]
    largest = (2.0 - 2.0**-significand) * 2.0**exponent
    return FloatInfo(8 * dtype.itemsize, 2.0**-significand, largest, -largest, 2.0 ** (1 - exponent), dtype)


def isdtype(dtype, kind):
    """Is the dtype of a kind, or one of several?"""
    dtype = core.dtype(dtype)
    if isinstance(kind, tuple):
        return any(isdtype(dtype, one) for one in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ValueError(f"isdtype: {kind!r} is none of {', '.join(_KINDS)}")
        return dtype in _KINDS[kind]
    return dtype == kind


def can_cast(from_, to, /):
    """Does promotion lead from one dtype to the other?"""
    from_ = _dtype(from_)
    try:
        return core.result_type(from_, to) == to
    except TypeError:
        return False


class Info:
    """The inspection interface of the standard."""

    def capabilities(self):
        """What the standard asks about."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 12}

    def default_device(self):
        """The one device."""
        return "cpu"

    def default_dtypes(self, *, device=None):
        """Dtypes of what nobody gave one. There is no complex dtype."""
        return {"real floating": core.float32, "complex floating": None, "integral": core.int64, "indexing": core.int64}

    def devices(self):
        """All devices."""
        return ["cpu"]

    def dtypes(self, *, device=None, kind=None):
        """Dtypes by name, of a kind or all that the standard knows."""
        if kind is None:
            chosen = BOOL + SIGNED + UNSIGNED + FLOATS
        else:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            chosen = tuple(dtype for one in kinds for dtype in _KINDS[one] if dtype not in SMALL_FLOATS)
        return {dtype.name: dtype for dtype in chosen}


def __array_namespace_info__():
    """The inspection interface of the standard."""
    return Info()
