"""Times a chain of 64 elementwise operations in Python and in NumPy, in turns: `chain.py SOCKET [ELEMENTS]`.

Prints JSON: the median over rounds of the time of one operation, in microseconds, for each.
"""

import json
import statistics
import sys
from time import perf_counter

import numpy as np

import tensord as xp

CHAIN = 64
CHAINS_PER_ROUND = 20
ROUNDS = 41


def chain(x):
    """64 operations, each intermediate let go at once."""
    for _ in range(CHAIN // 2):
        x = x * 1.0001
        x = x + 0.5
    return np.asarray(x)


def timed(x):
    """Microseconds of one operation."""
    start = perf_counter()
    for _ in range(CHAINS_PER_ROUND):
        chain(x)
    return (perf_counter() - start) * 1e6 / (CHAINS_PER_ROUND * CHAIN)


def main():
    xp.connect(sys.argv[1], name="figure-chain")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    theirs = np.arange(count, dtype=np.float32) / np.float32(7)
    mine = xp.asarray(theirs)
    if chain(mine).tobytes() != chain(theirs).tobytes():
        sys.exit("the chain's result differs from NumPy's")
    rounds = [(timed(mine), timed(theirs)) for _ in range(ROUNDS)]
    print(json.dumps({
        "tensord_us": statistics.median(one for one, _ in rounds),
        "numpy_us": statistics.median(other for _, other in rounds),
    }))


if __name__ == "__main__":
    main()
