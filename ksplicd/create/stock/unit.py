# SPDX-License-Identifier: GPL-2.0-only
"""One touched unit in the stock kernel: where it lies, and what its new code can name.

New code links exported symbols by name, which the kernel checks by CRC.  All others are named by
livepatch symbols, whose position among equal names comes from where the stock kernel has them.
Nothing is matched here (``match.py``).
"""

from dataclasses import dataclass

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.stock.match import UnitMatch
from ksplicd.create.stock.module import StockModule
from ksplicd.create.stock.references import (
    code_of,
    freed_of,
    is_operand,
    lists_of,
    references_to,
)
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.create.stock.vmlinux import StockVmlinux
from ksplicd.elf.model import STB_LOCAL, Symbol
from ksplicd.errors import ImageMismatchError
from ksplicd.model import VMLINUX


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StockUnit:
    """One touched unit, and the stock kernel around it."""

    source: str
    vmlinux: StockVmlinux
    module: StockModule | None
    """The module that the unit belongs to, None when it is built in."""
    plain: ObjectIndex
    """The unit's object as the kernel was built from it."""
    match: UnitMatch
    by_name: dict[str, Symbol]
    """The symbols of the unit's plain pre object."""
    traceable: frozenset[str]
    """Functions that start with a call of fentry, as livepatch needs it."""
    probeable: frozenset[str]
    """Functions that a kprobe may redirect."""

    @property
    def target(self) -> str:
        """What the unit is part of: ``vmlinux`` or a module."""
        return VMLINUX if self.module is None else self.module.name

    @property
    def symbols(self) -> SymbolMap:
        """The symbols of the target."""
        return self.vmlinux.symbols if self.module is None else self.module.symbols

    @property
    def overridden(self) -> frozenset[str]:
        """The unit's weak functions in whose place the kernel has another file's."""
        return frozenset(f.name for f in self.match.overridden)

    @property
    def function_ranges(self) -> list[range]:
        """Where the unit's functions lie in the stock image."""
        functions = self.match.functions
        return [range(address, address + f.size) for f, address in functions.items()]

    def address_of(self, name: str) -> int | None:
        """Return the address in the stock image of what the unit defines or uses."""
        symbol = self.by_name.get(name)
        return self.match.address_of(symbol) if symbol is not None else None

    def references_to(self, address: int) -> list[int]:
        """Return where code or data of the target refer to an address.

        Calls of code that is gone when the target runs are left out.
        """
        if self.module is not None:
            return references_to(self.module.image, address, freed=self.module.freed)
        symbols, image = self.vmlinux.symbols, self.vmlinux.image

        def is_field(at: int) -> bool:
            return is_operand(image, symbols, at)

        return references_to(
            image, address, code_of(symbols), lists_of(symbols), freed_of(symbols), is_field
        )

    def is_exported(self, name: str) -> bool:
        """Tell whether every module may link to ``name``."""
        return name in self.vmlinux.exports.vmlinux

    def is_function(self, name: str) -> bool:
        """Tell whether vmlinux has a function of this name and nothing else."""
        return name in self.vmlinux.functions

    def is_sealed(self, symbol: str) -> bool:
        """Tell whether a livepatch symbol is a function that must not be called by pointers."""
        return self.vmlinux.is_sealed(symbol)

    def livepatch_symbol(self, name: str, *, is_local: bool) -> str | None:
        """Return the livepatch symbol for ``name``, None when the kernel has no such symbol.

        ``is_local``: the symbol that the unit defines for itself; otherwise the global one.
        """
        if self.module is not None:
            found = self._module_symbol(self.module, name, is_local=is_local)
            if found is not None:
                return found
        position = self._vmlinux_position(name, is_local=is_local)
        return None if position is None else f".klp.sym.vmlinux.{name},{position}"

    def sympos(self, name: str) -> int:
        """Return the position in kallsyms of a symbol of the unit's target; 0 when unique.

        Raises ``ImageMismatchError`` when the target has no such symbol.
        """
        if self.module is not None:
            addresses = self.module.symbols.addresses(name)
            address = self.address_of(name)
            if address is None and len(addresses) == 1:
                address = addresses[0]
            position = None if address is None else self._own_position(self.module, name, address)
        else:
            position = self._vmlinux_position(name, is_local=True)
        if position is None:
            raise ImageMismatchError(
                f"{self.source}: {name}: kallsyms of {self.target} do not tell where it is"
            )
        return position

    def _module_symbol(self, module: StockModule, name: str, *, is_local: bool) -> str | None:
        """Return the livepatch symbol of what the module defines or has from another one."""
        symbols = module.symbols
        if self._defines(name, is_local=is_local):
            return f".klp.sym.{module.name}.{name},{self.sympos(name)}"
        if is_local:
            return None
        if (address := symbols.global_address(name)) is not None:
            return f".klp.sym.{module.name}.{name},{self._own_position(module, name, address)}"
        owner = self.vmlinux.exports.modules.get(name)
        if owner is not None and (symbols.is_import(name) or owner in module.depends):
            # Of a module that ours depends on: found when ours is patched, so it goes with ours.
            return f".klp.sym@{module.name}@{owner}.{name},0"
        return None

    def _own_position(self, module: StockModule, name: str, address: int) -> int | None:
        """Return the position in a module of what it has at ``address``."""
        position = module.symbols.own_position(name, address)
        if position is None and address in module.symbols.addresses(name):
            raise ImageMismatchError(
                f"{self.source}: {name}: {module.name} also has an init symbol of this name, which"
                " livepatch would take for it in a module that is being loaded; leave what uses it"
                " as it is, or fix this at the next boot"
            )
        return position

    def _vmlinux_position(self, name: str, *, is_local: bool) -> int | None:
        """Return the position in vmlinux of a symbol of the unit, or of a global one."""
        symbols = self.vmlinux.symbols
        known = self.address_of(name) if self.module is None else None
        if self._defines(name, is_local=is_local):
            address = known
            if address is None and symbols.is_unique(name):
                return 0
        elif is_local:
            return None
        elif self._defines(name, is_local=True):  # a static one, which is not meant
            address = symbols.global_address(name)
        else:
            address = known or symbols.global_address(name)
        return None if address is None else symbols.position(name, address)

    def _defines(self, name: str, *, is_local: bool) -> bool:
        """Tell whether a name is that of what the unit itself defines.

        Another file's static symbol may have it too, and so may a global one.
        """
        symbol = self.by_name.get(name)
        return (
            symbol is not None
            and symbol.section is not None
            and (is_local or symbol.bind != STB_LOCAL)
        )
