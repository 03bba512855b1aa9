# SPDX-License-Identifier: GPL-2.0-only
"""Functions and data that a patch adds to one file and uses in another."""

from pathlib import Path

import pytest

from ksplicd.create.diff.across_units import (
    find_shared,
    refuse_overridden,
    refuse_taken,
)
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.new_code.aliases import Aliases, aliases_by_name
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.model import Anchored, NewCode
from ksplicd.elf.model import STB_GLOBAL, STB_LOCAL
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.run import run
from tests.support.objects.pair import FakeUnit, changed, compare, undefined

HELPER = """
int fresh_count = 3;
int fresh(int x) { fresh_count += x; return hidden(fresh_count); }
"""
CALLER = "extern int fresh(int), fresh_count; {}"


def pair(tmp_path: Path, name: str, pre: str, post: str, target: str = "vmlinux") -> UnitChange:
    """Compare two versions of one file of several."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return UnitChange.of(f"{name}.c", compare(folder, pre, post), target)


def cut_all(*changes: UnitChange) -> list[NewCode]:
    """Extract the new code of the units of one patch, as ``cut_new_code`` does."""
    aliases = Aliases()
    shared = aliases.for_shared(changes)
    functions = frozenset(s.name for c in changes for s in c.difference.pre.obj.functions())
    missing = frozenset(s.name for s in shared)
    return [
        extract(
            FakeUnit(source=f"unit{i}.c", missing=missing, functions=functions), c, aliases,
            aliases_by_name(c, shared),
        )
        for i, c in enumerate(changes) if not c.is_empty
    ]  # fmt: skip


def test_another_files_new_function_and_datum(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "int old(int x) { return x; }", "int old(int x) { return x; }" + HELPER)
    b = pair(tmp_path, "b", "int f(int x) { return hidden(x); }",
             CALLER.format("int f(int x) { return fresh(x) + fresh_count; }"))  # fmt: skip
    a, b = find_shared([a, b])
    assert [s.name for s in a.shared] == ["fresh", "fresh_count"]
    new = cut_all(a, b)
    assert new[0].shared == ("fresh", "fresh_count")
    assert not new[0].redirected
    assert undefined(new[1]) == {"ksplice_new_0", "ksplice_data_1"}
    # A task that sleeps in what f() left for by a jump is found by livepatch.
    assert len(new[0].anchors) == 1
    assert not new[0].keeps_code
    assert not new[1].keeps_code
    for i, unit in enumerate(new):
        (tmp_path / f"{i}.o").write_bytes(write_object(unit.obj))
    run(["ld", "-r", "-o", tmp_path / "new.o", tmp_path / "0.o", tmp_path / "1.o"])
    linked = read_object((tmp_path / "new.o").read_bytes())
    assert {s.name for s in linked.symbols if s.is_undefined} == {".klp.sym.vmlinux.hidden,0"}


def test_through_a_new_function_of_a_third_file(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "", "int deep(int x) { return hidden(x); }")
    b = pair(tmp_path, "b", "", "extern int deep(int); int fresh(int x) { return deep(x) + 1; }")
    c = pair(tmp_path, "c", "int f(int x) { return x; }",
             "extern int fresh(int); int f(int x) { return fresh(x) + 1; }")  # fmt: skip
    unused = pair(tmp_path, "d", "", "int unused(int x) { return hidden(x); }")
    a, b, c, unused = find_shared([a, b, c, unused])
    assert [[s.name for s in d.shared] for d in (a, b, c, unused)] == [["deep"], ["fresh"], [], []]
    assert unused.is_empty
    assert len(cut_all(a, b, c, unused)) == 3


def test_code_stays_while_its_address_may_be_known(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "", HELPER)
    b = pair(
        tmp_path,
        "b",
        "extern void keep(void *); void f(void) { keep(0); }",
        "extern void keep(void *); extern int fresh(int); void f(void) { keep(fresh); }",
    )
    a, b = find_shared([a, b])
    assert [unit.keeps_code for unit in cut_all(a, b)] == [False, True]


def test_what_only_moves_is_the_kernels(tmp_path: Path) -> None:
    function = "int moved(int x) { return hidden(x) + 1; }"
    call = "extern int moved(int); int f(int x) {{ return moved(x) + {}; }}"
    a = pair(tmp_path, "a", "", function)
    b = pair(tmp_path, "b", function, "")
    c = pair(tmp_path, "c", call.format(1), call.format(2))
    a, b, c = find_shared([a, b, c])
    assert not a.shared
    assert a.is_empty
    assert changed(c.difference) == ["f"]


def test_what_moves_and_changes_is_refused(tmp_path: Path) -> None:
    """Who calls it from a file that the patch leaves alone goes on to call the old one."""
    function = "int limit = {0}; int moved(int x) {{ return hidden(x) + {0}; }}"
    a = pair(tmp_path, "a", "", function.format(2))
    b = pair(tmp_path, "b", function.format(1), "")
    a, b = find_shared([a, b])
    assert sorted(r.symbol for r in a.refusals) == ["limit", "moved"]
    assert a.refusals[0].reason.startswith("it moves here from another file and changes: ")
    assert a.is_needed
    assert b.is_empty


def test_each_target_has_its_own_new_symbols(tmp_path: Path) -> None:
    """Two modules may have a global of one name each."""
    call = CALLER.format("int f(int x) { return fresh(x) + 1; }")
    old = "int f(int x) { return x; }"
    units = []
    for target in ("one", "two"):
        units += [
            pair(tmp_path, f"{target}-a", "", HELPER, target),
            pair(tmp_path, f"{target}-b", old, call, target),
        ]
    units = find_shared(units)
    assert [[s.name for s in d.shared] for d in units] == [["fresh"], [], ["fresh"], []]
    new = cut_all(*units)
    assert [undefined(unit) for unit in new[1::2]] == [{"ksplice_new_0"}, {"ksplice_new_1"}]
    for i in (0, 2):
        (alias,) = (s for s in new[i].obj.symbols if s.name == f"ksplice_new_{i // 2}")
        assert alias.bind == STB_GLOBAL


def test_another_module_has_its_own_function_of_a_name(tmp_path: Path) -> None:
    """The new ``fresh`` of one module, and the one that the kernel has for all others."""
    call = CALLER.format("int f(int x) { return fresh(x) + 1; }")
    units = [
        pair(tmp_path, "a", "", HELPER, "one"),
        pair(tmp_path, "b", "int f(int x) { return x; }", call, "one"),
        pair(tmp_path, "c", "int f(int x) { return x; }", call, "two"),
    ]
    units = find_shared(units)
    assert [sorted(d.borrowed) for d in units] == [[], ["fresh"], []]


EXPORT = """
asm(".section \\"___ksymtab+fresh\\", \\"a\\"; .quad 0; .previous");
"""


def test_what_vmlinux_newly_has_is_for_modules_too(tmp_path: Path) -> None:
    """Exported or not: the new code of both is one module."""
    call = CALLER.format("int f(int x) { return fresh(x) + 1; }")
    for exports in (EXPORT, ""):
        a = pair(tmp_path, "a", "", HELPER + exports)
        b = pair(tmp_path, "b", "int f(int x) { return x; }", call, "module")
        assert find_shared([a, b])[0].shared[0].name == "fresh"
        new = cut_all(*find_shared([a, b]))
        assert new[0].shared == ("fresh",)
        assert undefined(new[1]) == {"ksplice_new_0"}


def test_module_that_has_a_function_of_the_name_itself(tmp_path: Path) -> None:
    call = CALLER.format("int f(int x) { return fresh(x) + 1; }")
    a = pair(tmp_path, "a", "", HELPER)
    b = pair(tmp_path, "b", "int f(int x) { return x; }", call, "module")
    found = find_shared([a, b], lambda target, name: (target, name) == ("module", "fresh"))
    assert not found[0].shared
    assert not found[1].borrowed


def test_a_new_weak_function_and_the_one_in_its_place(tmp_path: Path) -> None:
    """All files call the strong one; the weak one's own file would call its copy."""
    weak = "__attribute__((weak)) int fresh(int x) { return hidden(x); }"
    user = "int f(int x) { return fresh(x) + 1; }"
    old = "int f(int x) { return x; }"
    strong = pair(tmp_path, "strong", "", HELPER)
    other = pair(tmp_path, "other", old, CALLER.format(user))
    unused = pair(tmp_path, "weak", "", weak)
    strong, other, unused = find_shared([strong, other, unused])
    assert [s.name for s in strong.shared] == ["fresh"]
    assert not unused.is_needed
    used = pair(tmp_path, "weak", old, weak + user)
    strong, used = find_shared([strong, used])
    assert [(r.symbol, r.hint) for r in used.refusals] == [
        ("fresh", "leave the weak one out of the patch, declare it only")
    ]


