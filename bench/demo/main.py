"""The main job: many processes each listen to a live stream with the Silero network, through one daemon.

Runs each mode for the same time on this machine, checks every probability, prints a table, and ends with status 1 where a
check fails. Order: tensord merged (with one client killed and started again midway), tensord with merging off, the
onnxruntime rows, then the checks on the chunks of the first mode.

Reads in this order: `main`, `run_mode`, `check`.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from time import monotonic

import numpy as np

import assets
import judge
import lanes
import peers
from demo import Demo
from fleet import FleetError, core_count, finish, private_kib, wait_ready

KILLED_LANE = 5


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="work per mode, in seconds (default 20)")
    parser.add_argument("--clients", type=int, default=16, help="processes, one stream each (default 16)")
    parser.add_argument("--wav", metavar="DIR", help="other recordings: a folder of PCM .wav files")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to this file")
    parser.add_argument(
        "--alone-chunks", type=int, default=0, metavar="N",
        help="compare at most the first N chunks of each run with the client alone (default: all)",
    )
    parser.add_argument("--no-kill", action="store_true", help="kill no client midway")
    parser.add_argument("--no-peers", action="store_true", help="leave out the onnxruntime rows (not the checks)")
    parser.add_argument("--numpy", action="store_true", help="the same network under NumPy in place of tensord")
    default = assets.REPOSITORY / "target" / "release" / "tensord"
    parser.add_argument("--daemon", type=Path, default=default, help="the tensord binary")
    arguments = parser.parse_args()
    if arguments.seconds <= 0 or arguments.clients < 1:
        parser.error("--seconds and --clients must be positive")
    return arguments


def run_mode(demo, title, starters, kill_lane=None):
    """Runs one mode: starts its clients, lets them listen together for the time given, and measures.

    `starters[lane](first)` starts a client for a lane. Gives the row of the table and the clients, the killed one and
    its successor both included.
    """
    seconds = demo.arguments.seconds
    print(f"\n{title}: starting", end="", flush=True)
    before = demo.counters()
    clients = [start(0) for start in starters]
    wait_ready(clients)
    print("\r\x1b[2K" if sys.stdout.isatty() else "\n", end="")
    loaded = demo.counters()
    picture = lanes.Lanes(title, clients, assets.Stream(demo.clips, 0).loop_samples / assets.CHUNK, seconds)
    start = monotonic() + 0.05
    for client in clients:
        client.go(start, start + seconds)
    everyone, present = list(clients), list(clients)
    private = 0
    while (now := monotonic()) < start + seconds:
        for client in present:
            client.check()
        elapsed = max(0.0, now - start)
        if kill_lane is not None and elapsed >= seconds / 2:
            successor = kill_and_restart(picture, present, kill_lane, starters[kill_lane])
            everyone.append(successor)
            kill_lane = None
        for lane, client in enumerate(present):
            if client.killed_at is None and client not in clients and not client.process.stdin.closed and client.ready:
                client.go(now, start + seconds)
                picture.note(lane, f"back after {monotonic() - everyone[lane].killed_at:.1f} s")
        if not private and elapsed > seconds * 0.8:
            private = sum(private_kib(client.pid) for client in present)
        done = sum(track.count for client in everyone for track in client.tracks)
        picture.update(present, elapsed, done)
        time.sleep(0.1)
    timely = [client for client in everyone if client.process.stdin.closed]
    late = [client for client in everyone if client not in timely]
    if late:
        # Started again on a machine that was too busy for it: it listens after the others, and is not measured.
        wait_ready(late)
        for client in late:
            client.go(monotonic(), monotonic() + 0.5)
    finish(everyone)
    after = demo.counters()
    picture.end(present, sum(track.count for client in everyone for track in client.tracks))
    row = measure(title, timely, seconds)
    row["private_kib"] = private
    row["counters"] = {name: after[name] - loaded.get(name, 0) for name in after}
    row["counters_loading"] = {name: loaded[name] - before.get(name, 0) for name in loaded}
    return row, everyone


def kill_and_restart(picture, present, lane, starter):
    """SIGKILL for one client and a new process in its place, whose microphone goes on where the old one heard last."""
    victim = present[lane]
    victim.kill()
    picture.note(lane, "killed")
    successor = starter(victim.first + victim.tracks[0].count)
    present[lane] = successor
    return successor


def measure(title, clients, seconds):
    """Throughput and latencies of a mode, over all its clients."""
    tracks = [track for client in clients for track in client.tracks]
    latencies = np.concatenate([track.latencies for track in tracks])
    if len(latencies) == 0:
        raise FleetError(f"{title}: no chunk was finished in {seconds:g} s")
    p50, p99 = np.percentile(latencies, (50, 99))
    return {
        "name": title,
        "chunks": len(latencies),
        "seconds": seconds,
        "chunks_per_second": len(latencies) / seconds,
        "microphones": len(latencies) / seconds / lanes.CHUNKS_PER_SECOND,
        "p50_s": float(p50),
        "p99_s": float(p99),
    }


def add_counters(row):
    """The columns that come from the daemon's counters."""
    counters = row["counters"]
    launches = counters.get("launches", 0)
    if not launches:
        return
    row["ops_per_launch"] = counters["ops"] / launches
    if "instances" in counters:
        row["instances_per_launch"] = counters["instances"] / launches
    row["cross_session_launches"] = counters["cross_session_launches"]
    # What the daemon holds when every client has loaded and nobody listens yet, less what it held before.
    loading = row["counters_loading"]
    row["weight_bytes"] = loading.get("constant_bytes", loading["device_bytes"])


