# SPDX-License-Identifier: GPL-2.0-only
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.elf.at_a_glance import read_imports, read_section_names
from ksplicd.elf.model import STB_GLOBAL, STT_FUNC, Object, Section, Symbol
from ksplicd.elf.read import EHDR
from ksplicd.elf.write import write_object
from ksplicd.errors import ElfError
from tests.support.objects.compile import SPLIT, compile_c

SOURCE = """
int taken(void);
extern int data;
static int own(void) { return data; }
const char *text(void) { return "text_only"; }
int (*kept)(void) = own;
int user(void) { return taken() + own(); }
"""


@pytest.mark.parametrize("flags", [(), SPLIT, ("-g",)])
def test_what_an_object_takes_from_others(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """A text or a local function of such a name is no use of it."""
    assert read_imports(compile_c(tmp_path, SOURCE, *flags), "x") == {"taken", "data"}


def test_an_object_without_symbols() -> None:
    empty = write_object(Object("x", [], []))
    assert read_imports(empty, "x") == set()
    assert not any(name.startswith(".text") for name in read_section_names(empty, "x"))


def test_the_sections_of_an_object(tmp_path: Path) -> None:
    """A name that only debug information or a text has is none."""
    data = compile_c(tmp_path, SOURCE + 'const char *named = "runtime_ptr_x";', "-g")
    names = read_section_names(data, "x")
    assert {".text", ".rela.text", ".debug_info"} <= names
    assert not any(name.startswith("runtime_") for name in names)
    table = '__asm__(".pushsection runtime_ptr_x, \\"a\\"\\n.long 0\\n.popsection");'
    assert "runtime_ptr_x" in read_section_names(compile_c(tmp_path, SOURCE + table), "x")


FAR: Final = EHDR.pack(b"\x7fELF\x02\x01", 1, 62, 1, 0, 0, 1 << 63, 0, 64, 0, 0, 64, 1, 0)
"""Its section headers would be where no file reaches."""


@pytest.mark.parametrize("read", [read_imports, read_section_names])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "unpack_from"),
        (b"\x7fELF\x01\x01".ljust(EHDR.size, b"\0"), "not a 64-bit little-endian"),
        (b"\x7fELF\x02\x01".ljust(EHDR.size, b"\0"), "section headers of 0 bytes"),
        (FAR, "too large"),
    ],
)
def test_what_is_no_object(read: Callable[[bytes, str], set[str]], data: bytes, why: str) -> None:
    with pytest.raises(ElfError, match=f"^m: damaged ELF object: .*{why}"):
        read(data, "m")


@given(st.data())
def test_damaged_objects(data: st.DataObject) -> None:
    text = Section(".text", flags=6, data=b"\xc3", align=1)
    symbols = [Symbol("taken", bind=STB_GLOBAL), Symbol("f", type=STT_FUNC, section=text)]
    content = bytearray(write_object(Object("x", [text], symbols)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for read in (read_imports, read_section_names):
        with contextlib.suppress(ElfError):
            read(bytes(content), "x")
