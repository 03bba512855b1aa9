# SPDX-License-Identifier: GPL-2.0-only
"""Units whose split objects are compiled otherwise than what runs, as those of modules are."""

from pathlib import Path

from ksplicd.create.diff.as_built import changed_as_built, name_as_built
from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.separate import index_separated
from tests.support.objects.compile import SPLIT, compile_object
from tests.support.objects.pair import (
    PRELUDE,
    SIZES,
    FakeUnit,
    changed,
    cut,
    new_functions,
    undefined,
)


def index(tmp_path: Path, source: str, *flags: str) -> ObjectIndex:
    obj = compile_object(tmp_path, PRELUDE + source, "-g", *flags)
    return index_separated(obj, SIZES)


def compare(tmp_path: Path, pre: str, post: str) -> Difference:
    """Compare split objects, of which ``SPLIT`` is set, with the plain ones beside them."""
    plain, plain_post = index(tmp_path, pre), index(tmp_path, post)
    split, split_post = (index(tmp_path, s, *SPLIT, "-DSPLIT") for s in (pre, post))
    name_as_built(plain, split)
    return changed_as_built(diff(split, split_post), plain, plain_post)


BODY = """
#ifdef SPLIT
#define built(split, plain) split
#else
#define built(split, plain) plain
#endif
#define always __attribute__((__always_inline__)) inline
"""

INLINED = (
    BODY
    + """
static built(noinline, always) int init(int x) { return hidden(x) + ADDED; }
int f(int x) { return init(x) * 3; }
int g(int x) { return init(x) * 5; }
int h(int x) { return hidden(x); }
"""
)


def test_what_runs_has_the_changed_code_inlined(tmp_path: Path) -> None:
    d = compare(tmp_path, INLINED.replace("ADDED", "1"), INLINED.replace("ADDED", "2"))
    assert changed(d) == ["f", "g", "init"]
    assert (
        "as the kernel's build makes it" in d.changed[next(s for s in d.changed if s.name == "g")]
    )


PART = (
    BODY
    + """
static built(noinline, ) int part(int x) {
    if (x < 3) return 7;
    for (int i = 0; i < x; i++) { hidden(x + i); printk("%d", x * i); exported(x ^ ADDED); }
    return hidden(x) + printk("%d", x) + exported(x * 5) + hidden(x + 8);
}
int f(int x) { return part(x) * 3; }
int g(int x) { return part(x + 1) * 5 + part(x + 7); }
int h(int x) { return hidden(x); }
"""
)


def test_what_runs_calls_a_part_that_the_split_object_does_not_have(tmp_path: Path) -> None:
    d = compare(tmp_path, PART.replace("ADDED", "1"), PART.replace("ADDED", "2"))
    names = {s.name for s in index(tmp_path, PART.replace("ADDED", "1")).obj.functions()}
    assert "part.part.0" in names
    assert changed(d) == ["f", "g", "part"]


CLONE = (
    BODY
    + """
static noinline int clone(int x, int y) { return hidden(x * y) + exported(y) + x; }
int f(int x) { return clone(x, built(5, 6)) + ADDED; }
int g(int x) { return clone(x + 1, built(5, 6)); }
"""
)


def test_a_clone_of_other_arguments_is_not_the_kernels(tmp_path: Path) -> None:
    """Both are ``clone.constprop.0``, and the new code must not call the kernel's."""
    d = compare(tmp_path, CLONE.replace("ADDED", "1"), CLONE.replace("ADDED", "2"))
    assert "f" in changed(d)
    unit = FakeUnit(missing=frozenset({"clone.constprop.1000000"}))
    code = cut(d, unit)
    assert "clone.constprop.0" in new_functions(code)
    assert not [name for name in undefined(code) if "clone" in name]


NUMBERS = (
    BODY
    + """
int f(int x) { static int count; return (count += hidden(x)) + ADDED; }
int g(int x) { static int count; return count -= hidden(x); }
built(int e(int x) { static int count; return count += hidden(x); },)
"""
)


def numbered(found: ObjectIndex) -> dict[str, str]:
    """Return the symbol of each function's static variable."""
    assert found.debug_info is not None
    at = {(s.section, s.value): s.name for s in found.obj.symbols if s.name and s.section}
    return {f: at[v.place] for f, v in found.debug_info.static_locals() if v.place}


def test_variables_have_the_numbers_of_what_runs(tmp_path: Path) -> None:
    pre = NUMBERS.replace("ADDED", "1")
    name = numbered(index(tmp_path, pre))["f"]
    assert name != numbered(index(tmp_path, pre, *SPLIT, "-DSPLIT"))["f"]
    d = compare(tmp_path, pre, NUMBERS.replace("ADDED", "2"))
    assert changed(d) == ["f"]
    assert [n for n in undefined(cut(d)) if "count" in n] == [f".klp.sym.vmlinux.{name},0"]


EXIT = (
    BODY
    + """
static built(noinline, always) int stop(int x) { return hidden(x) + ADDED; }
int f(int x) { return stop(x) * 3; }
__attribute__((section(".exit.text"))) void leave(void) { printk("%d", stop(7)); }
extern __attribute__((alias("leave"))) void cleanup_module(void);
"""
)


def test_the_exit_function_of_what_runs_has_the_changed_code_inlined(tmp_path: Path) -> None:
    d = compare(tmp_path, EXIT.replace("ADDED", "1"), EXIT.replace("ADDED", "2"))
    assert changed(d) == ["f", "stop"]
    assert d.unload is not None
    assert d.unload.name == "cleanup_module"
