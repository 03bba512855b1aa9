# SPDX-License-Identifier: GPL-2.0-only
"""Lists that the linker makes, BTF ids, and what assembly brings without a name or a size."""

from pathlib import Path

import pytest

from ksplicd.create.diff.across_units import compare_across
from ksplicd.create.diff.difference import UnitChange
from ksplicd.errors import NoChangesError
from tests.support.objects.pair import changed, compare, cut, kept

PARAM = """
int level = 3;
int f(int x) {{ return level > x ? hidden(x) : {0}; }}
{1}
"""
ENTRY = """
struct param { const char *name; int *value; };
static const struct param param_level __attribute__((used, section("__param"))) =
    { "level", &level };
"""


def test_a_parameter_that_comes_or_goes(tmp_path: Path) -> None:
    without, with_it = PARAM.format(0, ""), PARAM.format(1, ENTRY)
    d = compare(tmp_path, without, with_it)
    assert changed(d) == ["f"]
    assert d.notes == ("param_level is new in __param: the running kernel's list stays as it is",)
    d = compare(tmp_path, with_it, without)
    assert d.notes == ("param_level is gone in __param: the running kernel's list stays as it is",)


def test_a_list_alone_is_no_change_but_is_told(tmp_path: Path) -> None:
    d = compare(tmp_path, PARAM.format(0, ""), PARAM.format(0, ENTRY))
    with pytest.raises(NoChangesError, match="param_level is new in __param"):
        compare_across([UnitChange.of("unit.c", d)])


def test_what_is_told_of_a_unit_in_which_nothing_else_is(tmp_path: Path) -> None:
    one = compare(tmp_path, PARAM.format(0, ""), PARAM.format(0, ENTRY))
    two = compare(tmp_path, PARAM.format(0, ""), PARAM.format(1, ""))
    (change,) = compare_across([UnitChange.of("one.c", one), UnitChange.of("two.c", two)])
    assert change.unit == "two.c"
    assert any("param_level" in note for note in change.difference.notes)


def test_entries_without_a_name(tmp_path: Path) -> None:
    """As PCI quirks have them, where their pointers are relative."""
    fixup = 'asm(".section .pci_fixup_final, \\"a\\"\\n.short 7, {0}\\n.long f - .\\n.previous");'
    source = "int f(int x) {{ return hidden(x); }} int g(int x) {{ return hidden(x) + {1}; }}"
    d = compare(tmp_path, (source + fixup).format(1, 1), (source + fixup).format(2, 2))
    assert changed(d) == ["g"]
    assert d.notes == ("the list .pci_fixup_final changes: the running kernel's stays as it is",)


IDS = """
#define LIST(name) \\
    asm(".pushsection .BTF_ids,\\"a\\"\\n.local " #name "\\n" #name ":\\n.popsection"); \\
    extern unsigned name[];
#define ID_(symbol) asm(".pushsection .BTF_ids,\\"a\\"\\n.local " #symbol "\\n" \\
    ".type " #symbol ", STT_OBJECT\\n.size " #symbol ", 4\\n" #symbol ":\\n.zero 4\\n.popsection");
#define PASTE_(a, b) ID_(a##b)
#define PASTE(a, b) PASTE_(a, b)
#define ID(kind, name) PASTE(__BTF_ID__##kind##__##name##__, __COUNTER__)
"""
USER = "int f(int i) { return hidden(ids[0]) + ids[1] + %d; }"
IDS_OF = IDS + "LIST(ids) ID(struct, task_struct) ID(struct, {0})" + "LIST(more) ID(func, {1})"


def ids(struct: str, func: str, added: int) -> str:
    return IDS_OF.replace("{0}", struct).replace("{1}", func) + USER % added


def test_btf_ids_that_stay(tmp_path: Path) -> None:
    d = compare(tmp_path, ids("file", "close", 1), ids("file", "close", 2))
    assert (changed(d), d.refusals, d.notes) == (["f"], (), ())
    assert ".BTF_ids" not in kept(cut(d))


def test_btf_ids_that_change_are_refused_where_they_are_used(tmp_path: Path) -> None:
    d = compare(tmp_path, ids("file", "close", 1), ids("inode", "close", 1))
    assert [r.symbol for r in d.refusals] == ["ids"]


def test_btf_ids_of_which_only_boot_code_knows_are_left_out(tmp_path: Path) -> None:
    d = compare(tmp_path, ids("file", "close", 1), ids("file", "open", 2))
    assert (changed(d), d.refusals) == (["f"], ())
    assert d.notes == ("more (.BTF_ids) changes: the running kernel's list stays as it is",)


def test_a_datum_of_assembly_without_a_size(tmp_path: Path) -> None:
    source = (
        'asm(".pushsection {0}\\n.local magic\\nmagic: .long {1}\\n.popsection");'
        "extern {2} int magic; int f(void) {{ return magic; }}"
    )
    d = compare(
        tmp_path, source.format(".rodata", 5, "const"), source.format(".rodata", 6, "const")
    )
    assert changed(d) == ["f"]
    assert [s.name for s in d.copied_constants] == ["magic"]
    d = compare(tmp_path, source.format(".data", 5, ""), source.format(".data", 6, ""))
    assert [r.symbol for r in d.refusals] == ["magic"]


def test_a_table_of_assembly_without_a_size(tmp_path: Path) -> None:
    source = (
        "int f(int x) {{ return x; }} int g(int x) {{ return x + 1; }}"
        'asm(".pushsection .data\\n.local table\\ntable: .quad {0}\\n.popsection");'
        "extern int (*table[1])(int); int h(void) {{ return table[0](3); }}"
    )
    d = compare(tmp_path, source.format("f"), source.format("g"))
    assert [s.datum.name for s in d.pointers] + [r.symbol for r in d.refusals] == ["table"]


def test_a_function_of_assembly_without_a_size(tmp_path: Path) -> None:
    source = (
        'asm(".text\\n.globl f\\n.type f, @function\\nf: mov ${0}, %eax\\nret\\n");'
        "int f(void); int g(void) {{ return f() + 1; }}"
    )
    assert changed(compare(tmp_path, source.format(1), source.format(2))) == ["f"]
    assert changed(compare(tmp_path, source.format(1), source.format(1))) == []


@pytest.mark.parametrize("before", ["", "nop\\n"])
def test_code_of_no_function_beside_functions(tmp_path: Path, before: str) -> None:
    source = (
        'asm(".text\\n' + before + ".globl f\\n.type f, @function\\nf: xor %eax, %eax\\nret\\n"
        '.size f, . - f\\n.globl label\\nlabel: mov ${0}, %eax\\nret\\n");'
    )
    d = compare(tmp_path, source.format(1), source.format(2))
    assert [(r.section, r.reason) for r in d.refusals] == [
        (".text", "code that belongs to no function changes")
    ]
    assert compare(tmp_path, source.format(1), source.format(1)).is_empty
