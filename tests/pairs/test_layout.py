# SPDX-License-Identifier: GPL-2.0-only
"""Changed structures, shown on object pairs with debug information."""

from pathlib import Path

import pytest

from ksplicd.create.bundle_parts import notes_of
from ksplicd.create.diff.across_units import refuse_layouts
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.layout import compare_layouts
from ksplicd.create.objdiff import compare_objects
from ksplicd.create.refusal import Refusal
from ksplicd.errors import ElfError
from tests.support.objects.compile import SPLIT, compile_c
from tests.support.objects.pair import compare

SOURCE = """
struct inner {{ short low, high; {inner} }};
struct sample {{ int a; {before} long c; union {{ int d; char e[4]; }}; struct inner in; {after} }};
struct other {{ struct other *next; struct sample *s; }};
extern struct other *head;
int f(struct other *o) {{ return o->s->a + o->s->d + {body}; }}
int g(void) {{ return head->s->in.high; }}
"""


def layouts(
    tmp_path: Path, flags: str = "-g", allow: tuple[str, ...] = (), **post: str
) -> tuple[Refusal, ...]:
    base = {"inner": "", "before": "", "after": "", "body": "1"}
    d = compare(
        tmp_path, SOURCE.format(**base), SOURCE.format(**{**base, "body": "2", **post}), "-g", flags
    )
    return compare_layouts(d, allow).refusals


@pytest.mark.parametrize(
    "flags", ["-g", "-gdwarf-4", "-gdwarf-5", "-gdwarf-2", "-gz=zlib", "-gz=zlib-gnu"]
)
def test_a_field_in_the_middle(tmp_path: Path, flags: str) -> None:
    """A new field moves those behind it, also those of an anonymous union."""
    refusals = layouts(tmp_path, flags, before="long b;")
    assert [r.symbol for r in refusals] == ["sample"]
    assert refusals[0].reason == (
        "the layout of this structure changes: b is new at 8, c moves from 8 to 16,"
        " d moves from 16 to 24, e moves from 16 to 24 and 2 more"
    )
    assert "--allow-layout sample" in refusals[0].hint


def test_a_field_at_the_end_and_one_in_a_hole(tmp_path: Path) -> None:
    assert [r.reason for r in layouts(tmp_path, after="long z;")] == [
        "the layout of this structure changes: z is new at 24, size 24 → 32"
    ]
    assert [r.reason for r in layouts(tmp_path, before="int hole;")] == [
        "the layout of this structure changes: hole is new at 4"
    ]


def test_a_structure_inside_another_changes_both(tmp_path: Path) -> None:
    refusals = layouts(tmp_path, inner="int more;")
    assert {r.symbol for r in refusals} == {"inner", "sample"}


def test_it_may_be_meant(tmp_path: Path) -> None:
    assert layouts(tmp_path, allow=("struct sample",), before="long b;") == ()


def test_bit_fields(tmp_path: Path) -> None:
    source = (
        "struct s {{ unsigned a : 3; {} unsigned b : 4; }}; int f(struct s *s) {{ return {}; }}"
    )
    d = compare(tmp_path, source.format("", "s->b"), source.format("unsigned n : 1;", "s->b"), "-g")
    assert [r.reason for r in compare_layouts(d).refusals] == [
        "the layout of this structure changes: n is new at 0.3, b moves from 0.3 to 0.4"
    ]


@pytest.mark.parametrize(
    ("pre", "post"),
    [
        ("int a; int b;", "int a; int renamed;"),
        ("int a; struct later *p;", "int a; const char *p;"),
        ("int a; unsigned b;", "int a; int b;"),
    ],
)
def test_what_is_no_change_of_layout(tmp_path: Path, pre: str, post: str) -> None:
    source = "struct s {{ {} }}; int f(struct s *s) {{ return s->a + {}; }}"
    d = compare(tmp_path, source.format(pre, 1), source.format(post, 2), "-g")
    assert [s.name for s in d.changed] == ["f"]
    assert compare_layouts(d).refusals == ()


def test_fields_that_change_places(tmp_path: Path) -> None:
    source = "struct s {{ {} }}; int f(struct s *s) {{ return s->a; }}"
    d = compare(tmp_path, source.format("int a; int b;"), source.format("int b; int a;"), "-g")
    assert "b moves from 4 to 0, a moves from 0 to 4" in compare_layouts(d).refusals[0].reason


STRUCT = "struct s {{ int a; {0} int b; }}; "


