"""Runs the demo for the README: `make record` draws `docs/demo.svg` and writes the table, from one real run.

What stands in the README between the `demo` and the `measured` marks is written by this and by nobody else.
"""

import json
import os
import pty
import re
import shlex
import sys
import tempfile
from pathlib import Path

import picture

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench/figures"))

import machine  # noqa: E402


def run(command):
    """Runs a command in a terminal of its own; gives all that it printed, and its exit status."""
    seen = bytearray()

    def read(terminal):
        piece = os.read(terminal, 65536)
        seen.extend(piece)
        return piece

    os.environ.update(TERM="xterm-256color", COLUMNS="130", LINES="50")
    status = os.waitstatus_to_exitcode(pty.spawn(command, read))
    return seen.decode(errors="replace"), status


def between(text, mark, content):
    """The text with new content between two marks."""
    pattern = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    if not pattern.search(text):
        sys.exit(f"README.md has no place marked {mark}")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def number(value, form):
    return "" if value is None else format(value, form)


def table(result):
    """What the run measured, as Markdown."""
    lines = [
        "| | chunks a second | p50 ms | p99 ms | operations per launch | instances per launch | weights MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        weights = row.get("weight_bytes")
        cells = (
            row["name"], f"{row['chunks_per_second']:,.0f}", f"{row['p50_s'] * 1e3:.2f}", f"{row['p99_s'] * 1e3:.2f}",
            number(row.get("ops_per_launch"), ".0f"), number(row.get("instances_per_launch"), ".1f"),
            number(weights and weights / 1e6, ".1f"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measured(result, load):
    """The section of the README; `load` is the machine's load average before the run."""
    mine = result["rows"][0]
    peers = [row for row in result["rows"] if row["name"].startswith("onnxruntime") and "processes" in row["name"]]
    best = max(row["microphones"] for row in peers)
    checks = "".join(f"- {check['name']}: {check['text']}\n" for check in result["checks"])
    return (
        f"What `make demo` measured, {mine['seconds']:g} s per mode, on {machine.name()} (load average {load:.1f} before it began): live microphones that this machine "
        f"serves **before {best:,.0f}** with onnxruntime in a process for each, **after {mine['microphones']:,.0f}** with tensord. "
        "Every probability was checked:\n\n"
        f"{checks}\n{table(result)}\n"
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "demo.json"
        arguments = [str(ROOT / "bench/demo/main.py"), "--json", str(report), *sys.argv[1:]]
        print(shlex.join(["python", *arguments]))
        load = os.getloadavg()[0]
        text, status = run([sys.executable, *arguments])
        if status != 0:
            sys.exit(f"the demo ended with status {status}; nothing was written")
        result = json.loads(report.read_text())
    (ROOT / "docs/demo.svg").write_text(picture.draw(picture.chosen(picture.screen(text))))
    readme = ROOT / "README.md"
    page = between(readme.read_text(), "demo", "![Sixteen lanes, one for each process, green where speech is](docs/demo.svg)\n")
    readme.write_text(between(page, "measured", measured(result, load)))


if __name__ == "__main__":
    main()
