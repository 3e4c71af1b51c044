"""Benchmarks beside peers, in one run: `make bench`.

Each figure stands beside a peer's, or a physical limit, which took turns with it. Writes `bench/results.json`, `bench/table.md` and the pictures
under `bench/plots/`, and prints each figure as it comes. Exit status 1 where something could not be measured.

Where some cases are named, the figures of the others are those of the run before, if it was on this machine.

PyTorch (5 GB) runs where it is installed: `make bench PEERS=all` installs it.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent
sys.path[:0] = [str(BENCH / "demo"), str(BENCH / "figures"), str(HERE)]

import figures  # noqa: E402
import machine  # noqa: E402
import programs  # noqa: E402
import report  # noqa: E402
import stages  # noqa: E402
from assets import AssetError  # noqa: E402
from cases import BESIDE_PEERS, CASES, Suite  # noqa: E402
from fleet import FleetError  # noqa: E402
from workers import WorkerError  # noqa: E402

LIBRARIES = ("numpy", "numexpr", "jax", "onnxruntime", "torch")


def peer_versions():
    """The peers that are installed here, as `name version`, and the crates."""
    for name in LIBRARIES:
        if importlib.util.find_spec(name):
            yield f"{name} {importlib.metadata.version(name)}"
    crates = tomllib.loads((programs.PEERS / "Cargo.lock").read_text())["package"]
    for crate in crates:
        if crate["name"] in ("gemm", "iceoryx2"):
            yield f"{crate['name']} {crate['version']}"


def progress(text):
    """What is being measured, in a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"some of: {', '.join(CASES)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs that a median is taken of (default 5)")
    parser.add_argument("--quick", action="store_true", help="short runs, for a first impression")
    parser.add_argument("--into", type=Path, default=BENCH, help="folder for results.json, table.md and plots/ (default: bench/)")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.cases if name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return arguments


def measure(suite, names):
    """All figures of the cases, by case, each printed as it comes; and whether all could be measured."""
    results, complete = {}, True
    for number, name in enumerate(names, 1):
        found = results.setdefault(name, [])
        suite.progress = lambda text, number=number: progress(f"{number} of {len(names)}: {text}")
        suite.progress(name)
        try:
            for figure in CASES[name](suite):
                progress("")
                print(figure.line(), flush=True)
                found.append(figure)
                suite.progress(name)
        except (programs.ProgramError, WorkerError, FleetError, AssetError) as error:
            complete = False
            progress("")
            print(f"FAIL   {name}: {error}", flush=True)
    progress("")
    return results, complete


def figure_of(told):
    """A figure of an earlier run."""
    return stages.Profile(told) if "parts" in told else figures.Figure.of_json(told)


def kept(path, machine):
    """The cases of the run before, if it was on this machine and wrote what this suite writes."""
    try:
        before = json.loads(path.read_text())
        if before["machine"] != machine:
            return {}
        return {name: [figure_of(told) for told in case] for name, case in before["cases"].items()}
    except (OSError, ValueError, KeyError):
        return {}


def main():
    arguments = parse_arguments()
    if not (programs.RELEASE / "tensord").exists():
        sys.exit(f"no daemon at {programs.RELEASE / 'tensord'}: run `make build` first")
    names = arguments.cases or list(CASES)
    if BESIDE_PEERS.intersection(names):
        progress("building bench/peers")
        try:
            programs.build_peers()
        except programs.ProgramError as error:
            sys.exit(f"bench: {error}")
    suite = Suite(runs=arguments.runs, torch=importlib.util.find_spec("torch") is not None)
    if arguments.quick:
        suite.runs, suite.run_s, suite.fleet_s = min(arguments.runs, 3), 0.1, 2.0
    about = {
        "machine": f"{machine.name()}, Linux {os.uname().release}",
        "date": datetime.date.today().isoformat(),
        "runs": suite.runs,
        "peers": ", ".join(peer_versions()),
    }
    print(f"on {about['machine']}; {about['peers']}", flush=True)
    before = kept(arguments.into / "results.json", about["machine"]) if arguments.cases else {}
    results, complete = measure(suite, names)
    results = {**before, **results}
    measured = [figure for name in CASES for figure in results.get(name, [])]
    profiles = [figure for figure in measured if isinstance(figure, stages.Profile)]
    plain = [figure for figure in measured if not isinstance(figure, stages.Profile)]
    plots = arguments.into / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    by_case = {name: [figure.json() for figure in results[name]] for name in CASES if name in results}
    (arguments.into / "results.json").write_text(json.dumps({**about, "cases": by_case}, indent=1) + "\n")
    (arguments.into / "table.md").write_text(report.markdown(plain, about) + stages.markdown(profiles, about))
    report.overview(plain, plots / "overview.svg")
    report.grid(plain, plots / "products.svg")
    stages.picture(profiles, plots / "stages.svg")
    print(f"\nwrote {arguments.into}/results.json, table.md and plots/")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