@pytest.mark.parametrize(
    "source",
    [
        STRUCT + "extern struct s t; int f(void) {{ return t.b; }}",
        STRUCT + "extern struct s *t; int f(void) {{ return t->b; }}",
        STRUCT + "int f(void *p) {{ return ((struct s *)p)->b; }}",
        STRUCT + "int f(void *p) {{ return ((struct s *)p)->b; }}"
        " int g(struct s *s) {{ return s->a; }}",
        STRUCT + "extern void *get(int); void *f(void) {{ return get(sizeof(struct s)); }}"
        " int g(struct s *s) {{ return s->a; }}",
        "typedef struct {{ int a; {0} int b; }} s; int f(s *s) {{ return s->b; }}",
        "struct s {{ struct {{ int a; {0} int b; }} *p; }};int f(struct s *q) {{return q->p->b;}}",
    ],
)
def test_it_does_not_matter_how_a_function_gets_at_it(tmp_path: Path, source: str) -> None:
    """By a variable of another file, in a cast as TCP_SKB_CB() has it, in sizeof, by a typedef."""
    d = compare(tmp_path, source.format(""), source.format("int n;"), "-g")
    assert [s.name for s in d.changed] == ["f"]
    assert [r.symbol for r in compare_layouts(d).refusals] == ["s"]


def test_only_a_new_function_uses_it(tmp_path: Path) -> None:
    source = """
struct s {{ int a; {} }};
struct ops {{ int (*f)(struct s *), (*g)(struct s *); }};
static int f(struct s *s) {{ return s->a; }}
{}
struct ops ops = {{ f, {} }};
"""
    pre = source.format("", "", "0")
    post = source.format("int n;", "static int g(struct s *s) { return s->n; }", "g")
    d = compare(tmp_path, pre, post, "-g")
    assert not d.changed
    assert [r.symbol for r in compare_layouts(d).refusals] == ["s"]


def test_structures_of_one_name_in_two_functions(tmp_path: Path) -> None:
    source = """
int f(void *p) {{ struct s {{ int a; }} *s = p; return s->a + {1}; }}
int g(void *p) {{ struct s {{ int a; int b; {0} }} *s = p; return s->b; }}
"""
    d = compare(tmp_path, source.format("", 1), source.format("", 2), "-g")
    assert [s.name for s in d.changed] == ["f"]
    assert compare_layouts(d).refusals == ()
    d = compare(tmp_path, source.format("", 1), source.format("int c;", 1), "-g")
    assert d.is_empty
    d = compare(tmp_path, source.format("", 1), source.format("int c;", 2), "-g")
    assert [r.symbol for r in compare_layouts(d).refusals] == ["s"]


ARGUMENTS = """
struct args {{ int from; {} int to; }};
extern void keep(void *);
static noinline int walk(struct args *args) {{ {} return hidden(args->from) + args->to; }}
int f(int x) {{ struct args args = {{ .from = x, .to = 7 }}; return walk(&args); }}
"""


def test_arguments_on_the_stack_may_change(tmp_path: Path) -> None:
    """All objects of the type live in calls of functions that change together."""
    d = compare(tmp_path, ARGUMENTS.format("", ""), ARGUMENTS.format("int step;", ""), "-g",
                "-fno-ipa-sra", "-fno-ipa-cp")  # fmt: skip
    assert sorted(s.name for s in d.changed) == ["f", "walk"]
    assert compare_layouts(d).refusals == ()


def test_arguments_that_something_points_to_may_not(tmp_path: Path) -> None:
    pointer = "static struct args *last; last = args; keep(&last);"
    d = compare(tmp_path, ARGUMENTS.format("", pointer), ARGUMENTS.format("int step;", pointer),
                "-g", "-fno-ipa-sra", "-fno-ipa-cp")  # fmt: skip
    assert [r.symbol for r in compare_layouts(d).refusals] == ["args"]


@pytest.mark.parametrize("flag", ["-g0", "-gsplit-dwarf"])
def test_without_debug_information_nothing_is_known(tmp_path: Path, flag: str) -> None:
    """With -gsplit-dwarf it is in unit.dwo."""
    source = "struct s {{ int a; {} int b; }}; int f(struct s *s) {{ return s->b; }}"
    d = compare(tmp_path, source.format(""), source.format("int n;"), "-g", flag)
    change = refuse_layouts(UnitChange.of("fs/a.c", d))
    assert not change.refusals
    assert change.has_unseen_layouts
    (note,) = notes_of([change], [])
    assert note.startswith("fs/a.c: compiled without debug information, so that changed structure")
    d = compare(tmp_path, source.format(""), source.format(""), "-g")
    assert not notes_of([refuse_layouts(UnitChange.of("fs/a.c", d))], [])


@pytest.mark.parametrize(("flag", "count"), [("-g0", 1), ("-g", 0)])
def test_objdiff_tells_so_too(tmp_path: Path, flag: str, count: int) -> None:
    pre, post = tmp_path / "pre.o", tmp_path / "post.o"
    for i, path in enumerate((pre, post)):
        path.write_bytes(compile_c(tmp_path, f"int f(int x) {{ return x + {i}; }}", *SPLIT, flag))
    notes = compare_objects(pre, post).notes
    assert [str(post) in n and "without debug information" in n for n in notes] == [True] * count


def test_debug_information_that_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"unit type 2 \(-fdebug-types-section\?\)"):
        layouts(tmp_path, "-fdebug-types-section", before="long b;")
