# SPDX-License-Identifier: GPL-2.0-only
"""One unit before the referee: its plain objects, and where the running kernel has it.

Where a symbol of the plain pre object lies was found byte by byte in the stock kernel
(``stock/match.py``), and is proven again where the update is applied; it is taken for a fact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from ksplicd.create.referee.loosely import Difference, LooseComparison
from ksplicd.create.referee.nameless import Nameless
from ksplicd.create.referee.new_module import KernelName
from ksplicd.create.referee.pairs import pair
from ksplicd.create.referee.stays import Standing
from ksplicd.create.referee.view import View
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.create.stock.unit import StockUnit
from ksplicd.elf.model import STB_LOCAL, Object, Symbol
from ksplicd.model import VMLINUX


class RunningUnit(Protocol):
    """A unit in the running kernel, and the names of that kernel."""

    @property
    def overridden(self) -> frozenset[str]:
        """The unit's weak functions in whose place the kernel has another file's."""
        ...

    def address_of(self, symbol: Symbol) -> int | None:
        """Return the address of a symbol of the unit's plain object, None when it is unknown."""
        ...

    def addresses(self, where: str, name: str) -> list[int] | None:
        """Return all addresses of a name in ``vmlinux`` or a module, in kallsyms' order.

        None when the module is not the unit's own.
        """
        ...

    def global_address(self, where: str, name: str) -> int | None:
        """Return the address of the one that all files know by that name."""
        ...

    def references_to(self, address: int) -> list[int]:
        """Return where code or data of the target refer to an address."""
        ...

    def importers(self, name: str) -> list[str]:
        """Return the modules that use an exported symbol of vmlinux."""
        ...


class InStock:
    """A unit in the stock kernel."""

    def __init__(self, kernel: StockKernel, unit: StockUnit) -> None:
        self._kernel, self._unit = kernel, unit

    @property
    def overridden(self) -> frozenset[str]:
        """The unit's weak functions in whose place the kernel has another file's."""
        return self._unit.overridden

    def address_of(self, symbol: Symbol) -> int | None:
        """Return the address of a symbol of the unit's plain object, None when it is unknown."""
        return self._unit.match.address_of(symbol)

    def addresses(self, where: str, name: str) -> list[int] | None:
        """Return all addresses of a name in ``vmlinux`` or the unit's own module."""
        symbols = self._symbols(where)
        return None if symbols is None else symbols.addresses(name)

    def global_address(self, where: str, name: str) -> int | None:
        """Return the address of the one that all files know by that name."""
        symbols = self._symbols(where)
        return None if symbols is None else symbols.global_address(name)

    def references_to(self, address: int) -> list[int]:
        """Return where code or data of the target refer to an address."""
        return self._unit.references_to(address)

    def importers(self, name: str) -> list[str]:
        """Return the modules that use an exported symbol of vmlinux."""
        return self._kernel.importers(name) if self._unit.module is None else []

    def _symbols(self, where: str) -> SymbolMap | None:
        module = self._unit.module
        if where == VMLINUX:
            return self._unit.vmlinux.symbols
        return module.symbols if module is not None and where == module.name else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainUnit:
    """What is known of a unit."""

    source: str
    target: str
    """``vmlinux`` or a module."""
    sizes: Mapping[str, int]
    """Bytes an entry, by table about code."""
    running: Object
    """Its plain object as the stock kernel was built from it."""
    pre: Object
    """The same but with earlier updates (``--series``)."""
    post: Object
    unsplit: Object | None
    """The post object as the split one is made, but for its sections: where new code reads what the
    kernel patches into its own (static keys of modules, runtime constants); None elsewhere."""
    split_pre: Object | None
    """Where ``unsplit`` is not None: the object before the change, likewise made."""
    kernel: RunningUnit | None
    """None where nothing of it is replaced."""


