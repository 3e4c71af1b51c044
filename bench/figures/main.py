"""Measures each figure that the documentation states, one line each with the command that measures it.

`make figures` runs all groups; `python bench/figures/main.py GROUP ...` runs some. A line whose figure falls short is printed as it is
measured, marked `SHORT`. Exit status 1 where something could not be measured at all.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "bench/demo"), str(HERE)]

import emulated  # noqa: E402
import machine  # noqa: E402
from fleet import Daemon, FleetError  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RELEASE = TARGET / "release"
CARGO = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
SELF = "python bench/figures/main.py"
FIGURE = re.compile(r"^figure: (.+): (.+) \((.+)\)$", re.M)

IDLE_SESSIONS, IDLE_SECONDS = 100, 20.0
MANY_SESSIONS = 1000
BESIDE_RUNS = 3


class Unmeasured(Exception):
    """A figure could not be had; the message says why."""


def show(name, value, command, holds=None):
    """One line of the report."""
    mark = {True: "holds", False: "SHORT", None: "     "}[holds]
    print(f"{mark}  {name}: {value}  $ {command}", flush=True)


def output_of(command, **more):
    """What a command prints; raises with its last words where it fails."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, **more)
    if done.returncode != 0:
        tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise Unmeasured(f"{' '.join(map(str, command))}: status {done.returncode}\n    {tail}")
    return done.stdout


def build(*programs):
    """Builds programs of the test crate that measure."""
    flags = [flag for program in programs for flag in ("--bin", program)]
    output_of([CARGO, "build", "--quiet", "--release", "-p", "tensord-tests", *flags])


def wait_complete(running, timeout_s=20.0):
    """Waits until broker and engine are there too: the socket accepts before they have started."""
    deadline = time.monotonic() + timeout_s
    while len(machine.family(running.process.pid)) < 3:
        if time.monotonic() > deadline:
            raise Unmeasured(f"no broker or engine after {timeout_s:.0f} s: {running.last_words()}")
        time.sleep(0.02)


