"""Processes of libraries that take turns."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent


class WorkerError(Exception):
    """A library failed; the message carries its last words."""


class Worker:
    """One library, waiting for orders."""

    def __init__(self, library, *arguments):
        self.library = library
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), library, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )

    def order(self, **what):
        """Gives an order and waits for its answer."""
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            words = self._log.read().decode(errors="replace").strip().splitlines()
            raise WorkerError(f"{self.library} ended: " + "\n    ".join(words[-6:]))
        return json.loads(line)

    def stop(self):
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()


def compare(libraries, method, arguments, runs, run_s, tolerance=None):
    """Lets `libraries` (names, or `(name, arguments)`) compute the same in turns; gives the seconds of one computation, by name and run.

    With a tolerance results are compared with the first library's.
    """
    workers = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            first = None
            for library in libraries:
                name, *more = (library,) if isinstance(library, str) else library
                worker = Worker(name, *more)
                workers.append(worker)
                file = str(Path(folder) / f"{name}.npy") if tolerance is not None else None
                worker.order(prepare=[method, list(arguments)], save=file)
                if file:
                    result = np.load(file)
                    first = result if first is None else first
                    np.testing.assert_allclose(result, first, rtol=tolerance, atol=tolerance, err_msg=name)
        for worker in workers:
            worker.order(run=run_s)
        seconds = {worker.library: [] for worker in workers}
        for _ in range(runs):
            for worker in workers:
                seconds[worker.library].append(worker.order(run=run_s)["seconds"])
        return seconds
    finally:
        for worker in workers:
            worker.stop()
