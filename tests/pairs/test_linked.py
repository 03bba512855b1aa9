# SPDX-License-Identifier: GPL-2.0-only
"""Objects that ``ld -r`` links from several files, in which static names occur more than once."""

from pathlib import Path

import pytest

from ksplicd.create.diff.difference import Difference
from ksplicd.create.objdiff import compare_objects
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.objects.compile import SPLIT, compile_c
from tests.support.objects.pair import PRELUDE, changed, compare_pair, cut, undefined

ONCE = """
static int count;
static noinline int once(int x) {{ count += x; return hidden(count) + {0}; }}
int {1}(int x) {{ return once(x); }}
"""
COLD = """
extern void cold(int) __attribute__((cold));
static noinline int once(int x) {{
    if (__builtin_expect(x, 0)) {{ cold({0}); return {0}; }}
    return hidden(x);
}}
int {1}(int x) {{ return once(x); }}
"""


def link(tmp_path: Path, *files: tuple[str, str]) -> Object:
    """Compile files, each a name and its source, and link them in this order."""
    parts = []
    for i, (name, source) in enumerate(files):
        folder = tmp_path / str(i)
        folder.mkdir(exist_ok=True)
        parts.append(folder / f"{name}.part.o")
        parts[-1].write_bytes(compile_c(folder, PRELUDE + source, *SPLIT, "-g", name=name))
    run(["ld", "-r", "-o", tmp_path / "all.o", *parts])
    return read_object((tmp_path / "all.o").read_bytes())


def places(d: Difference) -> list[int]:
    """Return which of the functions of their name the changed ones are, from 0."""
    return [[f for f in d.post.obj.functions() if f.name == s.name].index(s) for s in d.changed]


@pytest.mark.parametrize("names", [("one", "two"), ("main", "main")])
@pytest.mark.parametrize("source", [ONCE, COLD])
@pytest.mark.parametrize("which", [0, 1])
def test_static_names_are_told_apart_by_their_files(
    tmp_path: Path, names: tuple[str, str], source: str, which: int
) -> None:
    """Also where two folders have a file of one name; also where the cold part changes."""

    def make(*values: int) -> Object:
        pairs = zip(names, values, ("first", "second"), strict=True)
        return link(tmp_path, *((name, source.format(v, f)) for name, v, f in pairs))

    before = make(1, 2)
    assert compare_pair(before, make(1, 2)).is_empty
    d = compare_pair(make(1, 2), make(*((7, 2), (1, 7))[which]))
    assert changed(d) == ["once"]
    assert places(d) == [which]
    assert not d.new
    new = cut(d)
    assert len([s for s in new.obj.sections if s.is_text]) == (2 if source is COLD else 1)
    assert not [s for s in new.obj.symbols if s.name == "count" and s.section is not None]


def test_another_file_gets_a_static_of_the_same_name(tmp_path: Path) -> None:
    """The one that was there stays the kernel's, with its content."""
    plain = ("two", "int second(int x) { return x; }")
    pre = link(tmp_path, ("one", ONCE.format(1, "first")), plain)
    post = link(tmp_path, ("one", ONCE.format(7, "first")), ("two", ONCE.format(2, "second")))
    d = compare_pair(pre, post)
    assert changed(d) == ["once", "second"]
    assert [s.name for s in d.new] == ["once"]
    new = cut(d)
    assert ".klp.sym.vmlinux.count,0" in undefined(new), "of the old one"
    assert len([s for s in new.obj.symbols if s.name == "count" and s.section]) == 1


TABLE = """
static int count;
static int *const table[] = {{ &count, 0 }};
int {1}(int x) {{ return hidden(*table[x] + {0}); }}
"""


@pytest.mark.parametrize("source", [ONCE, TABLE])
def test_static_state_that_no_file_tells_apart_is_refused(tmp_path: Path, source: str) -> None:
    """Of three files of one name nothing tells which two were there before."""
    pre = link(tmp_path, *(("main", source.format(i, f"f{i}")) for i in range(2)))
    post = link(tmp_path, *(("main", source.format(i, f"f{i}")) for i in range(3)))
    d = compare_pair(pre, post)
    why = "it may be the count or count that the kernel has, or a new variable, and nothing tells"
    assert {(r.symbol, r.reason.removesuffix(" which")) for r in d.refusals} == {("count", why)}


def test_objdiff_tells_that_names_are_several(tmp_path: Path) -> None:
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    for path, value in ((pre, 2), (post, 7)):
        link(tmp_path, ("one", ONCE.format(1, "first")), ("two", ONCE.format(value, "second")))
        (tmp_path / "all.o").rename(path)
    result = compare_objects(pre, post)
    assert result.changed == ("once",)
    (note,) = result.notes
    assert note.startswith(f"once, count: {pre} has several statics of this name")


def test_two_statics_of_one_name_are_no_one(tmp_path: Path) -> None:
    """In the new code's object both would be an undefined ``count``."""
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    for path, value in ((pre, 2), (post, 7)):
        link(tmp_path, ("one", ONCE.format(value, "first")), ("two", ONCE.format(value, "second")))
        (tmp_path / "all.o").rename(path)
    result = compare_objects(pre, post)
    assert [(r.symbol, r.reason) for r in result.refused] == [
        ("count", "the new code needs several symbols of this name")
    ]