@contextlib.contextmanager
def daemon():
    """A daemon with its default configuration."""
    with tempfile.TemporaryDirectory(prefix="tensord-figures-") as folder:
        running = Daemon(folder, RELEASE / "tensord")
        try:
            wait_complete(running)
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def idle_sessions(socket, count):
    """So many sessions that do nothing; gives the seconds that they took to connect."""
    holder = subprocess.Popen(
        [RELEASE / "figure-sessions", socket, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = holder.stdout.readline()
        if not line:
            raise Unmeasured(f"figure-sessions {count} ended with status {holder.wait()}")
        yield float(line)
    finally:
        holder.stdin.close()
        holder.wait()


def group_sessions():
    """Idle sessions: time on a core, time to connect, memory."""
    build("figure-sessions")
    command = f"{SELF} sessions"
    with daemon() as running:
        pids = machine.family(running.process.pid)
        with idle_sessions(running.socket, IDLE_SESSIONS):
            time.sleep(1.0)  # what connecting left to do is not idling
            before = machine.run_time_s(pids)
            time.sleep(IDLE_SECONDS)
            share = (machine.run_time_s(pids) - before) / IDLE_SECONDS
        show(
            f"{IDLE_SESSIONS} idle sessions, share of a core over {IDLE_SECONDS:.0f} s",
            f"{share:.3%} (wanted: under 0.5 %)", command, share < 0.005,
        )
    with daemon() as running:
        pids = machine.family(running.process.pid)
        before = machine.held_bytes(pids)
        with idle_sessions(running.socket, MANY_SESSIONS) as seconds:
            time.sleep(1.0)
            each = (machine.held_bytes(pids) - before) / MANY_SESSIONS
        show(f"{MANY_SESSIONS} sessions connect", f"{seconds:.2f} s (wanted: 2 s)", command, seconds <= 2.0)
        show("resident memory of an idle session", f"{each / 1024:.1f} KiB (wanted: at most 64 KiB)", command, each <= 65_536)


def group_chain():
    """A chain of 64 operations in Rust and Python."""
    build("figure-chain")
    command = f"{SELF} chain"
    with daemon() as running:
        rust = float(output_of([RELEASE / "figure-chain", running.socket]))
        show("chain of 64, 1,024 f32, Rust", f"{rust:.3f} us an operation (wanted: 0.2 us)", command, rust <= 0.2)
        python = json.loads(output_of([sys.executable, HERE / "chain.py", running.socket]))
        ratio = python["tensord_us"] / python["numpy_us"]
        show(
            "chain of 64, 1,024 f32, Python",
            f"{python['tensord_us']:.3f} us an operation, {ratio:.2f} of numpy's {python['numpy_us']:.3f} us (wanted: at most 0.5)",
            command, ratio <= 0.5,
        )


def group_suites():
    """What the tests of the whole daemon count, at full length; they print their own commands."""
    build("figures")
    environment = dict(os.environ, CARGO=CARGO, TENSORD_DAEMON=str(RELEASE / "tensord"))
    process = subprocess.Popen([RELEASE / "figures"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        for name, value, command in FIGURE.findall(line):
            show(name, value, command, value != "FAILED")
        if "SKIPPED" in line:
            print(f"       {line.strip()}", flush=True)
    if process.wait() != 0:
        raise Unmeasured("a test failed; its words are above")


def instruction_sets():
    """What this processor has of what the configuration can force, best first, and which tests each runs."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= flags:
        yield "avx512", None
    if {"avx2", "fma", "f16c"} <= flags:
        yield "avx2", None
    # Without a fused multiply-add in hardware it is slow, so it runs a part.
    yield "portable", "float32 or float16 or int8 or bool"


def differential_suite(level, part=None):
    """Runs the differential suite at a level: what pytest says in the end, and the hash of each test's results."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "record_bits", "tests/conformance"]
        environment = dict(
            os.environ, TENSORD_DAEMON=str(RELEASE / "tensord"), TENSORD_SIMD=level, RECORD_BITS=file.name, PYTHONPATH=str(HERE)
        )
        said = output_of(command + (["-k", part] if part else []), env=environment)
        return said.strip().splitlines()[-1].strip("= "), json.loads(Path(file.name).read_text())


def show_same_bits(level, hashes, best, best_hashes, command):
    """Compares the results of a suite at two levels."""
    other = [test for test in hashes if hashes[test] != best_hashes.get(test)]
    show(
        f"same bits on {level} as on {best}",
        f"{len(hashes) - len(other)} of {len(hashes)} tests" + "".join(f"; not {test}" for test in other[:3]), command, not other,
    )


def group_bits():
    """The differential suite on each instruction set: every answer against NumPy, and between them bit for bit."""
    best = None
    for level, part in instruction_sets():
        said, hashes = differential_suite(level, part)
        show(f"differential suite against NumPy, {level}", said, f"TENSORD_SIMD={level} pytest tests/conformance", True)
        if best is None:
            best = (level, hashes)
        else:
            show_same_bits(level, hashes, *best, f"{SELF} bits")


def group_emulated():
    """The differential suite on AVX-512, where this processor lacks it: on one that Bochs emulates. Takes a quarter of an hour."""
    best, part = next(instruction_sets())
    if best == "avx512":
        return
    said, hashes = emulated.suite(RELEASE / "tensord", "avx512")
    command = f"{SELF} emulated"
    show("differential suite, avx512, emulated, against the NumPy there", said.strip("= "), command)
    show_same_bits("avx512, emulated,", json.loads(hashes), best, differential_suite(best, part)[1], command)


def group_kernels():
    """What the cpu backend's own suites hold it to: they fail where a bound is passed."""
    for test, what in (
        ("contract", "contraction: a row's bits over 10,000 random shapes, layouts, neighbours, threads, instruction sets"),
        ("math_single", "elementwise functions in f32 within their bounds of ulp, equal bits on all instruction sets"),
    ):
        command = [CARGO, "test", "--release", "-p", "tensord-cpu", "--test", test]
        counts = re.findall(r"(\d+) passed; (\d+) failed", output_of(command))
        passed = sum(int(passed) for passed, _ in counts)
        show(what, f"{passed} tests pass", " ".join(["cargo", *command[1:]]), True)


def group_demo():
    """The main job, at its usual length."""
    command = "make demo"
    with tempfile.TemporaryDirectory(prefix="tensord-figures-") as folder:
        file = Path(folder) / "demo.json"
        done = subprocess.run(
            [sys.executable, ROOT / "bench/demo/main.py", "--daemon", RELEASE / "tensord", "--json", file],
            cwd=ROOT, capture_output=True, text=True,
        )
        if not file.exists():
            tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
            raise Unmeasured(f"the demo ended with status {done.returncode}\n    {tail}")
        result = json.loads(file.read_text())
    for line in demo_lines(result):
        show(*line[:2], command, line[2])


def demo_lines(result):
    """What the demo measured, as (name, value, holds)."""
    for check in result["checks"]:
        yield f"demo, {check['name']}", check["text"], check["holds"]
    merged, rows = result["rows"][0], result["rows"]
    peers = [row for row in rows if row["name"].startswith("onnxruntime,") and "processes" in row["name"]]
    best = max((row["microphones"] for row in peers), default=None)
    if best is not None:
        yield (
            "demo, live microphones",
            f"{merged['microphones']:.0f}, onnxruntime's processes {best:.0f} (wanted: at least as many)",
            merged["microphones"] >= best,
        )
    if "instances_per_launch" in merged:
        instances = merged["instances_per_launch"]
        yield "demo, instances in a launch", f"{instances:.2f} (wanted: at least 4)", instances >= 4
    if "ops_per_launch" in merged:
        yield "demo, operations in a launch", f"{merged['ops_per_launch']:.1f}", None
    if "weight_bytes" in merged and peers:
        # Every onnxruntime process holds the initializers once.
        one = peers[0]["weight_bytes"] / 16
        yield (
            "demo, memory of weights",
            f"{merged['weight_bytes'] / 2**20:.2f} MiB for all clients, the initializers have {one / 2**20:.2f} MiB",
            merged["weight_bytes"] < 2 * one,
        )
    for row in rows:
        yield (
            f"demo, {row['name']}",
            f"{row['chunks_per_second']:,.0f} chunks/s, p50 {row['p50_s'] * 1e3:.2f} ms, p99 {row['p99_s'] * 1e3:.2f} ms",
            None,
        )


def group_beside():
    """What `make bench` measures beside peers, where it says what is wanted."""
    command = f"make bench BENCH_ARGS='--runs {BESIDE_RUNS}'"
    with tempfile.TemporaryDirectory(prefix="tensord-figures-") as folder:
        output_of([sys.executable, ROOT / "bench/suite/main.py", "--runs", BESIDE_RUNS, "--into", folder])
        cases = json.loads((Path(folder) / "results.json").read_text())["cases"]
    products = []
    for figure in (figure for case in cases.values() for figure in case):
        for wanted in figure.get("wanted", []):
            if figure["name"].startswith("product "):
                products.append(wanted)
            elif wanted["reached"] is not None:
                text = f"{wanted['reached']:.3g} ({figure['median']:.3g} {figure['unit']}; {wanted['text']})"
                show(figure["name"], text, command, wanted["holds"])
    holding = sum(wanted["holds"] for wanted in products)
    text = f"{holding} of {len(products)} sizes at least as fast as gemm"
    show("products with a packed constant", text, command, holding == len(products))


GROUPS = {
    "sessions": group_sessions,
    "chain": group_chain,
    "suites": group_suites,
    "bits": group_bits,
    "kernels": group_kernels,
    "demo": group_demo,
    "emulated": group_emulated,
    "beside": group_beside,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of: {', '.join(GROUPS)} (default: all)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if not (RELEASE / "tensord").exists():
        sys.exit(f"no daemon at {RELEASE / 'tensord'}: run `make build` first")
    print(f"on {machine.name()}, Linux {os.uname().release}")
    unmeasured = False
    for name in arguments.groups or GROUPS:
        try:
            GROUPS[name]()
        except (Unmeasured, FleetError, emulated.CannotEmulate) as error:
            unmeasured = True
            print(f"FAIL   {name}: {error}", flush=True)
    sys.exit(1 if unmeasured else 0)


if __name__ == "__main__":
    main()
