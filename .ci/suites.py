"""Runs every suite of the repository, one after the other, and sums them up.

Called by `make test`, which has built what the suites need. A suite that fails does not stop the others. The
last line is `N passed, N failed, N skipped`; the exit status is 1 if anything failed. A suite that cannot run on this machine
counts as skipped and says why; one that broke before it could count counts as one failure.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RELEASE = TARGET / "release"
CARGO = shutil.which("cargo") or str(Path.home() / ".cargo/bin/cargo")
# A Rust crate that only makes sense inside a Python interpreter: its tests are the pytest suite.
NO_RUST_TESTS = ["--exclude", "tensord-python"]

CARGO_COUNTS = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
PYTEST_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")


class Counts:
    """What came out of a suite."""

    def __init__(self, passed=0, failed=0, skipped=0, why=""):
        self.passed, self.failed, self.skipped, self.why = passed, failed, skipped, why

    def __str__(self):
        text = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return f"{text} ({self.why})" if self.why else text


def count_cargo(output):
    """Sums the result lines of all test programs."""
    counts = Counts()
    for passed, failed, ignored in CARGO_COUNTS.findall(output):
        counts.passed += int(passed)
        counts.failed += int(failed)
        counts.skipped += int(ignored)
    return counts


def count_pytest(output):
    """Reads pytest's last line."""
    counts = Counts()
    lines = [line for line in output.splitlines() if re.search(r" in \d+\.\d+s", line)]
    for number, what in PYTEST_COUNTS.findall(lines[-1] if lines else ""):
        if what in ("passed", "xpassed"):
            counts.passed += int(number)
        elif what in ("skipped", "xfailed"):
            counts.skipped += int(number)
        else:
            counts.failed += int(number)
    return counts


def count_one(_output):
    """A suite that is one check."""
    return Counts(passed=1)


def run(command, count, **more):
    """Runs a command, shows its output as it comes, and counts."""
    environment = dict(os.environ, TENSORD_DAEMON=str(RELEASE / "tensord"), **more.pop("env", {}))
    # Tests choose their own sockets; what this shell uses otherwise is not theirs.
    for name in ("TENSORD_SOCKET", "TENSORD_LOG"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command, cwd=more.get("cwd", ROOT), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )
    output = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        output.append(line)
    status = process.wait()
    counts = count("".join(output))
    if status != 0 and counts.failed == 0:
        counts.passed = 0 if count is count_one else counts.passed
        counts.failed += 1
        counts.why = f"exit status {status}: {' '.join(map(str, command))}"
    elif status == 0 and counts.passed + counts.skipped == 0:
        counts.failed, counts.why = 1, "ran no test"
    return counts


def cargo_has(subcommand):
    """Whether this toolchain has a component that the minimal profile lacks."""
    return subprocess.run([CARGO, subcommand, "--version"], capture_output=True).returncode == 0


def suite_format():
    if not cargo_has("fmt"):
        return Counts(skipped=1, why="no rustfmt: rustup component add rustfmt")
    return run([CARGO, "fmt", "--all", "--check"], count_one)


