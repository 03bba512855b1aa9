# SPDX-License-Identifier: GPL-2.0-only
"""The special sections: tables whose entries belong to code.

One row a table.  Each entry's first relocation names the code it belongs to, so the entries of a
function can be found, compared and cut out with it.  Entry sizes are never written down here: they
differ between kernels and are read from the kernel's own source (``entry_sizes.py``).
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ksplicd.elf.model import Relocation, Section
from ksplicd.errors import ElfError

EntrySizes = Mapping[str, int]
"""Bytes an entry, by section name."""


@dataclass(frozen=True, slots=True)
class EntryLayout:
    """A form that the entries of a table have, or had, by their relocated fields."""

    size: int
    fields: tuple[int, ...]
    """Offsets of what is relocated in each entry, the code it belongs to first."""
    external: tuple[int, ...] = ()
    """Offsets of what may be relocated, by a symbol that other objects define."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTable:
    """One kind of table."""

    section: str
    c_type: str = "int"
    """C expression whose sizeof is the entry's size."""
    headers: tuple[str, ...] = ()
    """Kernel headers that declare it."""
    is_compared: bool = True
    """Whether a function with other entries is a changed function.  Unwind data and lists of plain
    addresses are not compared: they follow from the code."""
    companion: str | None = None
    """A section with one entry for each of ours, without relocations of its own."""
    layouts: tuple[EntryLayout, ...] = (EntryLayout(4, (0,)),)
    """What the entries of different kernels look like; empty for a companion."""


TABLES: Final = (
    SpecialTable(
        section="__mcount_loc", c_type="unsigned long", layouts=(EntryLayout(8, (0,)),)
    ),
    SpecialTable(
        section=".altinstructions", c_type="struct alt_instr", headers=("asm/alternative.h",),
        # With a pad length until 5.13, with a word of flags since 6.3.
        layouts=(EntryLayout(12, (0, 4)), EntryLayout(13, (0, 4)), EntryLayout(14, (0, 4))),
    ),
    SpecialTable(
        section="__jump_table", c_type="struct jump_entry", headers=("linux/jump_label.h",),
        # Absolute addresses until 4.19.
        layouts=(EntryLayout(16, (0, 4, 8)), EntryLayout(24, (0, 8, 16))),
    ),
    SpecialTable(section=".smp_locks"),
    SpecialTable(section=".return_sites"),
    SpecialTable(section=".retpoline_sites"),
    SpecialTable(section=".call_sites", is_compared=False),
    SpecialTable(
        section=".static_call_sites", c_type="struct static_call_site",
        headers=("linux/static_call_types.h",), layouts=(EntryLayout(8, (0, 4)),),
    ),
    SpecialTable(
        # struct paravirt_patch_site, which is gone since 6.8
        section=".parainstructions", c_type="struct { void *instr; char type, len; }",
        layouts=(EntryLayout(16, (0,)),),
    ),
    SpecialTable(
        section="__bug_table", c_type="struct bug_entry", headers=("linux/bug.h",),
        # Without CONFIG_DEBUG_BUGVERBOSE; with it; with the condition's text, since 6.17; with
        # absolute addresses.
        layouts=(
            EntryLayout(8, (0,)), EntryLayout(12, (0, 4)), EntryLayout(16, (0, 4, 8)),
            EntryLayout(24, (0, 8)),
        ),
    ),
    SpecialTable(
        section="__ex_table", c_type="struct exception_table_entry", headers=("asm/extable.h",),
        # The third field came in 4.6 and was a handler's address until 5.16.
        layouts=(EntryLayout(8, (0, 4)), EntryLayout(12, (0, 4), (8,)), EntryLayout(16, (0, 8))),
    ),
    SpecialTable(section=".orc_unwind_ip", is_compared=False, companion=".orc_unwind"),
    SpecialTable(
        section=".orc_unwind", c_type="struct orc_entry", headers=("asm/orc_types.h",),
        is_compared=False, layouts=(),
    ),
    SpecialTable(section=".ibt_endbr_seal", is_compared=False),
    SpecialTable(section=".cfi_sites", is_compared=False),
    SpecialTable(section=".kcfi_traps", is_compared=False),
    SpecialTable(
        section="__patchable_function_entries", c_type="unsigned long", is_compared=False,
        layouts=(EntryLayout(8, (0,)),),
    ),
)  # fmt: skip

