# SPDX-License-Identifier: GPL-2.0-only
"""Callers in other files of what livepatch cannot redirect.

A changed global function without fentry (all of lib/, for example) goes on being called in its old
form unless every caller is replaced.  Who calls it is read from the stock image, branch by branch;
which source files the callers come from is found by compiling those that name the function, and
proven by matching them.  What cannot be found in full is refused.

With earlier updates (``--series``), callers are taken in as these have left them, and so are those
that call the function only since then: as far as the source files that they change name it.
"""

import contextlib
import re
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.units import Unit
from ksplicd.create.debug import phase
from ksplicd.create.diff.as_built import name_as_built
from ksplicd.create.diff.difference import Difference, UnitChange
from ksplicd.create.diff.earlier import with_stale
from ksplicd.create.diff.unit import diff
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.redirects import find_called_only
from ksplicd.create.objects.index import ObjectIndex, code_section_of, relocations_in
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.kernel import StockKernel, UnitKey
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.create.stock.unit import StockUnit
from ksplicd.elf.model import Symbol
from ksplicd.elf.read import read_object
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX

LOG: Final = phase("cut")

MAX_UNITS: Final = 24
"""Source files to compile for one function; lib/'s workhorses have hundreds of callers."""

_BRANCH: Final = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]", re.DOTALL)
"""call, jmp and jcc with a 32-bit displacement."""
_DISPLACEMENT: Final = struct.Struct("<i")
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """All units, those that were found added, and the functions that they call in new form."""

    changes: tuple[UnitChange, ...]
    """Those that were there first, in their order."""
    aliases: Mapping[str, str]
    """By function that cannot be redirected."""


class Branches:
    """Every branch in the image's text, read once."""

    def __init__(self, image: KernelImage, symbols: SymbolMap) -> None:
        (low,), (high,) = symbols.addresses("_stext"), symbols.addresses("_etext")
        text = image.read(low, high - low)
        assert text is not None
        self._at, self._to = array("Q"), array("Q")
        for m in _BRANCH.finditer(text, 0, len(text) - 4):
            end = m.end() + 4
            if end <= len(text):
                self._at.append(low + m.start())
                self._to.append((low + end + _DISPLACEMENT.unpack_from(text, m.end())[0]) & _MASK)

    def to(self, address: int) -> list[int]:
        """Return the addresses from which code branches to ``address``."""
        found, start = [], 0
        with contextlib.suppress(ValueError):
            while True:
                start = self._to.index(address, start) + 1
                found.append(self._at[start - 1])
        return found


def is_address_kept(image: KernelImage, address: int) -> bool:
    """Tell whether the image holds the address itself: as a pointer, or in an instruction."""
    return struct.pack("<Q", address) in image.data


class _Search:
    """Finds the callers of one function after the other."""

    def __init__(self, pre_state: PreState, kernel: StockKernel) -> None:
        self.pre_state, self.kbuild, self.kernel = pre_state, pre_state.kbuild, kernel
        self._known: dict[tuple[str, str], list[UnitChange]] = {}

    def find(self, unit: StockUnit, s: Symbol) -> list[UnitChange]:
        """Return the units that call ``s``, which ``unit`` defines, with their callers."""
        key = unit.source, s.name
        if key not in self._known:
            self._known[key] = self._find(unit, s)
        return self._known[key]

    def _find(self, unit: StockUnit, s: Symbol) -> list[UnitChange]:
        address, vmlinux = unit.address_of(s.name), self.kernel.vmlinux
        if address is None:  # ftrace_free_init_mem, of whose section nothing else was matched
            raise refused(unit.source, s, "the stock image does not tell where it is")
        if unit.target != VMLINUX or is_address_kept(vmlinux.image, address):
            raise refused(unit.source, s, "its address is kept in data")
        if importers := self.kernel.importers(s.name):
            raise refused(unit.source, s, f"modules call it ({', '.join(importers[:3])})")
        left = set(self._branches.to(address))
        left -= addresses_in(unit)
        found = []
        for other in self.candidates(unit.source, s.name) if left or self.pre_state.before else ():
            if not left and self.pre_state.changed_text(other.source) is None:
                continue
            taken = self.callers_in(other, s.name)
            if taken is not None:
                found.append(taken)
                left -= addresses_in(self.kernel.units[taken.key])
        if left:
            names = sorted({vmlinux.symbols.function_at(a) for a in left})
            raise refused(unit.source, s, f"it is called from {', '.join(names[:4])}, whose source"
                                          " files were not found")  # fmt: skip
        return found

    @cached_property
    def _branches(self) -> Branches:
        return Branches(self.kernel.vmlinux.image, self.kernel.vmlinux.symbols)

    def candidates(self, source: str, name: str) -> list[Unit]:
        """Return the built-in units whose source names a function, which ``source`` defines."""
        word = re.compile(rb"\b%s\b" % re.escape(name.encode()))
        found = []
        for listed in self.kbuild.tree.listing.values():
            path = self.kbuild.tree.source.root / listed.source
            if listed.module or listed.source == source or not path.exists():
                continue
            changed = self.pre_state.changed_text(listed.source) or b""
            if word.search(path.read_bytes()) or word.search(changed):
                found.append(listed.unit)
        if len(found) > MAX_UNITS:
            raise UnsupportedChangeError(
                f"{source}: {name}: a function without fentry cannot be redirected, and"
                f" {len(found)} files call it; change its callers instead, or give them a changed"
                " copy under another name"
            )
        return found

    def callers_in(self, unit: Unit, name: str) -> UnitChange | None:
        """Return ``unit``, unchanged, with the functions that call ``name`` to be replaced."""
        plain = self.kbuild.compile_plain([unit])[unit]
        obj = read_object(plain.read_bytes(), unit.object)
        is_changed = self.pre_state.changed_text(unit.source) is not None
        if not is_changed and not any(s.is_undefined and s.name == name for s in obj.symbols):
            return None
        sizes = self.kbuild.entry_sizes(unit)
        self.kernel.add_unit(unit.source, ObjectIndex(obj, sizes), None)
        same = self.unchanged(unit, sizes)
        callers = {}
        for f in same.post.obj.functions():
            section = code_section_of(f)
            if is_boot_section(section):  # it has run, and is gone
                continue
            for r in relocations_in(f):
                if r.symbol.is_undefined and r.symbol.name == name:
                    if not same.post.is_branch(section, r):
                        raise refused(unit.source, f, f"it takes the address of {name}")
                    callers[f] = f"calls {name}, which livepatch cannot redirect"
        if not callers and not is_changed:
            return None
        return UnitChange.of(unit.source, same).with_changed(callers)

    def unchanged(self, unit: Unit, sizes: EntrySizes) -> Difference:
        """Return the difference of a unit of vmlinux that stays as it is before the change."""
        split = self.pre_state.compile_split([unit])[unit].read_bytes()
        both = [index_separated(read_object(split, unit.object), sizes) for _ in range(2)]
        if not self.pre_state.before:
            return diff(*both)
        data = self.kbuild.compile_split_cached([unit])[unit].read_bytes()
        stock = index_separated(read_object(data, unit.object), sizes)
        name_as_built(stock, both[0])
        return with_stale(
            diff(*both), stock, self.pre_state.series.redirected(unit.source, VMLINUX)
        )


