# SPDX-License-Identifier: GPL-2.0-only
"""Functions in whose place the patch's tables name others, redirected themselves.

A table may have been copied: sysctl tables of network namespaces, ``struct dst_ops``.  Where
nothing but the exchanged pointers leads to the old function, it can be led to the new one as any
changed function, which reaches every copy and comes back whole.  Nothing else may lead there:

- in the objects of the units that change, before and after (a wrapper that calls the old function
  would call itself);
- in the stock kernel, which is searched for its address;
- elsewhere: what is exported any module may call, and what earlier updates (``--series``) name.

Whether a pointer may be exchanged in place instead is not known here (``exchanged.py``).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ksplicd.create.build.pre_state import PreState
from ksplicd.create.diff.difference import Succession, UnitChange
from ksplicd.create.diff.pointers import PointerChange
from ksplicd.create.diff.twins import is_numbered
from ksplicd.create.messages import names_of
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.unit import StockUnit
from ksplicd.elf.model import STB_LOCAL, Section, Symbol
from ksplicd.elf.read import read_object
from ksplicd.model import VMLINUX


class NoSuccessionError(Exception):
    """Why a function cannot be led to the one that tables name in its place."""


@dataclass(frozen=True, slots=True)
class _Old:
    """A function that tables no longer name."""

    change: UnitChange
    symbol: Symbol
    """In the pre object."""
    pointers: Sequence[PointerChange]

    @property
    def name(self) -> str:
        """The name that it has in the source."""
        return self.symbol.name

    @property
    def new(self) -> Symbol:
        """What the first of the tables names instead."""
        return self.pointers[0].new


def by_old(change: UnitChange) -> dict[Symbol, list[PointerChange]]:
    """Return the pointers of a unit's tables that change, by the function that they lead to."""
    found: dict[Symbol, list[PointerChange]] = defaultdict(list)
    for p in change.difference.pointers:
        if p.old is not None:
            found[p.old].append(p)
    return dict(found)


