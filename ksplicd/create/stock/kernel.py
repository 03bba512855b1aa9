# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel as the create side knows it: vmlinux, its modules, and the units in them.

What one unit can name is known to ``unit.py``.
"""

from collections import defaultdict
from functools import cached_property

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.patchable import probeable_functions, traceable_functions
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.match import match_unit
from ksplicd.create.stock.module import (
    StockModule,
    find_stock_module,
    read_stock_module,
    stock_modules,
)
from ksplicd.create.stock.unit import StockUnit
from ksplicd.create.stock.vmlinux import read_vmlinux
from ksplicd.elf.at_a_glance import read_imports
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import VMLINUX, Kernel

UnitKey = tuple[str, str]
"""The source of a unit and its target: several modules may have an object."""


class StockKernel:
    """vmlinux, those modules that were needed, and where the touched units lie in them."""

    def __init__(self, config: ConfigDir) -> None:
        """Read the image.

        Raises ``ConfigDirError`` when the parts of ``config`` do not belong together.
        """
        self._config = config
        self.vmlinux = read_vmlinux(config)
        self._modules: dict[str, StockModule] = {}
        self.units: dict[UnitKey, StockUnit] = {}
        """The units added so far."""

    @property
    def identity(self) -> Kernel:
        """What tells this kernel from all others."""
        return self.vmlinux.identity

    def add_unit(self, source: str, plain: ObjectIndex, module_name: str | None) -> StockUnit:
        """Match the plain pre object of a unit, and return the unit.

        ``module_name``: the module that it belongs to, None when it is built in.  Raises
        ``ImageMismatchError`` when the object is not what the stock image or module was built
        from, ``UnsupportedChangeError`` when neither has any of it, ``ConfigDirError`` when the
        module is not there.
        """
        obj = plain.obj
        module = None if module_name is None else self._module(module_name)
        target = self.vmlinux if module is None else module
        if not any(target.symbols.addresses(f.name) for f in obj.functions()):
            raise UnsupportedChangeError(
                f"{source}: {module.name if module else VMLINUX} has none of its functions, so this"
                " kernel is configured without the file; leave it out of the patch"
            )
        unit = StockUnit(
            source=source,
            vmlinux=self.vmlinux,
            module=module,
            plain=plain,
            match=match_unit(obj, target.image, target.symbols),
            by_name={s.name: s for s in obj.symbols if s.name},
            traceable=traceable_functions(plain),
            probeable=probeable_functions(obj),
        )
        self.units[source, unit.target] = unit
        return unit

    def has_global(self, target: str, name: str) -> bool:
        """Tell whether the files of a target have or use a global symbol of this name."""
        symbols = self.vmlinux.symbols if target == VMLINUX else self._module(target).symbols
        return symbols.is_global(name)

    def importers(self, name: str) -> list[str]:
        """Return the stock modules that use an exported symbol."""
        return self._importers[name] if name in self.vmlinux.exports.vmlinux else []

    @cached_property
    def _importers(self) -> dict[str, list[str]]:
        """The modules that name each exported symbol of vmlinux.

        All modules are read once: most kernels have them compressed.
        """
        exported = self.vmlinux.exports.vmlinux
        found = defaultdict[str, list[str]](list)
        for module, data in sorted(stock_modules(self._config.modules)):
            for name in read_imports(data, module).intersection(exported):
                found[name].append(module)
        return found

    def _module(self, name: str) -> StockModule:
        if name not in self._modules:
            data = find_stock_module(self._config.modules, name)
            self._modules[name] = read_stock_module(data, name, self.vmlinux.symbols)
        return self._modules[name]
