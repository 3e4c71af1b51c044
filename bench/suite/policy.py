"""A client of the policy benchmark: `policy.py LIBRARY [SOCKET]`.

A network of three layers (64-128-128-8, tanh) takes one observation at a time, and the next only when it has answered. Says "ready", takes
"START END" in seconds of the monotonic clock, and prints the number of its steps.
"""

import sys
import time

import numpy as np

SIZES = (64, 128, 128, 8)


def layers():
    """Weights and biases."""
    random = np.random.default_rng(3)
    for into, out in zip(SIZES, SIZES[1:]):
        yield random.standard_normal((into, out)).astype(np.float32) / np.float32(into**0.5), np.zeros(out, np.float32)


def numpy_step():
    """NumPy."""
    network = list(layers())

    def step(x):
        for weight, bias in network:
            x = np.tanh(x @ weight + bias)
        return x

    return step


def torch_step():
    """PyTorch, eager. One thread: the processes outnumber the cores."""
    import torch

    torch.set_num_threads(1)
    network = [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in layers()]

    def step(x):
        with torch.inference_mode():
            x = torch.from_numpy(x)
            for weight, bias in network:
                x = torch.tanh(x @ weight + bias)
            return x.numpy()

    return step


def tensord_step(socket):
    """tensord."""
    import tensord as xp

    xp.connect(socket, name="policy")
    network = [(xp.constant(weight), xp.constant(bias)) for weight, bias in layers()]

    def step(x):
        x = xp.asarray(x)
        for weight, bias in network:
            x = xp.tanh(x @ weight + bias)
        return xp.asnumpy(x)

    return step


def main():
    library, *more = sys.argv[1:]
    step = {"numpy": numpy_step, "torch": torch_step, "tensord": tensord_step}[library](*more)
    observations = np.random.default_rng().standard_normal((256, 1, SIZES[0])).astype(np.float32)
    for observation in observations[:32]:
        step(observation)
    print("ready", flush=True)
    start, end = map(float, sys.stdin.readline().split())
    time.sleep(max(0.0, start - time.monotonic()))
    count = 0
    while time.monotonic() < end:
        step(observations[count % 256])
        count += 1
    print(count, flush=True)


if __name__ == "__main__":
    main()
