# SPDX-License-Identifier: GPL-2.0-only
"""What a relocation means: the thing it points to, whatever way the assembler wrote it down.

The same reference may be a symbol plus addend or a section plus offset, and a PC-relative addend
depends on the instruction around it.  A place is the thing itself.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from ksplicd.elf import Object, Relocation, Section, Symbol
from ksplicd.elf.model import STT_FILE, STT_FUNC, STT_NOTYPE, STT_OBJECT, STT_SECTION
from ksplicd.elf.x86_64 import RELOCATION_TYPES, immediate_size

_SUFFIX: Final = re.compile(r"(\.\d+)+$")
_PART: Final = re.compile(r"\.(?:cold|part|isra|constprop|lto_priv|localalias)(?:\.\d+)*")
_LITERAL: Final = re.compile(r"(?:__func__|__FUNCTION__|__PRETTY_FUNCTION__|CSWTCH)\.\d+$|\.LC\d+$")


def base_name(name: str) -> str:
    """Return the name without the numbers that the compiler deals out anew in each compilation.

    ``__already_done.7`` → ``__already_done``, ``foo.constprop.1`` → ``foo.constprop``,
    ``__UNIQUE_ID_ddebug312.4`` → ``__UNIQUE_ID_ddebug``.
    """
    name = _SUFFIX.sub("", name)
    if name.startswith("__UNIQUE_ID_"):
        name = name.rstrip("0123456789")
    return name


def parent_name(name: str) -> str:
    """Return the function that a compiler-made part belongs to: ``foo.cold.3`` → ``foo``."""
    return _PART.sub("", name)


def is_cold_part(name: str) -> bool:
    """Tell whether the symbol is the unlikely half of a function, such as ``do_exit.cold``."""
    return re.search(r"\.cold(\.\d+)?$", name) is not None


def is_literal(symbol: Symbol) -> bool:
    """Tell whether only the content matters, such as ``__func__.3`` or ``CSWTCH.12``."""
    return _LITERAL.match(symbol.name) is not None


def is_debug_descriptor(section: Section) -> bool:
    """Tell whether a section holds dynamic debug's descriptors, such as ``__UNIQUE_ID_ddebug3.1``.

    Each belongs to one pr_debug(): new code brings its own, with the static key in it.
    """
    return section.name == "__dyndbg"


def is_once_flag(section: Section) -> bool:
    """Tell whether a section holds WARN_ONCE's flags, such as ``__already_done.7``.

    A fresh copy only means that the warning may be printed once more.
    """
    return section.name in (".data.once", ".data.unlikely", ".data..once")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a relocation points: ``offset`` bytes into ``symbol``, or into ``section``."""

    symbol: Symbol | None
    section: Section | None
    offset: int

    def __str__(self) -> str:
        name = self.symbol.name if self.symbol else self.section.name if self.section else "?"
        return f"{name}+{self.offset:#x}" if self.offset else name


class Places:
    """Answers where the relocations of one object point."""

    def __init__(self, obj: Object) -> None:
        self.obj = obj
        by_section: dict[Section, list[Symbol]] = defaultdict(list)
        for s in obj.symbols:
            if s.section is not None and s.name and s.type not in (STT_SECTION, STT_FILE):
                by_section[s.section].append(s)
        # Of two names for one place the sized, typed one tells more: aliases and labels come last.
        self._by_section = {
            section: sorted(symbols, key=lambda s: (s.value, s.type != STT_NOTYPE, s.size))
            for section, symbols in by_section.items()
        }
        self._values = {k: [s.value for s in v] for k, v in self._by_section.items()}

    def symbols_in(self, section: Section) -> list[Symbol]:
        """Return the named symbols of ``section`` by value."""
        return self._by_section.get(section, [])

    def symbol_at(self, section: Section, offset: int) -> Symbol | None:
        """Return the symbol whose bytes include ``offset`` of ``section``."""
        symbols = self._by_section.get(section, [])
        i = bisect_right(self._values.get(section, []), offset) - 1
        while i >= 0:
            s = symbols[i]
            if s.value <= offset < s.value + max(s.size, 1):
                return s
            if s.size and s.type in (STT_OBJECT, STT_FUNC):
                return None
            i -= 1
        return None

    def locate(self, owner: Section, r: Relocation) -> Place:
        """Return what relocation ``r`` of ``owner`` points to."""
        symbol, section = r.symbol, r.symbol.section
        offset = r.addend + self.bias(owner, r)
        if section is None:
            return Place(symbol, None, offset)
        if symbol.type != STT_SECTION:
            if section.is_strings or symbol.name.startswith(".L"):
                return Place(None, section, symbol.value + offset)
            return Place(symbol, section, offset)
        if section.is_strings:
            return Place(None, section, offset)
        found = self.symbol_at(section, offset)
        if found is None:
            return Place(None, section, offset)
        return Place(found, section, offset - found.value)

    @staticmethod
    def bias(owner: Section, r: Relocation) -> int:
        """Return the distance from a PC-relative field to the end of its instruction."""
        kind = RELOCATION_TYPES.get(r.type)
        if kind is None or not kind.is_pc_relative or not owner.is_text:
            return 0
        return kind.size + immediate_size(owner.data, r.offset)


def string_at(section: Section, offset: int) -> bytes | None:
    """Return the string at ``offset`` of a string section with its NUL, None when outside."""
    if not 0 <= offset < section.size:
        return None
    end = section.data.find(b"\0", offset)
    return None if end < 0 else section.data[offset : end + 1]
