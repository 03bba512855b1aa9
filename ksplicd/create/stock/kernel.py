# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel as the create side knows it: its image, its symbols, what it exports.

New code links exported symbols by name, which the kernel checks by CRC.  All others are named by
livepatch symbols, whose position among equal names comes from where the stock image has them.
"""

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.create.objects.patchable import probeable_functions, traceable_functions
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.old_code.sites import read_sites
from ksplicd.create.old_code.tables import OldUnit, write_old_code
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.image import Image, SymbolMap, read_image, read_system_map
from ksplicd.create.stock.match import UnitMatch, match_unit
from ksplicd.create.stock.module import (
    ModuleSymbols,
    StockModule,
    find_stock_module,
    read_stock_module,
    stock_modules,
)
from ksplicd.create.stock.symvers import read_exports, read_module_exports
from ksplicd.elf import Object, Symbol
from ksplicd.elf.model import STB_LOCAL
from ksplicd.errors import ConfigDirError, ImageMismatchError, UnsupportedChangeError
from ksplicd.model import VMLINUX, Kernel

_TEXT: Final = frozenset("tTwW")
"""Types of functions in a System.map, see nm(1)."""

_VMLINUX_SYMBOL: Final = re.compile(r"\.klp\.sym\.vmlinux\.(?P<name>.+),(?P<position>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One touched unit in the stock kernel."""

    target: str
    obj: Object
    match: UnitMatch
    traceable: frozenset[str]
    probeable: frozenset[str]
    by_name: dict[str, Symbol]