class Successions:
    """Decides for one function after the other."""

    def __init__(
        self, changes: Sequence[UnitChange], pre_state: PreState, kernel: StockKernel
    ) -> None:
        """The source tree must be as it was found whenever this is asked."""
        self.changes, self.pre_state, self.kernel = changes, pre_state, kernel

    def find(
        self, change: UnitChange, symbol: Symbol, pointers: Sequence[PointerChange]
    ) -> Succession:
        """Return how a function is led to another one.  Raises ``NoSuccessionError``."""
        old = _Old(change, symbol, pointers)
        self.check_new(old)
        self.check_old(old)
        self.check_objects(old)
        self.check_stock(old)
        unit = self.unit_of(old)
        if old.symbol.section is None and _is_listed(unit.plain, old.name):
            raise NoSuccessionError(f"{old.name} is exported, and any module may call it")
        if unit.address_of(old.name) is None or old.name in unit.overridden:
            raise NoSuccessionError(f"the stock kernel has another {old.name}")
        if old.name not in unit.traceable:
            raise NoSuccessionError(f"{old.name} begins without fentry")
        tables = tuple(dict.fromkeys(p.datum.name for p in pointers))
        return Succession(
            old=old.name,
            sympos=unit.sympos(old.name),
            unit=unit.source,
            new=old.new,
            tables=tables,
            reason=f"{old.new.name} takes its place in {names_of(tables)}",
        )

    # --- the two functions ----------------------------------------------------------------------

    def check_new(self, old: _Old) -> None:
        """Check that all tables name the same new function, to which livepatch can lead."""
        new = list(dict.fromkeys(p.new for p in old.pointers))
        if len(new) > 1:
            names = names_of(s.name for s in new)
            raise NoSuccessionError(f"tables name different functions in its place: {names}")
        unit = self.kernel.units[old.change.key]
        if new[0].section is not None:
            if not new[0].is_function or is_boot_section(new[0].section):
                raise NoSuccessionError(f"{new[0].name} is no function that stays")
        elif new[0].name not in old.change.borrowed:
            link = unit.livepatch_symbol(new[0].name, is_local=False) or ""
            is_late = not link.startswith(f".klp.sym.{VMLINUX}.")
            if is_late and not unit.is_exported(new[0].name):
                raise NoSuccessionError(f"{new[0].name} is in another file of a module")
            if not unit.is_function(new[0].name):
                raise NoSuccessionError(f"{new[0].name} may be no function")

    def check_old(self, old: _Old) -> None:
        """Check that the old function is one that nobody has beyond what can be searched."""
        s, d = old.symbol, old.change.difference
        if s.section is not None and (not s.is_function or is_boot_section(s.section)):
            raise NoSuccessionError(f"{s.name} is no function that stays")
        if is_numbered(s) or len(_names_at(d.pre, s)) > 1:
            raise NoSuccessionError(f"{s.name} is not its only name")
        if d.twins.post_of.get(s) in d.changed:
            raise NoSuccessionError(f"{s.name} itself changes, too")
        if s.bind == STB_LOCAL and s.section is not None:
            return
        exports = self.kernel.vmlinux.exports
        if s.name in exports.vmlinux or s.name in exports.modules:
            raise NoSuccessionError(f"{s.name} is exported, and any module may call it")
        word = re.compile(rb"\b%s\b" % re.escape(s.name.encode()))
        for f in self.pre_state.before:
            if str(f.path) != old.change.unit and f.content and word.search(f.content):
                raise NoSuccessionError(f"an earlier update changes {f.path}, which names {s.name}")

    # --- who leads there ------------------------------------------------------------------------

    def check_objects(self, old: _Old) -> None:
        """Check the objects of all units that change, before and after."""
        d, s = old.change.difference, old.symbol
        expected = {
            (table.section, table.value + p.offset)
            for p in old.pointers for table in (d.twins.pre_of[p.datum],)
        }  # fmt: skip
        for owner, offset, user in references_in(d.pre, s):
            if (owner, offset) not in expected:
                raise NoSuccessionError(f"{user} leads to {s.name}, too")
        twin = d.twins.post_of.get(s)
        after = twin if twin is not None else Symbol(s.name) if s.section is None else None
        for _, _, user in references_in(d.post, after) if after is not None else ():
            raise NoSuccessionError(f"with the patch {user} still leads to {s.name}")
        if s.bind == STB_LOCAL and s.section is not None:
            return
        for other in self.changes:
            is_same = other is old.change or other.unit == old.change.unit
            for index in () if is_same else (other.difference.pre, other.difference.post):
                for _, _, user in references_in(index, Symbol(s.name)):
                    raise NoSuccessionError(f"{user} of {other.unit} leads to {s.name}, too")

    def check_stock(self, old: _Old) -> None:
        """Check that the stock kernel has nothing but the tables' pointers that leads there."""
        unit, twins = self.kernel.units[old.change.key], old.change.difference.twins
        address = self.address_of(unit, old.symbol)
        places = set()
        for p in old.pointers:
            table = self.address_of(unit, twins.pre_of[p.datum])
            if table is None or address is None or is_numbered(p.datum):
                raise NoSuccessionError("the stock kernel does not tell where both lie")
            places.add(table + p.offset)
        assert address is not None
        found = set(unit.references_to(address))
        own = range(address, address + max(old.symbol.size, 1))
        left = sorted(at for at in found - places if at not in own)
        if left:
            where = unit.symbols.function_at(left[0])
            raise NoSuccessionError(f"{where} of the stock kernel ({left[0]:#x}) leads there, too")
        if not places <= found:
            raise NoSuccessionError("the stock kernel's tables do not lead there")

    def address_of(self, unit: StockUnit, s: Symbol) -> int | None:
        """Return where the stock kernel has a pre symbol of a unit, None when that is not known."""
        if s.section is None:
            return unit.address_of(s.name) or unit.symbols.global_address(s.name)
        known = unit.address_of(s.name)
        if known is not None or not unit.symbols.is_unique(s.name):
            return known
        return unit.symbols.addresses(s.name)[0]

    # --- the unit of the old function -----------------------------------------------------------

    def unit_of(self, old: _Old) -> StockUnit:
        """Return the unit that has the old function, which is found by compiling, and matched."""
        own = self.kernel.units[old.change.key]
        if old.symbol.section is not None:
            return own
        for unit in self.kernel.units.values():
            if unit.target == own.target and _defines(unit.plain, old.name):
                return unit
        kbuild, word = self.pre_state.kbuild, old.name.encode()
        for listed in kbuild.tree.listing.values():
            path = kbuild.tree.source.root / listed.source
            is_ours = own.target in listed.targets
            if not is_ours or not path.exists() or word not in path.read_bytes():
                continue
            plain = kbuild.compile_plain([listed.unit])[listed.unit]
            obj = read_object(plain.read_bytes(), listed.unit.object)
            index = ObjectIndex(obj, kbuild.entry_sizes(listed.unit))
            if _defines(index, old.name):
                module = None if own.target == VMLINUX else own.target
                return self.kernel.add_unit(listed.source, index, module)
        raise NoSuccessionError(f"the source file of {old.name} was not found")


def references_in(index: ObjectIndex, s: Symbol) -> Iterator[tuple[Section, int, str]]:
    """Yield (section, offset, user) of what leads to a symbol, or to an undefined one's name."""
    for owner in index.obj.sections:
        if not owner.is_alloc or is_special_section(owner) or owner.name.startswith(".discard"):
            continue
        for r in owner.relocations:
            target = index.locate(owner, r).symbol
            if target is None or not _is_same(target, s):
                continue
            user = index.symbol_at(owner, r.offset)
            if user is None or not _is_same(user, s):
                yield owner, r.offset, user.name if user is not None else owner.name


def _is_same(a: Symbol, b: Symbol) -> bool:
    if a.section is None or b.section is None:
        return a.name == b.name and (a.section is None or a.bind != STB_LOCAL)
    return (a.section, a.value) == (b.section, b.value)


def _names_at(index: ObjectIndex, s: Symbol) -> list[str]:
    if s.section is None:
        return [s.name]
    return [x.name for x in index.symbols_in(s.section) if x.value == s.value and x.is_function]


def _is_listed(index: ObjectIndex, name: str) -> bool:
    """Tell whether a function of a plain object is exported, in a namespace perhaps."""
    lists = (s for s in index.obj.sections if "ksymtab" in s.name or s.name == ".export_symbol")
    return any(index.locate(s, r).symbol is f for s in lists for r in s.relocations
               for f in index.obj.functions() if f.name == name)  # fmt: skip


def _defines(index: ObjectIndex, name: str) -> bool:
    return any(f.name == name and f.bind != STB_LOCAL for f in index.obj.functions())
