"""The same computations in each library, written as its users would write them.

A method takes sizes and gives a function without arguments that computes once, so that the result is there. `worker.py` runs one
library in a process of its own.
"""

import numpy as np

SCALE, SHIFT, EPSILON = np.float32(1.0001), np.float32(0.5), np.float32(1e-5)
# The capsule convolution: batch, capsules in and out, side, window, stride, and the 4 x 4 pose of a capsule.
CAPSULE = {"batch": 64, "into": 32, "out": 32, "side": 15, "window": 3, "stride": 2, "pose": 4}


def values(count):
    """Numbers that stay in range however long the chain."""
    return (np.arange(count) % 1000 / np.float32(1000)).astype(np.float32)


def square(side):
    """A matrix whose rows differ."""
    return np.random.default_rng(1).standard_normal((side, side)).astype(np.float32)


def capsules():
    """Poses and weights of the capsule convolution."""
    c, random = CAPSULE, np.random.default_rng(2)
    poses = random.standard_normal((c["batch"], c["into"], c["side"], c["side"], c["pose"], c["pose"])).astype(np.float32)
    weights = random.standard_normal((c["into"], c["out"], c["window"], c["window"], c["pose"], c["pose"])).astype(np.float32)
    return poses, weights


class Library:
    """What they have in common: results are where they were computed."""

    def chain_left_there(self, count, length):
        """The chain with its result left where the library has it."""
        return self.chain(count, length)

    def rows_left_there(self, kind, side):
        """Rows with their result left where the library has it."""
        return self.rows(kind, side)


class Numpy(Library):
    """NumPy, operation by operation."""

    def chain(self, count, length):
        x = values(count)

        def run():
            y = x
            for _ in range(length // 2):
                y = y * SCALE
                y = y + SHIFT
            return y

        return run

    def rows(self, kind, side):
        x = square(side)

        def softmax():
            powers = np.exp(x - x.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)

        def layer_norm():
            centred = x - x.mean(axis=1, keepdims=True)
            return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + EPSILON)

        return {"sum": x.sum, "mean": lambda: x.mean(axis=1), "softmax": softmax, "layer norm": layer_norm}[kind]


class Numexpr(Library):
    """numexpr: one expression, all cores."""

    def chain(self, count, length):
        import numexpr

        x = values(count)
        expression = "x"
        for _ in range(length // 2):
            expression = f"({expression} * scale + shift)"
        names = {"x": x, "scale": SCALE, "shift": SHIFT}
        return lambda: numexpr.evaluate(expression, local_dict=names)


class Jax(Library):
    """JAX, everything under one `jit`."""

    def chain(self, count, length):
        import jax

        @jax.jit
        def compute(y):
            for _ in range(length // 2):
                y = y * SCALE
                y = y + SHIFT
            return y

        x = jax.numpy.asarray(values(count))
        return lambda: np.asarray(compute(x))

    def rows(self, kind, side):
        import jax
        import jax.numpy as jnp

        def layer_norm(x):
            centred = x - x.mean(axis=1, keepdims=True)
            return centred * jax.lax.rsqrt((centred * centred).mean(axis=1, keepdims=True) + EPSILON)

        functions = {
            "sum": jnp.sum,
            "mean": lambda x: x.mean(axis=1),
            "softmax": lambda x: jax.nn.softmax(x, axis=1),
            "layer norm": layer_norm,
        }
        compute, x = jax.jit(functions[kind]), jnp.asarray(square(side))
        return lambda: np.asarray(compute(x))


class Torch(Library):
    """PyTorch, eager; with its own fused operation where it has one."""

    def _compiled(self, function):
        return function

    def chain(self, count, length):
        import torch

        x = torch.from_numpy(values(count))
        scale, shift = float(SCALE), float(SHIFT)

        def compute(y):
            for _ in range(length // 2):
                y = y * scale
                y = y + shift
            return y

        compute = self._compiled(compute)

        def run():
            with torch.inference_mode():
                return compute(x).numpy()

        return run

    def rows(self, kind, side):
        import torch

        x = torch.from_numpy(square(side))
        epsilon = float(EPSILON)
        functions = {
            "sum": torch.sum,
            "mean": lambda x: x.mean(dim=1),
            "softmax": lambda x: torch.softmax(x, dim=1),
            "layer norm": lambda x: torch.nn.functional.layer_norm(x, (side,), eps=epsilon),
        }
        compute = self._compiled(functions[kind])

        def run():
            with torch.inference_mode():
                return compute(x).numpy()

        return run


class TorchCompiled(Torch):
    """PyTorch under `torch.compile`."""

    def _compiled(self, function):
        import torch

        return torch.compile(function, dynamic=False)


class Tensord:
    """tensord, each operation submitted by itself."""

    def __init__(self, socket):
        import tensord

        tensord.connect(socket, name="bench")
        self.xp = tensord

    def chain(self, count, length, read_back=True):
        xp = self.xp
        x = xp.asarray(values(count))
        scale, shift = float(SCALE), float(SHIFT)

        def run():
            y = x
            for _ in range(length // 2):
                y = y * scale
                y = y + shift
            return self._given(y, read_back)

        return run

    def _given(self, result, read_back):
        """The value on the host, or the array once it is there."""
        if read_back:
            return self.xp.asnumpy(result)
        self.xp.synchronize()
        return result

    def chain_left_there(self, count, length):
        """The chain with its result left in the daemon, where the next operation finds it."""
        return self.chain(count, length, read_back=False)

    def rows(self, kind, side, read_back=True):
        xp = self.xp
        x = xp.asarray(square(side))

        def softmax():
            powers = xp.exp(x - xp.max(x, axis=1, keepdims=True))
            return powers / xp.sum(powers, axis=1, keepdims=True)

        def layer_norm():
            centred = x - xp.mean(x, axis=1, keepdims=True)
            return centred / xp.sqrt(xp.mean(centred * centred, axis=1, keepdims=True) + float(EPSILON))

        functions = {"sum": lambda: xp.sum(x), "mean": lambda: xp.mean(x, axis=1), "softmax": softmax, "layer norm": layer_norm}
        return lambda: self._given(functions[kind](), read_back)

    def rows_left_there(self, kind, side):
        """Rows with their result left in the daemon."""
        return self.rows(kind, side, read_back=False)

    def capsule(self):
        """`out[b, o, y, x, i, k] = sum over c, u, v, j of pose[b, c, y', x', i, j] * weight[c, o, u, v, j, k]`."""
        xp, c = self.xp, CAPSULE
        poses, weights = capsules()
        poses, weights = xp.asarray(poses), xp.constant(weights)

        def run():
            windows = xp.window(poses, (2, 3), (c["window"],) * 2, c["stride"])
            result = xp.contract(windows, weights, "bcyxijuv,couvjk->boyxik")
            xp.synchronize()
            return result

        return run


LIBRARIES = {
    "numpy": Numpy,
    "numexpr": Numexpr,
    "jax": Jax,
    "torch": Torch,
    "torch.compile": TorchCompiled,
    "tensord": Tensord,
}
