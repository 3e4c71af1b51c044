"""Runs every example of the README and the client guide, each as a program of its own, against one daemon."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
BLOCK = re.compile(r"^```(python|rust|c)\n(.*?)^```$", re.M | re.S)


def examples(language):
    """The code blocks of one language, named by page and number."""
    found = []
    for page in (ROOT / "README.md", ROOT / "docs/client-guide.md"):
        blocks = [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]
        found += [pytest.param(code, id=f"{page.stem}-{number}") for number, code in enumerate(blocks, 1)]
    return found


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A daemon, and the environment in which programs find it and nothing else."""
    folder = tmp_path_factory.mktemp("daemon")
    program = os.environ.get("TENSORD_DAEMON", RELEASE / "tensord")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "ready"))
        notified.settimeout(60)
        daemon = subprocess.Popen(
            [program, "--socket", folder / "tensord.sock"], env=dict(os.environ, NOTIFY_SOCKET=str(folder / "ready"))
        )
        while b"READY=1" not in notified.recv(4096):
            pass
    yield dict(
        os.environ,
        TENSORD_SOCKET=str(folder / "tensord.sock"),
        TENSORD_AUTOSTART="0",
        LD_LIBRARY_PATH=str(RELEASE),
    )
    daemon.terminate()
    assert daemon.wait(60) == 0


def check(command, environment, folder):
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("code", examples("python"))
def test_python(code, environment, tmp_path):
    (tmp_path / "example.py").write_text(code)
    check([sys.executable, "example.py"], environment, tmp_path)


@pytest.mark.parametrize("code", examples("c"))
def test_c(code, environment, tmp_path):
    (tmp_path / "example.c").write_text(code)
    include = ROOT / "libclient/c/include"
    check(
        ["cc", "-Wall", "-Wextra", "-Werror", f"-I{include}", "example.c", f"-L{RELEASE}", "-ltensord", "-o", "example"],
        environment, tmp_path,
    )
    check([tmp_path / "example"], environment, tmp_path)


def test_rust(environment, tmp_path):
    """The guide shows the client's own example, word for word; cargo builds that one."""
    (shown,) = (example.values[0] for example in examples("rust"))
    source = (ROOT / "libclient/rust/examples/hello.rs").read_text()
    assert shown in source
    program = RELEASE / "examples/hello"
    if not program.exists():
        check(["cargo", "build", "--release", "-p", "tensord-client", "--example", "hello"], environment, ROOT)
    check([program], environment, tmp_path)
