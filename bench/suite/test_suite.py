"""The report says what was measured, and does not call short what was not run."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "demo")]

import cases  # noqa: E402
import fleets  # noqa: E402
import report  # noqa: E402
import stages  # noqa: E402
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
    assert "not run" in figure.line()
    assert "SHORT" not in figure.line()


def test_what_falls_short_is_said_in_line_and_table():
    figure = Figure("x", "us", False, [3.0], {"numpy": [2.0]}, [Wanted(1, "numpy")])
    about = {"machine": "m", "date": "d", "runs": 1, "peers": "numpy 2"}
    assert figure.line().startswith("SHORT  x: 3.00 us")
    assert "| x | 3.00 us ±0% | 1.50 of numpy, 2.00 | at most 1 of numpy: **short** |" in report.markdown([figure], about)


def test_products_are_one_row_of_the_table():
    figures = [
        Figure(f"product {m}x64x64 f32, one thread", "GFLOP/s", True, [ours], {"gemm": [2.0]}, [Wanted(1, "gemm")])
        for m, ours in ((1, 1.0), (8, 3.0))
    ]
    text = report.markdown(figures, {"machine": "m", "date": "d", "runs": 1, "peers": ""})
    assert "2 sizes" in text and "from 0.50 (1x64x64) to 1.50 (8x64x64)" in text and "1 of 2 hold" in text


def test_a_figure_comes_back_from_what_was_written():
    figure = Figure("x", "us", False, [3.0, 4.0], {"numpy": [2.0, 5.0]}, [Wanted(1, "numpy"), Wanted(9), Wanted(1, "torch")])
    assert Figure.of_json(json.loads(json.dumps(figure.json()))) == figure


def test_the_slowest_client_is_held_against_an_equal_share():
    together = fleets.Together([10, 20, 30], 2.0)
    assert (together.rate, together.least_share) == (30.0, 0.5)


def test_libraries_take_turns_and_agree():
    seconds = workers.compare(["numpy", "numpy"], "chain", (8, 4), 2, 0.0, tolerance=0.0)
    assert list(seconds) == ["numpy"] and len(seconds["numpy"]) == 4


def test_a_library_that_fails_says_why():
    with pytest.raises(workers.WorkerError, match="no_such_method"):
        workers.compare(["numpy"], "no_such_method", (), 1, 0.0)


def profile(waiting, crossing, **engine):
    """Of an operation that took 1,000 ns."""
    parts = [("client", "submitting", 1000 - waiting), ("client", "waiting", waiting), ("crossing", "rest of waiting", crossing)]
    parts += [("engine", name, ns) for name, ns in engine.items()]
    told = [{"side": side, "name": name, "ns": ns, "share": ns / 1000} for side, name, ns in parts]
    return stages.Profile({"name": "x", "wall_ns": 1000.0, "parts": told})


def test_what_a_client_does_adds_up_to_the_wall_and_the_engine_stands_beside_it():
    one = profile(600, 100, ingest=200.0, execution=500.0, polling=250.0, parked=50.0)
    assert one.client() == {"submitting": 400, "the engine's work": 500, "crossing": 100}
    assert (one.engine()["ingest"], one.engine()["idle"], one.engine()["wake"]) == (200.0, 300.0, 0)
    assert one.line().endswith("the engine's work 50%, execution 50%, submitting 40%, idle 30%, ingest 20%")


def test_the_table_of_stages_has_a_column_for_each_kind_of_work(tmp_path):
    both = [profile(600, 100, ingest=200.0), profile(900, 300, execution=0.5)]
    text = stages.markdown(both, {"machine": "m", "date": "d"})
    assert "| on the wall | **1,000** | **1,000** |" in text
    assert "| client: crossing | 100 (10%) | 300 (30%) |" in text
    assert "| engine: ingest | 200 (20%) |  |" in text
    assert stages.markdown([], {}) == ""
    stages.picture(both, tmp_path / "stages.svg")
    assert "<svg" in (tmp_path / "stages.svg").read_text()


def test_what_takes_turns_changes_who_goes_first():
    order = []
    pairs = cases.in_turns(3, lambda: order.append("a") or 1, lambda: order.append("b") or 2)
    assert pairs == [(1, 2)] * 3 and order == ["a", "b", "b", "a", "a", "b"]


@pytest.mark.parametrize(("more_is_better", "checked", "holds"), [(False, 1.04, True), (False, 1.06, False), (True, 0.96, True), (True, 0.94, False)])
def test_checks_may_cost_five_percent(more_is_better, checked, holds):
    figure = cases.beside_no_checks("x", "u", more_is_better, [(checked, 1.0)])
    assert [verdict for _, _, verdict in figure.verdicts()] == [holds]
