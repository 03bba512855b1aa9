# SPDX-License-Identifier: GPL-2.0-only
"""Data that lie beside each other in one section: which one a reference means.

gcc puts static variables into a section in reverse order.
"""

from pathlib import Path

import pytest

from ksplicd.create.new_code.model import NewCode
from ksplicd.errors import UnsupportedChangeError
from tests.support.objects.pair import changed, compare, cut

PRELUDE = """
#define mostly __attribute__((section(".data..read_mostly")))
struct row { long a, b; };
int use(const void *);
"""


def references(code: NewCode) -> set[tuple[str, int]]:
    """Return which data new code refers to, and where, by absolute addresses."""
    return {
        (r.symbol.name.removeprefix(".klp.sym.vmlinux.").removesuffix(",0"), r.addend)
        for s in code.obj.sections if s.is_text
        for r in s.relocations if r.type == 11
    }  # fmt: skip


LOOP = """
FIRST static struct row rows[8] mostly = { { 1, 2 } }; static int other mostly = 3;
int scan(int k)
{
	CHECK
	for (struct row *p = rows; p < rows + 8; p++)
		if (use(p) == k)
			return 1;
	return 0;
}
int get(void) { return other; }
void set(int i, int v) { rows[i].a = other = v; }
"""


def loop(first: str = "", check: str = "") -> str:
    return PRELUDE + LOOP.replace("FIRST", first).replace("CHECK", check)


def test_the_end_of_an_array_is_not_the_next_variable(tmp_path: Path) -> None:
    """The new variable lies behind the array in the new object, and nowhere in the kernel."""
    post = loop("static int limit mostly = 100;", "if (k > limit) return -22;")
    d = compare(tmp_path, loop(), post + "void set_limit(int v) { limit = v; }")
    assert changed(d) == ["scan"]
    assert {("rows", 0), ("rows", 128)} <= references(cut(d))


def test_an_array_that_only_gets_another_neighbour(tmp_path: Path) -> None:
    """The loop is the same, and no function of the running kernel has changed."""
    post = loop("static int limit mostly = 100;") + "int limit_of(int v) { return limit += v; }"
    assert changed(compare(tmp_path, loop(), post)) == []


INDEX = (
    PRELUDE
    + """
static int rows[8] mostly = { 1, 2 }; static int other[N] mostly = { 3 };
int look(long i)
{
	int v;
	asm volatile("movl PLACE(,%1,4), %0" : "=r"(v) : "r"(i));
	return v + ADDED;
}
void set(int i, int v) { rows[i] = other[0] = v; }
"""
)


@pytest.mark.parametrize("size", ["1", "8"])  # padding lies before the array, or a scalar
def test_an_index_from_before_an_array(tmp_path: Path, size: str) -> None:
    """``rows[i - 1]`` may be an index from inside the variable before it, or the padding."""
    source = INDEX.replace("PLACE", "rows-4").replace("N]", f"{size}]")
    if size == "8":
        source = source.replace(
            "int rows[8] mostly", "int rows[8] mostly __attribute__((aligned(4)))"
        )
        source = source.replace("other[8]", "other[2]")
    d = compare(tmp_path, source.replace("ADDED", "1"), source.replace("ADDED", "2"))
    assert changed(d) == ["look"]
    assert references(cut(d)) == {("rows", -4)}


COMPARED = (
    PRELUDE
    + """
FIRST static int rows[8] mostly = { 1, 2 }; static int other[8] mostly = { 3 };
int is_it(const int *p) { return p OPERATOR other + 8; }
int add(int i, int v) { return (rows[i] += v) + (other[i] += v); }
"""
)


def test_what_may_be_either_is_one_address_where_the_kernel_has_both(tmp_path: Path) -> None:
    source = COMPARED.replace("FIRST", "")
    d = compare(tmp_path, source.replace("OPERATOR", "=="), source.replace("OPERATOR", "!="))
    assert changed(d) == ["is_it"]
    assert references(cut(d)) & {("rows", 0), ("other", 32)}


def test_what_may_be_either_is_refused_where_the_kernel_has_another_order(tmp_path: Path) -> None:
    source = COMPARED.replace("FIRST", "") + "static int third[8] mostly = { 7 };"
    source += "int put(int i, int v) { return third[i] += v; }"
    pre = source.replace("OPERATOR", "==").replace(
        "static int other", "extern int x; static int other"
    )
    post = source.replace("OPERATOR", "!=").replace(
        "static int other", "static int third[8] mostly; static int other"
    )
    d = compare(tmp_path, pre, post)
    assert changed(d) == ["is_it"]
    with pytest.raises(UnsupportedChangeError, match=r"is_it\+0x\w+ means (third|other) or"):
        cut(d)


def test_what_may_be_either_is_refused_where_one_is_new(tmp_path: Path) -> None:
    pre = COMPARED.replace("FIRST", "").replace("OPERATOR", "==")
    post = COMPARED.replace("OPERATOR", "!=").replace("FIRST", "").replace(
        "static int other", "static int mine[8] mostly = { 7 }; static int other"
    ) + "int put(int i, int v) { return mine[i] += v; }"  # fmt: skip
    d = compare(tmp_path, pre, post)
    assert changed(d) == ["is_it"]
    with pytest.raises(UnsupportedChangeError, match=r"mine .*shared with old data \(other\)"):
        cut(d)


def test_two_new_data_of_which_either_may_be_meant_stay_together(tmp_path: Path) -> None:
    pre = PRELUDE + "int is_it(const int *p) { return !p; } int add(int i, int v) { return i; }"
    post = COMPARED.replace("OPERATOR", "!=").replace("FIRST", "")
    d = compare(tmp_path, pre, post)
    code = cut(d)
    assert [s.size for s in code.obj.sections if s.name == ".data..read_mostly"] == [64]


LISTED = (
    PRELUDE
    + """
struct head { struct head *next, *prev; };
static struct { int a, b, c, d; } lock mostly = { 1, 2, 3, 4 };
static struct head list mostly = { &list, &list };
int walk(int x)
{
	for (struct head *h = list.next; h != &list; h = h->next)
		x += use(h);
	return x + ADDED;
}
int count(void) { return lock.a++ + (lock.d += 2); }
"""
)


def test_the_head_of_a_list_behind_what_is_no_array(tmp_path: Path) -> None:
    """It is compared with, and the end of a structure is of no use to anybody."""
    source = LISTED.replace("lock mostly", "lock mostly __attribute__((aligned(8)))")
    new = source.replace(
        "struct head list", "struct head more mostly = { &more, &more }; struct head list"
    )
    new = new.replace("static struct head more", "static struct head more")
    d = compare(tmp_path, source.replace("ADDED", "1"), new.replace("ADDED", "use(&more)"), "-g")
    assert changed(d) == ["walk"]
    assert ("list", 0) in references(cut(d))
