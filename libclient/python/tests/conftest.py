"""A private daemon for the whole run, and the module under test with NumPy beside it."""

import os
import pathlib
import socket
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]


def find_daemon():
    named = os.environ.get("TENSORD_DAEMON")
    candidates = [pathlib.Path(named)] if named else []
    candidates.append(pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "tensord")
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise RuntimeError("no daemon: build it (cargo build --release -p tensord-daemon) or set TENSORD_DAEMON")


class Daemon:
    """A daemon of its own on a socket in `folder`, ready when this returns."""

    def __init__(self, folder):
        self.path = str(folder / "tensord.sock")
        ready = str(folder / "ready")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(ready)
            notified.settimeout(60)
            environment = dict(os.environ, NOTIFY_SOCKET=ready)
            self.log = open(folder / "log", "w+")
            self.process = subprocess.Popen(
                [find_daemon(), "--socket", self.path], env=environment, stdout=self.log, stderr=self.log
            )
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
            except TimeoutError:
                self.process.kill()
                self.log.seek(0)
                raise RuntimeError(f"the daemon was not ready within a minute: {self.log.read()}") from None

    def end(self):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.log.close()
        return code


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    yield daemon
    assert daemon.end() == 0, "SIGTERM drains and ends with 0"


@pytest.fixture(scope="session")
def environment(daemon):
    """The environment in which a child process finds the run's daemon."""
    return dict(os.environ, TENSORD_SOCKET=daemon.path, TENSORD_AUTOSTART="0")


@pytest.fixture(scope="session")
def xp(daemon):
    os.environ["TENSORD_SOCKET"] = daemon.path
    os.environ["TENSORD_AUTOSTART"] = "0"
    import tensord

    tensord.connect(daemon.path, name="tests")
    return tensord
