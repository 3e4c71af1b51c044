"""A private daemon for the whole run; the module under test beside NumPy.

`TENSORD_DAEMON` names the daemon, else it is `target/release/tensord`. `TENSORD_SIMD` forces an instruction set.
"""

import os
import pathlib
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def find_daemon():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(os.environ.get("TENSORD_DAEMON", target / "release" / "tensord"))
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"{path} is no program: build it (make build) or set TENSORD_DAEMON")
    return path


def accepts(path):
    """Whether somebody listens there: a socket has its path before it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def xp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("daemon")
    path, config = folder / "tensord.sock", folder / "tensord.toml"
    config.write_text(f'[engine]\nsimd = "{os.environ.get("TENSORD_SIMD", "auto")}"\n')
    with open(folder / "log", "w") as log:
        daemon = subprocess.Popen([find_daemon(), "--config", config, "--socket", path], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not accepts(path):
        assert daemon.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.01)
    os.environ["TENSORD_SOCKET"] = str(path)
    os.environ["TENSORD_AUTOSTART"] = "0"
    import tensord

    tensord.connect(str(path), name="differential")
    yield tensord
    daemon.terminate()
    assert daemon.wait(timeout=60) == 0, "SIGTERM drains and ends with 0"
