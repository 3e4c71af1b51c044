"""What can fail after the call that caused it, and what no call is to blame for.

Each message ends with the file and line that asked; `filename_asked` and `lineno_asked` hold them apart, where they are
known, and `code` the name that the wire and the other languages use.
"""


class TensordError(Exception):
    """A request failed."""

    code = "internal"
    filename_asked = None
    lineno_asked = None


class OutOfMemoryError(TensordError, MemoryError):
    """The session, its tenant or the device has no memory left for a result."""


class LimitError(TensordError):
    """A limit on tensors, requests, queues or staging was reached."""


class DaemonLost(TensordError, ConnectionError):
    """The daemon could not be reached, went away, or is draining."""


class LostError(TensordError):
    """The engine ended before the request was done. Constants survive; other arrays have to be made again."""


class CancelledError(TensordError):
    """The request ended before it was launched."""


class WaitTimeout(TensordError, TimeoutError):
    """A wait did not come true in time."""


class DeviceFault(TensordError):
    """The device failed while it ran the request."""


class DeniedError(TensordError, PermissionError):
    """This user may not use the daemon's socket."""


class BadHandleError(TensordError):
    """An array belongs to another session or to the process before fork()."""


class ProtocolError(TensordError):
    """Client and daemon do not understand each other; usually their versions differ."""