def addresses_in(unit: StockUnit) -> set[int]:
    """Return every address of the functions that a unit has in the stock image."""
    return {a for r in unit.function_ranges for a in r}


def refused(source: str, s: Symbol, why: str) -> UnsupportedChangeError:
    """Return the refusal of a function whose callers cannot all be replaced."""
    return UnsupportedChangeError(
        f"{source}: {s.name}: a function without fentry cannot be redirected, and {why};"
        " change its callers instead, or give them a changed copy under another name"
    )


def take_in_callers(
    changes: Sequence[UnitChange],
    pre_state: PreState,
    kernel: StockKernel,
    aliases: Aliases,
) -> TakenIn:
    """Find the callers in other files of every changed function that cannot be redirected.

    The source tree must be as it was found.  A function of which not all of them are found, or too
    many, is left to a kprobe where one may be; otherwise raises ``UnsupportedChangeError`` naming
    the function.
    """
    search = _Search(pre_state, kernel)
    left: set[str] = set()
    while (found := closure(changes, kernel.units, search.find, left)) is None:
        pass
    taken, named = found
    return TakenIn(
        changes=tuple(taken.values()), aliases={name: aliases.for_function() for name in named}
    )


def closure(
    changes: Sequence[UnitChange],
    units: Mapping[UnitKey, StockUnit],
    find: Callable[[StockUnit, Symbol], Sequence[UnitChange]],
    left: set[str],
) -> tuple[dict[UnitKey, UnitChange], list[str]] | None:
    """Return all units, by key, and the functions that are called by another name.

    ``find`` returns the units that call a function, or raises ``UnsupportedChangeError``.
    ``left``: the functions that are left to a kprobe.  Returns None when there is one more: what
    else would be called by another name because of it need not be.
    """
    named: list[str] = []
    found = {c.key: c for c in changes}
    todo = dict.fromkeys(found)
    refusal: UnsupportedChangeError | None = None
    while todo:
        key, _ = todo.popitem()
        difference, unit = found[key].difference, units[key]
        for s in find_called_only(difference, unit.traceable, unit.probeable, left):
            if s.name in named:
                continue
            try:
                callers = find(unit, s)
            except UnsupportedChangeError as e:
                if difference.twins.pre_of[s].name in unit.probeable:
                    left.add(s.name)
                    return None
                refusal = refusal or e  # unless another one's kprobe makes it needless
                continue
            named.append(s.name)
            for taken in callers:
                LOG.debug("%s: takes in callers of %s in %s", unit.source, s.name, taken.unit)
                known = found.get(taken.key)
                found[taken.key] = taken if known is None else _joined(known, taken)
                todo[taken.key] = None
    if refusal is not None:
        raise refusal
    return found, named


def _joined(known: UnitChange, taken: UnitChange) -> UnitChange:
    """Return a unit's change with the callers found in the unit as it was."""
    by_name = {f.name: f for f in known.difference.post.obj.functions()}
    callers = taken.difference.changed.items()
    return known.with_changed({by_name[f.name]: why for f, why in callers if f.name in by_name})
