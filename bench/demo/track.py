"""What one run of one client leaves behind: a file that the client writes and the demo reads while it runs.

A memory-mapped file rather than a pipe, so that a client killed with SIGKILL leaves every probability that it had
computed, and so that writing one costs the client two stores.

Layout, in native byte order: 64 bytes of header (8 signed words: ready, count, finished, start in nanoseconds of
the monotonic clock, unused), then `capacity` probabilities (float64), then `capacity` latencies in seconds (float32).
One writer; `count` is written after the values it covers.
"""

import mmap
import os

import numpy as np

_HEADER_BYTES = 64
_READY, _COUNT, _FINISHED = range(3)


class Track:
    """A run's probabilities and latencies; `create=True` makes the file, which stays sparse until written."""

    def __init__(self, path, capacity, create=False):
        self.path, self.capacity = str(path), capacity
        size = _HEADER_BYTES + 12 * capacity
        flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
        descriptor = os.open(self.path, flags, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        view = memoryview(self._map)
        split = _HEADER_BYTES + 8 * capacity
        self._header = view[:_HEADER_BYTES].cast("q")
        self._probabilities = view[_HEADER_BYTES:split].cast("d")
        self._latencies = view[split:].cast("f")

    # -- the client's side

    def append(self, probability, latency_s):
        """Records one chunk."""
        index = self._header[_COUNT]
        self._probabilities[index] = probability
        self._latencies[index] = latency_s
        self._header[_COUNT] = index + 1

    def mark_ready(self):
        """The client has loaded its weights and run the network once."""
        self._header[_READY] = 1

    def mark_finished(self):
        """The run ended as planned."""
        self._header[_FINISHED] = 1

    # -- the reader's side

    @property
    def ready(self):
        """Whether the client waits for the start."""
        return self._header[_READY] == 1

    @property
    def finished(self):
        """Whether the run ended as planned."""
        return self._header[_FINISHED] == 1

    @property
    def count(self):
        """Chunks done so far."""
        return self._header[_COUNT]

    @property
    def probabilities(self):
        """The probabilities so far, float64."""
        return np.frombuffer(self._probabilities, np.float64, self.count)

    @property
    def latencies(self):
        """Seconds that each chunk took, float32."""
        return np.frombuffer(self._latencies, np.float32, self.count)
