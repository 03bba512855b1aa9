# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.elf.model import SHN_LIVEPATCH
from ksplicd.elf.read import read_object
from tests.support.objects.compile import SPLIT, compile_c

SOURCE = """
extern int hidden(int) asm("\\".klp.sym.vmlinux.hidden,2\\"");
extern int of_module(int) asm("\\".klp.sym.ext4.of_module,0\\"");
extern int exported(int);
int f(int x) { return hidden(x) + of_module(x) + exported(x); }
int (*pointer)(int) = hidden;
"""


def test_livepatch_symbols_move_to_their_own_sections(tmp_path: Path) -> None:
    ko = compile_c(tmp_path, SOURCE, *SPLIT)
    obj = read_object(write_livepatch_module(ko, "m.ko"))
    assert {k.name: len(k.relocations) for k in obj.livepatch} == {
        ".klp.rela.vmlinux..text": 1,
        ".klp.rela.ext4..text": 1,
        ".klp.rela.vmlinux..data.pointer": 1,
    }
    shndx = {s.name: s.shndx for s in obj.symbols}
    assert shndx[".klp.sym.vmlinux.hidden,2"] == SHN_LIVEPATCH
    assert shndx["exported"] == 0
    text = obj.find_section(".text")
    assert text is not None
    assert {r.symbol.name for r in text.relocations} == {"exported"}


def test_a_module_without_them_stays_as_it_is(tmp_path: Path) -> None:
    ko = compile_c(tmp_path, "int f(int x) { return x; }")
    assert write_livepatch_module(ko, "m.ko") == ko
