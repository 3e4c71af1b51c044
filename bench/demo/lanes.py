"""The picture in the terminal: one lane for each client, coloured where speech is, filling as the run goes.

A lane is one loop of the recordings from left to right. Clients run faster than life, many loops in a run, so the lane
works as a stroboscope does: in the k-th part of the run's time its k-th column shows what the client has just made of the
k-th part of the loop. Each column is therefore real output of about that moment, and the words stay readable.

Without a terminal it prints a line of text every few seconds. Knows nothing of tensord.
"""

import os
import shutil
import sys

CHUNKS_PER_SECOND = 31.25  # of one live microphone: 512 samples at 16 kHz

_SHADES = (236, 238, 22, 28, 34, 40, 46)  # 256-colour palette: grey where quiet, green where speech is
_BLANK, _DEAD = None, -1.0


class Lanes:
    """Draws the lanes of one mode while it runs."""

    def __init__(self, title, clients, loop_chunks, seconds, out=sys.stdout):
        self._title, self._loop_chunks, self._seconds, self._out = title, loop_chunks, seconds, out
        self._fancy = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        width = shutil.get_terminal_size((100, 40)).columns
        self._columns = max(16, min(72, width - 46))
        self._values = [[_BLANK] * self._columns for _ in clients]
        self._notes = [""] * len(clients)
        self._filled = 0
        self._drawn = 0
        self._next_line_s = 0.0

    def note(self, lane, text):
        """A word beside a lane: that its client was killed, or is back."""
        self._notes[lane] = text
        if not self._fancy:
            self._out.write(f"  client {lane + 1}: {text}\n")
            self._out.flush()

    def update(self, clients, elapsed_s, done):
        """Draws the state at `elapsed_s`; `clients[lane]` is the lane's present client, `done` all chunks so far."""
        target = min(self._columns, int(elapsed_s / self._seconds * self._columns))
        for column in range(self._filled, target):
            for lane, client in enumerate(clients):
                self._values[lane][column] = self._sample(client, column)
        self._filled = max(self._filled, target)
        if self._fancy:
            self._draw(clients, elapsed_s, done)
        elif elapsed_s >= self._next_line_s:
            self._next_line_s = elapsed_s + max(2.0, self._seconds / 5)
            rate = done / elapsed_s if elapsed_s > 0 else 0.0
            self._out.write(f"  {elapsed_s:5.1f} s  {done:>9,} chunks  {rate:>8,.0f} a second\n")
            self._out.flush()

    def end(self, clients, done):
        """The last state stays on the screen."""
        self.update(clients, self._seconds, done)

    def _sample(self, client, column):
        """The mean probability in the newest pass over this column's part of the loop."""
        if client.killed_at is not None or not client.tracks[0].ready:
            return _DEAD
        values = client.tracks[0].probabilities
        if len(values) == 0:
            return _DEAD
        loops = (client.first + len(values)) / self._loop_chunks
        lap = int(loops - (column + 1) / self._columns) if loops >= (column + 1) / self._columns else 0
        start = int((lap + column / self._columns) * self._loop_chunks) - client.first
        stop = int((lap + (column + 1) / self._columns) * self._loop_chunks) - client.first
        newest = values[max(0, start) : max(1, stop)]
        return float(newest.mean()) if len(newest) else float(values[-1])

    def _draw(self, clients, elapsed_s, done):
        write = self._out.write
        if self._drawn:
            write(f"\x1b[{self._drawn}A")
        bar = min(1.0, elapsed_s / self._seconds)
        rate = done / elapsed_s if elapsed_s > 0 else 0.0
        write(f"\x1b[2K\x1b[1m{self._title}\x1b[0m  {elapsed_s:4.1f} s  {rate:,.0f} chunks a second\n")
        for lane, client in enumerate(clients):
            cells = "".join(_cell(value) for value in self._values[lane])
            speed = client.tracks[0].count / CHUNKS_PER_SECOND / max(elapsed_s, 1e-9)
            beside = f"{speed:5.1f} x life {self._notes[lane]}"
            write(f"\x1b[2K{lane + 1:>3} \x1b[2m{client.pid:>8}\x1b[0m {cells}\x1b[0m {beside}\n")
        done_cells = int(bar * self._columns)
        write(f"\x1b[2K{'':13}{'─' * done_cells}\x1b[2m{'·' * (self._columns - done_cells)}\x1b[0m\n")
        self._drawn = len(clients) + 2
        self._out.flush()


def _cell(value):
    if value is _BLANK:
        return " "
    if value == _DEAD:
        return "\x1b[38;5;160m×"
    shade = _SHADES[min(len(_SHADES) - 1, int(value * len(_SHADES)))]
    return f"\x1b[38;5;{shade}m█"


def table(rows, out=sys.stdout):
    """Prints the measured rows; a dash stands where a column means nothing for a row."""
    heads = ("", "chunks/s", "p50", "p99", "ops per", "instances", "launches", "weights")
    units = ("", "", "ms", "ms", "launch", "per launch", "shared", "MB")
    lines = [heads, units]
    for row in rows:
        lines.append((
            row["name"],
            f"{row['chunks_per_second']:,.0f}",
            f"{row['p50_s'] * 1e3:.2f}",
            f"{row['p99_s'] * 1e3:.2f}",
            _number(row.get("ops_per_launch"), "{:.1f}"),
            _number(row.get("instances_per_launch"), "{:.1f}"),
            _number(row.get("cross_session_launches"), "{:,.0f}"),
            _number(row.get("weight_bytes"), "{:.1f}", 1e-6),
        ))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        out.write("  ".join(cells).rstrip() + "\n")
        if number == 1:
            out.write("─" * (sum(widths) + 2 * len(widths) - 2) + "\n")


def _number(value, form, scale=1.0):
    return "-" if value is None else form.format(value * scale)