TABLE_BY_SECTION: Final = {table.section: table for table in TABLES}

REPLACEMENTS: Final = ".altinstr_replacement"
"""Code that ``.altinstructions`` may copy over its sites."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its bytes and its relocations, whose offsets count from the section's start."""

    table: SpecialTable
    section: Section
    index: int
    size: int
    relocations: tuple[Relocation, ...]

    @property
    def data(self) -> bytes:
        """The entry's bytes."""
        return self.section.data[self.index * self.size : (self.index + 1) * self.size]

    @property
    def start(self) -> int:
        """Offset of the entry in its section."""
        return self.index * self.size

    @property
    def owner(self) -> Section | None:
        """The section of the code that the entry belongs to."""
        return self.relocations[0].symbol.section if self.relocations else None


def is_special_section(section: Section) -> bool:
    """Tell whether a section is a table about code, such as ``__bug_table``."""
    return section.name in TABLE_BY_SECTION


def read_entries(section: Section, size: int) -> list[Entry]:
    """Return the entries of a special section; ``size``: the bytes of one.

    Raises ``ElfError`` when the section's size is no multiple of the entry's.
    """
    table = TABLE_BY_SECTION[section.name]
    count, rest = divmod(section.size, size)
    if rest:
        raise ElfError(
            f"{section.name}: {section.size} bytes are no multiple of {size} bytes, the size of"
            f" {table.c_type}; the object comes from another kernel version"
        )
    by_entry: dict[int, list[Relocation]] = defaultdict(list)
    for r in sorted(section.relocations, key=lambda r: r.offset):
        by_entry[r.offset // size].append(r)
    return [Entry(table, section, i, size, tuple(by_entry[i])) for i in range(count)]


_LENGTHS: Final = {12: 10, 13: 10, 14: 12}
"""Offset of the two lengths in a struct alt_instr, by its size.

arch/x86/include/asm/alternative.h: two 32-bit offsets, the feature word (with flags since 6.3), the
lengths of the original and of the replacement, one byte each (then a pad length until 5.13).
"""


def lengths_of(entry: Entry) -> tuple[int, int]:
    """Return the lengths of an alternative's original and of its replacement."""
    at = _LENGTHS[entry.size]
    return entry.data[at], entry.data[at + 1]


def replacement_of(entry: Entry) -> tuple[Section, int, int] | None:
    """Return (section, offset, length) of an alternative's replacement code, None when empty."""
    length = lengths_of(entry)[1]
    for r in entry.relocations:
        if r.offset == entry.start + 4 and r.symbol.section is not None and length:
            return r.symbol.section, r.symbol.value + r.addend, length
    return None


_BUG_LINE: Final = {12: 8, 16: 12, 24: 16}
"""Offset of ``line`` in a struct bug_entry, by its size (include/asm-generic/bug.h)."""

_BUG_FILE: Final = {12: 4, 16: 8, 24: 8}
"""Offset of the file's name in it."""


def meaning_of(entry: Entry) -> list[Relocation]:
    """Return the relocations that make up the meaning of an entry.

    Where the source of a BUG lies depends on the folder it was compiled in, and where a replacement
    lies in its section does not matter.
    """
    ignored = None
    if entry.table.section == "__bug_table":
        ignored = _BUG_FILE.get(entry.size)
    elif entry.table.section == ".altinstructions":
        ignored = 4
    return [r for r in entry.relocations if r.offset - entry.start != ignored]


def masked_data(entry: Entry) -> bytes:
    """Return the entry's bytes with everything zero that may differ though the code is the same.

    Relocated fields are compared by what they mean, and a BUG's line number moves with the source.
    """
    data = bytearray(entry.data)
    if entry.table.section == "__bug_table" and (at := _BUG_LINE.get(entry.size)) is not None:
        data[at : at + 2] = bytes(2)
    for r in entry.relocations:
        at = r.offset - entry.start
        data[at : at + 4] = bytes(min(4, entry.size - at))
    return bytes(data)
