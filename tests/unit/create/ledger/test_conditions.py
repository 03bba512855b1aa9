# SPDX-License-Identifier: GPL-2.0-only
"""Which hunks a condition leaves out, asked of a real preprocessor."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ksplicd.create.build.units import Unit
from ksplicd.create.ledger.c_items import CFile
from ksplicd.create.ledger.conditions import conditions_of, find_built
from ksplicd.create.ledger.texts import ChangedText
from ksplicd.create.patch.hunks import changed_lines
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.patch.states import TreeStates
from ksplicd.run import run

SOURCE = """\
#include "a.h"
int always(void)
{
#ifdef ON
	int one = 1;
#elif defined(OTHER) && \\
	defined(ON)
	int one = 2;
#else
	int one = 3;
#endif
	return one;
}
#if 0
#ifdef ON
int never;
#endif
#endif
"""
HEADER = """\
#ifndef A_H
#define A_H
#define COUNT 3
#ifdef ON
#define MORE 4
#else
#define MORE 5
#endif
#endif
"""


def text_of(path: str, before: str, after: str) -> ChangedText:
    old, new = before.encode(), after.encode()
    return ChangedText(
        path=path, before=CFile(old), after=CFile(new), hunks=changed_lines(old, new),
        numbers=list(range(1, after.count("\n") + 1)),
    )  # fmt: skip


class Tree:
    """A small tree of sources, and a preprocessor that counts its calls."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder, self.files, self.calls = folder, files, 0

    def preprocess(self, units: Sequence[Unit], files: Sequence[PatchedFile]) -> list[str | None]:
        self.calls += len(units)
        texts = {n.replace("_", "."): t.encode() for n, t in self.files.items()}
        for file in files:
            assert file.content is not None
            texts[str(file.path)] = file.content
        for name, text in texts.items():
            (self.folder / name).write_bytes(text)
        argv = ["gcc", "-DON", "-E", "-P"]
        return [run([*argv, self.folder / unit.source]).decode() for unit in units]


def built(tree: Tree, text: ChangedText, *units: str, dependants: int = 0) -> dict[int, bool]:
    of_file = {text.path: [Unit(u) for u in units]}
    found = find_built(tree.preprocess, TreeStates(after=()), [text], of_file, dependants)
    return {position: is_there for (_, position), is_there in found.items()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path, a_c=SOURCE, a_h=HEADER)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("one = 1", "one = 7", {0: True}),
        ("one = 2", "one = 7", {0: False}),
        ("one = 3", "one = 7", {0: False}),
        ("int never", "long never", {0: False}),
        ("return one", "return -one", {}),  # nobody has to be asked
        ("\tint one = 3;\n", "", {0: False}),
        # one hunk on both sides of an #else
        ("\tint one = 1;\n#elif defined(OTHER)", "\tint one = 8;\n#elif defined(THIS)", {0: True}),
    ],
)
def test_source(tree: Tree, old: str, new: str, expected: dict[int, bool]) -> None:
    assert old in SOURCE
    text = text_of("a.c", SOURCE, SOURCE.replace(old, new))
    assert built(tree, text, "a.c") == expected
    assert bool(tree.calls) == bool(expected)


def test_lines_that_leave_a_condition(tree: Tree) -> None:
    """They are compiled after the change, though not before it."""
    after = SOURCE.replace("#if 0\n#ifdef ON\n", "#ifdef ON\n#ifdef ON\n")
    after = after.replace("int never;", "int never = 1;")
    assert built(tree, text_of("a.c", SOURCE, after), "a.c") == {1: True}


def test_guard_of_a_header_is_no_condition(tree: Tree) -> None:
    text = text_of("a.h", HEADER, HEADER.replace("COUNT 3", "COUNT 4"))
    assert built(tree, text, "a.c", dependants=1) == {}
    assert tree.calls == 0


def test_header_of_which_not_every_unit_is_asked(tree: Tree) -> None:
    """That one has the lines is enough; that none has them is not."""
    text = text_of("a.h", HEADER, HEADER.replace("MORE 4", "MORE 44").replace("MORE 5", "MORE 55"))
    assert built(tree, text, "a.c", dependants=1) == {}  # both are directives: nothing to leave out
    before = HEADER.replace("#define MORE 4", "int more;").replace("#define MORE 5", "int less;")
    tree.files["a_h"] = before
    text = text_of("a.h", before, before.replace("int ", "long "))
    assert built(tree, text, "a.c", dependants=1) == {0: True, 1: False}
    assert built(tree, text, "a.c", dependants=9) == {0: True}


def test_what_cannot_be_preprocessed_is_taken_for_there() -> None:
    text = text_of("a.c", SOURCE, SOURCE.replace("one = 2", "one = 7"))
    found = find_built(
        lambda _u, _f: [None], TreeStates(after=()), [text], {"a.c": [Unit("a.c")]}, 0
    )
    assert found == {("a.c", 0): True}


def test_conditions_by_line() -> None:
    assert conditions_of(CFile(HEADER.encode())) == [0, 0, 0, 4, 4, 6, 6, 0, 0, 0]
    assert conditions_of(CFile(SOURCE.encode()))[13:] == [14, 15, 15, 14, 0, 0]
