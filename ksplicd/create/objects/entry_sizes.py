# SPDX-License-Identifier: GPL-2.0-only
"""How large the entries of the special sections are.

They differ between kernels.  They are read from the kernel's own headers: a probe is compiled, in
which each size is the size of an array.  Without a kernel tree they follow from the object, in
which every entry is relocated at the same offsets.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from ksplicd.create.objects.special import TABLES, EntryLayout, EntrySizes, SpecialTable
from ksplicd.elf.model import Object, Section
from ksplicd.errors import ElfError

_PREFIX: Final = "ksplice_sizeof"


def probe_source() -> str:
    """Return C source that has an array as large as an entry of each table."""
    headers = sorted({h for t in TABLES for h in t.headers})
    lines = [f"#include <{h}>" for h in ("linux/kernel.h", "linux/module.h", *headers)]
    lines += [f"char {_array(t)}[sizeof({t.c_type})];" for t in TABLES]
    return "\n".join(lines) + "\n"


def read_probe(probe: Object) -> EntrySizes:
    """Return the entry sizes of a compiled probe."""
    sizes = {s.name: s.size for s in probe.symbols}
    return {t.section: sizes[_array(t)] for t in TABLES}


def _array(table: SpecialTable) -> str:
    return _PREFIX + table.section.replace(".", "_")


def infer_sizes(objects: Sequence[Object]) -> EntrySizes:
    """Return the entry sizes of the tables that the objects have, which belong to one kernel.

    Raises ``ElfError`` when a table is like none that is known.
    """
    sections: dict[str, list[Section]] = defaultdict(list)
    for obj in objects:
        for section in obj.sections:
            if section.size:
                sections[section.name].append(section)
    sizes: dict[str, int] = {}
    for table in TABLES:
        found = sections.get(table.section)
        if found and table.layouts:
            sizes[table.section] = _infer_size(objects[0].name, table, found)
    for table in TABLES:
        if table.companion and sections.get(table.companion):
            entries = sum(s.size // sizes[table.section] for s in sections[table.section])
            size, rest = divmod(sum(s.size for s in sections[table.companion]), max(entries, 1))
            if rest or not entries:
                raise ElfError(
                    f"{objects[0].name}: {table.companion} has not one entry for each of"
                    f" {table.section}; the object is damaged"
                )
            sizes[table.companion] = size
    return sizes


def _infer_size(name: str, table: SpecialTable, sections: Iterable[Section]) -> int:
    fitting = [x.size for x in table.layouts if all(_fits(x, s) for s in sections)]
    if len(fitting) != 1:
        known = ", ".join(str(x.size) for x in table.layouts)
        raise ElfError(
            f"{name}: {table.section}: cannot tell how large an entry is (known are {known} bytes);"
            " give the kernel's prepared source tree or headers with --source"
        )
    return fitting[0]


def _fits(layout: EntryLayout, section: Section) -> bool:
    """Tell whether each entry is relocated where it must be, and by what belongs there."""
    if section.size % layout.size:
        return False
    found: list[set[int]] = [set() for _ in range(section.size // layout.size)]
    for r in section.relocations:
        index, offset = divmod(r.offset, layout.size)
        if offset == layout.fields[0] and (
            r.symbol.section is None or not r.symbol.section.is_text
        ):
            return False
        if offset in layout.external:
            if not r.symbol.is_undefined:
                return False
        else:
            found[index].add(offset)
    return all(fields == set(layout.fields) for fields in found)
