"""Looks at the daemon's processes from outside: their time on a core and the memory that they hold."""

import os
from pathlib import Path


def family(pid):
    """A process and its children: supervisor, broker, engine."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def run_time_s(pids):
    """Seconds on a core so far, over all threads (schedstat counts nanoseconds)."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def private_bytes(pids):
    """What only these processes hold, each by itself."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1]) * 1024
    return total


def shared_bytes(pids):
    """Memory behind the shared segments that these processes have open, each segment counted once."""
    segments = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(link).startswith("/memfd:tensord-"):
                    status = os.stat(link)
                    segments[status.st_ino] = status.st_blocks * 512
            except FileNotFoundError:
                pass
    return sum(segments.values())


def held_bytes(pids):
    """All memory that sessions cost: private pages of the processes, and the segments."""
    return private_bytes(pids) + shared_bytes(pids)


def name():
    """Processor and cores of this machine."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.split(':', 1)[1].strip()}, {len(os.sched_getaffinity(0))} cores"
    return f"{os.uname().machine}, {len(os.sched_getaffinity(0))} cores"
