"""Many client processes at once: how much they do together, and how it is shared."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import peers
from demo import Demo
from fleet import FleetError, core_count, finish, wait_ready
from programs import RELEASE

HERE = Path(__file__).resolve().parent
__all__ = ["Silero", "core_count", "hogs", "policy"]


@dataclass
class Together:
    """What a fleet did: steps of each process in so many seconds."""

    steps: list[int]
    seconds: float

    @property
    def rate(self):
        """Steps a second, all together."""
        return sum(self.steps) / self.seconds

    @property
    def least_share(self):
        """The slowest one's part of an equal share."""
        return min(self.steps) * len(self.steps) / sum(self.steps)


@contextmanager
def hogs(count):
    """Processes that compute without end, of somebody who has nothing to do with us."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def policy(worker, clients, seconds):
    """Lets so many processes of `policy.py` run together."""
    # NumPy's own threads only stand in each other's way where processes outnumber the cores.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(HERE / "policy.py"), *worker],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for _ in range(clients)
    ]
    try:
        for process in running:
            if process.stdout.readline().strip() != "ready":
                raise FleetError(f"policy.py {' '.join(worker)} ended with status {process.wait()}; its words are above")
        start = time.monotonic() + 0.1
        for process in running:
            process.stdin.write(f"{start!r} {start + seconds!r}\n")
            process.stdin.flush()
        return Together([int(process.stdout.readline()) for process in running], seconds)
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


class Silero:
    """The demo's network over the demo's streams, one mode at a time."""

    def __init__(self, seconds, clients, daemon=RELEASE / "tensord"):
        self.seconds, self.clients, self._binary = seconds, clients, daemon
        self._count = 0

    def __enter__(self):
        self._folder = TemporaryDirectory(prefix="tensord-bench-")
        arguments = SimpleNamespace(wav=None, seconds=self.seconds, clients=self.clients, numpy=False, daemon=self._binary)
        self._demo = Demo(arguments, self._folder.name)
        self._demo.start_daemon()
        return self

    def __exit__(self, *_):
        self._demo.stop()
        self._folder.cleanup()

    def all(self):
        """Every mode, as (name, function)."""
        yield "tensord", self.tensord
        for peer in peers.ROWS:
            name = "onnxruntime, one process, batched by hand"
            if not peer["by_hand"]:
                name = f"onnxruntime, a process each, {'1 thread' if peer['threads'] else 'default threads'}"
            yield name, lambda peer=peer: self._onnxruntime(peer)

    def tensord(self):
        """A process each, through the daemon."""
        self._count += 1
        return self._run([
            self._demo.tensord_client(f"bench-{self._count}-{lane}", lane, True) for lane in range(self.clients)
        ])

    def _onnxruntime(self, peer):
        self._count += 1
        lanes = list(range(self.clients))
        groups = [lanes] if peer["by_hand"] else [[lane] for lane in lanes]
        return self._run([
            self._demo.client(f"bench-{self._count}-{group[0]}", "onnxruntime", group, threads=peer["threads"])
            for group in groups
        ])

    def _run(self, clients):
        wait_ready(clients)
        start = time.monotonic() + 0.1
        for client in clients:
            client.go(start, start + self.seconds)
        finish(clients, self.seconds + 60.0)
        return Together([track.count for client in clients for track in client.tracks], self.seconds)
