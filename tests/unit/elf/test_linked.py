# SPDX-License-Identifier: GPL-2.0-only
"""Images and modules, read by pyelftools, which hosts do not need."""

import contextlib
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.elf.linked import read_linked
from ksplicd.elf.read import EHDR, RELA, SHDR, read_object
from ksplicd.elf.x86_64 import R_X86_64_PLT32
from ksplicd.errors import ElfError
from tests.support.objects.compile import SOURCE, SPLIT, compile_c
from tests.support.objects.linked import module_file

_E_PHOFF, _E_SHOFF, _E_PHENTSIZE, _E_PHNUM, _E_SHENTSIZE, _E_SHNUM = 32, 40, 54, 56, 58, 60
"""Offsets in Elf64_Ehdr."""


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    """Return ``data`` with other numbers at ``at``."""
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


@pytest.mark.parametrize("flags", [(), SPLIT, (*SPLIT, "-g")])
def test_it_sees_what_the_reader_of_objects_sees(tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = compile_c(tmp_path, SOURCE, *flags)
    obj, file = read_object(data), read_linked(data, "x.o")
    file.check_module()
    symbols = file.read_symbols()
    assert [(s.name, s.value, s.bind, s.type) for s in symbols[1:]] == [
        (s.name, s.value, s.bind, s.type) for s in obj.symbols
    ]
    for section in obj.sections:
        found = file.find_section(section.name)
        assert found is not None
        assert (found.flags, found.size, found.align) == (
            section.flags,
            section.size,
            section.align,
        )
        assert bytes(found.data) == section.data
        places = {s: i for i, s in enumerate(obj.symbols, 1)}
        assert [tuple(r) for r in file.read_relocations(file.sections.index(found))] == [
            (r.offset, r.type, places[r.symbol], r.addend) for r in section.relocations
        ]
    assert [file.sections[s.section].name for s in symbols if 0 < s.section < 0xFF00] == [
        s.section.name for s in obj.symbols if s.section is not None
    ]


def test_build_id() -> None:
    assert read_linked(module_file(), "x.ko").build_id == b"x".hex() * 20


def read_all(data: bytes) -> None:
    """Read everything; raises ``ElfError``."""
    file = read_linked(data, "x.ko")
    file.check_module()
    file.read_symbols()
    for i in range(len(file.sections)):
        file.read_relocations(i)


@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    good = module_file()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
    cut = data.draw(st.integers(0, len(good)))
    for candidate in (bad, good[:cut]):
        with contextlib.suppress(ElfError):
            read_all(candidate)


def test_relocation_that_names_no_symbol() -> None:
    good = RELA.pack(1, 2 << 32 | R_X86_64_PLT32, -4)
    bad = RELA.pack(1, 3 << 32 | R_X86_64_PLT32, -4)
    assert module_file().count(good) == 1
    with pytest.raises(ElfError, match=r"x\.ko: \.text: damaged relocations: symbol 3 of 3$"):
        read_all(module_file().replace(good, bad))


@pytest.mark.parametrize("kind", [5, 6, 11, 0x6FFFFFF6, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF])
def test_tables_that_are_linked_to_themselves(kind: int) -> None:
    """Hash tables, dynamic sections and version tables, which the kernel's files do not have."""
    good = module_file()
    (at,) = struct.unpack_from("<Q", good, _E_SHOFF)
    bad = patched(good, at + SHDR.size + 4, "<I", kind)
    bad = patched(bad, at + SHDR.size + 40, "<I", 1)  # sh_link
    with contextlib.suppress(ElfError):
        read_all(bad)


def test_headers_that_never_end() -> None:
    """Of no size, and of a number that is in the first section's header."""
    good = module_file()
    (at,) = struct.unpack_from("<Q", good, _E_SHOFF)
    many = patched(patched(good, _E_SHNUM, "<H", 0), at + 32, "<Q", 1 << 60)
    with pytest.raises(ElfError, match=r"x\.ko: 1152921504606846976 sections"):
        read_all(many)
    with pytest.raises(ElfError, match=r"x\.ko: .*(?:section headers of 0 bytes|e_shentsize: 0)"):
        read_all(patched(many, _E_SHENTSIZE, "<H", 0))
    segments = patched(patched(good, _E_PHNUM, "<H", 0xFFFF), at + 44, "<I", 1 << 31)
    with pytest.raises(ElfError, match=r"x\.ko: program headers of 0 bytes"):
        read_all(segments)
    with pytest.raises(ElfError, match=r"x\.ko: 2147483648 segments"):
        read_all(patched(segments, _E_PHENTSIZE, "<H", 56))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a 64-bit little-endian ELF file"),
        (b"\x7fELF\x01\x01" + bytes(80), "not a 64-bit little-endian ELF file"),
        (module_file()[: EHDR.size - 1], "truncated or damaged ELF file"),
        (module_file()[:-1], "truncated or damaged ELF file"),
        (
            patched(module_file(), 18, "<H", 183),
            r"not an x86-64 relocatable object \(ET_REL, EM_AA",
        ),
    ],
)
def test_other_files_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(ElfError, match=rf"^x\.ko: {words}"):
        read_all(data)


def test_it_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "x.ko"
    path.write_bytes(module_file())
    program = (
        "import sys; sys.modules['elftools'] = None\n"
        "from pathlib import Path; from ksplicd.elf.linked import read_linked\n"
        "from ksplicd.errors import ToolError\n"
        f"try: read_linked(Path({str(path)!r}).read_bytes(), 'x.ko')\n"
        "except ToolError as e: print(e)"
    )
    assert run_python(program) == (
        "x.ko: reading it needs the Python package pyelftools; install python3-pyelftools"
    )


def test_a_host_does_without_it() -> None:
    """Neither the daemon, nor anything that it may import later."""
    program = (
        "import pkgutil, sys, ksplicd.bus, ksplicd.host\n"
        "for p in (ksplicd.bus, ksplicd.host):\n"
        "    for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.'): __import__(m.name)\n"
        "import ksplicd.daemon, ksplicd.cli.main\n"
        "names = ('elftools', 'ksplicd.elf', 'ksplicd.create')\n"
        "print(len(sys.modules) > 100, [m for m in sys.modules if m.startswith(names)])"
    )
    assert run_python(program) == "True []"


def run_python(program: str) -> str:
    """Return what another Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
