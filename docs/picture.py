"""Draws the demo as it stood in the terminal at its end, as SVG. `record.py` calls it.

The picture shows the lanes of the first mode, the table, and the last lines. Nothing is drawn that the run did not print.
"""

import re
from html import escape

CELL_WIDTH, LINE_HEIGHT, FONT_SIZE, MARGIN = 7.2, 16, 12, 12
BACKGROUND, INK, FAINT = "#111418", "#d7dbe0", "#7b838c"
TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b])", re.S)


def palette(index):
    """A colour of the 256-colour palette beyond the first sixteen."""
    if index >= 232:
        level = 8 + (index - 232) * 10
        return f"#{level:02x}{level:02x}{level:02x}"
    levels = (0, 95, 135, 175, 215, 255)
    red, green, blue = (levels[(index - 16) // step % 6] for step in (36, 6, 1))
    return f"#{red:02x}{green:02x}{blue:02x}"


def screen(text):
    """The lines that stand in the terminal in the end, each a list of (character, colour)."""
    lines, row, column, colour = [[]], 0, 0, INK
    for numbers, command, character in TOKEN.findall(text):
        if command == "A":
            row = max(0, row - int(numbers or 1))
        elif command == "K":
            lines[row] = []
        elif command == "m":
            colour = graphic(numbers, colour)
        elif character == "\n":
            row += 1
            column = 0
            if row == len(lines):
                lines.append([])
        elif character == "\r":
            column = 0
        elif character and character.isprintable():
            line = lines[row]
            line.extend([(" ", INK)] * (column + 1 - len(line)))
            line[column] = (character, colour)
            column += 1
    return lines


def graphic(numbers, colour):
    """The colour after a command for it."""
    if numbers.startswith("38;5;"):
        return palette(int(numbers[5:]))
    return {"2": FAINT, "1": "#ffffff", "0": INK, "": INK}.get(numbers, colour)


def plain(line):
    """A line's text."""
    return "".join(character for character, _ in line).rstrip()


def chosen(lines):
    """The first mode's lanes, and everything from the table on."""
    texts = [plain(line) for line in lines]
    first = next(n for n, text in enumerate(texts) if re.match(r"tensord +[\d.]+ s ", text))
    lanes_end = next(n for n in range(first + 1, len(texts)) if re.match(r" +─+$", texts[n]))
    table = next(n for n, text in enumerate(texts) if "ops per" in text and "instances" in text)
    last = max(n for n, text in enumerate(texts) if text.startswith("Live microphones"))
    return lines[first : lanes_end + 1] + [[]] + lines[table : last + 1]


def draw(lines):
    """The picture."""
    width = max(len(plain(line)) for line in lines) * CELL_WIDTH + 2 * MARGIN
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">',
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>',
        f'<g font-family="ui-monospace, monospace" font-size="{FONT_SIZE}" xml:space="preserve">',
    ]
    for number, line in enumerate(lines):
        top = MARGIN + number * LINE_HEIGHT
        for start, text, colour in runs(line):
            left, span = MARGIN + start * CELL_WIDTH, len(text) * CELL_WIDTH
            if set(text) == {"█"}:
                out.append(f'<rect x="{left:.1f}" y="{top}" width="{span + 0.3:.1f}" height="{LINE_HEIGHT - 2}" fill="{colour}"/>')
            elif text.strip():
                out.append(
                    f'<text x="{left:.1f}" y="{top + FONT_SIZE}" textLength="{span:.1f}" fill="{colour}">{escape(text)}</text>'
                )
    return "\n".join([*out, "</g>", "</svg>", ""])


def runs(line):
    """Pieces of one colour: (column, text, colour)."""
    start = 0
    for column in range(1, len(line) + 1):
        if column == len(line) or line[column][1] != line[start][1] or (line[column][0] == "█") != (line[start][0] == "█"):
            yield start, "".join(character for character, _ in line[start:column]), line[start][1]
            start = column
