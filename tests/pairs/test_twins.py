# SPDX-License-Identifier: GPL-2.0-only
"""The output of ``--debug=twins``: why symbols are paired where names are not enough."""

import logging
import re
from pathlib import Path

import pytest

from tests.support.objects.pair import compare

COUNTER = "int {0}(int x) {{ static int count; count += x; return hidden(count); }}"
TABLE = """
static noinline int {0}(int x) {{ return hidden(x); }}
int (*const table[])(int) = {{ {0} }};
"""


def said(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, pre: str, post: str, *flags: str
) -> list[str]:
    """Return the lines of the phase without the numbers that the compiler gives."""
    with caplog.at_level(logging.DEBUG, "ksplice.twins"):
        compare(tmp_path, pre, post, *flags)
    return caplog.messages


def test_nothing_is_said_of_what_pairs_by_name(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert said(caplog, tmp_path, "int f(void) { return 1; }", "int f(void) { return 2; }") == []


def test_by_use(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    pre, post = COUNTER.format("f"), COUNTER.format("g") + COUNTER.format("f")
    (line,) = said(caplog, tmp_path, pre, post)
    unit, _, why = line.partition(": ")
    assert unit.endswith("unit.o")
    assert re.fullmatch(r"count\.\d is count\.\d: f refers to it at the same place", why)


def test_moved(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    inside = COUNTER.format("f")
    outside = "static int count; " + inside.replace("static int count; ", "")
    (line,) = said(caplog, tmp_path, outside, inside)
    assert line.endswith(": count.0 is count: it moves into a function")
    caplog.clear()
    (line,) = said(caplog, tmp_path, inside, outside)
    assert line.endswith(": count is count.0: it moves out of its function")


def test_renamed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (line,) = said(caplog, tmp_path, TABLE.format("old_show"), TABLE.format("new_show"))
    assert line.endswith(
        ": new_show is old_show: it takes its place in every table, and the old name is gone"
    )


def test_ambiguous(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """One function loses a variable, another one gets one of its name."""
    source = "int {}(int x) {{ return hidden(x); }}"
    f, g = (COUNTER.format(name) for name in "fg")
    pre, post = f + source.format("g"), source.format("f") + g
    (line,) = said(caplog, tmp_path, pre, post)
    assert line.endswith(": count.0 is ambiguous: other functions use it than before")
