"""How users of onnxruntime run the same network: the rows that the demo measures itself against.

A session as `onnxruntime.InferenceSession` gives it; what differs between rows is the number of threads and whether
somebody gathered the streams of all microphones into one batch by hand.
"""

from time import perf_counter

import numpy as np

# threads: None leaves onnxruntime's default (one per core); by_hand: one process takes all streams as a batch.
ROWS = (
    {"name": "onnxruntime, {clients} processes, default threads", "threads": None, "by_hand": False},
    {"name": "onnxruntime, {clients} processes, 1 thread each", "threads": 1, "by_hand": False},
    {"name": "onnxruntime, 1 process, batched by hand", "threads": None, "by_hand": True},
)

_SAMPLE_RATE = np.array(16_000, np.int64)


def open_session(model, threads=None):
    """An inference session as its users open it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntimeNetwork:
    """The network over one stream, or over several gathered by hand, with the state it carries."""

    def __init__(self, model, threads, streams):
        self._session = open_session(model, threads)
        self._streams = streams
        self.reset()

    def reset(self):
        """Silence before the first chunk."""
        self._state = np.zeros((2, len(self._streams), 128), np.float32)

    def chunk(self, index, first):
        """Probabilities of chunk `index`, one for each stream, and the seconds it took to have them."""
        begin = perf_counter()
        if len(self._streams) == 1:
            frames = self._streams[0].frame(index, first)[None]
        else:
            frames = np.stack([stream.frame(index, first) for stream in self._streams])
        probabilities, self._state = self._session.run(
            None, {"input": frames, "state": self._state, "sr": _SAMPLE_RATE}
        )
        values = probabilities[:, 0].tolist()
        return values, perf_counter() - begin
