# SPDX-License-Identifier: GPL-2.0-only
import re
from itertools import pairwise
from pathlib import Path

from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.modules.one_text import join_text
from ksplicd.elf.model import LivepatchRelocations
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.run import run
from tests.support.objects.compile import SPLIT, compile_c

SOURCE = """
extern int of_module(int) asm("\\".klp.sym.ext4.of_module,0\\"");
extern int hidden(int) asm("\\".klp.sym.vmlinux.hidden,0\\"");
static __attribute__((cold, noinline)) int seldom{n}(int x) {{ return of_module(x) + {n}; }}
__attribute__((noinline)) int f{n}(int x)
{{
	return hidden(x) + of_module(x) + (x > 9 ? seldom{n}(x) : {n});
}}
int g{n}(int x) {{ return f{n}(x) + of_module(x); }}
static int h{n}(int x) {{ return x + 5; }}
int (*pointer{n})(int) = h{n};
"""
PROGRAM = """
#include <stdio.h>
int f0(int), g1(int);
extern int (*pointer1)(int);
int of_module(int x) { return 1000 * x; }
int hidden(int x) { return 100 * x; }
int main(void) { printf("%d %d %d %d", f0(3), g1(3), g1(20), pointer1(1)); return 0; }
"""


def link(folder: Path, **replaced: str) -> bytes:
    """Link two objects as kbuild would."""
    for n in "01":
        source = SOURCE.format(n=n)
        for old, new in replaced.items():
            source = re.sub(rf'asm\("[^;]*\.{old},0[^;]*"\)', f'asm("{new}")', source)
        (folder / f"unit{n}.o").write_bytes(compile_c(folder, source, *SPLIT))
    run(["ld", "-r", "-o", "m.ko", "unit0.o", "unit1.o"], cwd=folder)
    return (folder / "m.ko").read_bytes()


def test_references_to_a_module_are_in_one_section(tmp_path: Path) -> None:
    """livepatch has all processors stop for each section with such references."""
    ko = link(tmp_path)
    parts = {s.name for s in read_object(ko, "m.ko").sections if s.relocations}
    assert parts >= {".text.f0", ".text.g0", ".text.f1", ".text.g1"}
    obj = read_object(write_livepatch_module(ko, "m.ko"), "m.ko")
    assert counts(obj.livepatch) == {".klp.rela.ext4..text": 6, ".klp.rela.vmlinux..text": 2}
    functions = [s for s in obj.symbols if s.is_function]
    assert {s.section.name for s in functions if s.section} == {".text"}
    places = sorted((s.value, s.value + s.size) for s in functions)
    assert all(a[1] <= b[0] for a, b in pairwise(places))
    assert not [s for s in obj.sections if s.name.startswith(".text.")]


def counts(found: list[LivepatchRelocations]) -> dict[str, int]:
    return {k.name: len(k.relocations) for k in found}


def test_what_is_joined_runs_as_before(tmp_path: Path) -> None:
    """Calls, and references by name, by section and by table lead to the same functions."""
    obj = read_object(link(tmp_path, of_module="of_module", hidden="hidden"), "m.ko")
    join_text(obj)
    (tmp_path / "joined.o").write_bytes(write_object(obj))
    (tmp_path / "main.c").write_text(PROGRAM)
    run(["gcc-12", "-no-pie", "-o", "program", "main.c", "joined.o"], cwd=tmp_path)
    assert run([tmp_path / "program"]) == b"3300 6301 62001 6"
