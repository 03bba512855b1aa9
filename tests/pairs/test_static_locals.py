# SPDX-License-Identifier: GPL-2.0-only
"""Static variables of functions, whose numbers gcc deals out anew in each compilation."""

from pathlib import Path

import pytest

from ksplicd.create.diff.difference import Difference
from tests.support.objects.pair import changed, compare

DEBUG = pytest.mark.parametrize("flags", [(), ("-g",)], ids=["bare", "debug"])
FENTRY = ("-pg", "-mfentry")


def pairs(d: Difference) -> dict[str, str]:
    """Return which variable of the kernel each one is."""
    return {new.name: old.name for new, old in d.twins.pre_of.items() if "." in new.name}


def refused(d: Difference) -> list[str]:
    return sorted(r.symbol.split(".")[0] for r in d.refusals)


TWO = """
int f(int a)
{
	FIRST
	{ static int count; count += a; return hidden(count); }
}
"""


@DEBUG
def test_one_of_two_of_one_function_goes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Both are followed by a call of one function, and preceded by fentry's."""
    first = "{ static int count; if (a > 5) hidden(++count); }"
    pre, post = TWO.replace("FIRST", first), TWO.replace("FIRST", "")
    d = compare(tmp_path, pre, post, *FENTRY, *flags)
    assert changed(d) == ["f"]
    assert refused(d) == ["count"]
    (refusal,) = d.refusals
    assert "count.0" in refusal.reason
    assert "count.1" in refusal.reason


@DEBUG
def test_one_more_beside_one_of_a_function(tmp_path: Path, flags: tuple[str, ...]) -> None:
    first = "{ static int count; if (a > 5) hidden(++count); }"
    d = compare(tmp_path, TWO.replace("FIRST", ""), TWO.replace("FIRST", first), *FENTRY, *flags)
    assert refused(d) == ["count"] * 2


@DEBUG
def test_a_new_function_does_not_get_the_variable_of_one_that_goes(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    one = "{0} int {1}(int a) {{ static int ready; if (!ready) ready = {1}_up(a); return a; }}"
    up = "int old_up(int); int new_up(int); int hidden(int);"
    pre = up + one.format("", "old") + "int entry(int a) { return old(a) + 1; }"
    post = up + one.format("static noinline", "new") + "int entry(int a) { return new(a) + 1; }"
    d = compare(tmp_path, pre, post, *FENTRY, *flags)
    assert refused(d) == ["ready"]
    assert pairs(d) == {}


INLINED = """
static inline int next(int a) { static int state; state += a; return hidden(state); }
static noinline int other(int a) { static int state = 1; state ^= a; return hidden(state); }
int f(int a) { return next(a) + ADDED; }
int g(int a) { return other(a); }
"""


def test_inlining_changes_the_users_and_not_the_function(tmp_path: Path) -> None:
    """``next()`` is inlined before, and not afterwards; its variable stays its own."""
    pre = INLINED.replace("ADDED", "1")
    post = INLINED.replace("ADDED", "2").replace("static inline", "static noinline")
    d = compare(tmp_path, pre, post, "-g")
    assert changed(d) == ["f"]
    assert [s.name for s in d.new] == ["next"]
    assert refused(d) == []
    values = {s.name: s.section.data[:1] for s in d.pre.obj.symbols if s.section}
    news = {s.name: s.section.data[:1] for s in d.post.obj.symbols if s.section}
    assert len(pairs(d)) == 2
    assert all(news[new] == values[old] for new, old in pairs(d).items())


def test_two_functions_exchange_their_order(tmp_path: Path) -> None:
    one = "int {0}(int a) {{ static int count; return hidden(count {1} a) + {2}; }}"
    pre = one.format("a", "+=", 1) + one.format("b", "-=", 1)
    post = one.format("b", "-=", 2) + one.format("a", "+=", 2)
    d = compare(tmp_path, pre, post, "-g")
    assert refused(d) == []
    assert pairs(d) == {"count.0": "count.1", "count.1": "count.0"}
