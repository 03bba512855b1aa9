# SPDX-License-Identifier: GPL-2.0-only
import contextlib
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.elf import (
    LivepatchRelocations,
    Object,
    Relocation,
    Section,
    Symbol,
    read_object,
    write_object,
)
from ksplicd.elf.model import SHN_LIVEPATCH, STB_GLOBAL, STT_FUNC
from ksplicd.elf.x86_64 import R_X86_64_PLT32
from ksplicd.errors import ElfError
from ksplicd.run import run
from tests.compile import SPLIT, compile_c

SOURCE = """
extern int other(const char *);
static int counter;
int table[4] = {1, 2, 3};
static __attribute__((noinline)) int helper(int x) { counter += x; return other("helper %d"); }
int entry(int x) { return x > 3 ? helper(x) : table[x] + other("entry"); }
__attribute__((weak)) int weak_one(void) { return counter; }
inline __attribute__((section(".text.grouped"))) int g(void) { return 1; }
int *pointer = &table[2];
"""


@pytest.mark.parametrize(
    "flags", [(), SPLIT, ("-g",), (*SPLIT, "-g"), ("-O0", "-fasynchronous-unwind-tables")]
)
def test_write_of_read_is_the_same_file(tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = compile_c(tmp_path, SOURCE, *flags)
    assert write_object(read_object(data)) == data


def test_section_groups_keep_their_members(tmp_path: Path) -> None:
    asm = tmp_path / "g.s"
    asm.write_text(
        '.section .text.a,"axG",@progbits,a,comdat\n.globl a\na: call b\n'
        '.section .data.a,"awG",@progbits,a,comdat\n.quad a\n'
    )
    run(["as", "-o", tmp_path / "g.o", asm])
    data = (tmp_path / "g.o").read_bytes()
    obj = read_object(data)
    group = next(s for s in obj.sections if s.members)
    assert group.signature is not None
    assert [group.signature.name, *(s.name for s in group.members)] == ["a", ".text.a", ".data.a"]
    assert write_object(obj) == data


def test_object_made_from_nothing_links(tmp_path: Path) -> None:
    text = Section(".text", flags=6, data=b"\xe8\0\0\0\0\xc3", align=16)
    callee = Symbol("callee", bind=STB_GLOBAL)
    caller = Symbol("caller", 0, 6, STB_GLOBAL, STT_FUNC, section=text)
    text.relocations.append(Relocation(1, R_X86_64_PLT32, callee, -4))
    data = write_object(Object("new", [text], [callee, caller]))
    (tmp_path / "n.o").write_bytes(data)
    run(["ld", "-r", "-o", tmp_path / "linked.o", tmp_path / "n.o"])
    again = read_object((tmp_path / "linked.o").read_bytes())
    assert {s.name for s in again.symbols} >= {"caller", "callee"}
    assert write_object(read_object(data)) == data


def test_livepatch_relocations_survive() -> None:
    text = Section(".text", flags=6, data=bytes(16), align=16)
    symbol = Symbol(".klp.sym.vmlinux.f,0", bind=STB_GLOBAL, shndx=SHN_LIVEPATCH)
    klp = LivepatchRelocations(
        ".klp.rela.vmlinux..text", text, [Relocation(1, R_X86_64_PLT32, symbol, -4)]
    )
    obj = read_object(write_object(Object("klp", [text], [symbol], [klp])))
    assert [k.name for k in obj.livepatch] == [".klp.rela.vmlinux..text"]
    assert obj.livepatch[0].target.name == ".text"
    assert obj.livepatch[0].relocations[0].symbol.shndx == SHN_LIVEPATCH


def test_removed_sections_are_gone(tmp_path: Path) -> None:
    obj = read_object(compile_c(tmp_path, SOURCE, *SPLIT))
    gone = obj.find_section(".text.weak_one")
    assert gone is not None
    obj.sections.remove(gone)
    obj.symbols = [s for s in obj.symbols if s.section is not gone]
    again = read_object(write_object(obj))
    assert again.find_section(".text.weak_one") is None
    assert again.find_section(".text.entry") is not None


def test_symbol_of_a_missing_section_is_refused(tmp_path: Path) -> None:
    obj = read_object(compile_c(tmp_path, SOURCE, *SPLIT))
    obj.sections = [s for s in obj.sections if s.name != ".text.weak_one"]
    with pytest.raises(ElfError, match="weak_one"):
        write_object(obj)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(80)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ElfError, match=r"x\.o: not a little-endian 64-bit ELF file"):
        read_object(data, "x.o")


@given(st.data())
def test_damaged_objects_are_refused_or_read(data: st.DataObject) -> None:
    good = write_object(
        Object("s", [Section(".text", flags=6, data=b"\xc3")], [Symbol("f", bind=STB_GLOBAL)])
    )
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    cut = data.draw(st.integers(0, len(good)))
    for candidate in (bad, good[:cut]):
        with contextlib.suppress(ElfError):
            read_object(candidate)


def test_an_object_without_symbols(tmp_path: Path) -> None:
    """As ``vdso-note.o`` is, which is assembled from data without a label."""
    (tmp_path / "x.s").write_text('.section .note.x,"a"\n.long 1\n')
    run(["as", "-o", tmp_path / "x.o", tmp_path / "x.s"])
    run(["objcopy", "--strip-all", tmp_path / "x.o"])
    data = (tmp_path / "x.o").read_bytes()
    obj = read_object(data)
    assert obj.symbols == []
    assert write_object(obj) == data


@pytest.mark.skipif(not shutil.which("clang-14"), reason="clang-14 is not installed")
def test_objects_of_clang(tmp_path: Path) -> None:
    """One string table for all names, and ``.llvm_addrsig``, which is linked to the symbols."""
    for name, text in (("empty", ""), ("some", "static int x; int *f(void) { return &x; }")):
        (tmp_path / f"{name}.c").write_text(text)
        run(["clang-14", "-O2", "-g", "-c", "-o", tmp_path / f"{name}.o", tmp_path / f"{name}.c"])
        data = (tmp_path / f"{name}.o").read_bytes()
        assert write_object(read_object(data)) == data