def run_tensord(demo, merge, kill):
    """One of the two rows of tensord."""
    title = "tensord" if merge else "tensord, merging off"
    if demo.arguments.numpy:
        title = "numpy in place of " + title
    prefix = "merged" if merge else "unmerged"

    def starter(lane):
        def start(first):
            again = f"-again-{first}" if first else ""
            return demo.tensord_client(f"{prefix}-{lane + 1}{again}", lane, merge, first)

        return start

    starters = [starter(lane) for lane in range(demo.arguments.clients)]
    lane = min(KILLED_LANE, demo.arguments.clients - 1) if kill else None
    row, clients = run_mode(demo, title, starters, lane)
    add_counters(row)
    return row, clients


def run_peers(demo):
    """The rows of onnxruntime, as its users would run it."""
    rows = []
    initializer_bytes = sum(value.nbytes for value in demo.weights.values())
    for number, peer in enumerate(peers.ROWS):
        everybody = list(range(demo.arguments.clients))
        groups = [everybody] if peer["by_hand"] else [[lane] for lane in everybody]

        def starter(group, number=number, peer=peer):
            name = f"peer-{number}-{group[0] + 1}"
            return lambda first: demo.client(name, "onnxruntime", group, first, threads=peer["threads"])

        title = peer["name"].format(clients=demo.arguments.clients)
        row, _ = run_mode(demo, title, [starter(group) for group in groups])
        # Every process holds at least the initializers of its own session.
        row["weight_bytes"] = initializer_bytes * len(groups)
        rows.append(row)
    return rows


def follow(demo, kind, runs, at_once, **more):
    """Lets other clients hear the chunks of `runs` again, `at_once` at a time; gives their probabilities, run by run."""
    jobs = [
        (run, dict(streams=run.spec["streams"], first=run.first, limit=limit))
        for run in runs
        if (limit := more_limit(run, more))
    ]
    parameters = {key: value for key, value in more.items() if key != "chunks"}
    results = []
    for begin in range(0, len(jobs), at_once):
        group = []
        for run, job in jobs[begin : begin + at_once]:
            name = f"{kind}-follows-{run.name}"
            if kind == "alone":
                group.append(demo.tensord_client(name, job["streams"][0], False, job["first"], job["limit"]))
            else:
                group.append(demo.client(name, kind, job["streams"], job["first"], job["limit"], **parameters))
        if kind != "float64":
            wait_ready(group)
            for client in group:
                client.go(monotonic(), monotonic() + 3600.0)
        finish(group, 3600.0)
        results.extend(client.tracks[0].probabilities.copy() for client in group)
        if sys.stdout.isatty():
            print(f"\r\x1b[2Kchecking: {kind}, {len(results)} of {len(jobs)} runs", end="", flush=True)
    if sys.stdout.isatty():
        print("\r\x1b[2K", end="")
    return results


