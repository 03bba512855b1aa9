# SPDX-License-Identifier: GPL-2.0-only
"""The finished module of new code as the referee reads it: what it redirects, and to what.

The tables are those that the kernel will read, in the module as it goes into the bundle
(``kmodsrc/new_code.c``, ``redirect.c``).  Structures of the kernel are read as far as their first
fields (include/linux/livepatch.h), and where one ends is seen by the relocations.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.referee.view import Place, View
from ksplicd.elf.model import STB_LOCAL, STT_FILE, Object, Section, Symbol
from ksplicd.errors import ElfError
from ksplicd.model import VMLINUX

_KLP_SYMBOL: Final = re.compile(r"\.klp\.sym\.([^.]+)\.(.+),(\d+)")
_FILES: Final = frozenset({"new_code.c", "redirect.c"})
_OLD_NAME, _NEW_FUNCTION, _POSITION = 0, 8, 16
"""Offsets in struct klp_func."""
_FUNCTIONS: Final = 8
"""Offset in struct klp_object, behind the name."""
_SIZE, _PLACE, _OLD, _NEW = 6, 8, 16, 24
"""Offsets in struct redirect of kmodsrc/redirect.c."""
_SMALLEST: Final = 48
"""Bytes; a struct redirect has more, because it holds a struct kprobe."""


@dataclass(frozen=True, slots=True)
class KernelName:
    """By what a reference names a thing of the running kernel."""

    object: str
    """``vmlinux`` or a module; empty: whoever exports it."""
    name: str
    position: int
    """Livepatch's sympos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectedFunction:
    """A function that livepatch leads to new code."""

    target: str
    name: str
    position: int
    new: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectedPlace:
    """What ``kmodsrc/redirect.c`` leads to new code."""

    target: str
    place: Place | None
    """A function, or a field of data; None: a module's exit function."""
    old: Place | None
    new: Place | None
    """None: the field has a value."""
    value: tuple[bytes, bytes]
    """The old and the new value, where it has one."""


class NewModule:
    """The module of new code."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.tables: dict[str, Symbol] = {}
        """The local data of our own sources, by name: new code may have others so named."""
        file = ""
        for s in view.obj.symbols:
            if s.type == STT_FILE:
                file = s.name
            elif s.bind == STB_LOCAL and s.section is not None and file in _FILES:
                self.tables[s.name] = s

    def kernel_name(self, place: Place) -> KernelName | None:
        """Return what a place names in the running kernel, None for one in the module."""
        if place.symbol is None:
            return None
        m = _KLP_SYMBOL.fullmatch(place.symbol.name)
        if m is None:
            return KernelName("", place.symbol.name, 0)
        return KernelName(m[1], m[2], int(m[3]))

    # --- livepatch ------------------------------------------------------------------------------

    def redirected(self) -> list[RedirectedFunction]:
        """Return what livepatch redirects in the targets.  Raises ``ElfError``."""
        found = []
        for target, table in self._objects():
            found += [f for f in self._functions(target, table) if not table.startswith("anchors")]
        return found

    def targets(self) -> list[str]:
        """Return the targets in the order of the klp_patch's objects."""
        return [target for target, _ in self._objects()]

    def _objects(self) -> list[tuple[str, str]]:
        """Return (target, name of its table of functions) of each struct klp_object."""
        objects = self._table("objects")
        references = dict(self.view.content(objects)[1])
        found = []
        for at, place in references.items():
            table = self._symbol_at(place)
            if table is None or not table.name.startswith(("funcs_", "anchors")):
                continue
            name = references.get(at - _FUNCTIONS)
            found.append((VMLINUX if name is None else self._text(name), table.name))
        return found

    def _functions(self, target: str, name: str) -> Iterator[RedirectedFunction]:
        """Yield the struct klp_func of a table, which ends with an empty one."""
        table = self._table(name)
        data, references = self.view.content(table)
        by_offset = dict(references)
        count = len(references) // 2
        size = table.size // (count + 1)
        for at in range(0, count * size, size):
            if at + _NEW_FUNCTION not in by_offset or at not in by_offset:
                raise ElfError(f"{self.view.obj.name}: {name}+{at:#x} is no struct klp_func")
            yield RedirectedFunction(
                target=target,
                name=self._text(by_offset[at + _OLD_NAME]),
                position=int.from_bytes(data[at + _POSITION : at + _POSITION + 8], "little"),
                new=by_offset[at + _NEW_FUNCTION],
            )

    # --- the others -----------------------------------------------------------------------------

    def other_redirects(self) -> list[RedirectedPlace]:
        """Return what is redirected without livepatch.  Raises ``ElfError``."""
        if "redirects" not in self.tables:
            return []
        table = self._table("redirects")
        data, references = self.view.content(table)
        by_offset = dict(references)
        size = _size_of_entry(table.size, list(by_offset))
        targets = self.targets()
        return [
            RedirectedPlace(
                target=targets[int.from_bytes(data[at : at + 4], "little")],
                place=by_offset.get(at + _PLACE),
                old=by_offset.get(at + _OLD),
                new=by_offset.get(at + _NEW),
                value=_values(data[at : at + _NEW + 8]),
            )
            for at in range(0, table.size, size)
        ]

    def hooks(self) -> list[tuple[str, Place]]:
        """Return (target, function) of each hook."""
        found = []
        for i, target in enumerate(self.targets()):
            if f"hooks_{i}" in self.tables:
                found += [(target, p) for _, p in self.view.content(self._table(f"hooks_{i}"))[1]]
        return found

    # --- symbols --------------------------------------------------------------------------------

    def source_names(self, place: Place) -> list[str]:
        """Return the names that new code has in the source, without what livepatch needs."""
        if place.section is None:
            return []
        names = self.view.names.get((place.section, place.offset), [])
        return [n.removesuffix(".ksplice") for n in names if not n.startswith("ksplice_")]

    def _table(self, name: str) -> Symbol:
        if name not in self.tables:
            raise ElfError(f"{self.view.obj.name}: has no table {name}")
        return self.tables[name]

    def _symbol_at(self, place: Place) -> Symbol | None:
        return None if place.section is None else self.view.symbol_at(place.section, place.offset)

    def _text(self, place: Place) -> str:
        section: Section | None = place.section
        text = self.view.text_at(section, place.offset) if section is not None else None
        if text is None:
            raise ElfError(f"{self.view.obj.name}: a name is no string")
        return text[:-1].decode(errors="replace")


def read_new_module(obj: Object, sizes: Mapping[str, int]) -> NewModule:
    """Return the module of new code."""
    return NewModule(View(obj, sizes))


def _values(entry: bytes) -> tuple[bytes, bytes]:
    """Return the old and the new value of a struct redirect that has no pointers there."""
    size = int.from_bytes(entry[_SIZE : _SIZE + 2], "little")
    return entry[_OLD : _OLD + size], entry[_NEW : _NEW + size]


def _size_of_entry(size: int, offsets: Sequence[int]) -> int:
    """Return the size of a struct redirect: each begins alike, and none ends the table."""
    known = set(offsets)
    for count in range(size // _SMALLEST, 0, -1):
        one, rest = divmod(size, count)
        is_alike = all(at % one in (_PLACE, _OLD, _NEW) for at in offsets)
        starts = range(0, size, one)
        if not rest and is_alike and all({at + _PLACE, at + _NEW} & known for at in starts):
            return one
    raise ElfError("redirects: its entries cannot be told apart")
