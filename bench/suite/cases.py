"""The cases of the suite: each gives figures. `Suite` says how long and with which peers."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory

import fleets
import programs
from figures import Figure, Wanted, of_seconds
from fleet import Daemon
from libraries import CAPSULE
from stages import Profile
from workers import compare

CHAIN, LARGE, SIDE = 64, 16 << 20, 1024
CLIENTS, HOGS = 32, 2
# Short runs in turns for each of the suite's: the difference is smaller than a machine's moods.
SAFETY_TURNS = 20
NO_CHECKS = "no checks"


@dataclass
class Suite:
    """How the cases are run."""

    runs: int = 5
    run_s: float = 0.3
    # Of one mode with many processes.
    fleet_s: float = 5.0
    torch: bool = False
    progress: callable = lambda text: None
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def daemon(self, binary=programs.RELEASE / "tensord", config=""):
        """A private daemon; gives its socket."""
        with TemporaryDirectory(prefix="tensord-bench-") as folder:
            running = Daemon(folder, binary, config)
            try:
                yield running.socket
            finally:
                running.stop()

    def with_torch(self, *libraries):
        """Libraries, and PyTorch's two where it is there."""
        return [*libraries, *(["torch", "torch.compile"] if self.torch else [])]


def crossing(suite):
    """Requests and round trips."""
    with suite.daemon() as socket:
        lines = programs.tensorctl_bench(socket, "requests", suite.runs, suite.run_s)
        (line,) = lines.values()
        yield Figure(line["name"], "million/s", True, line["runs"], wanted=[Wanted(10)])
        ours, theirs = {}, []
        for _ in range(suite.runs):
            for name, line in programs.tensorctl_bench(socket, "round-trip", 1, suite.run_s).items():
                figure = ours.setdefault(name, ([], []))
                figure[0].extend(line["runs"])
                figure[1].extend(line["limit"]["runs"])
            theirs.append(programs.round_trips())
    for name, (runs, limit) in ours.items():
        peers = {"a cache line there and back": limit}
        if "p99" in name:
            yield Figure(name, "us", False, runs, {**peers, "iceoryx2": [late for _, late in theirs]})
        else:
            wanted = [Wanted(1, "iceoryx2")] if name.startswith("add") else []
            yield Figure(name, "us", False, runs, {**peers, "iceoryx2": [middle for middle, _ in theirs]}, wanted)


def chain(suite):
    """64 operations, submitted one by one by Rust and Python."""
    bounds = {1_024: (0.1, {"numpy": 0.25, "torch": 0.1, "torch.compile": 1}), 16_384: (0.35, {"numpy": 0.2, "torch.compile": 0.9})}
    for count, (rust, python) in bounds.items():
        with suite.daemon() as socket:
            lines = programs.tensorctl_bench(socket, "chain", suite.runs, suite.run_s)
            line = lines[f"chain of {CHAIN} over {count} f32"]
            yield Figure(f"{line['name']}, Rust", "us/operation", False, line["runs"], wanted=[Wanted(rust)])
            libraries = suite.with_torch("numpy", ("tensord", socket), "jax", "numexpr")
            seconds = compare(libraries, "chain", (count, CHAIN), suite.runs, suite.run_s, tolerance=1e-4)
        each = {name: [one * 1e6 / CHAIN for one in runs] for name, runs in seconds.items()}
        wanted = [Wanted(bound, name) for name, bound in python.items()]
        yield Figure(f"{line['name']}, Python", "us/operation", False, each.pop("tensord"), each, wanted)


def profile(suite):
    """Where the time of small operations goes."""
    with suite.daemon() as socket:
        for told in programs.tensorctl_profiles(socket, suite.runs, suite.run_s):
            yield Profile(told)


