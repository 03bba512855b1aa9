# SPDX-License-Identifier: GPL-2.0-only
"""Data that mean another thing under the same bytes, by debug information."""

from pathlib import Path

import pytest

from ksplicd.create.diff.layout import compare_layouts
from ksplicd.create.refusal import Refusal
from tests.support.objects.pair import compare


def refusals(
    tmp_path: Path, pre: str, post: str, *flags: str, allow: tuple[str, ...] = ()
) -> list[Refusal]:
    """Return what is refused where ``f`` has changed as well; ``BODY`` is what changes it."""
    sources = pre.replace("BODY", "1"), post.replace("BODY", "2")
    return list(compare_layouts(compare(tmp_path, *sources, "-g", *flags), allow).refusals)


# --- enumerations -------------------------------------------------------------------------------

PHASES = """
enum phase { EMPTY, MIDDLE FULL, LAST };
struct context { enum phase phase; };
int f(struct context *c) { return c->phase == FULL ? hidden(1) : BODY; }
"""


def phases(middle: str = "", last: str = "GONE") -> str:
    return PHASES.replace("MIDDLE", middle).replace("LAST", last)


def test_a_name_in_the_middle(tmp_path: Path) -> None:
    (refusal,) = refusals(tmp_path, phases(), phases("HALF,"))
    assert refusal.symbol == "phase"
    assert refusal.reason == (
        "the values of this enumeration change: FULL goes from 1 to 2, GONE goes from 2 to 3"
    )
    assert "--allow-layout phase" in refusal.hint


@pytest.mark.parametrize("name", ["phase", "enum phase"])
def test_that_is_meant(tmp_path: Path, name: str) -> None:
    assert refusals(tmp_path, phases(), phases("HALF,"), allow=(name,)) == []


def test_a_name_at_the_end(tmp_path: Path) -> None:
    assert refusals(tmp_path, phases(), phases(last="GONE, MORE")) == []


def test_a_name_that_goes(tmp_path: Path) -> None:
    assert len(refusals(tmp_path, phases("HALF,"), phases())) == 1


def test_a_name_before_the_last_one(tmp_path: Path) -> None:
    """Only the last one moves, and it is not there to count the others."""
    (refusal,) = refusals(tmp_path, phases(), phases(last="NEXT, GONE"))
    assert "GONE goes from 2 to 3" in refusal.reason


@pytest.mark.parametrize("last", ["NR_PHASES", "PHASE_MAX", "__PHASE_LAST", "PHASE_COUNT"])
def test_what_counts_the_others(tmp_path: Path, last: str) -> None:
    assert refusals(tmp_path, phases(last=last), phases(last=f"NEXT, {last}")) == []


def test_two_that_count_the_others(tmp_path: Path) -> None:
    """As attributes of netlink have them."""
    pre, post = (phases(last=f"{x} __END, PHASE_MAX = __END - 1") for x in ("", "NEXT,"))
    assert refusals(tmp_path, pre, post) == []


def test_names_that_change_places(tmp_path: Path) -> None:
    post = phases().replace("EMPTY,  FULL", "FULL, EMPTY")
    assert "FULL goes from 1 to 0" in refusals(tmp_path, phases(), post)[0].reason


def test_an_enumeration_without_a_name(tmp_path: Path) -> None:
    pre, post = (phases(x).replace("enum phase {", "enum {").replace("enum phase", "int")
                 for x in ("", "HALF,"))  # fmt: skip
    (refusal,) = refusals(tmp_path, pre, post)
    assert refusal.symbol == "EMPTY"


def test_constants(tmp_path: Path) -> None:
    """They are no names of states, and what is made of them is in the code."""
    source = (
        "enum {{ SIZE = {0}, TIMEOUT = 5 }}; int f(int x) {{ return hidden(x % SIZE + TIMEOUT); }}"
    )
    assert refusals(tmp_path, source.format(64), source.format(128)) == []


# --- variables ----------------------------------------------------------------------------------

TYPES = """
typedef long long ktime_t; typedef unsigned long long u64; typedef struct { int counter; } atomic_t;
typedef struct refcount { atomic_t refs; } refcount_t;
struct one { long a; }; struct two { long b; }; enum state { OFF, ON };
VARIABLE;
int f(int x) { return hidden(READ) + x + BODY; }
"""


