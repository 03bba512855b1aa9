# SPDX-License-Identifier: GPL-2.0-only
"""A stock module as an image: its sections laid out and relocated, its symbols by name.

A .ko is relocatable, so every address here is made up: sections lie far apart, and what the module
imports gets an address of its own.  That is enough to match objects against it, as against vmlinux.
"""

import lzma
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap
from ksplicd.elf.linked import LinkedFile, Segment, read_linked
from ksplicd.elf.model import (
    SHF_ALLOC,
    SHN_LORESERVE,
    SHN_UNDEF,
    STB_GLOBAL,
    STB_WEAK,
    STT_FILE,
    STT_SECTION,
)
from ksplicd.elf.x86_64 import ADDRESS_MASK, RELOCATION_TYPES
from ksplicd.errors import ConfigDirError, ToolError
from ksplicd.run import run

IN_TARGET: Final = 1 << 31
"""KSPLICE_SYM_IN_TARGET of kmodsrc/format.h: the symbol is the target module's."""

_LETTERS: Final = {STB_GLOBAL: "T", STB_WEAK: "W"}
"""Types of global symbols, of functions and data alike, as in a System.map."""

_FIRST_SECTION: Final = 0xFFFF_FFFF_C000_0000
_FIRST_IMPORT: Final = 0xFFFF_FFFF_8100_0000
_GAP: Final = 1 << 16
_TRACED: Final = "__mcount_loc"
"""The tracer's list of functions, which is no reference to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StockModule:
    """A module of the distribution's kernel."""

    name: str
    """As /sys/module has it, such as ``nf_conntrack``."""
    image: KernelImage
    symbols: "ModuleSymbols"
    depends: frozenset[str]
    """The modules that are loaded whenever this one is."""
    freed: tuple[range, ...]
    """Where the code is that is gone when the module has come up."""