def memory(suite):
    """What is as fast as memory is."""
    with suite.daemon() as socket:
        lines = programs.tensorctl_bench(socket, "memory", suite.runs, suite.run_s)
        line = lines.pop("chain of 8 over 16 M f32")
        copy = {line["limit"]["name"]: line["limit"]["runs"]}
        yield Figure(line["name"], "GB/s", True, line["runs"], copy, [Wanted(0.8, line["limit"]["name"])])
        for name, line in lines.items():
            yield Figure(name, "GB/s", True, line["runs"], {line["limit"]["name"]: line["limit"]["runs"]})
    with suite.daemon() as socket:
        libraries = suite.with_torch("numpy", ("tensord", socket), "numexpr", "jax")
        wanted = [Wanted(4, "numpy"), Wanted(1, "numexpr"), Wanted(1, "jax")]
        for method, what, wanted in (("chain_left_there", "Python", wanted), ("chain", "result read back, Python", [])):
            seconds = compare(libraries, method, (LARGE, 8), suite.runs, suite.run_s)
            rates = {name: of_seconds(runs, 1e-9 * 8 * LARGE) for name, runs in seconds.items()}
            yield Figure(f"chain of 8 over 16 M f32, {what}", "GB/s", True, rates.pop("tensord"), rates, wanted)
        # Where a result is as large as its operand it is left where each library has it, and read back in a line of its own.
        read_back = "result read back, Python"
        ways = (
            ("sum", "rows", "Python"), ("mean", "rows", "Python"), ("softmax", "rows_left_there", "Python"), ("softmax", "rows", read_back),
            ("layer norm", "rows_left_there", "Python"), ("layer norm", "rows", read_back),
        )
        for kind, method, what in ways:
            libraries = suite.with_torch("numpy", ("tensord", socket), "jax")
            seconds = compare(libraries, method, (kind, SIDE), suite.runs, suite.run_s, tolerance=1e-3)
            each = {name: [one * 1e6 for one in runs] for name, runs in seconds.items()}
            wanted = [] if what == read_back else [Wanted(1, "torch")]
            yield Figure(f"{kind} of {SIDE} x {SIDE} f32, {what}", "us", False, each.pop("tensord"), each, wanted)


def product(suite):
    """The product kernel beside `gemm`, and the capsule convolution beside the bare product."""
    sizes = (64, 192, 512, 1152)
    cases = [(m, k, n) for m in (1, 4, 8, 32, 256) for k in sizes for n in sizes]
    for line in programs.products(cases, 1, suite.runs, suite.run_s / 15):
        name = f"product {line['product']} f32, one thread"
        yield Figure(name, "GFLOP/s", True, line["tensord"], {"gemm": line["gemm"]}, [Wanted(1, "gemm")])
    c = CAPSULE
    out = (c["side"] - c["window"]) // c["stride"] + 1
    bare = (c["batch"] * out * out * c["pose"], c["into"] * c["window"] ** 2 * c["pose"], c["out"] * c["pose"])
    flops = 2e-9 * bare[0] * bare[1] * bare[2]
    ours, theirs = [], []
    with suite.daemon() as socket:
        for _ in range(suite.runs):
            ours.extend(compare([("tensord", socket)], "capsule", (), 1, suite.run_s)["tensord"])
            theirs.extend(programs.products([bare], fleets.core_count(), 1, suite.run_s)[0]["gemm"])
    peer = "gemm on the bare product"
    yield Figure("capsule convolution", "GFLOP/s", True, of_seconds(ours, flops), {peer: theirs}, [Wanted(0.8, peer)])


