# SPDX-License-Identifier: GPL-2.0-only
"""Our reader and pyelftools read the same from an object."""

import io
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from ksplicd.elf.read import read_object
from tests.support.objects.compile import SOURCE, SPLIT, compile_c


@pytest.mark.parametrize("flags", [(), SPLIT, (*SPLIT, "-g"), ("-O0",)])
def test_sections_symbols_and_relocations(tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = compile_c(tmp_path, SOURCE, *flags)
    ours, theirs = read_object(data), ELFFile(io.BytesIO(data))
    table: Any = theirs.get_section_by_name(".symtab")
    content = [
        s for s in theirs.iter_sections()
        if s["sh_type"] not in ("SHT_NULL", "SHT_RELA", "SHT_SYMTAB", "SHT_STRTAB")
    ]  # fmt: skip
    assert [(s.name, s.flags, s.size, s.align, s.data) for s in ours.sections] == [
        (s.name, s["sh_flags"], s["sh_size"], s["sh_addralign"],
         b"" if s["sh_type"] == "SHT_NOBITS" else s.data())
        for s in content
    ]  # fmt: skip
    assert [(s.name, s.value, s.size) for s in ours.symbols] == [
        ("" if s["st_info"]["type"] == "STT_SECTION" else s.name, s["st_value"], s["st_size"])
        for s in list(table.iter_symbols())[1:]
    ]  # fmt: skip
    for s in ours.sections:
        rela: Any = theirs.get_section_by_name(f".rela{s.name}")
        entries = list(rela.iter_relocations()) if rela is not None else []
        numbers = {symbol: i for i, symbol in enumerate(ours.symbols, 1)}
        assert [(r.offset, r.type, numbers[r.symbol], r.addend) for r in s.relocations] == [
            (r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"]) for r in entries
        ]
