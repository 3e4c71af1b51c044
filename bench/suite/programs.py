"""Programs that measure: `tensorctl bench` and the peers written in Rust."""

import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RELEASE = TARGET / "release"
CARGO = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
PEERS = ROOT / "bench/peers"
UNCHECKED = ["--features", "unchecked-for-benchmark"]


class ProgramError(Exception):
    """A program failed; the message carries its last words."""


def output_of(*command, **more):
    """What a command prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise ProgramError(f"{' '.join(map(str, command))}: status {done.returncode}\n    {tail}")
    return done.stdout


def build_peers():
    """Builds `bench/peers`, whose crates are no part of the product, in a target folder of its own."""
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "peers"))
    output_of(CARGO, "build", "--quiet", "--release", "--locked", "--manifest-path", PEERS / "Cargo.toml", env=environment)


def build_unchecked():
    """Builds the daemon without what guards it against hostile clients, in a target folder of its own; gives its path."""
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET / "unchecked"))
    output_of(CARGO, "build", "--quiet", "--release", "--locked", "-p", "tensord-daemon", *UNCHECKED, cwd=ROOT, env=environment)
    return TARGET / "unchecked/release/tensord"


def build_turn(unchecked):
    """Builds the engine in one thread with a ring, `cargo bench --bench turn`; gives its path."""
    target, features = (TARGET / "unchecked", UNCHECKED) if unchecked else (TARGET, [])
    command = [CARGO, "bench", "--quiet", "--locked", "-p", "tensord-daemon", "--bench", "turn", "--no-run", "--message-format=json"]
    said = output_of(*command, *features, cwd=ROOT, env=dict(os.environ, CARGO_TARGET_DIR=str(target)))
    artifacts = [message for message in map(json.loads, said.splitlines()) if message.get("executable")]
    return next(artifact["executable"] for artifact in artifacts if artifact["target"]["name"] == "turn")


def turn(path):
    """Nanoseconds of one operation of a chain of 64 in the engine, for each number of elements."""
    rows = [line.split() for line in output_of(path, "--bench").splitlines()[2:]]
    return {int(elements): float(accept) + float(run) for elements, _ring, accept, run in rows}


def peer(name):
    """Path of a program of `bench/peers`."""
    return TARGET / "peers/release" / name


def _tensorctl_bench(socket, case, runs, run_s):
    return json.loads(output_of(
        RELEASE / "tensorctl", "--socket", socket, "--json", "bench", case, "--runs", runs, "--ms", round(run_s * 1e3)
    ))


def tensorctl_bench(socket, case, runs, run_s):
    """The lines of one case of `tensorctl bench`, by name."""
    return {line["name"]: line for line in _tensorctl_bench(socket, case, runs, run_s)["lines"]}


def tensorctl_profiles(socket, runs, run_s):
    """Where the time of small operations goes, one for each kind of work."""
    return _tensorctl_bench(socket, "profile", runs, run_s)["profiles"]


def round_trips(trips=20_000):
    """Median and 99th percentile of iceoryx2's bare round trip, in microseconds."""
    median, late = output_of(peer("round_trip"), trips).split()
    return float(median), float(late)


def products(cases, threads, runs, run_s):
    """GFLOP/s of tensord's kernel and of `gemm` for each `(m, k, n)`."""
    words = ["x".join(map(str, case)) for case in cases]
    text = output_of(peer("product"), threads, runs, round(run_s * 1e3), *words)
    return [json.loads(line) for line in text.splitlines()]


def waiting(socket, clients, run_s):
    """Many small clients: `(steps of each, 99th percentile of a step in microseconds where it is greatest)`."""
    found = json.loads(output_of(peer("waiting"), socket, clients, round(run_s * 1e3)))
    return found["steps"], found["p99_us"]