def waiting(suite):
    """One to many small clients, each waiting for every step, beside the same at the echo daemon; with and without foreign load."""
    with suite.daemon() as socket, suite.daemon(programs.peer("echo")) as echo:
        for count in (1, 8, 32, 128):
            for load in (0, HOGS):
                sides = {socket: [], echo: []}
                with fleets.hogs(load):
                    for run in range(suite.runs):
                        suite.progress(f"waiting, {count} clients, {load} hogs, run {run + 1}")
                        for at, found in sides.items():
                            steps, late = programs.waiting(at, count, suite.run_s * 2)
                            found.append((fleets.Together(steps, suite.run_s * 2), late))
                name = f"{count} waiting client{'s' * (count > 1)}" + f" beside {load} foreign CPU hogs" * (load > 0)
                ours, theirs = sides.values()
                peers = {"echo daemon": [one.rate for one, _ in theirs]}
                yield Figure(name, "steps/s", True, [one.rate for one, _ in ours], peers)
                if count > 1:
                    shares, wanted = [one.least_share for one, _ in ours], [Wanted(0.5)]
                    yield Figure(f"{name}, slowest client's share", "of an equal share", True, shares, wanted=wanted)


def merging(suite):
    """Work that may share launches, beside launches of its own, and beside sharing that nobody measures."""
    always = '[engine]\nmerge = "always"\n'
    with suite.daemon() as measured, suite.daemon(config=always) as unmeasured:
        lines = {measured: {}, unmeasured: {}}
        for _ in range(suite.runs):
            for socket, found in lines.items():
                for name, line in programs.tensorctl_bench(socket, "merging", 1, suite.run_s).items():
                    found.setdefault(name, []).append(line)
    for name, ours in lines[measured].items():
        alone = ours[0]["limit"]["name"]
        peers = {
            alone: [line["limit"]["median"] for line in ours],
            "sharing as much as can be": [line["median"] for line in lines[unmeasured][name]],
        }
        yield Figure(f"sharing launches: {name}", ours[0]["unit"], True, [line["median"] for line in ours], peers, [Wanted(0.95, alone)])


