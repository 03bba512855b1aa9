# SPDX-License-Identifier: GPL-2.0-only
"""Tables whose fields may be exchanged in place, and those of which the kernel has copies."""

import re
from pathlib import Path

import pytest

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import EnabledUnit, write_listing
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.new_code.exchanged import fields_at, refuse_copied
from ksplicd.create.new_code.table_copies import Field
from tests.support.kernels.build_tree import empty_tree
from tests.support.objects.pair import compare

UNIT = """
typedef struct {{ long l; int (*deep)(int); }} inner_t;
struct door_ops {{ int (*a)(int); int (*b)(int); inner_t in; long flags; }};
static noinline int one(int x) {{ return hidden(x); }}
static noinline int two(int x) {{ return hidden(x) + 2; }}
struct door_ops doors[2] = {{ {{ .a = one }}, {{ .a = one, {0} }} }};
int f(int x) {{ return doors[x].a(x) + two(x); }}
"""


@pytest.fixture
def tree(tmp_path: Path) -> BuildTree:
    (tmp_path / "tree").mkdir()
    made = empty_tree(tmp_path / "tree")
    root = made.source.root
    listed = [
        EnabledUnit(source=f"fs/{n}.c", object=f"fs/{n}.o", module="", command="cc")
        for n in ("unit", "b")
    ]
    (made.output / "ksplice-units").write_text(write_listing(listed))
    (root / "fs").mkdir()
    for name in ("unit", "b", "unbuilt"):
        (root / f"fs/{name}.c").write_text("struct door_ops;\n")
    return made


def change(tmp_path: Path, field: str) -> UnitChange:
    d = compare(tmp_path, UNIT.format(""), UNIT.format(field), "-g")
    assert not d.refusals
    return UnitChange.of("fs/unit.c", d)


def test_type_and_member_of_a_field(tmp_path: Path) -> None:
    made = change(tmp_path, ".in.deep = two")
    (p,) = made.difference.pointers
    assert fields_at(made.difference.post, p.datum, p.offset) == [
        Field(type="struct door_ops", member="in", is_pointer=False),
        Field(type="inner_t", member="deep", is_pointer=True),
    ]


def test_fields_of_a_union_without_a_name(tmp_path: Path) -> None:
    """They are the structure's, as in ``struct nla_policy``."""
    source = """
    struct rule {{ short len; union {{ int (*check)(int); struct {{ short min, max; }}; }}; }};
    static noinline int one(int x) {{ return hidden(x); }}
    struct rule rules[2] = {{ {{ .len = 1 }}, {{ {0} .check = one }} }};
    int f(int x) {{ return rules[x].len + rules[1].check(x); }}
    """
    d = compare(tmp_path, source.format(""), source.format(".len = 3,"), "-g")
    (rules,) = (s for s in d.post.obj.symbols if s.name == "rules")
    found = [(f.type, f.member) for f in fields_at(d.post, rules, 24)]
    assert found == [("struct rule", "check"), ("struct rule", "min")]


COPY = "void f(const struct door_ops *d) { h->mine = *d; }\n"
KEEP = "void f(const struct door_ops *d) { h->b = d->b; }\n"


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("fs/b.c", COPY, r"its \.b changes, .* struct door_ops: fs/b\.c:1: void f.*\*d"),
        ("fs/b.c", KEEP, r"fs/b\.c:1"),
        ("include/door.h", "static inline " + COPY, r"include/door\.h:1"),
        ("fs/unit.c", "struct door_ops;\nvoid g(void) { h->mine = doors[1]; }\n", r"fs/unit\.c:2"),
        ("fs/b.c", "struct door_ops mine;\nvoid g(void) { mine = doors[1]; }\n", r"fs/b\.c:2"),
    ],
)
def test_table_that_is_copied_is_refused(
    tmp_path: Path, tree: BuildTree, path: str, text: str, words: str
) -> None:
    (tree.source.root / path).write_text(text)
    (refusal,) = refuse_copied(change(tmp_path, ".b = two"), tree).refusals
    assert refusal.symbol == "doors"

    assert re.search(words, refusal.reason)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("fs/unbuilt.c", COPY),  # this kernel is configured without it
        ("fs/b.c", "void f(const struct door_ops *d) { if (d->b) d->b(1); }\n"),
        ("fs/b.c", "struct door_ops mine, his;\nvoid g(void) { mine = his; }\n"),
        ("Documentation.c", ""),
    ],
)
def test_table_that_nobody_copies(tmp_path: Path, tree: BuildTree, path: str, text: str) -> None:
    (tree.source.root / path).write_text(text)
    assert not refuse_copied(change(tmp_path, ".b = two"), tree).refusals


def test_table_of_an_unknown_type(tmp_path: Path, tree: BuildTree) -> None:
    d = compare(tmp_path, UNIT.format(""), UNIT.format(".b = two"))
    (refusal,) = refuse_copied(UnitChange.of("fs/unit.c", d), tree).refusals
    assert "type of what has it there is not known" in refusal.reason


# --- values -------------------------------------------------------------------------------------

READS = "int f(const struct door_ops *d) { return d->flags > 3; }\n"
DERIVED = "void f(const struct door_ops *d) { h->mine = 4 | d->flags; }\n"


def value_change(tmp_path: Path, how: str = "const") -> UnitChange:
    pre, post = (
        UNIT.format(f".flags = {n}").replace(
            "struct door_ops doors", f"{how} struct door_ops doors"
        )
        for n in (1, 2)
    )
    d = compare(tmp_path, pre, post, "-g")
    assert not d.refusals
    assert [(v.offset, v.new[0]) for v in d.values] == [(72, 2)]
    return UnitChange.of("fs/unit.c", d)


def test_value_that_is_read_anew(tmp_path: Path, tree: BuildTree) -> None:
    (tree.source.root / "fs/b.c").write_text(READS)
    assert not refuse_copied(value_change(tmp_path), tree).refusals
    assert not refuse_copied(value_change(tmp_path, ""), tree).refusals


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        (COPY, "const", r"its \.flags changes, and the kernel copies it .* fs/b\.c:1: void f"),
        (DERIVED, "const", r"its \.flags changes, and the kernel copies it .* fs/b\.c:1: void f"),
        (
            "void f(struct door_ops *d) { d->flags = 4; }\n", "",
            r"its \.flags changes, and the kernel may write it: fs/b\.c:1: void f",
        ),
    ],
)  # fmt: skip
def test_value_that_is_kept_or_written(
    tmp_path: Path, tree: BuildTree, text: str, how: str, words: str
) -> None:
    (tree.source.root / "fs/b.c").write_text(text)
    (refusal,) = refuse_copied(value_change(tmp_path, how), tree).refusals
    assert re.search(words, refusal.reason)
    assert refusal.hint.startswith("set it, and what was made of it, from a hook")
