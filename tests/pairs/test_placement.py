# SPDX-License-Identifier: GPL-2.0-only
"""What a source asks for besides content: alignment, sections of data, sections of code."""

from pathlib import Path

import pytest

from tests.support.objects.pair import changed, compare

BUFFER = """
static char buf[256] {0};
int f(int i) {{ buf[i & 255]++; return hidden((long)buf {1} (i & 63)); }}
int g(int i) {{ return buf[i & 7]; }}
"""
WHY = "its alignment rises from 32 to 64 bytes, and the kernel's stays"


def test_an_alignment_that_rises(tmp_path: Path) -> None:
    """The new code of ``f`` takes the lowest bits for zero, and they are not."""
    pre, post = BUFFER.format("", "|"), BUFFER.format("__attribute__((aligned(64)))", "+")
    d = compare(tmp_path, pre, post)
    assert [(r.symbol, r.reason) for r in d.refusals] == [("buf", WHY)]
    assert compare(tmp_path, post, pre).refusals == (), "an alignment that falls does no harm"


def test_an_alignment_that_no_new_code_relies_on(tmp_path: Path) -> None:
    d = compare(
        tmp_path, BUFFER.format("", "|"), BUFFER.format("__attribute__((aligned(64)))", "|")
    )
    assert d.is_empty
    assert d.notes == (f"buf: {WHY}",)


def test_an_alignment_in_a_section_of_several(tmp_path: Path) -> None:
    mostly = '__attribute__((section(".data..read_mostly")%s))'
    other = " static int other " + mostly % "" + " = 3; int h(void) {{ return other += 2; }}"
    source = (BUFFER + other).replace("{0};", "{0} = {{ 1 }};")
    pre, post = source.format(mostly % "", "|"), source.format(mostly % ", aligned(64)", "^")
    (refusal,) = compare(tmp_path, pre, post, "-g").refusals
    assert refusal.symbol == "buf"
    assert "its alignment rises from 1 to 64 bytes" in refusal.reason


def test_a_constant_whose_alignment_rises_is_copied(tmp_path: Path) -> None:
    source = "static const long t[4] {0} = {{ 1, 2 }}; long f(int i) {{ return t[i & 3] + {1}; }}"
    d = compare(tmp_path, source.format("", 1), source.format("__attribute__((aligned(64)))", 2))
    assert d.refusals == ()
    assert [s.name for s in d.copied_constants] == ["t"]


STATE = """
static int state {0} = 1;
int f(int x) {{ state += x; return hidden({1}); }}
"""
LATE = '__attribute__((section(".data..ro_after_init")))'
MOSTLY = '__attribute__((section(".data..read_mostly")))'


def test_a_variable_that_is_no_longer_read_only_after_boot(tmp_path: Path) -> None:
    d = compare(tmp_path, STATE.format(LATE, 1), STATE.format("", 2))
    (refusal,) = d.refusals
    assert refusal.symbol == "state"
    assert "read-only" in refusal.reason


@pytest.mark.parametrize("place", [LATE, MOSTLY])
def test_protection_and_speed_come_with_the_next_boot(tmp_path: Path, place: str) -> None:
    d = compare(tmp_path, STATE.format("", 1), STATE.format(place, 2))
    assert d.refusals == ()
    assert changed(d) == ["f"]
    (note,) = d.notes
    assert note.startswith("state goes from .data to .data..r")


CODE = "__attribute__((__noinline__{0})) int f(int x) {{ return hidden(x) + {1}; }}"


@pytest.mark.parametrize("section", [".noinstr.text", ".kprobes.text", ".entry.text"])
def test_code_that_nobody_may_probe(tmp_path: Path, section: str) -> None:
    inside = f', section("{section}")'
    for places in (("", inside), (inside, "")):
        d = compare(tmp_path, *(CODE.format(place, 1) for place in places))
        (refusal,) = d.refusals
        assert refusal.symbol == "f"
        assert section.removesuffix(".text") in refusal.reason


def test_code_of_the_scheduler(tmp_path: Path) -> None:
    d = compare(tmp_path, CODE.format("", 1), CODE.format(', section(".sched.text")', 2))
    assert d.refusals == ()
    assert d.notes == ("f goes from .text to .sched: the running kernel's stays where it is",)