def silero(suite):
    """Many processes that listen, each to a stream of its own."""
    rates = {}
    with fleets.Silero(suite.fleet_s, CLIENTS) as modes:
        for run in range(max(1, suite.runs // 2)):
            for name, mode in modes.all():
                suite.progress(f"Silero, {name}, run {run + 1}")
                rates.setdefault(name, []).append(mode())
        suite.progress("Silero, with foreign load")
        with fleets.hogs(HOGS):
            beside = [modes.tensord(), modes.tensord()]
    best = max((name for name in rates if name.startswith("onnxruntime, a process")), key=lambda name: rates[name][0].rate)
    by_hand = "onnxruntime, one process, batched by hand"
    peers = {name: [one.rate for one in runs] for name, runs in rates.items() if name != "tensord"}
    ours = rates["tensord"]
    wanted = [Wanted(2, best), Wanted(1.5, by_hand)]
    yield Figure(f"Silero, {CLIENTS} processes, Python", "chunks/s", True, [one.rate for one in ours], peers, wanted)
    yield from with_hogs("Silero", "chunks/s", ours, beside)


def policy(suite):
    """Many processes that each wait for a small network's answer before they ask again."""
    rates = {}
    with suite.daemon() as socket, suite.daemon(programs.peer("echo")) as echo:
        modes = {
            "tensord": ("tensord", socket),
            "echo daemon": ("tensord", echo),
            "numpy": ("numpy",),
            **({"torch": ("torch",)} if suite.torch else {}),
        }
        for run in range(max(1, suite.runs // 2)):
            for name, worker in modes.items():
                suite.progress(f"policy network, {name}, run {run + 1}")
                rates.setdefault(name, []).append(fleets.policy(worker, CLIENTS, suite.fleet_s))
        suite.progress("policy network, with foreign load")
        with fleets.hogs(HOGS):
            beside = [fleets.policy(modes["tensord"], CLIENTS, suite.fleet_s) for _ in range(2)]
    peers = {name: [one.rate for one in runs] for name, runs in rates.items() if name != "tensord"}
    ours = rates["tensord"]
    wanted = [Wanted(1.2, "torch"), Wanted(0.8, "echo daemon")]
    yield Figure(f"policy network, {CLIENTS} processes, Python", "steps/s", True, [one.rate for one in ours], peers, wanted)
    yield from with_hogs("policy network", "steps/s", ours, beside)


def safety(suite):
    """What checking everything that clients send costs: beside a build of this daemon that believes them."""
    suite.progress("building the daemon without checks")
    # It does not start without this.
    os.environ["TENSORD_UNCHECKED_BENCHMARK"] = "1"
    unchecked = programs.build_unchecked()
    engines = [programs.build_turn(unchecked=without) for without in (False, True)]
    turns = SAFETY_TURNS * suite.runs
    rows = in_turns(turns, *(lambda engine=engine: programs.turn(engine) for engine in engines))
    for elements in rows[0][0]:
        pairs = [(ours[elements], theirs[elements]) for ours, theirs in rows]
        yield beside_no_checks(f"chain of {CHAIN} over {elements} f32, the engine alone", "ns/operation", False, pairs)
    with suite.daemon() as socket, suite.daemon(unchecked) as believing:
        # A round trip's runs have a fixed length, and a long one.
        for case, what, turns in (("requests", "no-op", turns), ("chain", f"chain of {CHAIN} over 1024", turns), ("round-trip", "add of 64 f32", turns // 8)):
            def one(socket, case=case, what=what):
                lines = programs.tensorctl_bench(socket, case, 1, suite.run_s / 10).values()
                return next(line for line in lines if line["name"].startswith(what))
            about = one(socket)
            pairs = in_turns(turns, lambda: one(socket)["median"], lambda: one(believing)["median"])
            yield beside_no_checks(about["name"], about["unit"], case == "requests", pairs)
        steps = [lambda s=s: fleets.policy(("tensord", s), CLIENTS, suite.fleet_s / 2).rate for s in (socket, believing)]
        yield beside_no_checks(f"policy network, {CLIENTS} processes, Python", "steps/s", True, in_turns(suite.runs, *steps))
    with fleets.Silero(suite.fleet_s / 2, CLIENTS) as modes, fleets.Silero(suite.fleet_s / 2, CLIENTS, unchecked) as others:
        pairs = in_turns(suite.runs, lambda: modes.tensord().rate, lambda: others.tensord().rate)
        yield beside_no_checks(f"Silero, {CLIENTS} processes, Python", "chunks/s", True, pairs)


def in_turns(turns, one, other):
    """What both give, run by run; who goes first changes, so that neither always comes after the other."""
    pairs = []
    for turn in range(turns):
        first, second = (one, other) if turn % 2 == 0 else (other, one)
        results = first(), second()
        pairs.append(results if turn % 2 == 0 else results[::-1])
    return pairs


def beside_no_checks(name, unit, more_is_better, pairs):
    """A figure with all checks beside the same with none: at most 5 % worse."""
    wanted = Wanted(0.95 if more_is_better else 1.05, NO_CHECKS)
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return Figure(f"all checks: {name}", unit, more_is_better, ours, {NO_CHECKS: theirs}, [wanted])


def with_hogs(name, unit, alone, beside):
    """The same beside foreign processes that compute, and how the slowest client fares."""
    count = min(len(alone), len(beside))
    what = f"{name} beside {HOGS} foreign CPU hogs"
    peers = {"without": [one.rate for one in alone[:count]]}
    yield Figure(what, unit, True, [one.rate for one in beside[:count]], peers, [Wanted(0.7, "without")])
    yield Figure(f"{what}, slowest client's share", "of an equal share", True, [one.least_share for one in beside], wanted=[Wanted(0.5)])


# Cases that run programs of `bench/peers`, which take minutes to build.
BESIDE_PEERS = {"crossing", "product", "waiting", "policy"}

CASES = {
    "crossing": crossing,
    "chain": chain,
    "profile": profile,
    "memory": memory,
    "product": product,
    "waiting": waiting,
    "merging": merging,
    "silero": silero,
    "policy": policy,
    "safety": safety,
}
