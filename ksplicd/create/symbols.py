# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel as the create side knows it: its image, its symbols, what it exports.

New code links exported symbols by name, which the kernel checks by CRC.  All others are named by
livepatch symbols, whose position among equal names comes from where the stock image has them.
"""

from collections.abc import Mapping
from pathlib import Path

from ksplicd.create.config import ConfigDir
from ksplicd.create.image import Image, SymbolMap, read_image, read_system_map
from ksplicd.create.match import match_unit
from ksplicd.create.old_code import OldUnit, write_old_code
from ksplicd.create.sites import read_sites
from ksplicd.create.special import TABLE_BY_SECTION, EntrySizes, read_entries
from ksplicd.elf import Object
from ksplicd.errors import ConfigDirError, ImageMismatchError
from ksplicd.model import Kernel


class StockKernel:
    """What new code can reach, and where the touched units lie in the image."""

    def __init__(self, config: ConfigDir, units: Mapping[str, Object], sizes: EntrySizes) -> None:
        """Match the plain pre objects of the touched ``units``, by source file.

        Raises ``ConfigDirError`` when the parts of ``config`` do not belong together,
        ``ImageMismatchError`` when an object is not what the image was built from.
        """
        if config.vmlinuz is None:
            raise ConfigDirError(
                f"{config.path}/vmlinuz: missing; the objects are checked against the stock image"
            )
        self.image = read_image(config.vmlinuz.read_bytes())
        symbols = read_system_map(config.system_map.read_text(), str(config.system_map))
        self.symbols = SymbolMap(symbols)
        self._globals = {s.name: s.address for s in symbols if s.type.isupper()}
        self.identity = Kernel(
            release=config.release,
            build_id=self.image.build_id,
            version=check_banner(config, self.image, self.symbols),
        )
        self._exports = read_exports(config.build / "Module.symvers")
        self.matches = {
            unit: match_unit(obj, self.image, self.symbols) for unit, obj in units.items()
        }
        self._sizes = sizes
        self._traceable = {unit: traceable_functions(obj, sizes) for unit, obj in units.items()}
        self._by_name = {
            unit: {s.name: s for s in obj.symbols if s.name} for unit, obj in units.items()
        }

    def is_exported(self, name: str) -> bool:
        """Tell whether modules may link to ``name``."""
        return name in self._exports

    def livepatch_symbol(self, unit: str, name: str, *, is_local: bool) -> str | None:
        """Return ``.klp.sym.vmlinux.NAME,POS``, None when the kernel has no such symbol.

        ``is_local``: the symbol that ``unit`` defines for itself; otherwise the global one.
        """
        position = self._position(unit, name, is_local=is_local)
        return None if position is None else f".klp.sym.vmlinux.{name},{position}"

    def sympos(self, unit: str, name: str) -> int:
        """Return the position in kallsyms of a function of ``unit``; 0 when the name is unique.

        Raises ``ImageMismatchError`` when the image has no such function.
        """
        position = self._position(unit, name, is_local=True)
        if position is None:
            raise ImageMismatchError(f"{unit}: {name}: not in the image's kallsyms")
        return position

    def is_traceable(self, unit: str, name: str) -> bool:
        """Tell whether the function starts with a call of fentry, as livepatch needs it."""
        return name in self._traceable[unit]

    def old_code(self) -> bytes:
        """Return the tables of the old-code module: every function of the touched units."""
        units = [
            OldUnit(match=m, sites=read_sites(m.obj, self._sizes)) for m in self.matches.values()
        ]
        return write_old_code("vmlinux", units, self.symbols)

    def _position(self, unit: str, name: str, *, is_local: bool) -> int | None:
        if self.symbols.is_unique(name):
            return 0
        symbol = self._by_name[unit].get(name)
        address = self.matches[unit].address_of(symbol) if symbol is not None else None
        if address is None and not is_local:
            address = self._globals.get(name)
        return None if address is None else self.symbols.position(name, address)


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


def read_exports(symvers: Path) -> frozenset[str]:
    """Return what vmlinux exports to every module, from ``Module.symvers``.

    Lines are CRC, name, owner, kind, namespace (Documentation/kbuild/modules.rst).  Symbols in a
    namespace are left out: they are reached like unexported ones.  Raises ``ConfigDirError``.
    """
    try:
        lines = symvers.read_text().splitlines()
    except OSError as e:
        raise ConfigDirError(f"{symvers}: {e.strerror}; the headers package has it") from e
    exports = set()
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 4:
            raise ConfigDirError(f"{symvers}:{number}: not a line of Module.symvers: {line!r}")
        if fields[2] == "vmlinux" and not (len(fields) > 4 and fields[4]):
            exports.add(fields[1])
    return frozenset(exports)


def traceable_functions(obj: Object, sizes: EntrySizes) -> frozenset[str]:
    """Return the functions of an object whose first instruction calls fentry.

    Source: the object's own ``__mcount_loc``, from which ftrace makes its list of sites.
    """
    sites: set[tuple[object, int]] = set()
    for section in obj.sections:
        if section.name != TABLE_BY_SECTION["__mcount_loc"].section:
            continue
        for entry in read_entries(section, sizes):
            for r in entry.relocations:
                sites.add((r.symbol.section, r.symbol.value + r.addend))
    return frozenset(s.name for s in obj.functions() if (s.section, s.value) in sites)
