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


def peer(name):
    """Path of a program of `bench/peers`."""
    return TARGET / "peers/release" / name


def tensorctl_bench(socket, case, runs, run_s):
    """The lines of one case of `tensorctl bench`, by name."""
    text = output_of(
        RELEASE / "tensorctl", "--socket", socket, "--json", "bench", case, "--runs", runs, "--ms", round(run_s * 1e3)
    )
    return {line["name"]: line for line in json.loads(text)["lines"]}


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
