# SPDX-License-Identifier: GPL-2.0-only
"""Callers in other files of what livepatch cannot redirect.

A changed global function without fentry (all of lib/, for example) goes on being called in its old
form unless every caller is replaced.  Who calls it is read from the stock image, branch by branch;
which source files the callers come from is found by compiling those that name the function, and
proven by matching them.  What cannot be found in full is refused.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.unit import diff
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.redirects import find_called_only
from ksplicd.create.objects.index import ObjectIndex, code_section_of, relocations_in
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.elf import Symbol, read_object
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX

MAX_UNITS: Final = 24
"""Source files to compile for one function; lib/'s workhorses have hundreds of callers."""

_BRANCH: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]", re.DOTALL)
"""call, jmp and jcc with a 32-bit displacement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """All units, those that were found added, and the functions that they call in new form."""

    changes: tuple[UnitChange, ...]
    """Those that were there first, in their order."""
    aliases: Mapping[str, str]
    """By function that cannot be redirected."""


def branches_to(image: KernelImage, symbols: SymbolMap, address: int) -> list[int]:
    """Return the addresses in the image's text from which code branches to ``address``."""
    (low,), (high,) = symbols.addresses("_stext"), symbols.addresses("_etext")
    text = image.read(low, high - low)
    assert text is not None
    found = []
    for m in _BRANCH.finditer(text):
        end = m.end() + 4
        if end <= len(text) and low + end + struct.unpack_from("<i", text, m.end())[0] == address:
            found.append(low + m.start())
    return found


def is_address_kept(image: KernelImage, address: int) -> bool:
    """Tell whether the image holds the address itself: as a pointer, or in an instruction."""
    return struct.pack("<Q", address) in image.data


class _Search:
    def __init__(self, kbuild: Kbuild, kernel: StockKernel) -> None:
        self.kbuild, self.kernel = kbuild, kernel

    def find(self, unit: Unit, s: Symbol) -> dict[Unit, UnitChange]:
        """Return the units that call ``s``, which ``unit`` defines, with their callers."""
        address, vmlinux = self.address_of(unit, s), self.kernel.vmlinux
        is_built_in = self.kernel.units[unit.source].target == VMLINUX
        if not is_built_in or is_address_kept(vmlinux.image, address):
            raise self.refused(unit, s, "its address is kept in data")
        if importers := self.kernel.importers(s.name):
            raise self.refused(unit, s, f"modules call it ({', '.join(importers[:3])})")
        left = set(branches_to(vmlinux.image, vmlinux.symbols, address))
        left -= self.covered(unit)
        found: dict[Unit, UnitChange] = {}
        for other in self.candidates(unit, s.name, bool(left)):
            if not left:
                break
            taken = self.callers_in(other, s.name)
            if taken is not None:
                found[other] = taken
                left -= self.covered(other)
        if left:
            names = sorted({vmlinux.symbols.function_at(a) for a in left})
            raise self.refused(unit, s, f"it is called from {', '.join(names[:4])}, whose source"
                                        " files were not found")  # fmt: skip
        return found

    def address_of(self, unit: Unit, s: Symbol) -> int:
        address = self.kernel.units[unit.source].address_of(s.name)
        if address is None:  # ftrace_free_init_mem, of whose section nothing else was matched
            raise self.refused(unit, s, "the stock image does not tell where it is")
        return address

    def covered(self, unit: Unit) -> set[int]:
        """Return every address of the functions that a matched unit has in the image."""
        return {a for r in self.kernel.units[unit.source].function_ranges for a in r}

    def candidates(self, unit: Unit, name: str, is_needed: bool) -> Iterable[Unit]:  # noqa: FBT001
        """Return the built-in units, other than the function's own, whose source names it."""
        if not is_needed:
            return []
        word = re.compile(rb"\b%s\b" % re.escape(name.encode()))
        found = []
        for listed in self.kbuild.tree.listing.values():
            path = self.kbuild.tree.source.root / listed.source
            if listed.module or listed.source == unit.source or not path.exists():
                continue
            if word.search(path.read_bytes()):
                found.append(listed.unit)
        if len(found) > MAX_UNITS:
            raise UnsupportedChangeError(
                f"{unit.source}: {name}: a function without fentry cannot be redirected, and"
                f" {len(found)} files call it; change its callers instead, or give them a changed"
                " copy under another name"
            )
        return found

    def callers_in(self, unit: Unit, name: str) -> UnitChange | None:
        """Return ``unit``, unchanged, with the functions that call ``name`` to be replaced."""
        plain = self.kbuild.compile_plain([unit])[unit]
        obj = read_object(plain.read_bytes(), unit.object)
        if not any(s.is_undefined and s.name == name for s in obj.symbols):
            return None
        sizes = self.kbuild.entry_sizes(unit)
        self.kernel.add_unit(unit.source, ObjectIndex(obj, sizes), None)
        split = self.kbuild.compile_split_cached([unit])[unit].read_bytes()
        same = diff(*(index_separated(read_object(split, unit.object), sizes) for _ in range(2)))
        callers = {}
        for f in same.post.obj.functions():
            section = code_section_of(f)
            for r in relocations_in(f):
                if r.symbol.is_undefined and r.symbol.name == name:
                    if not same.post.is_branch(section, r):
                        raise self.refused(unit, f, f"it takes the address of {name}")
                    callers[f] = f"calls {name}, which livepatch cannot redirect"
        return UnitChange.of(unit.source, same).with_changed(callers)

    @staticmethod
    def refused(unit: Unit, s: Symbol, why: str) -> UnsupportedChangeError:
        return UnsupportedChangeError(
            f"{unit.source}: {s.name}: a function without fentry cannot be redirected, and {why};"
            " change its callers instead, or give them a changed copy under another name"
        )


def take_in_callers(
    changes: Sequence[UnitChange],
    kbuild: Kbuild,
    kernel: StockKernel,
    aliases: Aliases,
) -> TakenIn:
    """Find the callers in other files of every changed function that cannot be redirected.

    The source tree must be as it was found.  A function of which not all of them are found, or too
    many, is left to a kprobe where one may be; otherwise raises ``UnsupportedChangeError`` naming
    the function.
    """
    named: dict[str, str] = {}
    search = _Search(kbuild, kernel)
    by_unit = {Unit(c.unit): c for c in changes}
    todo = dict.fromkeys(by_unit)
    while todo:
        unit, _ = todo.popitem()
        difference, stock = by_unit[unit].difference, kernel.units[unit.source]
        for s in find_called_only(difference, stock.traceable):
            if s.name in named:
                continue
            try:
                callers = search.find(unit, s)
            except UnsupportedChangeError:
                if difference.twins.pre_of[s].name in stock.probeable:
                    continue
                raise
            named[s.name] = aliases.for_function()
            for other, taken in callers.items():
                known = by_unit.get(other)
                by_unit[other] = taken if known is None else _joined(known, taken)
                todo[other] = None
    return TakenIn(changes=tuple(by_unit.values()), aliases=named)


def _joined(known: UnitChange, taken: UnitChange) -> UnitChange:
    """Return a unit's change with the callers found in the unit as it was."""
    by_name = {f.name: f for f in known.difference.post.obj.functions()}
    callers = taken.difference.changed.items()
    return known.with_changed({by_name[f.name]: why for f, why in callers if f.name in by_name})
