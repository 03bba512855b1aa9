# SPDX-License-Identifier: GPL-2.0-only
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.elf.model import (
    SHN_LIVEPATCH,
    STB_GLOBAL,
    STT_FUNC,
    LivepatchRelocations,
    Object,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.read import EHDR, SHDR, read_object
from ksplicd.elf.write import write_object
from ksplicd.elf.x86_64 import R_X86_64_PLT32
from ksplicd.errors import ElfError
from ksplicd.run import run
from tests.support.needs import needs
from tests.support.objects.compile import SOURCE, SPLIT, compile_c


@pytest.mark.parametrize(
    "flags", [(), SPLIT, ("-g",), (*SPLIT, "-g"), ("-O0", "-fasynchronous-unwind-tables")]
)
def test_write_of_read_is_the_same_file(tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = compile_c(tmp_path, SOURCE, *flags)
    assert write_object(read_object(data)) == data


def test_offsets_that_are_aligned_to_8_stay(tmp_path: Path) -> None:
    """As assemblers write them since binutils 2.43, in sections of any alignment."""
    source = f"char text[3] = {{1}};\n__attribute__((aligned(32))) int wide = 1;\n{SOURCE}"
    obj = read_object(compile_c(tmp_path, source, *SPLIT))
    assert obj.layout is not None
    obj.layout.offset_align = 8
    data = write_object(obj)
    again = read_object(data)
    assert again.layout is not None
    assert again.layout.offset_align == 8
    assert write_object(again) == data


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


def change_header(data: bytes, name: str, field: int, value: int) -> bytes:
    """Return the object with one field of a section's header changed (gABI, Elf64_Shdr)."""
    header = EHDR.unpack_from(data)
    shoff, shstrndx = header[6], header[13]
    names = SHDR.unpack_from(data, shoff + shstrndx * SHDR.size)[4]
    for at in range(shoff, len(data), SHDR.size):
        fields = list(SHDR.unpack_from(data, at))
        if data.startswith(name.encode() + b"\0", names + fields[0]):
            fields[field] = value
            return data[:at] + SHDR.pack(*fields) + data[at + SHDR.size :]
    raise LookupError(name)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        (".text.entry", 8, 3, r"\.text\.entry: alignment 0x3 is no power of two up to 0x200000"),
        (".bss.counter", 8, 1 << 40, r"\.bss\.counter: alignment 0x10000000000 is no power"),
        (".bss.counter", 5, 1 << 40, r"\.bss\.counter: 0x10000000000 bytes are more than a kernel"),
        (".bss.counter", 5, 2, r"symbol counter: ends behind \.bss\.counter's end"),
        (".text.entry", 1, 17, r"\.text\.entry: a section group that is loaded"),
        (".text.entry", 4, 1 << 63, r"\.text\.entry: ends behind the end of the file|damaged"),
    ],
)
def test_what_no_compiler_writes(
    tmp_path: Path, name: str, field: int, value: int, message: str
) -> None:
    data = change_header(compile_c(tmp_path, SOURCE, *SPLIT), name, field, value)
    with pytest.raises(ElfError, match=f"^x.o: (?:{message})"):
        read_object(data, "x.o")


def test_section_headers_that_are_cut_off(tmp_path: Path) -> None:
    data = compile_c(tmp_path, SOURCE)
    with pytest.raises(ElfError, match="section headers that are damaged or cut off"):
        read_object(data[:-1])
    with pytest.raises(ElfError, match="damaged ELF object"):
        read_object(data[:40] + b"\xff" * 8 + data[48:])  # e_shoff


def test_more_sections_than_a_header_can_count(tmp_path: Path) -> None:
    """``vmlinux.o`` of a kernel that is compiled with one section a function."""
    count = 33000
    asm = tmp_path / "many.s"
    one = '.section .text.f{0},"ax"\n.type f{0},@function\nf{0}: call f{1}\n.size f{0},.-f{0}\n'
    asm.write_text("".join(one.format(i, i // 2) for i in range(count)))
    run(["as", "-o", tmp_path / "many.o", asm])
    obj = read_object((tmp_path / "many.o").read_bytes())
    for s in obj.functions():
        assert s.section is not None
        assert s.section.name == f".text.{s.name}"
        target = obj.symbols[0] if not s.section.relocations else s.section.relocations[0].symbol
        assert target.section is not None
        assert target.section.name == f".text.f{int(s.name[1:]) // 2}"
    assert len(obj.functions()) == count
    with pytest.raises(ElfError, match="sections are too many to write"):
        write_object(obj)


def test_an_object_without_symbols(tmp_path: Path) -> None:
    """As ``vdso-note.o`` is, which is assembled from data without a label."""
    (tmp_path / "x.s").write_text('.section .note.x,"a"\n.long 1\n')
    run(["as", "-o", tmp_path / "x.o", tmp_path / "x.s"])
    run(["objcopy", "--strip-all", tmp_path / "x.o"])
    data = (tmp_path / "x.o").read_bytes()
    obj = read_object(data)
    assert obj.symbols == []
    assert write_object(obj) == data


@needs("clang-14")
def test_objects_of_clang(tmp_path: Path) -> None:
    """One string table for all names, and ``.llvm_addrsig``, which is linked to the symbols."""
    for name, text in (("empty", ""), ("some", "static int x; int *f(void) { return &x; }")):
        (tmp_path / f"{name}.c").write_text(text)
        run(["clang-14", "-O2", "-g", "-c", "-o", tmp_path / f"{name}.o", tmp_path / f"{name}.c"])
        data = (tmp_path / f"{name}.o").read_bytes()
        assert write_object(read_object(data)) == data
