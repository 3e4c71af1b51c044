"""The Silero voice-activity network (16 kHz) in small operations, for any Array API namespace with `window` and `contract`.

There is no convolution and no LSTM operation: a short-time Fourier transform is a product with windows of the
signal, a convolution is a product with windows of its input, an LSTM cell is two products and some fifteen
elementwise operations. The same code runs under tensord and, in float32 and float64, under `numpy_shim`.

Time comes first and channels last. One call takes one chunk: 64 samples of context and 512 new ones, at 16 kHz.
"""

from types import SimpleNamespace

import numpy as np

CONV_STRIDES = (1, 2, 2, 1)
FFT, HOP, REFLECT = 256, 128, 64
BINS = FFT // 2 + 1
HIDDEN = 128


class SileroVad:
    """The network with its weights uploaded once, as constants, into the namespace `xp`.

    `weights` are the initializers of `silero_vad_16k_op15.onnx` by name; `dtype` is the NumPy dtype to compute in.
    """

    def __init__(self, xp, weights, dtype=np.float32):
        def upload(value):
            return xp.constant(np.asarray(value, dtype))

        def named(name):
            return weights[f"model.{name}"]

        self.xp = xp
        self.dtype = dtype
        self.basis = upload(named("stft.forward_basis_buffer")[:, 0, :])
        self.convolutions = [
            (
                upload(named(f"encoder.{layer}.reparam_conv.weight")),
                upload(named(f"encoder.{layer}.reparam_conv.bias")),
                stride,
            )
            for layer, stride in enumerate(CONV_STRIDES)
        ]
        self.lstm = SimpleNamespace(
            from_input=upload(named("decoder.rnn.weight_ih")),
            from_hidden=upload(named("decoder.rnn.weight_hh")),
            bias=upload(named("decoder.rnn.bias_ih").astype(dtype) + named("decoder.rnn.bias_hh").astype(dtype)),
        )
        self.output = upload(named("decoder.decoder.2.weight")[:, :, 0])
        self.output_bias = upload(named("decoder.decoder.2.bias"))

    def silence(self):
        """The state before the first chunk: hidden and cell values, each of shape (1, 128)."""
        dtype = getattr(self.xp, np.dtype(self.dtype).name)
        return self.xp.zeros((1, HIDDEN), dtype=dtype), self.xp.zeros((1, HIDDEN), dtype=dtype)

    def __call__(self, frame, hidden, cell):
        """Takes 576 samples and the state; gives the probability of speech, of shape (1, 1), and the new state."""
        hidden, cell = self.step(self.encode(frame), hidden, cell)
        xp = self.xp
        score = xp.contract(xp.maximum(hidden, 0.0), self.output, "tc,oc->to") + self.output_bias
        return sigmoid(xp, score), hidden, cell

    def encode(self, frame):
        """The part without state: 576 samples to 128 features, of shape (1, 128)."""
        xp = self.xp
        signal = xp.concat([frame, frame[-2 : -2 - REFLECT : -1]])
        spectrum = xp.contract(xp.window(signal, 0, FFT, HOP), self.basis, "tk,fk->tf")
        real, imaginary = spectrum[:, :BINS], spectrum[:, BINS:]
        x = xp.sqrt(real * real + imaginary * imaginary)
        for weight, bias, stride in self.convolutions:
            taps = xp.window(x, 0, 3, stride, padding=1)
            x = xp.maximum(xp.contract(taps, weight, "tcw,ocw->to") + bias, 0.0)
        return x

    def step(self, x, hidden, cell):
        """One LSTM cell, gates in PyTorch's order: input, forget, cell, output."""
        xp = self.xp
        gates = (
            xp.contract(x, self.lstm.from_input, "tc,gc->tg")
            + xp.contract(hidden, self.lstm.from_hidden, "tc,gc->tg")
            + self.lstm.bias
        )
        keep = sigmoid(xp, gates[:, : 2 * HIDDEN])
        entering, forget = keep[:, :HIDDEN], keep[:, HIDDEN:]
        candidate = xp.tanh(gates[:, 2 * HIDDEN : 3 * HIDDEN])
        leaving = sigmoid(xp, gates[:, 3 * HIDDEN :])
        cell = forget * cell + entering * candidate
        return leaving * xp.tanh(cell), cell


def sigmoid(xp, x):
    """The logistic function, in the three operations that it is."""
    return 1.0 / (1.0 + xp.exp(-x))