class JudgedUnit:
    """A unit, with what follows from its objects."""

    def __init__(self, unit: PlainUnit) -> None:
        """Raises ``ElfError``."""
        self.source, self.target, self.kernel = unit.source, unit.target, unit.kernel
        is_module, sizes = unit.target != VMLINUX, unit.sizes
        self.standing = Standing(
            View(unit.pre, sizes), View(unit.post, sizes), is_module=is_module
        )  # fmt: skip
        self.new = self.standing.post
        """What new code is held against."""
        self.pairs = self.standing.pairs
        """Of the pre object and ``new``."""
        self.loosely: LooseComparison | None = None
        """Of plain post with ``new``, where that is not it."""
        if unit.unsplit is not None:
            self.new = View(unit.unsplit, sizes)
            self.pairs = pair(self.pre, self.new)
            self.loosely = LooseComparison(self.post, self.new, pair(self.post, self.new))
        self._split_pre, self._sizes = unit.split_pre, sizes
        self._stock_of = (
            None if unit.running is unit.pre
            else pair(View(unit.running, sizes), self.pre).pre_of
        )  # fmt: skip
        self.redirected: dict[Symbol, str] = {}
        """The pre functions that lead to new code, and how."""
        self.exchanged: dict[Symbol, set[int]] = {}
        """By pre table, the offsets of pointers, and of bytes of values, that are exchanged."""

    @cached_property
    def nameless(self) -> Nameless:
        """What ``new`` has without a name."""
        return Nameless(self.new)

    @property
    def pre(self) -> View:
        """The plain object before the change."""
        return self.standing.pre

    @property
    def post(self) -> View:
        """The plain object after the change."""
        return self.standing.post

    def made_otherwise(self, b: Symbol) -> list[Difference]:
        """Return what a function of ``new`` refers to otherwise than that of plain post.

        Texts and names of other files are left out of which the same is so before the change: the
        compiler has followed the ways through the function further in one of the objects, and saw
        that some are never taken, or has inlined otherwise.
        """
        if self.loosely is None or (in_post := self.loosely.pairs.pre_of.get(b)) is None:
            return []
        found = self.loosely.differences(in_post, b)
        if not any(d.is_of_source for d in found):
            return found
        known = self._made_otherwise_before(in_post)
        return [d for d in found if not d.is_of_source or d not in known]

    def _made_otherwise_before(self, in_post: Symbol) -> list[Difference]:
        in_pre = self.standing.pairs.pre_of.get(in_post)
        if in_pre is None or self._before is None:
            return []
        twin = self._before.pairs.post_of.get(in_pre)
        return self._before.differences(in_pre, twin) if twin is not None else []

    @cached_property
    def _before(self) -> LooseComparison | None:
        if self._split_pre is None:
            return None
        split = View(self._split_pre, self._sizes)
        return LooseComparison(self.pre, split, pair(self.pre, split))

    @cached_property
    def globals(self) -> dict[str, Symbol]:
        """What the unit gives to other units after the change, by name."""
        found = {}
        for s in self.new.obj.symbols:
            if s.section is not None and s.bind != STB_LOCAL and s.name:
                canonical = self.new.symbol_at(s.section, s.value)
                if canonical is not None and canonical.value == s.value:
                    found[s.name] = canonical
        return found

    @cached_property
    def old_globals(self) -> frozenset[str]:
        """The names of what the unit gave to other units before the change."""
        return frozenset(s.name for s in self.pre.obj.symbols if s.section and s.bind != STB_LOCAL)

    # --- the running kernel ---------------------------------------------------------------------

    def addresses_of(self, name: KernelName) -> list[int] | None:
        """Return the addresses that a name may mean in the unit's target or in vmlinux.

        None where its object is another module, whose addresses are not known.
        """
        found = self.kernel.addresses(name.object, name.name) if self.kernel else None
        if found is None:
            return None
        if not name.position:
            return found
        return found[name.position - 1 : name.position]

    def address_of(self, s: Symbol) -> int | None:
        """Return where the running kernel has a pre symbol, None where that is not known."""
        in_stock = s if self._stock_of is None else self._stock_of.get(s)
        if self.kernel is None or in_stock is None:
            return None
        return self.kernel.address_of(in_stock)

    @cached_property
    def by_address(self) -> dict[int, Symbol]:
        """The pre symbols by their addresses."""
        found = {}
        for s in self.pre.symbols():
            address = self.address_of(s)
            if address is not None and s.section is not None:
                found[address] = s
        return found

    def find(self, name: KernelName) -> Symbol | None:
        """Return the pre symbol that a name of the kernel means, None when it is none of them."""
        found = self.addresses_of(name) or []
        if len(found) != 1 or name.object not in (self.target, VMLINUX):
            return None
        known = self.by_address.get(found[0])
        if known is not None:
            return known
        # Data to which no function of the unit refers has no known address.
        places = [
            s for s in self.pre.symbols()
            if s.section is not None and name.name in self.pre.names[s.section, s.value]
        ]  # fmt: skip
        return places[0] if len(places) == 1 and self.address_of(places[0]) is None else None

    @cached_property
    def overridden(self) -> frozenset[str]:
        """The weak functions in whose place the kernel has another unit's."""
        return frozenset() if self.kernel is None else self.kernel.overridden
