# SPDX-License-Identifier: GPL-2.0-only
"""``--config DIR`` for the running host: its image, headers, modules and symbols.

The symbols come from the first of: a real System.map (the -dbg package's), /proc/kallsyms as root,
with the boot's random offset (KASLR) taken off, or the tables inside the image.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.create.stock.image import KernelImage, read_image
from ksplicd.create.stock.kallsyms import read_kallsyms
from ksplicd.create.stock.system_map import MapSymbol, read_system_map, write_system_map
from ksplicd.errors import ConfigDirError

_KERNEL_HALF: Final = 1 << 63
"""Addresses below are offsets, of per-CPU data, and absolute numbers: the same in every boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningHost:
    """Where a running host has what is needed."""

    release: str
    """``uname -r``."""
    root: Path = Path("/")

    @property
    def vmlinuz(self) -> Path:
        """The image that was booted, where the distribution installs it."""
        beside = self.modules / "vmlinuz"  # Debian's from 7.0 on, Fedora's
        return beside if beside.exists() else self.root / f"boot/vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The kernel's modules."""
        return self.root / f"lib/modules/{self.release}"

    @property
    def kallsyms(self) -> Path:
        """The running kernel's symbols at the addresses of this boot."""
        return self.root / "proc/kallsyms"

    @property
    def maps(self) -> tuple[Path, ...]:
        """Where a System.map may be; the image package's is a stub."""
        name = f"System.map-{self.release}"
        debug = self.root / "usr/lib/debug"
        return (
            debug / "boot" / name,
            debug / "lib/modules" / self.release / "System.map",  # Debian's from 7.0 on
            self.root / "boot" / name,
        )


def fill_from_machine(folder: Path, host: RunningHost) -> str:
    """Fill ``folder`` and check it; return where the symbols come from.

    Raises ``ConfigDirError`` naming the package that is missing.
    """
    release = host.release
    build = host.modules / "build"
    for path, package in (
        (host.vmlinuz, f"linux-image-{release}"),
        (host.modules / "kernel", f"linux-image-{release}"),
        (build / ".config", f"linux-headers-{release}"),
    ):
        if not path.exists():
            raise ConfigDirError(
                f"{path}: missing; install the package {package}. Where a distribution has other"
                " folders, fill the folder by hand (ksplice(1))"
            )
    try:
        vmlinuz = host.vmlinuz.read_bytes()
    except OSError as e:
        hint = "; run this as root" if isinstance(e, PermissionError) else ""  # as on Ubuntu
        raise ConfigDirError(f"{host.vmlinuz}: {e.strerror}{hint}") from e
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vmlinuz").write_bytes(vmlinuz)
    shutil.copyfile(build / ".config", folder / ".config")
    for link, to in ((folder / "build", build.resolve()), (folder / "modules", host.modules)):
        link.unlink(missing_ok=True)
        link.symlink_to(to)
    symbols, origin = find_symbols(vmlinuz, host.maps, host.kallsyms)
    (folder / "System.map").write_text(write_system_map(symbols))
    read_config_dir(folder)
    return origin


def find_symbols(
    vmlinuz: bytes, maps: Sequence[Path], kallsyms: Path | None = None
) -> tuple[list[MapSymbol], str]:
    """Return the symbols at their link-time addresses, and where they come from.

    Raises ``ConfigDirError`` when they can be had nowhere.
    """
    image = read_image(vmlinuz)
    for path in maps:
        if (symbols := read_real_map(path)) is not None and is_map_of(symbols, image):
            return symbols, str(path)
    if kallsyms is not None and (symbols := read_real_map(kallsyms)) is not None:
        symbols = unslide(symbols, image.segments[0].address)
        if is_map_of(symbols, image):
            return symbols, str(kallsyms)
    return read_kallsyms(image), "the tables of the image"


def is_map_of(symbols: Sequence[MapSymbol], image: KernelImage) -> bool:
    """Tell whether the image has its banner where the symbols say."""
    at = next((s.address for s in symbols if s.name == "linux_banner"), None)
    text = None if at is None else image.read_string(at)
    return text is not None and text.startswith(b"Linux version ")


def read_real_map(path: Path) -> list[MapSymbol] | None:
    """Return the symbols of a map, None when it is missing, a stub or has no addresses."""
    try:
        return read_system_map(path.read_text(errors="replace"), str(path))
    except (OSError, ConfigDirError):
        return None


def unslide(symbols: Sequence[MapSymbol], text: int) -> list[MapSymbol]:
    """Return symbols of a boot at their link-time addresses; ``text``: that of ``_text``.

    Symbols that are not at kernel addresses stay.  Raises ``ConfigDirError`` without ``_text``.
    """
    booted = next((s.address for s in symbols if s.name == "_text"), None)
    if booted is None:
        raise ConfigDirError("/proc/kallsyms: no _text in it (CONFIG_KALLSYMS_ALL is needed)")
    slide = booted - text
    return [
        s._replace(address=s.address - slide) if s.address >= _KERNEL_HALF else s for s in symbols
    ]