@pytest.mark.parametrize("caller", ["", "int f(int x) {{ return taken(x) + {}; }}"])
def test_a_function_that_takes_the_place_of_a_weak_one(tmp_path: Path, caller: str) -> None:
    """Whoever calls the kernel's weak function goes on to do so, whatever the patch adds."""
    before = "extern int taken(int);" + caller.format(1)
    a = pair(tmp_path, "a", before, "int taken(int x) { return x * 7; }" + caller.format(2))
    (a,) = refuse_taken([a], lambda target, name: (target, name) == ("vmlinux", "taken"))
    assert [(r.symbol, r.reason) for r in a.refusals] == [
        ("taken", "vmlinux has another taken already, which goes on being used")
    ]
    assert a.is_needed


def test_a_function_becomes_weak_and_gets_another_in_its_place(tmp_path: Path) -> None:
    function = "int taken(int x) { return hidden(x); }"
    a = pair(tmp_path, "a", function, "__attribute__((weak))" + function)
    b = pair(tmp_path, "b", "", "int taken(int x) { return hidden(x + 1); }")
    a, b = refuse_taken([a, b], lambda _target, _name: True)
    assert [r.symbol for r in b.refusals] == ["taken"]
    assert not a.refusals


def test_what_only_moves_takes_no_place(tmp_path: Path) -> None:
    function = "int moved(int x) { return hidden(x); }"
    a = pair(tmp_path, "a", "", function)
    b = pair(tmp_path, "b", function, "")
    a, b = refuse_taken([a, b], lambda _target, _name: True)
    assert not a.refusals


