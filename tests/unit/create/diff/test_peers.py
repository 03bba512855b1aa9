# SPDX-License-Identifier: GPL-2.0-only
"""Macros of other tools.  tests/vm/test_peers.py compiles them in the kernel's tree."""

from pathlib import Path

import pytest

from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.separate import index_separated
from tests.support.objects.compile import SPLIT, compile_object

PRE = """
int limit = 1;
extern void warn(int line);
__attribute__((noinline)) int f(int x) { return x + limit; }
__attribute__((noinline)) int g(int x) { return x - limit; }
"""
POST = PRE.replace("x + limit", "x + 2 * limit").replace("x - limit", "x - 3 * limit")
IGNORE = 'static void *const __attribute__((used, section(".ksplice_ignore_function"))) i = {0};'
FORCE = 'static void *const __attribute__((used, section(".ksplice_force_unsafe"))) i = {0};'
SECTION = """
static const char *const __attribute__((used, section(".ksplice_ignore_section"))) i = ".x.y";
"""


def compare(tmp_path: Path, post: str, pre: str = PRE) -> Difference:
    objects = (
        compile_object(tmp_path, text, *SPLIT, name=name)
        for name, text in (("pre", pre), ("post", post))
    )
    return diff(*(index_separated(obj, {}) for obj in objects))


def test_an_ignored_function_stays_as_it_is(tmp_path: Path) -> None:
    difference = compare(tmp_path, POST + IGNORE.format("f"))
    assert {s.name for s in difference.changed} == {"g"}
    assert {s.name for s in difference.ignored} == {"f"}
    note = "f changes, and stays as it is: KPATCH_IGNORE_FUNCTION()"
    assert note in difference.notes
    assert difference.refusals == ()


def test_an_ignored_function_that_does_not_change(tmp_path: Path) -> None:
    difference = compare(tmp_path, PRE.replace("x - limit", "x") + IGNORE.format("f"))
    assert {s.name for s in difference.changed} == {"g"}
    assert difference.notes == ()


def test_nothing_but_an_ignored_function(tmp_path: Path) -> None:
    post = PRE.replace("x + limit", "x") + IGNORE.format("f")
    assert compare(tmp_path, post).is_empty


def test_an_ignored_function_of_an_earlier_update(tmp_path: Path) -> None:
    """The macro was for that update; in this one the function is changed anew."""
    pre = PRE + IGNORE.format("f")
    difference = compare(tmp_path, POST + IGNORE.format("f"), pre)
    assert {s.name for s in difference.changed} == {"f", "g"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (IGNORE.format("warn"), "names a function that the kernel's file does not have"),
        ("int h(void) { return 2; }" + IGNORE.format("h"), "that the kernel's file does not have"),
        (FORCE.format("f"), "a task is never switched while it may be in the function"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, code: str, reason: str) -> None:
    [refusal] = compare(tmp_path, POST + code).refusals
    assert reason in refusal.reason


def test_an_ignored_section_is_noted(tmp_path: Path) -> None:
    [note] = compare(tmp_path, POST + SECTION).notes
    assert note.startswith("KPATCH_IGNORE_SECTION(.x.y) ignores nothing")
