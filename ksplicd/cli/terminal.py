# SPDX-License-Identifier: GPL-2.0-only
"""The terminal: its width and colours, and columns that fit into it.

Where output is no terminal there are no colours, and nothing is cut.  Text may come from anybody,
and is escaped before it is measured.
"""

import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TextIO

from ksplicd.text import printable

_GAP: Final = 2
"""Spaces between columns."""
_LEAST: Final = 12
"""Columns that the text which is cut keeps."""
_RESET: Final = "\x1b[0m"


class Colour(Enum):
    """What a text is shown in, by what it means; ECMA-48, "SGR"."""

    PLAIN = ""
    GOOD = "\x1b[32m"
    BUSY = "\x1b[33m"
    BAD = "\x1b[1;31m"
    STRONG = "\x1b[1m"
    FAINT = "\x1b[2m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Where text for people goes."""

    width: int = 0
    """Columns; 0: no limit."""
    has_colours: bool = False

    def paint(self, text: str, colour: Colour) -> str:
        """Return text that may be written as it is: escaped, and in a colour."""
        shown = printable(text)
        if not self.has_colours or colour is Colour.PLAIN or not shown:
            return shown
        return f"{colour.value}{shown}{_RESET}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of a line."""

    text: str
    colour: Colour = Colour.PLAIN


def find_terminal(
    stream: TextIO | None = None, environ: Mapping[str, str] = os.environ
) -> Terminal:
    """Return the terminal behind standard output.

    NO_COLOR that is not empty (no-color.org), and TERM=dumb, turn colours off.
    """
    where = sys.stdout if stream is None else stream
    if not where.isatty():
        return Terminal()
    is_plain = bool(environ.get("NO_COLOR")) or environ.get("TERM", "dumb") == "dumb"
    return Terminal(width=shutil.get_terminal_size().columns, has_colours=not is_plain)


def to_lines(
    rows: Sequence[Sequence[Cell]], terminal: Terminal, *, indent: int, flexible: int
) -> list[str]:
    """Return rows as aligned lines; the column ``flexible`` is cut where they would not fit."""
    if not rows:
        return []
    count = max(len(row) for row in rows)
    texts = [[printable(cell.text) for cell in row] + [""] * (count - len(row)) for row in rows]
    widths = [max(width_of(row[i]) for row in texts) for i in range(count)]
    if terminal.width:
        used = [width for i, width in enumerate(widths) if i != flexible and width]
        left = terminal.width - indent - sum(used) - _GAP * len(used)
        widths[flexible] = min(widths[flexible], max(_LEAST, left))
    lines = []
    for row in rows:
        line, gap = " " * indent, 0
        for i, cell in enumerate(row):
            if not widths[i]:
                continue
            text = cut(printable(cell.text), widths[i]) if i == flexible else printable(cell.text)
            line += " " * gap + terminal.paint(text, cell.colour)
            gap = widths[i] - width_of(text) + _GAP
        lines.append(line.rstrip())
    return lines


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` columns; ``…`` stands for what is missing."""
    if width_of(text) <= width:
        return text
    while text and width_of(text) >= width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def width_of(text: str) -> int:
    """Return the columns that a text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