def more_limit(run, more):
    """How many chunks of a run to follow."""
    count = run.tracks[0].count
    return min(count, more["chunks"]) if more.get("chunks") else count


def check(demo, merged, unmerged):
    """Every probability of the merged mode against onnxruntime, float64 and the same client alone."""
    runs = [client for client in merged if client.tracks[0].count]
    mine = [client.tracks[0].probabilities for client in runs]
    cores = core_count()
    begin = monotonic()
    theirs = follow(demo, "onnxruntime", runs, cores, threads=1)
    exact = follow(demo, "float64", runs, cores)
    alone = follow(demo, "alone", runs, 1, chunks=demo.arguments.alone_chunks)
    checks = [
        judge.check_onnxruntime(np.concatenate(mine), np.concatenate(theirs)),
        judge.check_distance(np.concatenate(mine), np.concatenate(theirs), np.concatenate(exact)),
        judge.check_bits("bits as alone with merging off", mine, alone),
    ]
    if unmerged:
        # The killed client's lane has two runs in the merged mode; only runs from the first chunk have a counterpart.
        pairs = [
            (one.tracks[0].probabilities, other.tracks[0].probabilities)
            for one in runs
            for other in unmerged
            if one.first == other.first == 0 and one.spec["streams"] == other.spec["streams"]
        ]
        checks.append(judge.check_bits("bits as the mode with merging off", *map(list, zip(*pairs))))
    print(f"\nchecked in {monotonic() - begin:.0f} s")
    return checks


def report(demo, rows, checks):
    """Prints table, checks and the last line; gives whether all checks hold."""
    print()
    lanes.table(rows)
    print()
    for result in checks:
        print(f"{'holds ' if result['holds'] else 'FAILED'}  {result['name']}: {result['text']}")
    clients = demo.arguments.clients
    before = [row for row in rows if row["name"].startswith(f"onnxruntime, {clients} processes")]
    best = max((row["microphones"] for row in before), default=None)
    print()
    served = f"{rows[0]['microphones']:,.0f} with {rows[0]['name']}"
    if best is not None:
        served = f"before {best:,.0f} with {clients} onnxruntime processes, after {served}"
    print(f"Live microphones that this machine serves ({lanes.CHUNKS_PER_SECOND} chunks a second each): {served}.")
    return all(result["holds"] for result in checks)


def run(demo):
    """All modes, all checks, the report."""
    demo.start_daemon()
    rows = []
    merged_row, merged = run_tensord(demo, True, not demo.arguments.no_kill)
    rows.append(merged_row)
    unmerged_row, unmerged = run_tensord(demo, False, False)
    rows.append(unmerged_row)
    if not demo.arguments.no_peers:
        rows.extend(run_peers(demo))
    checks = check(demo, merged, unmerged)
    return rows, checks


def main():
    """Runs the demo; exit status 0 where every check holds."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    complaint = None
    with tempfile.TemporaryDirectory(prefix="tensord-demo-") as folder:
        demo = None
        try:
            demo = Demo(arguments, folder)
            rows, checks = run(demo)
        except (assets.AssetError, FleetError) as error:
            sys.exit(f"demo: {error}")
        except KeyboardInterrupt:
            sys.exit("demo: interrupted")
        finally:
            complaint = demo.stop() if demo else None
            if complaint:
                print(f"demo: {complaint}", file=sys.stderr)
        holds = report(demo, rows, checks) and complaint is None
        if arguments.json:
            result = {"holds": holds, "rows": rows, "checks": checks, "daemon": complaint}
            Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