def suite_clippy():
    if not cargo_has("clippy"):
        return Counts(skipped=1, why="no clippy: rustup component add clippy")
    # In release mode build scripts and procedural macros are those that were built already.
    command = [CARGO, "clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]
    return run(command, count_one)


def suite_peers():
    if not cargo_has("clippy"):
        return Counts(skipped=1, why="no clippy: rustup component add clippy")
    # A workspace of its own. Without iceoryx2, which takes longer to build than everything else together.
    manifest = ["--locked", "--manifest-path", "bench/peers/Cargo.toml", "--no-default-features"]
    environment = {"CARGO_TARGET_DIR": str(TARGET / "peers")}
    return run([CARGO, "clippy", "--release", *manifest, "--", "-D", "warnings"], count_one, env=environment)


def suite_rust():
    return run([CARGO, "test", "--release", "--workspace", *NO_RUST_TESTS, "--no-fail-fast"], count_cargo)


def suite_loom():
    flags = os.environ.get("RUSTFLAGS", "") + " --cfg loom"
    # A folder of its own: other flags in the shared one would build everything anew, back and forth.
    environment = {"RUSTFLAGS": flags.strip(), "CARGO_TARGET_DIR": str(TARGET / "loom")}
    return run([CARGO, "test", "--release", "-p", "tensord-shm", "--test", "loom"], count_cargo, env=environment)


def pytest(folder, *flags):
    """A suite of pytest; skipped where the folder has no tests."""
    if not list((ROOT / folder).glob("**/test_*.py")):
        return Counts(skipped=1, why=f"no tests in {folder}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *flags, "."]
    return run(command, count_pytest, cwd=ROOT / folder)


def suite_python():
    return pytest("libclient/python/tests")


def suite_conformance():
    return pytest("tests/conformance")


def suite_docs():
    return pytest("docs")


def suite_demo():
    return pytest("bench/demo")


def suite_figures():
    return pytest("bench/figures")


def suite_bench():
    return pytest("bench/suite")


def suite_systemd():
    """The units: that systemd takes them, and that they are as closed as they claim."""
    units = sorted((ROOT / "daemon/systemd").glob("*.service")) + sorted((ROOT / "daemon/systemd").glob("*.socket"))
    if not units:
        return Counts(failed=1, why="no units in daemon/systemd")
    if not shutil.which("systemd-analyze"):
        return Counts(skipped=2, why="no systemd-analyze")
    # ExecStart= names where a package puts the daemon; verify wants to find it.
    copies = TARGET / "units"
    copies.mkdir(parents=True, exist_ok=True)
    paths = []
    for unit in units:
        text = re.sub(r"(?m)^(Exec\w+=[-@:+!|]*)\S*/tensord\b", rf"\g<1>{RELEASE}/tensord", unit.read_text())
        (copies / unit.name).write_text(text)
        paths.append(str(copies / unit.name))
    verify = run(["systemd-analyze", "--man=no", "verify", *paths], count_one)
    services = [path for path in paths if path.endswith(".service")]
    security = run(
        ["systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=15", *services], count_one
    )
    why = "; ".join(filter(None, (verify.why, security.why)))
    return Counts(verify.passed + security.passed, verify.failed + security.failed, 0, why)


# Programs that tests run beside the toolchain, and the Debian packages that have them.
PROGRAMS = {"systemd-analyze": "systemd", "kill": "procps", "c++": "g++"}


def provide_programs():
    """Installs what is missing, or says how."""
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"tests will fail or be skipped for want of programs: apt-get install {' '.join(packages)}", flush=True)
        return
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)


SUITES = {
    "format": suite_format,
    "clippy": suite_clippy,
    "peers": suite_peers,
    "rust": suite_rust,
    "loom": suite_loom,
    "python": suite_python,
    "conformance": suite_conformance,
    "docs": suite_docs,
    "systemd": suite_systemd,
    "demo": suite_demo,
    "figures": suite_figures,
    "bench": suite_bench,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"some of: {', '.join(SUITES)} (default: all)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.suites if name not in SUITES]
    if unknown:
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    provide_programs()
    results = []
    for name in arguments.suites or SUITES:
        print(f"\n=== {name}", flush=True)
        begin = time.monotonic()
        results.append((name, SUITES[name](), time.monotonic() - begin))
    print(f"\n{'suite':<14}{'seconds':>8}  result")
    for name, counts, seconds in results:
        print(f"{name:<14}{seconds:>8.0f}  {counts}")
    total = [sum(getattr(counts, field) for _, counts, _ in results) for field in ("passed", "failed", "skipped")]
    print("\n{} passed, {} failed, {} skipped".format(*total))
    sys.exit(1 if total[1] else 0)


if __name__ == "__main__":
    main()