class ModuleSymbols(SymbolMap):
    """The symbols that a module defines and imports, at their made-up addresses.

    ``position`` marks the module's own symbols with ``IN_TARGET``; imports from vmlinux have the
    position that they have there, and imports from other modules none.
    """

    def __init__(
        self,
        own: Collection[MapSymbol],
        imports: dict[str, int],
        sections: list[range],
        vmlinux: SymbolMap,
        initial: Collection[MapSymbol] = (),
    ) -> None:
        """``initial``: what kallsyms have while the module is being loaded, in the file's order."""
        super().__init__(own)
        self._initial = SymbolMap(initial)
        self._imports = imports
        self._sections = sections
        self._vmlinux = vmlinux

    def addresses(self, name: str) -> list[int]:
        """Return every address that ``name`` has in or for the module."""
        own = super().addresses(name)
        return own or ([self._imports[name]] if name in self._imports else [])

    def is_own(self, name: str) -> bool:
        """Tell whether the module defines ``name``."""
        return bool(super().addresses(name))

    def is_global(self, name: str) -> bool:
        """Tell whether the module's files know ``name`` from each other or from elsewhere."""
        return super().is_global(name) or self.is_import(name)

    def is_import(self, name: str) -> bool:
        """Tell whether the module needs ``name`` from elsewhere."""
        return name in self._imports and not self.is_own(name)

    def own_position(self, name: str, address: int) -> int | None:
        """Return livepatch's sympos of one of the module's own symbols.

        livepatch looks for it in a module that runs, and in one that is being loaded, which still
        has its init symbols.  None when no position means this symbol at both times.
        """
        now, later = self._initial.addresses(name), super().addresses(name)
        if len(now) <= len(later):
            return super().position(name, address)
        position = now.index(address) + 1 if address in later else 0
        return position if position and later[position - 1 : position] == [address] else None

    def position(self, name: str, address: int) -> int | None:
        """Return the position of ``name`` at ``address`` as the old code's tables want it."""
        own = super().position(name, address) if self.is_own(name) else None
        if own is not None:
            return own | IN_TARGET
        if self._imports.get(name) == address and self._vmlinux.is_unique(name):
            return 0
        return None

    def nearest_unique(self, address: int) -> tuple[str, int] | None:
        """Return a uniquely named own symbol of the section that ``address`` is in.

        The last one before the address, or else the first behind it: an address may lie a little
        outside the section, because the addend of a PC-relative field counts from its end.
        """
        sections = self._sections
        section = next(
            (s for s in sections if -_GAP // 2 <= address - s.start < len(s) + _GAP // 2), range(0)
        )
        for found in (super().nearest_unique(address), self.next_unique(address)):
            if found is not None and found[1] in section:
                return found
        return None


def read_stock_module(data: bytes, name: str, vmlinux: SymbolMap) -> StockModule:
    """Lay out a .ko.  Raises ``ElfError``, and ``ToolError`` when the package for it is missing."""
    file = read_linked(data, f"{name}.ko")
    file.check_module()
    symbols = file.read_symbols()
    places: dict[int, int] = {}
    at = _FIRST_SECTION
    for i, section in enumerate(file.sections):
        if section.flags & SHF_ALLOC and section.size:
            at += -at % max(section.align, 1)
            places[i] = at
            at += section.size + _GAP
    imports = {
        s.name: _FIRST_IMPORT + i * 64
        for i, s in enumerate(s for s in symbols if s.section == SHN_UNDEF and s.name)
    }
    values = [
        places.get(s.section, 0) + s.value if s.section in range(1, SHN_LORESERVE)
        else imports.get(s.name, s.value)
        for s in symbols
    ]  # fmt: skip
    initial, own = [], []
    for s in symbols:
        if s.section in places and s.name and s.type not in (STT_SECTION, STT_FILE):
            at = places[s.section] + s.value
            initial.append(MapSymbol(at, _LETTERS.get(s.bind, "t"), s.name))
            if not file.sections[s.section].name.startswith(".init"):
                own.append(initial[-1])
    ranges = [range(at, at + file.sections[i].size + 1) for i, at in places.items()]
    return StockModule(
        name=name,
        image=KernelImage(
            data,
            tuple(
                Segment(at, memoryview(_relocated(file, i, at, values)))
                for i, at in places.items()
                if file.sections[i].name != _TRACED
            ),
            file.build_id,
        ),
        symbols=ModuleSymbols(own, imports, ranges, vmlinux, initial),
        depends=_depends(file),
        freed=tuple(
            range(at, at + file.sections[i].size)
            for i, at in places.items()
            if file.sections[i].name.startswith(".init.text")
        ),
    )


def _depends(file: LinkedFile) -> frozenset[str]:
    """Return the modules named by ``depends=``, which modpost writes (scripts/mod/modpost.c)."""
    section = file.find_section(".modinfo")
    for field in bytes(section.data).split(b"\0") if section is not None else ():
        key, _, value = field.partition(b"=")
        if key == b"depends" and value:
            return frozenset(
                name.replace("-", "_") for name in value.decode(errors="replace").split(",")
            )
    return frozenset()


def _relocated(file: LinkedFile, index: int, address: int, values: Sequence[int]) -> bytes:
    """Return a section's bytes as the module loader would make them.

    ``values``: the addresses of all symbols by index.
    """
    section = file.sections[index]
    if section.type == "SHT_NOBITS":
        return bytes(section.size)
    data = bytearray(section.data)
    for r in file.read_relocations(index):
        kind = RELOCATION_TYPES.get(r.type)
        if kind is None or not kind.size:
            continue
        value = values[r.symbol] + r.addend
        value -= address + r.offset if kind.is_pc_relative else 0
        field = (value & ADDRESS_MASK).to_bytes(8, "little")[: kind.size]
        data[r.offset : r.offset + kind.size] = field
    return bytes(data)


def find_stock_module(folder: Path, name: str) -> bytes:
    """Return the stock module ``name``, uncompressed.

    ``folder`` is the kernel's /lib/modules/RELEASE.  Raises ``ConfigDirError`` when it has none, or
    a damaged one.
    """
    for path, unpack in _files(folder):
        if _name_of(path) == name:
            return _unpacked(path, unpack)
    raise ConfigDirError(
        f"{folder}/kernel/…/{name}.ko: missing; the old code of a module is checked against the"
        f" stock module, so {folder} must be the kernel's folder in /lib/modules"
    )


def has_stock_module(folder: Path, name: str) -> bool:
    """Tell whether the kernel's folder has a module."""
    return any(_name_of(path) == name for path, _ in _files(folder))


def stock_modules(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, uncompressed bytes) of every stock module.  Raises ``ConfigDirError``."""
    for path, unpack in _files(folder):
        yield _name_of(path), _unpacked(path, unpack)


def _files(folder: Path) -> Iterator[tuple[Path, Callable[[bytes], bytes]]]:
    for path in (folder / "kernel").rglob("*.ko*"):
        if (unpack := _UNPACK.get(path.name.partition(".ko")[2])) is not None:
            yield path, unpack


def _unpacked(path: Path, unpack: Callable[[bytes], bytes]) -> bytes:
    try:
        return unpack(path.read_bytes())
    except OSError as e:
        raise ConfigDirError(f"{path}: {e.strerror}") from e
    except (lzma.LZMAError, ToolError) as e:
        raise ConfigDirError(f"{path}: cannot be unpacked: {e}") from e


def _name_of(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _as_is(data: bytes) -> bytes:
    return data


def _unzstd(data: bytes) -> bytes:
    return run(["zstd", "-dc"], stdin=data)


_UNPACK: Final = {"": _as_is, ".xz": lzma.decompress, ".zst": _unzstd}
"""How modules are compressed (CONFIG_MODULE_COMPRESS), by suffix."""
