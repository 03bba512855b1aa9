# SPDX-License-Identifier: GPL-2.0-only
"""Numbers in code that are line numbers, and numbers that only look like it."""

from pathlib import Path

import pytest

from tests.support.objects.pair import changed, compare

WARN = """
extern void warn(const char *, int, int);
#line {0}
int f(int x) {{
	warn(__func__, {1}, x);
	return x;
}}
"""


def warn(*, above: int, line: object) -> str:
    """Return a function that warns in line 330 + ``above``, with a number."""
    return WARN.format(329 + above, line)


@pytest.mark.parametrize("above", [1, 5, 400])
def test_a_line_number_moves_with_its_line(tmp_path: Path, above: int) -> None:
    source = warn(above=0, line="__LINE__"), warn(above=above, line="__LINE__")
    assert changed(compare(tmp_path, *source, "-g")) == []


def test_a_number_that_does_not_move_as_its_line_does(tmp_path: Path) -> None:
    """One line comes above, and a number near that of the line changes by another distance."""
    for number in (331, 335):
        pre, post = warn(above=0, line=330), warn(above=3, line=number)
        assert changed(compare(tmp_path, pre, post, "-g")) == ["f"]


def test_a_number_of_a_line_that_stays_where_it_is(tmp_path: Path) -> None:
    """The ``#line`` behind gives only the end of the function another number."""
    pre, post = warn(above=0, line=330), warn(above=0, line=328)
    post = post.replace("return x", "\n#line 2000\n\treturn x")
    assert changed(compare(tmp_path, pre, post, "-g")) == ["f"]


def test_functions_that_share_a_section(tmp_path: Path) -> None:
    """Their rows are in one sequence of the line table."""
    attribute = '__attribute__((section(".sched.text")))'
    source = [warn(above=n, line="__LINE__").replace("int f", f"{attribute} int f") for n in (0, 9)]
    more = f"{attribute} int g(int x) {{ warn(__func__, __LINE__, x); return x; }}"
    assert changed(compare(tmp_path, *(s + more for s in source), "-g")) == []
    assert changed(compare(tmp_path, source[0] + more, source[1].replace("__LINE__", "334") + more,
                           "-g")) == ["f"]  # fmt: skip