def test_a_static_function_becomes_global_under_a_taken_name(tmp_path: Path) -> None:
    user = "int f(int x) { return taken(x) + 1; }"
    function = "noinline int taken(int x) { return hidden(x); }" + user
    a = pair(tmp_path, "a", "static " + function, function)
    (a,) = refuse_taken([a], lambda _target, name: name == "taken")
    assert [r.symbol for r in a.refusals] == ["taken"]
    b = pair(tmp_path, "a", "static " + function, function)
    (b,) = refuse_taken([b], lambda _target, _name: False)
    assert not b.refusals


def test_a_weak_function_that_is_not_the_kernels(tmp_path: Path) -> None:
    source = "__attribute__((weak)) int f(int x) {{ return x + {0}; }} int g(int x) {{ return x; }}"
    a = pair(tmp_path, "a", source.format(1), source.format(2))
    a = refuse_overridden(a, ["g"])
    assert not a.refusals
    a = refuse_overridden(a, ["f"])
    assert [r.symbol for r in a.refusals] == ["f"]
    assert a.refusals[0].hint.startswith("leave it out of the patch")


def test_boot_code_sets_up_what_is_shared(tmp_path: Path) -> None:
    setup = (
        'int table;__attribute__((section(".init.text"))) void setup(void) { table = hidden(7); }'
    )
    a = pair(tmp_path, "a", "int old;", "int old;" + setup)
    b = pair(tmp_path, "b", "int f(int x) { return x; }",
             "extern int table; int f(int x) { return table; }")  # fmt: skip
    assert not a.refusals
    a, b = find_shared([a, b])
    assert [r.symbol for r in a.refusals] == ["table"]
    assert "setup sets it up" in a.refusals[0].reason


def test_symbols_keep_their_names(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "", HELPER)
    b = pair(tmp_path, "b", "int f(int x) { return x; }",
             CALLER.format("int f(int x) { return fresh(x) + 1; }"))  # fmt: skip
    a, b = find_shared([a, b])
    local = {s.name for s in cut_all(a, b)[0].obj.symbols if s.bind == STB_LOCAL and s.name}
    assert local == {"fresh", "fresh_count"}


def test_what_other_files_call_is_looked_for_on_stacks(tmp_path: Path) -> None:
    """A function without fentry, whose callers in other files are taken in, perhaps by a jump."""
    source = "int g(int x) {{ return hidden(x) + {}; }}"
    d = pair(tmp_path, "a", source.format(1), source.format(2))
    unit = FakeUnit(functions=frozenset({"g"}), untraceable=frozenset({"g"}))
    code = extract(unit, d, Aliases(), {"g": "ksplice_new_g"})
    assert not code.redirected
    assert code.anchors == (Anchored(function="g", alias="ksplice_new_0"),)
    places = {s.name: (s.section, s.value) for s in code.obj.symbols if s.bind == STB_GLOBAL}
    assert places["ksplice_new_0"] == places["ksplice_new_g"]
