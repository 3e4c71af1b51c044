"""Small tensor operations, fused and batched across processes by one daemon.

The module is an Array API namespace (2024.12): ``import tensord as xp``. Arrays are immutable values that the daemon
holds; an operation is one record in shared memory, and nothing waits until a value is needed here. The default session
opens itself at first use and starts a private daemon where none runs.

Beyond the standard: ``contract``, ``window``, ``pad``, ``constant``, ``asnumpy``, ``fma``, ``sigmoid``, ``erf``,
``rsqrt``, ``exp2``, ``gather``, ``scatter``, ``random``, dtypes ``float16`` and ``bfloat16``, and the sessions:
``connect``, ``stat``, ``limit``, ``limits``, ``synchronize``.
"""

import json as _json
import os as _os
import warnings as _warnings

from . import _tensord as _core

_FOLDER = _os.path.dirname(_os.path.abspath(__file__))
_core.set_package(_FOLDER + _os.sep)


def _name_daemon():
    # The daemon in the wheel, or, in a checkout, the one that was built last.
    root = _os.path.dirname(_os.path.dirname(_os.path.dirname(_os.path.dirname(_FOLDER))))
    for path in (_os.path.join(_FOLDER, "bin", "tensord"), _os.path.join(root, "target", "release", "tensord")):
        if _os.access(path, _os.X_OK):
            _os.environ.setdefault("TENSORD_DAEMON", path)
            return


_name_daemon()
for _word in _core.set_debug(_os.environ.get("TENSORD_DEBUG", "")):
    _warnings.warn(f"TENSORD_DEBUG: sync and nan are known here, {_word} is not", stacklevel=2)

from math import e, inf, nan, pi  # noqa: E402

from . import random  # noqa: E402
from ._creation import arange, eye, full_like, linspace, meshgrid, tril, triu  # noqa: E402
from ._errors import (  # noqa: E402
    BadHandleError,
    CancelledError,
    DaemonLost,
    DeniedError,
    DeviceFault,
    LimitError,
    LostError,
    OutOfMemoryError,
    ProtocolError,
    TensordError,
    WaitTimeout,
)
from ._info import __array_namespace_info__, can_cast, finfo, iinfo, isdtype  # noqa: E402
from ._manipulation import (  # noqa: E402
    broadcast_arrays,
    broadcast_shapes,
    count_nonzero,
    diff,
    flip,
    gather,
    moveaxis,
    nonzero,
    repeat,
    roll,
    scatter,
    stack,
    take,
    take_along_axis,
    tile,
    unstack,
)
from ._statistics import cumulative_prod, cumulative_sum, std, tensordot, var, vecdot  # noqa: E402
from ._tensord import (  # noqa: E402
    Array,
    DType,
    Session,
    __version__,
    abs,
    acos,
    acosh,
    add,
    all,
    any,
    argmax,
    argmin,
    asarray,
    asin,
    asinh,
    asnumpy,
    astype,
    atan,
    atan2,
    atanh,
    bfloat16,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    bool,
    broadcast_to,
    ceil,
    clip,
    concat,
    constant,
    contract,
    copysign,
    cos,
    cosh,
    divide,
    dtype,
    empty,
    empty_like,
    equal,
    erf,
    exp,
    exp2,
    expand_dims,
    expm1,
    float16,
    float32,
    float64,
    floor,
    floor_divide,
    flush,
    fma,
    fmod,
    from_dlpack,
    full,
    greater,
    greater_equal,
    hypot,
    int8,
    int16,
    int32,
    int64,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    matmul,
    matrix_transpose,
    max,
    maximum,
    mean,
    min,
    minimum,
    multiply,
    negative,
    nextafter,
    not_equal,
    ones,
    ones_like,
    pad,
    permute_dims,
    positive,
    pow,
    prod,
    reciprocal,
    remainder,
    reshape,
    result_type,
    round,
    rsqrt,
    set_sites,
    sigmoid,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    squeeze,
    subtract,
    sum,
    synchronize,
    tan,
    tanh,
    trunc,
    uint8,
    uint16,
    uint32,
    uint64,
    where,
    window,
    zeros,
    zeros_like,
)
from ._tensord import open as _open  # noqa: E402

__array_api_version__ = "2024.12"
newaxis = None


def connect(socket=None, *, name=None, qos="normal", weight=100, fuse=True, batch=True):
    """Makes the default session anew and gives it. Arrays of the session before stay with that one.

    `socket` is a path; none searches the default places and starts a private daemon where there is none
    (`TENSORD_AUTOSTART=0` forbids that). `qos` is "realtime", "normal" or "idle"; `weight`, 1 to 10000, is the share among
    sessions of that class. `fuse` and `batch` switch merging off for this session: results are the same bits.
    """
    return _open(socket, name=name, qos=qos, weight=weight, fuse=fuse, batch=batch)


def stat():
    """What runs in the daemon: engines with their counters, and the sessions that this one may see."""
    return _json.loads(_core.stat_json())


def limit(**limits):
    """Lowers limits of this session, so that a mistake of its own stays small.

    `device_memory` and `staging` are bytes, `handles` and `requests` (in flight) numbers, `device_time` milliseconds of each
    second. None takes back what was lowered here; what an administrator set holds all the same.
    """
    _core.limit([(name.replace("_", "-"), value) for name, value in limits.items()])


def limits():
    """The limits of this session, its uid and its tenant, and what of them is used."""
    return _json.loads(_core.limits_json())["limits"]


def _missing(name):
    why = "complex dtypes" if name in ("conj", "imag", "real") else "sort"

    def missing(*args, **kwargs):
        raise NotImplementedError(f"tensord has no {name}: the operation table has no {why}")

    missing.__name__ = missing.__qualname__ = name
    return missing


# What the standard has and tensord has not. Functions, and no `__getattr__`: the interpreter looks every attribute of a module that has
# one up by name, at each call.
for _name in ("argsort", "sort", "searchsorted", "unique_all", "unique_counts", "unique_inverse", "unique_values", "conj", "imag", "real"):
    globals()[_name] = _missing(_name)
