# SPDX-License-Identifier: GPL-2.0-only
"""What a patch adds to one file and uses in another."""

import itertools
from pathlib import Path

from ksplicd.create.diff import Difference
from ksplicd.create.extract import extract
from ksplicd.create.new_code import NewCode
from ksplicd.create.shared import find_shared, name_shared
from ksplicd.elf import read_object, write_object
from ksplicd.elf.model import STB_GLOBAL, STB_LOCAL
from ksplicd.run import run
from tests.pairs.pair import SIZES, FakeKernel, changed, compare, undefined

HELPER = """
int fresh_count = 3;
int fresh(int x) { fresh_count += x; return hidden(fresh_count); }
"""
CALLER = "extern int fresh(int), fresh_count; {}"


def pair(tmp_path: Path, name: str, pre: str, post: str) -> Difference:
    """Compare two versions of one file of several."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return compare(folder, pre, post)


def cut_all(*differences: Difference) -> list[NewCode]:
    """Extract the new code of the units of one patch, as ``pipeline.cut_new_code`` does."""
    numbers = itertools.count()

    def alias() -> str:
        return f"ksplice_new_{next(numbers)}"

    names = name_shared(differences, alias)
    functions = frozenset(s.name for d in differences for s in d.pre.obj.functions())
    kernel = FakeKernel(missing=frozenset(names), functions=functions)
    return [
        extract(f"unit{i}.c", d, SIZES, kernel, alias, names)
        for i, d in enumerate(differences) if not d.is_empty
    ]  # fmt: skip


def test_another_files_new_function_and_datum(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "int old(int x) { return x; }", "int old(int x) { return x; }" + HELPER)
    b = pair(tmp_path, "b", "int f(int x) { return hidden(x); }",
             CALLER.format("int f(int x) { return fresh(x) + fresh_count; }"))  # fmt: skip
    find_shared([a, b], SIZES)
    assert [s.name for s in a.shared] == ["fresh", "fresh_count"]
    new = cut_all(a, b)
    assert new[0].shared == ["fresh", "fresh_count"]
    assert not new[0].replacements
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
    find_shared([a, b, c, unused], SIZES)
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
    find_shared([a, b], SIZES)
    assert [unit.keeps_code for unit in cut_all(a, b)] == [False, True]


def test_what_only_moves_is_the_kernels(tmp_path: Path) -> None:
    function = "int moved(int x) { return hidden(x) + 1; }"
    call = "extern int moved(int); int f(int x) {{ return moved(x) + {}; }}"
    a = pair(tmp_path, "a", "", function)
    b = pair(tmp_path, "b", function, "")
    c = pair(tmp_path, "c", call.format(1), call.format(2))
    find_shared([a, b, c], SIZES)
    assert not a.shared
    assert a.is_empty
    assert changed(c) == ["f"]


def test_what_moves_and_changes_is_refused(tmp_path: Path) -> None:
    """Who calls it from a file that the patch leaves alone goes on to call the old one."""
    function = "int limit = {0}; int moved(int x) {{ return hidden(x) + {0}; }}"
    a = pair(tmp_path, "a", "", function.format(2))
    b = pair(tmp_path, "b", function.format(1), "")
    find_shared([a, b], SIZES)
    assert sorted(r.symbol for r in a.refusals) == ["limit", "moved"]
    assert a.refusals[0].reason.startswith("it moves here from another file and changes: ")
    assert a.is_needed
    assert b.is_empty


def test_two_new_symbols_of_one_name(tmp_path: Path) -> None:
    """Two modules may have a global each; which one a third file means the objects do not tell."""
    a = pair(tmp_path, "a", "", HELPER)
    b = pair(tmp_path, "b", "", HELPER)
    c = pair(tmp_path, "c", "int f(int x) { return x; }",
             CALLER.format("int f(int x) { return fresh(x) + 1; }"))  # fmt: skip
    find_shared([a, b, c], SIZES)
    assert not a.shared
    assert not b.shared


def test_boot_code_sets_up_what_is_shared(tmp_path: Path) -> None:
    setup = (
        'int table;__attribute__((section(".init.text"))) void setup(void) { table = hidden(7); }'
    )
    a = pair(tmp_path, "a", "int old;", "int old;" + setup)
    b = pair(tmp_path, "b", "int f(int x) { return x; }",
             "extern int table; int f(int x) { return table; }")  # fmt: skip
    assert not a.refusals
    find_shared([a, b], SIZES)
    assert [r.symbol for r in a.refusals] == ["table"]
    assert "setup sets it up" in a.refusals[0].reason


def test_symbols_keep_their_names(tmp_path: Path) -> None:
    a = pair(tmp_path, "a", "", HELPER)
    b = pair(tmp_path, "b", "int f(int x) { return x; }",
             CALLER.format("int f(int x) { return fresh(x) + 1; }"))  # fmt: skip
    find_shared([a, b], SIZES)
    local = {s.name for s in cut_all(a, b)[0].obj.symbols if s.bind == STB_LOCAL and s.name}
    assert local == {"fresh", "fresh_count"}


def test_what_other_files_call_is_looked_for_on_stacks(tmp_path: Path) -> None:
    """A function without fentry, whose callers in other files are taken in, perhaps by a jump."""
    source = "int g(int x) {{ return hidden(x) + {}; }}"
    d = pair(tmp_path, "a", source.format(1), source.format(2))
    kernel = FakeKernel(functions=frozenset({"g"}), untraceable=frozenset({"g"}))
    names = itertools.count()
    code = extract(
        "unit.c", d, SIZES, kernel, lambda: f"ksplice_new_{next(names)}", {"g": "ksplice_new_g"}
    )
    assert not code.replacements
    assert code.anchors == ["ksplice_new_0"]
    places = {s.name: (s.section, s.value) for s in code.obj.symbols if s.bind == STB_GLOBAL}
    assert places["ksplice_new_0"] == places["ksplice_new_g"]
