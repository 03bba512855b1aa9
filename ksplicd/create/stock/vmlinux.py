# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel itself, without its modules: its image, its symbols, what it exports.

It does not know units (``unit.py``).
"""

import re
import struct
from dataclasses import dataclass
from typing import Final

from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.image import KernelImage, read_image
from ksplicd.create.stock.symvers import Exports, read_exports
from ksplicd.create.stock.system_map import SymbolMap, read_system_map
from ksplicd.errors import ConfigDirError
from ksplicd.model import Kernel

_BANNER: Final = re.compile(r"Linux version (?P<release>\S+) .*(?P<version>#.*)", re.DOTALL)
"""linux_banner of init/version-timestamp.c; the last ``#`` begins ``uname -v``."""

_TEXT: Final = frozenset("tTwW")
"""Types of functions in a System.map, see nm(1)."""

_LIVEPATCH_SYMBOL: Final = re.compile(r"\.klp\.sym\.vmlinux\.(?P<name>.+),(?P<position>\d+)")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StockVmlinux:
    """The stock kernel's image, and what its tables say of it."""

    identity: Kernel
    image: KernelImage
    symbols: SymbolMap
    functions: frozenset[str]
    """Names that are those of functions and nothing else."""
    exports: Exports
    sealed: frozenset[int]
    """Addresses of functions whose landing pad the kernel removes (IBT)."""

    def is_sealed(self, symbol: str) -> bool:
        """Tell whether a livepatch symbol is one of vmlinux's sealed functions."""
        m = _LIVEPATCH_SYMBOL.fullmatch(symbol)
        if m is None or not self.sealed:
            return False
        return self.symbols.addresses(m["name"])[max(int(m["position"]), 1) - 1] in self.sealed


def read_vmlinux(config: ConfigDir) -> StockVmlinux:
    """Read the image.

    Raises ``ConfigDirError`` when the parts of ``config`` do not belong together.
    """
    image = read_image(config.stock_image().read_bytes(), str(config.vmlinuz))
    lines = read_system_map(config.system_map.read_text(errors="replace"), str(config.system_map))
    symbols = SymbolMap(lines)
    identity = Kernel(
        release=config.release,
        build_id=image.build_id,
        version=check_banner(config, image, symbols),
    )
    other = {s.name for s in lines if s.type not in _TEXT}
    return StockVmlinux(
        identity=identity,
        image=image,
        symbols=symbols,
        functions=frozenset(s.name for s in lines if s.type in _TEXT) - other,
        exports=read_exports(config.build / "Module.symvers"),
        sealed=_read_sealed(image, symbols),
    )


def check_banner(config: ConfigDir, image: KernelImage, symbols: SymbolMap) -> str:
    """Return ``uname -v`` of the image, after checking that map, image and release agree.

    ``linux_banner`` (init/version-timestamp.c) must be where the System.map says and name the
    release.  Raises ``ConfigDirError``.
    """
    addresses = symbols.addresses("linux_banner")
    banner = image.read_string(addresses[0]) if len(addresses) == 1 else None
    m = _BANNER.fullmatch((banner or b"").decode(errors="replace").rstrip("\0\n"))
    if m is None:
        raise ConfigDirError(
            f"{config.system_map}: linux_banner is not where {config.vmlinuz} has it;"
            " map and image are of different kernels"
        )
    if m["release"] != config.release:
        raise ConfigDirError(
            f"{config.vmlinuz}: is {m['release']}, but {config.build} is for {config.release}"
        )
    return m["version"]


def _read_sealed(image: KernelImage, symbols: SymbolMap) -> frozenset[int]:
    """Return the functions that .ibt_endbr_seal lists, by offsets from each entry.

    Raises ``ConfigDirError`` when the list is not where the map says.
    """
    begin = symbols.addresses("__ibt_endbr_seal")
    end = symbols.addresses("__ibt_endbr_seal_end")
    if not begin or not end:
        return frozenset()  # not built to track indirect branches
    size = end[0] - begin[0]
    data = image.read(begin[0], size) if size >= 0 else None
    if data is None or size % 4:
        raise ConfigDirError(
            "System.map: __ibt_endbr_seal to __ibt_endbr_seal_end is no list in the image; map and"
            " image are of different kernels"
        )
    offsets = enumerate(struct.iter_unpack("<i", data))
    return frozenset(begin[0] + 4 * i + offset for i, (offset,) in offsets)
