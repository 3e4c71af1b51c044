"""Starts, watches, kills and restarts the processes of one mode, and the private daemon that they talk to.

Nothing that it started outlives it: children die with this process (PR_SET_PDEATHSIG), and `stop` is called on
every way out.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from time import monotonic

from track import Track

HERE = Path(__file__).resolve().parent
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class FleetError(Exception):
    """A process of the demo failed; the message carries its last words."""


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Client:
    """One child process and the tracks it writes, one for each of its streams."""

    def __init__(self, folder, name, spec, capacity):
        self.name, self.spec, self.capacity = name, spec, capacity
        self.first = spec["first"]
        self.killed_at = None
        paths = [str(Path(folder) / f"{name}.{number}.track") for number in spec["streams"]]
        self.tracks = [Track(path, capacity, create=True) for path in paths]
        self._log = Path(folder) / f"{name}.log"
        description = json.dumps({**spec, "name": name, "tracks": paths, "capacity": capacity})
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "client.py"), description],
                stdin=subprocess.PIPE, stdout=log, stderr=log, preexec_fn=_die_with_parent,
                # NumPy only copies frames in the clients that are measured; the float64 reference runs once per core.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )

    @property
    def pid(self):
        """Process id."""
        return self.process.pid

    @property
    def ready(self):
        """Whether it waits for the start; raises where it ended instead."""
        if self.process.poll() is not None and not self.tracks[0].ready:
            raise FleetError(f"{self.name} (pid {self.pid}) ended before it was ready: {self.last_words()}")
        return self.tracks[0].ready

    def go(self, start, end):
        """Lets it listen from `start` to `end`, in seconds of the monotonic clock."""
        self.process.stdin.write(f"{start!r} {end!r}\n".encode())
        self.process.stdin.close()

    def kill(self):
        """SIGKILL, and waits until it is gone."""
        self.killed_at = monotonic()
        self.process.kill()
        self.process.wait()

    def check(self):
        """Raises where the process ended in another way than planned."""
        code = self.process.poll()
        if self.killed_at is None and code not in (None, 0):
            raise FleetError(f"{self.name} (pid {self.pid}) ended with status {code}: {self.last_words()}")

    def last_words(self):
        """The end of what it printed."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n    ".join(lines[-8:]) or "(it said nothing)"

    def stop(self):
        """Ends it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()


def wait_ready(clients, timeout_s=120.0):
    """Waits until each client is ready for the start."""
    deadline = monotonic() + timeout_s
    while not all(client.ready for client in clients):
        if monotonic() > deadline:
            late = ", ".join(client.name for client in clients if not client.ready)
            raise FleetError(f"not ready after {timeout_s:.0f} s: {late}")
        time.sleep(0.01)


def finish(clients, timeout_s=60.0):
    """Waits until each client has ended as planned."""
    deadline = monotonic() + timeout_s
    for client in clients:
        if client.killed_at is not None:
            continue
        try:
            client.process.wait(max(0.1, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            raise FleetError(
                f"{client.name} (pid {client.pid}) hangs after {client.tracks[0].count} chunks: {client.last_words()}"
            ) from None
        client.check()


class Daemon:
    """A private tensord on a socket of its own."""

    def __init__(self, folder, binary, config=""):
        self.socket = str(Path(folder) / "tensord.sock")
        settings = Path(folder) / "tensord.toml"
        settings.write_text(config)
        self._log = Path(folder) / "tensord.log"
        self._binary = binary
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [str(binary), "--socket", self.socket, "--config", str(settings)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent,
            )
        self._wait_accepting()

    def _wait_accepting(self, timeout_s=20.0):
        deadline = monotonic() + timeout_s
        while True:
            if self.process.poll() is not None:
                raise FleetError(f"{self._binary} ended with status {self.process.returncode}: {self.last_words()}")
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
                    probe.connect(self.socket)
                return
            except OSError as error:
                if monotonic() > deadline:
                    self.stop()
                    raise FleetError(f"{self.socket} does not accept: {error}; {self.last_words()}") from error
            time.sleep(0.02)

    def stop(self, timeout_s=15.0):
        """SIGTERM; gives the exit status, or None where it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return None
        return self.process.returncode

    def last_words(self):
        """The end of its log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return "\n    ".join(lines[-12:]) or "(it said nothing)"


def private_kib(pid):
    """Memory that only this process holds, in KiB (`Private_*` of smaps_rollup); 0 where it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def core_count():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