class StockKernel:
    """What new code can reach, and where the touched units lie in the stock image and modules."""

    def __init__(self, config: ConfigDir, sizes: EntrySizes) -> None:
        """Read the image.

        Raises ``ConfigDirError`` when the parts of ``config`` do not belong together.
        """
        self._config, self._sizes = config, sizes
        self.image = read_image(config.stock_image().read_bytes(), str(config.vmlinuz))
        text = config.system_map.read_text(errors="replace")
        symbols = read_system_map(text, str(config.system_map))
        self.symbols = SymbolMap(symbols)
        self._globals = {s.name: s.address for s in symbols if s.type.isupper()}
        self.identity = Kernel(
            release=config.release,
            build_id=self.image.build_id,
            version=check_banner(config, self.image, self.symbols),
        )
        other = {s.name for s in symbols if s.type not in _TEXT}
        self._functions = {s.name for s in symbols if s.type in _TEXT} - other
        self._exports = read_exports(config.build / "Module.symvers")
        self._modules: dict[str, StockModule] = {}
        self._units: dict[str, _Unit] = {}

    def add_unit(self, unit: str, obj: Object, module_name: str | None) -> None:
        """Match the plain pre object of ``unit``.

        ``module_name``: the module that it belongs to, None when it is built in.  Raises
        ``ImageMismatchError`` when the object is not what the stock image or module was built
        from, ``UnsupportedChangeError`` when neither has any of it, ``ConfigDirError`` when the
        module is not there.
        """
        target, image, symbols = VMLINUX, self.image, self.symbols
        if module_name is not None:
            module = self._module(module_name)
            target, image, symbols = module.name, module.image, module.symbols
        if not any(symbols.addresses(f.name) for f in obj.functions()):
            raise UnsupportedChangeError(
                f"{unit}: {target} has none of its functions, so this kernel is configured without"
                " the file; leave it out of the patch"
            )
        self._units[unit] = _Unit(
            target=target,
            obj=obj,
            match=match_unit(obj, image, symbols),
            traceable=traceable_functions(obj, self._sizes),
            probeable=probeable_functions(obj),
            by_name={s.name: s for s in obj.symbols if s.name},
        )

    def _module(self, name: str) -> StockModule:
        if name not in self._modules:
            data = find_stock_module(self._config.modules, name)
            self._modules[name] = read_stock_module(data, name, self.symbols)
        return self._modules[name]

    def target_of(self, unit: str) -> str:
        """Return what a unit is part of: ``vmlinux`` or a module."""
        return self._units[unit].target

    def has_global(self, target: str, name: str) -> bool:
        """Tell whether the files of a target have or use a global symbol of this name."""
        if target == VMLINUX:
            return name in self._globals
        return self._module(target).symbols.is_global(name)

    def overridden(self, unit: str) -> frozenset[str]:
        """Return the unit's weak functions in whose place the kernel has another file's."""
        return frozenset(f.name for f in self._units[unit].match.overridden)

    def is_exported(self, name: str) -> bool:
        """Tell whether every module may link to ``name``."""
        return name in self._exports

    def livepatch_symbol(self, unit: str, name: str, *, is_local: bool) -> str | None:
        """Return the livepatch symbol for ``name``, None when the kernel has no such symbol.

        ``is_local``: the symbol that ``unit`` defines for itself; otherwise the global one.
        """
        target = self._units[unit].target
        if target != VMLINUX:
            found = self._module_symbol(unit, name, is_local=is_local)
            if found is not None:
                return found
        position = self._position(unit, name, is_local=is_local)
        return None if position is None else f".klp.sym.vmlinux.{name},{position}"

    def _module_symbol(self, unit: str, name: str, *, is_local: bool) -> str | None:
        """Return the livepatch symbol of what the unit's module defines or has from another one."""
        target = self._units[unit].target
        symbols = self._symbols_of(target)
        assert isinstance(symbols, ModuleSymbols)
        if self._is_of_unit(unit, name, is_local=is_local):
            return f".klp.sym.{target}.{name},{self.sympos(unit, name)}"
        if is_local:
            return None
        if (address := symbols.global_address(name)) is not None:
            position = symbols.own_position(name, address)
            return f".klp.sym.{target}.{name},{position}"
        owner = self._module_exports.get(name)
        depends = self._modules[target].depends
        if owner is not None and (symbols.is_import(name) or owner in depends):
            # Of a module that ours depends on: found when ours is patched, so it goes with ours.
            return f".klp.sym@{target}@{owner}.{name},0"
        return None

    @cached_property
    def _module_exports(self) -> dict[str, str]:
        return read_module_exports(self._config.build / "Module.symvers")

    def _symbols_of(self, target: str) -> SymbolMap:
        if target == VMLINUX:
            return self.symbols
        return self._modules[target].symbols

    def sympos(self, unit: str, name: str) -> int:
        """Return the position in kallsyms of a symbol of ``unit``'s target; 0 when unique.

        Raises ``ImageMismatchError`` when the target has no such symbol.
        """
        target = self._units[unit].target
        symbols = self._symbols_of(target)
        if isinstance(symbols, ModuleSymbols):
            addresses = symbols.addresses(name)
            address = self._address(unit, name)
            if address is None and len(addresses) == 1:
                address = addresses[0]
            position = None if address is None else symbols.own_position(name, address)
        else:
            position = self._position(unit, name, is_local=True)
        if position is None:
            raise ImageMismatchError(
                f"{unit}: {name}: kallsyms of {target} do not tell where it is"
            )
        return position

    def traceable(self, unit: str) -> frozenset[str]:
        """Return the unit's functions that start with a call of fentry, as livepatch needs it."""
        return self._units[unit].traceable

    def probeable(self, unit: str) -> frozenset[str]:
        """Return the unit's functions that a kprobe may redirect."""
        return self._units[unit].probeable

    def is_function(self, name: str) -> bool:
        """Tell whether vmlinux has a function of this name and nothing else."""
        return name in self._functions

    def is_sealed(self, symbol: str) -> bool:
        """Tell whether a livepatch symbol of vmlinux is one of the functions in _sealed."""
        m = _VMLINUX_SYMBOL.fullmatch(symbol)
        if m is None or not self._sealed:
            return False
        return self.symbols.addresses(m["name"])[max(int(m["position"]), 1) - 1] in self._sealed

    @cached_property
    def _sealed(self) -> frozenset[int]:
        """Functions whose landing pad the kernel removes: .ibt_endbr_seal, offsets from itself."""
        begin = self.symbols.addresses("__ibt_endbr_seal")
        end = self.symbols.addresses("__ibt_endbr_seal_end")
        if not begin or not end:
            return frozenset()  # not built to track indirect branches
        data = self.image.read(begin[0], end[0] - begin[0]) or b""
        offsets = enumerate(struct.iter_unpack("<i", data))
        return frozenset(begin[0] + 4 * i + offset for i, (offset,) in offsets)

    def address_of(self, unit: str, name: str) -> int | None:
        """Return the address in the stock image of what a matched unit defines or uses."""
        return self._address(unit, name)

    def function_ranges(self, unit: str) -> list[range]:
        """Return where the functions of a matched unit lie in the stock image."""
        functions = self._units[unit].match.functions
        return [range(address, address + f.size) for f, address in functions.items()]

    def importers(self, name: str) -> list[str]:
        """Return the stock modules that use an exported symbol; compressed ones are unpacked."""
        if name not in self._exports:
            return []
        word = b"\0" + name.encode() + b"\0"
        return sorted(m for m, data in stock_modules(self._config.modules) if word in data)

    def _address(self, unit: str, name: str) -> int | None:
        symbol = self._units[unit].by_name.get(name)
        return self._units[unit].match.address_of(symbol) if symbol is not None else None

    def _is_of_unit(self, unit: str, name: str, *, is_local: bool) -> bool:
        """Tell whether a name is that of what the unit itself defines.

        Another file's static symbol may have it too, and so may a global one.
        """
        symbol = self._units[unit].by_name.get(name)
        return (
            symbol is not None
            and symbol.section is not None
            and (is_local or symbol.bind != STB_LOCAL)
        )

    def _position(self, unit: str, name: str, *, is_local: bool) -> int | None:
        """Return the position in vmlinux of a symbol of the unit's, or of a global one."""
        known = self._address(unit, name) if self._units[unit].target == VMLINUX else None
        if self._is_of_unit(unit, name, is_local=is_local):
            address = known
            if address is None and self.symbols.is_unique(name):
                return 0
        elif is_local:
            return None
        elif self._is_of_unit(unit, name, is_local=True):  # a static one, which is not meant
            address = self._globals.get(name)
        else:
            address = known or self._globals.get(name)
        return None if address is None else self.symbols.position(name, address)

    def old_code(self) -> dict[str, bytes]:
        """Return the tables of each target's old-code module: all functions of its units."""
        units: dict[str, list[OldUnit]] = {}
        for unit in self._units.values():
            sites = read_sites(unit.obj, self._sizes)
            units.setdefault(unit.target, []).append(OldUnit(match=unit.match, sites=sites))
        return {
            target: write_old_code(target, found, self._symbols_of(target))
            for target, found in units.items()
        }


def check_banner(config: ConfigDir, image: Image, symbols: SymbolMap) -> str:
    """Return ``uname -v`` of the image, after checking that map, image and release agree.

    ``linux_banner`` (init/version-timestamp.c) must be where the System.map says and name the
    release.  Raises ``ConfigDirError``.
    """
    addresses = symbols.addresses("linux_banner")
    banner = image.read_string(addresses[0]) if len(addresses) == 1 else None
    if banner is None or not banner.startswith(b"Linux version "):
        raise ConfigDirError(
            f"{config.system_map}: linux_banner is not where {config.vmlinuz} has it;"
            " map and image are of different kernels"
        )
    text = banner.decode(errors="replace").rstrip("\0\n")
    if text.split()[2] != config.release:
        raise ConfigDirError(
            f"{config.vmlinuz}: is {text.split()[2]}, but {config.build} is for {config.release}"
        )
    return text[text.rindex("#") :]
