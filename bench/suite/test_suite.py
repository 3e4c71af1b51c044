"""The report says what was measured, and does not call short what was not run."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "demo")]

import fleets  # noqa: E402
import report  # noqa: E402
import workers  # noqa: E402
from figures import Figure, Wanted  # noqa: E402


def test_ratios_are_taken_run_by_run():
    # The machine was twice as slow in the second run, for both.
    figure = Figure("x", "us", False, [1.0, 2.0, 1.0], {"numpy": [2.0, 4.0, 2.0]}, [Wanted(0.5, "numpy")])
    assert figure.ratio("numpy") == 0.5
    assert [holds for _, _, holds in figure.verdicts()] == [True]


@pytest.mark.parametrize(("more_is_better", "bound", "holds"), [(True, 2.1, False), (True, 2.0, True), (False, 2.0, True), (False, 1.9, False)])
def test_a_bound_is_kept_or_missed_on_its_side(more_is_better, bound, holds):
    figure = Figure("x", "GB/s", more_is_better, [1.0, 2.0, 3.0], wanted=[Wanted(bound)])
    assert [verdict for _, _, verdict in figure.verdicts()] == [holds]


def test_a_peer_that_did_not_run_is_neither_reached_nor_missed():
    figure = Figure("x", "us", False, [1.0], wanted=[Wanted(1, "torch")])
    assert list(figure.verdicts()) == [("at most 1 of torch", None, None)]
    assert "not run" in report.line(figure)
    assert "SHORT" not in report.line(figure)


def test_what_falls_short_is_said_in_line_and_table():
    figure = Figure("x", "us", False, [3.0], {"numpy": [2.0]}, [Wanted(1, "numpy")])
    about = {"machine": "m", "date": "d", "runs": 1, "peers": "numpy 2"}
    assert report.line(figure).startswith("SHORT  x: 3.00 us")
    assert "| x | 3.00 us ±0% | 1.50 of numpy, 2.00 | at most 1 of numpy: **short** |" in report.markdown([figure], about)


def test_products_are_one_row_of_the_table():
    figures = [
        Figure(f"product {m}x64x64 f32, one thread", "GFLOP/s", True, [ours], {"gemm": [2.0]}, [Wanted(1, "gemm")])
        for m, ours in ((1, 1.0), (8, 3.0))
    ]
    text = report.markdown(figures, {"machine": "m", "date": "d", "runs": 1, "peers": ""})
    assert "2 sizes" in text and "from 0.50 (1x64x64) to 1.50 (8x64x64)" in text and "1 of 2 hold" in text


def test_the_slowest_client_is_held_against_an_equal_share():
    together = fleets.Together([10, 20, 30], 2.0)
    assert (together.rate, together.least_share) == (30.0, 0.5)


def test_libraries_take_turns_and_agree():
    seconds = workers.compare(["numpy", "numpy"], "chain", (8, 4), 2, 0.0, tolerance=0.0)
    assert list(seconds) == ["numpy"] and len(seconds["numpy"]) == 4


def test_a_library_that_fails_says_why():
    with pytest.raises(workers.WorkerError, match="no_such_method"):
        workers.compare(["numpy"], "no_such_method", (), 1, 0.0)