def variable(declaration: str, read: str) -> str:
    return TYPES.replace("VARIABLE", declaration).replace("READ", read)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static unsigned long {}", "static unsigned long *{}"),
        ("unsigned long {}", "struct one *{}"),
        ("extern struct one *{}", "extern struct two *{}"),
        ("static u64 {}", "static ktime_t {}"),
        ("static unsigned long {}[4]", "static struct one *{}[4]"),
        ("static int {}[2]", "static long {}[1]"),
    ],
)
def test_a_variable_of_another_type(tmp_path: Path, old: str, new: str) -> None:
    pre, post = (variable(x.format("v"), "*(int *)&v = x") for x in (old, new))
    (refusal,) = refusals(tmp_path, pre, post)
    assert refusal.symbol == "v"
    assert "the type of this variable changes from" in refusal.reason
    assert refusals(tmp_path, pre, post, allow=("v",)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("static long {}", "static unsigned long {}"),
        ("static unsigned long {}", "static u64 {}"),
        ("static int {}", "static enum state {}"),
        ("static atomic_t {}", "static refcount_t {}"),
        ("static void *{}", "static struct one *{}"),
        ("static struct one *{}", "static struct gone *{}"),
        ("static const long {} = 5", "static struct one *const {} = (void *)5"),
        ("static volatile int {}", "static int {}"),
    ],
)
def test_a_type_that_means_the_same(tmp_path: Path, old: str, new: str) -> None:
    pre, post = (variable(x.format("v"), "*(int *)&v = x") for x in (old, new))
    if "gone" in new:
        pre, post = pre.replace("struct one {", "struct old { long b; }; struct one {").replace(
            "static struct one", "static struct old"), post.replace(
            "struct one {", "struct gone { long b; }; struct one {")  # fmt: skip
    assert refusals(tmp_path, pre, post) == []


def test_a_variable_of_a_function(tmp_path: Path) -> None:
    source = (
        "int f(long *x) {{ static {0}; int r = (long)v; v = {1}; return hidden(r) + BODY; }}"
        "int g(long *x) {{ static {2}; int r = (long)v; v = {3}; return hidden(r) + 1; }}"
    )
    same = "long v", "*x"
    (refusal,) = refusals(tmp_path, source.format(*same, *same),
                          source.format("long *v", "x", *same))  # fmt: skip
    assert refusal.symbol == "v"


# --- fields -------------------------------------------------------------------------------------

FIELDS = """
struct one { long a; }; struct two { long b; };
struct sample { FIELDS };
extern struct sample *all;
int f(struct sample *s) { all = s; return hidden(s->last) + BODY; }
"""


def fields(text: str) -> str:
    return FIELDS.replace("FIELDS", text + " int last;")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("long a;", "struct one *a;", "a at 0 is struct one * instead of long int"),
        ("struct one *a;", "struct two *a;", "a at 0 is struct two * instead of struct one *"),
        ("long a;", "struct one *b;", "b at 0 takes the place of a"),
        ("union { long a; int b; };", "union { long a; void *c; int b; };", "c is new at 0"),
        ("union { long a; void *b; };", "union { void *a; long b; };", "a at 0 is void * instead"),
        ("int a:1, b:1;", "int b:1, a:1;", "b moves from 0.1 to 0"),
        ("int a:1, unused:1;", "int a:1, armed:1;", "armed at 0.1 takes the place of unused"),
        ("int a:1, :7;", "int a:1, armed:1, :6;", "armed is new at 0.1"),
        ("int a:3, b:2;", "int a:2, b:3;", "a at 0 has 2 bits instead of 3"),
    ],
)
@pytest.mark.parametrize("version", ["-gdwarf-3", "-gdwarf-4", "-gdwarf-5"])
def test_a_field_that_means_another_thing(
    tmp_path: Path, old: str, new: str, what: str, version: str
) -> None:
    pre, post = fields(old), fields(new)
    (refusal,) = refusals(tmp_path, pre, post, version, "-gstrict-dwarf")
    assert refusal.symbol == "sample"
    assert what in refusal.reason
    assert refusals(tmp_path, pre, post, version, allow=("sample",)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int a;", "unsigned a;"),
        ("void *a;", "struct one *a;"),
        ("long a;", "long b;"),
        ("int a:1, b:1;", "unsigned a:1, b:1;"),
    ],
)
def test_a_field_that_means_the_same(tmp_path: Path, old: str, new: str) -> None:
    assert refusals(tmp_path, fields(old), fields(new)) == []
