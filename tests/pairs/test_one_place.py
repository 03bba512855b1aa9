# SPDX-License-Identifier: GPL-2.0-only
"""Several names for one thing: what gcc folds, aliases, and what a patch parts or makes one."""

from pathlib import Path

import pytest

from ksplicd.create.diff.as_built import changed_as_built
from ksplicd.create.diff.unit import diff
from tests.support.objects.judged import make_update
from tests.support.objects.pair import changed, compare, cut, new_functions, undefined

IDS = """
struct id {{ unsigned a, b; }};
struct driver {{ const char *name; const struct id *ids; int (*probe)(const struct id *); }};
static const struct id ids[] = {{ {{1, 2}}, {{3, 4}}, {{}} }};
{0}
static int probe(const struct id *x) {{ return x - ids; }}
struct driver driver = {{ "x", ids, probe }};
int find(unsigned a)
{{
    for (const struct id *p = ids; p->a; p++) if (p->a == a) return p->b;
    return {1};
}}
"""
TABLE = 'extern const struct id __mod_pci__ids_device_table[3] __attribute__((alias("ids")));'
"""As of MODULE_DEVICE_TABLE() (include/linux/module.h)."""


@pytest.mark.parametrize(("before", "after"), [("", TABLE), (TABLE, ""), (TABLE, TABLE)])
def test_second_name_of_a_datum(tmp_path: Path, before: str, after: str) -> None:
    d = compare(tmp_path, IDS.format(before, 0), IDS.format(after, 0))
    assert d.is_empty
    assert not d.new_data()
    d = compare(tmp_path, IDS.format(before, 0), IDS.format(after, 1))
    assert changed(d) == ["find"]
    (name,) = [x for x in undefined(cut(d)) if "ids" in x]
    if not before:
        assert name == ".klp.sym.vmlinux.ids,0"


def test_weak_second_name_is_another_thing(tmp_path: Path) -> None:
    """The kernel may have another file's in its place."""
    source = """
    noinline int own(int x) {{ return hidden(x); }}
    int perhaps(int) __attribute__((weak, alias("own")));
    int f(int x) {{ return {0}(x) + 1; }}
    """
    d = compare(tmp_path, source.format("own"), source.format("perhaps"))
    assert changed(d) == ["f"]


FOLDED = """
static noinline int a(int x) {{ return hidden(x) * {0} + hidden(x + 1); }}
static noinline int b(int x) {{ return hidden(x) * {1} + hidden(x + 1); }}
static noinline int c(int x) {{ return hidden(x) * {2} + hidden(x + 1); }}
int f(int x) {{ return a(x) + 1; }}
int g(int x) {{ return b(x) + 2; }}
int user(int x) {{ return c(x) + 3; }}
"""
"""gcc makes one function of those of the same code."""


@pytest.mark.parametrize(
    ("numbers", "replaced", "new"),
    [
        ((3, 4, 3), ["g"], ["b"]),
        ((4, 3, 3), ["f"], ["a"]),
        ((4, 3, 5), ["f", "user"], ["a", "c"]),
        ((4, 4, 3), ["f", "g"], ["a", "b"]),
        ((4, 5, 6), ["a", "g", "user"], ["b", "c"]),
        ((4, 4, 4), ["a"], ["b", "c"]),  # names of the one
    ],
)
def test_folded_functions_that_are_parted(
    tmp_path: Path, numbers: tuple[int, int, int], replaced: list[str], new: list[str]
) -> None:
    """One keeps the kernel's function, those that call the others are replaced."""
    pre, post = FOLDED.format(3, 3, 3), FOLDED.format(*numbers)
    update = make_update(tmp_path, pre, post)
    (code,) = update.new_code
    assert sorted(r.name for r in code.redirected) == replaced
    assert sorted(new_functions(code)) == new
    assert not update.judge()


@pytest.mark.parametrize("numbers", [(4, 4, 4), (3, 3, 5), (3, 3, 3), (5, 5, 3), (3, 5, 5)])
def test_functions_that_become_one(tmp_path: Path, numbers: tuple[int, int, int]) -> None:
    """Each that changes is redirected: the kernel has them apart."""
    was = (3, 4, 5)
    update = make_update(tmp_path, FOLDED.format(*was), FOLDED.format(*numbers))
    (code,) = update.new_code
    differ = [x for x, before, after in zip("abc", was, numbers, strict=True) if before != after]
    assert set(differ) <= {r.name for r in code.redirected}
    assert not update.judge()


CONSTANTS = """
static const unsigned char one[] = {{ {0}, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 }};
static const unsigned char two[] = {{ {1}, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 }};
int f(unsigned x) {{ return one[x & 15]; }}
int g(unsigned x) {{ return two[x & 15] + 2; }}
int user(unsigned x)
{{
    static const short one[] = {{ {0}, 4, 3, 2, 1, 9, 8, 7 }};
    static const short two[] = {{ {1}, 4, 3, 2, 1, 9, 8, 7 }};
    return one[x & 7] * two[(x >> 3) & 7];
}}
"""


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        ((1, 1), (1, 2), {"g", "user"}),
        ((1, 1), (2, 1), {"f", "user"}),
        ((1, 1), (2, 3), {"f", "g", "user"}),
        ((1, 1), (2, 2), {"f", "g", "user"}),
        ((1, 2), (1, 1), {"g", "user"}),
        ((1, 2), (2, 2), {"f", "user"}),
        ((1, 2), (3, 3), {"f", "g", "user"}),
        ((1, 2), (2, 1), {"f", "g", "user"}),
    ],
)
def test_folded_constants(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int], replaced: set[str]
) -> None:
    update = make_update(tmp_path, CONSTANTS.format(*before), CONSTANTS.format(*after))
    (code,) = update.new_code
    assert replaced <= {r.name for r in code.redirected}
    assert not update.judge()


ONE = 'static int a = 5; extern int b __attribute__((alias("a")));'
TWO = "static int a = 5; int b = 5;"
USERS = "int f(void) { return a++; } int g(void) { return b++; }"


def test_variable_that_becomes_two(tmp_path: Path) -> None:
    d = compare(tmp_path, ONE + USERS, TWO + USERS)
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        ("b", "in the kernel a, b are one variable; the patch parts them")
    ]
    d = compare(tmp_path, TWO + USERS, ONE + USERS)
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        ("b", "in the kernel a, b are variables of their own; the patch makes them one")
    ]
    assert compare(tmp_path, ONE + USERS, ONE + USERS).is_empty


def test_functions_that_are_one_in_the_module_that_runs(tmp_path: Path) -> None:
    """What redirects one of them redirects the other, of which split objects know nothing."""
    source = """
    #ifdef SPLIT
    #define OTHER exported
    #else
    #define OTHER hidden
    #endif
    static noinline int a(int x) {{ return hidden(x) * 3 + {0}(x + 1); }}
    static noinline int b(int x) {{ return hidden(x) * {1} + hidden(x + 1); }}
    int f(int x) {{ return a(x) + 1; }}
    int g(int x) {{ return b(x) + 2; }}
    """
    pre, post = (source.format("OTHER", n) for n in (3, 4))
    plain = compare(tmp_path, pre, post)
    split = compare(tmp_path, pre, post, "-DSPLIT")
    assert not plain.refusals
    assert not split.refusals
    d = changed_as_built(split, plain.pre, plain.post)
    assert [(r.symbol, r.hint) for r in d.refusals] == [("b", "change the callers of b instead")]
    assert not changed_as_built(diff(plain.pre, plain.pre), plain.pre, plain.pre).refusals
