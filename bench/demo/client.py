"""One process of the demo: a microphone (or several) with the network that listens to it.

Started by `fleet.py` with a JSON description as its argument. It loads its inputs, runs the network once, says so in
its track, waits on standard input for the line "START END" (seconds of the monotonic clock), and takes chunk after
chunk until END or until its limit, writing each probability and latency into its track.
"""

import json
import sys
import time
from time import monotonic, perf_counter

import numpy as np

from assets import CHUNK, CONTEXT, Stream
from track import Track


class TensordNetwork:
    """The network in tensord's small operations, in a session of this process."""

    def __init__(self, spec, weights, stream):
        import tensord
        from network import SileroVad

        merge = spec["merge"]
        tensord.connect(spec["socket"], name=spec["name"], fuse=merge, batch=merge)
        self._asarray = tensord.asarray
        self._network = SileroVad(tensord, weights)
        self._stream = stream
        self.reset()

    def reset(self):
        """Silence before the first chunk."""
        self._hidden, self._cell = self._network.silence()

    def chunk(self, index, first):
        """The probability of chunk `index` and the seconds it took to have it."""
        begin = perf_counter()
        frame = self._asarray(self._stream.frame(index, first))
        probability, self._hidden, self._cell = self._network(frame, self._hidden, self._cell)
        value = float(probability[0, 0])
        return (value,), perf_counter() - begin


class NumpyNetwork:
    """The same network under NumPy; what `--numpy` runs where there is no daemon."""

    def __init__(self, weights, stream):
        import numpy_shim
        from network import SileroVad

        self._network = SileroVad(numpy_shim, weights)
        self._stream = stream
        self.reset()

    def reset(self):
        """Silence before the first chunk."""
        self._hidden, self._cell = self._network.silence()

    def chunk(self, index, first):
        """The probability of chunk `index` and the seconds it took to have it."""
        begin = perf_counter()
        probability, self._hidden, self._cell = self._network(
            self._stream.frame(index, first), self._hidden, self._cell
        )
        value = float(probability[0, 0])
        return (value,), perf_counter() - begin


def load_inputs(path):
    """Weights by name and recordings by name, as `main.py` saved them."""
    with np.load(path) as inputs:
        weights = {key[2:]: inputs[key] for key in inputs.files if key.startswith("w:")}
        clips = [(key[2:], inputs[key]) for key in inputs.files if key.startswith("r:")]
    return weights, clips


def build(spec):
    """The network that the description names, over its streams."""
    weights, clips = load_inputs(spec["inputs"])
    streams = [Stream(clips, number) for number in spec["streams"]]
    if spec["kind"] == "tensord":
        return TensordNetwork(spec, weights, streams[0])
    if spec["kind"] == "numpy":
        return NumpyNetwork(weights, streams[0])
    from peers import OnnxRuntimeNetwork

    return OnnxRuntimeNetwork(spec["model"], spec["threads"], streams)


def run_reference(spec, track):
    """Follows a run in float64, as fast as it goes."""
    from reference import Float64Reference

    weights, clips = load_inputs(spec["inputs"])
    stream = Stream(clips, spec["streams"][0])
    for value in Float64Reference(weights).probabilities(stream, spec["first"], spec["limit"]):
        track.append(value, 0.0)


def run_network(spec, tracks):
    """Warms up, waits for the start and listens."""
    network = build(spec)
    index = first = spec["first"]
    for warm_up in range(3):
        network.chunk(first + warm_up, first)
    network.reset()
    for track in tracks:
        track.mark_ready()
    line = sys.stdin.readline()
    if not line:
        sys.exit("the demo ended before the start")
    start, end = (float(word) for word in line.split())
    time.sleep(max(0.0, start - monotonic()))
    stop = first + min(spec["limit"] or tracks[0].capacity, tracks[0].capacity)
    while index < stop and monotonic() < end:
        values, latency = network.chunk(index, first)
        for track, value in zip(tracks, values):
            track.append(value, latency)
        index += 1


def main():
    """Runs one description."""
    spec = json.loads(sys.argv[1])
    assert CHUNK + CONTEXT == 576, "the network takes 576 samples"
    tracks = [Track(path, spec["capacity"]) for path in spec["tracks"]]
    if spec["kind"] == "float64":
        run_reference(spec, tracks[0])
    else:
        run_network(spec, tracks)
    for track in tracks:
        track.mark_finished()


if __name__ == "__main__":
    main()
