"""Decides whether the demo's probabilities are right: against onnxruntime, against float64, and against itself alone.

Takes arrays, prints nothing, starts nothing.

# What "no farther from float64" means here
The distance of a set of float32 probabilities is their root mean square difference from float64 over every chunk of every
stream. The largest single difference is reported beside it but decides nothing: it is one chunk in hundreds of thousands,
in which the recurrent state had amplified a rounding, and which of two equally good orders of summation has the larger one is
chance. For the same reason the root mean squares of two equally good ones differ by some per cent either way: up to
`DISTANCE_MARGIN` counts as no farther.
"""

import numpy as np

LARGEST_DIFFERENCE = 1e-4
USUAL_DIFFERENCE = 1e-5
USUAL_SHARE = 0.999
DISTANCE_MARGIN = 1.1


def check_onnxruntime(mine, theirs):
    """Every probability within 1e-4 of onnxruntime's on the same chunks, and 99.9 % within 1e-5."""
    difference = np.abs(mine - theirs)
    # A NaN compares false with everything, so both conditions are stated as what must hold.
    largest = float(difference.max())
    share = float(np.mean(difference <= USUAL_DIFFERENCE))
    return {
        "name": "probabilities as onnxruntime's",
        "holds": bool(largest <= LARGEST_DIFFERENCE and share >= USUAL_SHARE),
        "text": f"largest difference {largest:.1e} over {len(mine):,} chunks, {share:.4%} within {USUAL_DIFFERENCE:.0e}",
        "largest": largest,
        "share_within_1e-5": share,
        "chunks": len(mine),
    }


def check_distance(mine, theirs, exact):
    """Not farther from float64 than onnxruntime is."""
    root_mean_square = [float(np.sqrt(np.mean((values - exact) ** 2))) for values in (mine, theirs)]
    largest = [float(np.abs(values - exact).max()) for values in (mine, theirs)]
    return {
        "name": "no farther from float64 than onnxruntime",
        "holds": bool(root_mean_square[0] <= DISTANCE_MARGIN * root_mean_square[1]),
        "text": f"root mean square {root_mean_square[0]:.2e} (onnxruntime {root_mean_square[1]:.2e}), "
        f"largest {largest[0]:.1e} ({largest[1]:.1e})",
        "rms": root_mean_square[0],
        "rms_onnxruntime": root_mean_square[1],
        "largest": largest[0],
        "largest_onnxruntime": largest[1],
    }


def check_bits(name, merged, alone):
    """Equal bits, run by run: pairs of float32 probabilities of the same chunks."""
    compared = different = 0
    first = None
    for run, (one, other) in enumerate(zip(merged, alone, strict=True)):
        count = min(len(one), len(other))
        unequal = np.flatnonzero(
            one[:count].astype(np.float32).view(np.uint32) != other[:count].astype(np.float32).view(np.uint32)
        )
        compared += count
        different += len(unequal)
        if len(unequal) and first is None:
            first = (run, int(unequal[0]), float(one[unequal[0]]), float(other[unequal[0]]))
    text = f"{compared:,} of {sum(len(one) for one in merged):,} chunks compared, {different:,} differ"
    if first is not None:
        text += f"; first: run {first[0]}, chunk {first[1]}: {first[2]!r} and {first[3]!r}"
    return {
        "name": name, "holds": different == 0 and compared > 0, "text": text,
        "compared": compared, "different": different,
    }
