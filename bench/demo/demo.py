"""What all modes of the demo share: inputs on disk, the daemon, and every process started so far."""

import sys
from pathlib import Path

import numpy as np

import assets
from fleet import Client, Daemon, FleetError

CHUNKS_PER_SECOND_MAX = 20_000  # of one client: the size of its track, far beyond what a core can do


class Demo:
    """What all modes share: inputs on disk, the daemon, and every process started so far."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, Path(folder)
        self.weights = assets.read_weights(assets.model_path())
        self.clips = assets.recordings(arguments.wav)
        self.model = str(assets.model_path())
        self.inputs = str(self.folder / "inputs.npz")
        np.savez(
            self.inputs,
            **{f"w:{name}": value for name, value in self.weights.items()},
            **{f"r:{name}": value for name, value in self.clips},
        )
        self.started = []
        self.daemon = None
        self.statistics = None

    def start_daemon(self):
        """Starts the private daemon and opens this process's own session, which only reads counters."""
        if self.arguments.numpy:
            return
        if not self.arguments.daemon.exists():
            raise FleetError(f"no daemon at {self.arguments.daemon}: run `make build` first")
        try:
            import tensord
        except ImportError as error:
            raise FleetError(f"{sys.executable} has no tensord package ({error}): run `make build` first") from error
        self.daemon = Daemon(self.folder, self.arguments.daemon)
        tensord.connect(self.daemon.socket, name="demo")
        self.statistics = tensord.stat

    def counters(self):
        """The counters of the daemon's engines, summed; empty where there is no daemon."""
        total = {}
        for engine in self.statistics()["engines"] if self.statistics else ():
            for name, value in engine["counters"].items():
                total[name] = total.get(name, 0) + value
        return total

    def client(self, name, kind, streams, first=0, limit=None, **more):
        """Starts one client process."""
        capacity = limit or int(self.arguments.seconds * CHUNKS_PER_SECOND_MAX)
        spec = {
            "kind": kind, "streams": streams, "first": first, "limit": limit,
            "inputs": self.inputs, "model": self.model, **more,
        }
        client = Client(self.folder, name, spec, capacity)
        self.started.append(client)
        return client

    def tensord_client(self, name, lane, merge, first=0, limit=None):
        """Starts one client of the daemon (or of NumPy with `--numpy`)."""
        if self.arguments.numpy:
            return self.client(name, "numpy", [lane], first, limit)
        return self.client(name, "tensord", [lane], first, limit, socket=self.daemon.socket, merge=merge)

    def stop(self):
        """Ends every process; gives a complaint where the daemon did not drain."""
        for client in self.started:
            client.stop()
        if self.daemon is None:
            return None
        status = self.daemon.stop()
        if status == 0:
            return None
        how = "had to be killed" if status is None else f"ended with status {status}"
        return f"the daemon {how} on SIGTERM: {self.daemon.last_words()}"
