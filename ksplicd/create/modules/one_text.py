# SPDX-License-Identifier: GPL-2.0-only
"""The text of a finished module in one section, because each with references to a module costs.

livepatch fills in the references to a module that is loaded later section by section, and has every
processor stop for each of them (``text_poke_sync()``, called by ``apply_relocate_add()`` of
arch/x86/kernel/module.c).  New code comes with a section for each function, and
scripts/module.lds.S leaves them so.
"""

import re
from dataclasses import replace
from typing import Final

from ksplicd.elf.model import STT_SECTION, Object, Section

_TEXT: Final = ".text"
_OF_ONE: Final = re.compile(r"\.text\.[0-9a-zA-Z_]")
"""The name of a section of one function or cold part, as scripts/module.lds.S has it where it does
join them: in kernels that are linked with LTO."""
_FILLED: Final = b"\xcc"
"""Between functions: int3."""


def join_text(obj: Object) -> None:
    """Append the sections of single functions and cold parts to ``.text``."""
    parts = [s for s in obj.sections if s.is_text and _OF_ONE.match(s.name)]
    if not parts:
        return
    text = obj.find_section(_TEXT)
    if text is None:
        text, *parts = parts
        text.name = _TEXT
    bases = {part: _append(text, part) for part in parts}
    for s in obj.symbols:
        if s.section in bases and s.type != STT_SECTION:
            s.section, s.value = text, s.value + bases[s.section]
    whole = obj.section_symbol(text)
    for section in obj.sections:
        section.relocations = [
            replace(r, symbol=whole, addend=r.addend + bases[r.symbol.section])
            if r.symbol.section in bases
            else r
            for r in section.relocations
        ]
        if section.link in bases:
            section.link = text
    obj.symbols = [s for s in obj.symbols if s.section not in bases]
    obj.sections = [s for s in obj.sections if s not in bases]


def _append(text: Section, part: Section) -> int:
    """Append a section with its relocations; return where in ``text`` it begins."""
    base = -(-text.size // part.align) * part.align
    text.data = text.data.ljust(base, _FILLED) + part.data
    text.align = max(text.align, part.align)
    text.relocations += [replace(r, offset=r.offset + base) for r in part.relocations]
    return base
