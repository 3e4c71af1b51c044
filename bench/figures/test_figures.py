"""The report reads what others print, and looks at processes rightly."""

import importlib.util
import os
import sys
from pathlib import Path

import emulated
import machine

HERE = Path(__file__).resolve().parent


def report():
    """`main.py` of this folder; the demo beside it has one of the same name."""
    specification = importlib.util.spec_from_file_location("figures_main", HERE / "main.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_lines_of_the_suites_are_found_with_their_commands():
    text = "test x ... figure: a: b (c): 7 us (P=1 cargo test (x))\nfigure: crashes: 50 (cargo test)\nok\n"
    found = report().FIGURE.findall(text)
    assert found == [("crashes", "50", "cargo test")]


def test_what_the_demo_wrote_becomes_lines():
    peer = {"name": "onnxruntime, 16 processes", "microphones": 10, "weight_bytes": 16 * 2**20,
            "chunks_per_second": 1.0, "p50_s": 0.1, "p99_s": 0.2}
    mine = dict(peer, name="tensord", microphones=9, weight_bytes=2**20, instances_per_launch=5.0, ops_per_launch=20.0)
    checks = [{"name": "bits", "text": "equal", "holds": True}]
    lines = {name: holds for name, _, holds in report().demo_lines({"rows": [mine, peer], "checks": checks})}
    assert lines["demo, bits"] and not lines["demo, live microphones"]
    assert lines["demo, instances in a launch"] and lines["demo, memory of weights"]


def test_a_segment_counts_once_however_often_it_is_open():
    segment = os.memfd_create("tensord-figure")
    again = os.dup(segment)
    before = machine.shared_bytes([os.getpid()])
    os.write(segment, bytes(8192))
    assert machine.shared_bytes([os.getpid()]) - before == 8192
    os.close(segment)
    os.close(again)


def test_time_and_memory_of_this_process():
    assert machine.family(os.getpid())[0] == os.getpid()
    assert machine.run_time_s([os.getpid()]) > 0
    assert machine.private_bytes([os.getpid()]) > 1 << 20
    assert sys.modules["machine"].name()


def test_the_emulated_machine_is_read_from_its_serial_line(tmp_path):
    serial = tmp_path / "serial.txt"
    assert emulated.results(serial) == ("", None)
    serial.write_bytes(b"[ 50%]\r\n3 passed in 1.00s\r\nBITS\r\neyJhIjog\r\n")
    assert emulated.results(serial)[1] is None
    with open(serial, "ab") as file:
        file.write(b"ImIifQ==\r\nEND\r\n")
    text, bits = emulated.results(serial)
    assert "3 passed" in text and bits == b'{"a": "b"}'
