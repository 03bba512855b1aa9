# SPDX-License-Identifier: GPL-2.0-only
import io

import pytest

from ksplicd.cli.terminal import Cell, Colour, Terminal, cut, find_terminal, to_lines, width_of

COLOURS = Terminal(width=40, has_colours=True)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_terminal_has_no_colours_and_no_width() -> None:
    assert find_terminal(io.StringIO(), {"TERM": "xterm"}) == Terminal()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_colours(environ: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    assert find_terminal(Tty(), environ).has_colours is expected


def test_paint_escapes_what_is_not_ours() -> None:
    assert COLOURS.paint("a\x1b[2K", Colour.BAD) == "\x1b[1;31ma\\x1b[2K\x1b[0m"
    assert Terminal().paint("a\x1b", Colour.BAD) == "a\\x1b"


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("héé", 3), ("he\u0301", 2), ("日本", 4)])
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


def test_cut() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abcde…"
    assert width_of(cut("日本日本", 6)) <= 6


ROWS = [
    [Cell("applied", Colour.GOOD), Cell("a long text that has to be cut"), Cell("now")],
    [Cell("x"), Cell("日本")],
]


def test_columns_fit_the_terminal() -> None:
    lines = to_lines(ROWS, Terminal(width=40), indent=2, flexible=1)
    assert lines == ["  applied  a long text that has to…  now", "  x        日本"]
    assert max(map(width_of, lines)) <= 40


def test_nothing_is_cut_where_there_is_no_terminal() -> None:
    first, _ = to_lines(ROWS, Terminal(), indent=2, flexible=1)
    assert first == "  applied  a long text that has to be cut  now"


def test_colours_take_no_columns() -> None:
    painted = to_lines(ROWS, COLOURS, indent=2, flexible=1)
    plain = to_lines(ROWS, Terminal(width=40), indent=2, flexible=1)
    assert painted[0].replace("\x1b[32m", "").replace("\x1b[0m", "") == plain[0]
    assert painted[1] == plain[1]


def test_empty_columns_take_no_room() -> None:
    rows = [[Cell("a"), Cell(""), Cell("b")]]
    assert to_lines(rows, Terminal(), indent=0, flexible=1) == ["a  b"]
    assert to_lines([], Terminal(), indent=0, flexible=1) == []
