"""The Silero network in float64 over whole runs: what the float32 results are measured against.

Written apart from `network.py`, as plain matrix products over many chunks at once, so that it is a second
expression of the network and fast enough to follow every chunk of the demo.
"""

import numpy as np

from assets import CHUNK, CONTEXT

_BATCH = 256


class Float64Reference:
    """Computes the probabilities of a run in float64; `weights` are the ONNX initializers by name."""

    def __init__(self, weights):
        def named(name):
            return weights[f"model.{name}"].astype(np.float64)

        self._basis = named("stft.forward_basis_buffer")[:, 0, :].T
        self._layers = []
        for layer, stride in enumerate((1, 2, 2, 1)):
            kernel = named(f"encoder.{layer}.reparam_conv.weight").transpose(2, 1, 0)
            self._layers.append((kernel, named(f"encoder.{layer}.reparam_conv.bias"), stride))
        self._from_input = named("decoder.rnn.weight_ih").T
        self._from_hidden = named("decoder.rnn.weight_hh").T
        self._bias = named("decoder.rnn.bias_ih") + named("decoder.rnn.bias_hh")
        self._output = named("decoder.decoder.2.weight")[0, :, 0]
        self._output_bias = named("decoder.decoder.2.bias")[0]

    def probabilities(self, stream, first, count):
        """The float64 probabilities of chunks `first` to `first + count` of a run that began at `first`."""
        hidden, cell = np.zeros(128), np.zeros(128)
        result = np.empty(count)
        for start in range(0, count, _BATCH):
            stop = min(start + _BATCH, count)
            features = self._encode(stream.frames(first + start, first + stop, first).astype(np.float64))
            driven = features @ self._from_input + self._bias
            for index in range(start, stop):
                gates = driven[index - start] + hidden @ self._from_hidden
                entering, forget, leaving = (_sigmoid(gates[at : at + 128]) for at in (0, 128, 384))
                cell = forget * cell + entering * np.tanh(gates[256:384])
                hidden = leaving * np.tanh(cell)
                result[index] = np.maximum(hidden, 0.0) @ self._output
        return _sigmoid(result + self._output_bias)

    def _encode(self, frames):
        signal = np.concatenate([frames, frames[:, -2:-66:-1]], axis=1)
        assert signal.shape[1] == CONTEXT + CHUNK + 64
        spectrum = np.stack([signal[:, at : at + 256] for at in (0, 128, 256, 384)], axis=1) @ self._basis
        x = np.hypot(spectrum[:, :, :129], spectrum[:, :, 129:])
        for kernel, bias, stride in self._layers:
            padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
            steps = range(0, x.shape[1], stride)
            taps = (padded[:, [at + tap for at in steps], :] @ kernel[tap] for tap in range(3))
            x = np.maximum(sum(taps) + bias, 0.0)
        return x[:, 0, :]


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))
