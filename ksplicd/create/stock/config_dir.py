# SPDX-License-Identifier: GPL-2.0-only
"""``--config DIR``: what is known about the kernel that an update is for.

``System.map``, ``.config`` and ``build`` (the headers' folder, or a link to it) are needed;
``vmlinuz`` lets the objects be checked against the stock image, ``modules`` (/lib/modules/RELEASE
or a link to it) against the stock modules; ``flags`` holds further arguments for make.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import ConfigDirError
from ksplicd.toolchain import HOST, Toolchain

_COMPILER_TEXT: Final = re.compile(r'^CONFIG_CC_VERSION_TEXT="(.*)"$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDir:
    """A configuration directory that has been checked."""

    path: Path
    text: str
    """``.config``."""
    release: str
    """``uname -r`` of the kernel."""
    compiler: str
    """The program, such as ``gcc-12``."""
    compiler_text: str
    """First line of its ``--version`` when the kernel was built."""
    flags: tuple[str, ...]
    toolchain: Toolchain = HOST
    """Where the compiler and the kernel's build run."""

    @property
    def compiler_command(self) -> Sequence[str | Path]:
        """The command that is the compiler, without arguments."""
        return self.toolchain.command([self.compiler])

    @property
    def system_map(self) -> Path:
        """The kernel's symbols at their link-time addresses, in the form of nm(1)."""
        return self.path / "System.map"

    @property
    def build(self) -> Path:
        """The folder against which modules are built."""
        return self.path / "build"

    @property
    def modules(self) -> Path:
        """The kernel's folder of modules, or a link to it; needed to change a module."""
        return self.path / "modules"

    @property
    def vmlinuz(self) -> Path | None:
        """The stock image, None when it was not given."""
        path = self.path / "vmlinuz"
        return path if path.exists() else None

    def stock_image(self) -> Path:
        """Return the stock image.

        Raises ``ConfigDirError`` when it was not given, or cannot be read.
        """
        if self.vmlinuz is None:
            raise ConfigDirError(
                f"{self.path}/vmlinuz: missing; the objects are checked against the stock image."
                " `ksplice config RELEASE DIR` fills such a directory"
            )
        _check_file(self.vmlinuz)
        return self.vmlinuz


def read_config_dir(path: Path, toolchain: Toolchain = HOST) -> ConfigDir:
    """Check a configuration directory and return it.

    Raises ``ConfigDirError`` naming the part that is missing or does not belong to the others.
    """
    for name, what in (
        ("System.map", "the kernel's symbol table"),
        (".config", "the kernel's configuration"),
        ("build", "a link to the kernel's headers"),
    ):
        if not (path / name).exists():
            raise ConfigDirError(
                f"{path}/{name}: missing; it must be {what}. `ksplice config RELEASE DIR`"
                " fills such a directory"
            )
    _check_file(path / "System.map")
    text = _read(path / ".config")
    # Debian's headers hold the upstream version in include/config/kernel.release.
    release_file = path / "build/include/generated/utsrelease.h"
    release = re.search(r'^#define UTS_RELEASE "(\S+)"', _read(release_file), re.MULTILINE)
    if release is None:
        raise ConfigDirError(
            f"{release_file}: no UTS_RELEASE; {path}/build must be the headers' folder, such as"
            " /usr/src/linux-headers-6.1.0-50-cloud-amd64"
        )
    headers_config = path / "build/.config"
    if headers_config.exists() and _read(headers_config) != text:
        raise ConfigDirError(
            f"{path}/.config differs from {headers_config}; take both from the same kernel"
            " (Debian's /boot/config-* lacks lines that the headers' .config has)"
        )
    m = _COMPILER_TEXT.search(text)
    if m is None or not m[1].strip():
        raise ConfigDirError(f"{path}/.config: no CONFIG_CC_VERSION_TEXT in it")
    flags = path / "flags"
    return ConfigDir(
        path=path,
        text=text,
        release=release[1],
        compiler=m[1].split()[0],
        compiler_text=m[1],
        flags=tuple(_read(flags).split()),
        toolchain=toolchain,
    )


def _check_file(path: Path) -> None:
    """Raise ``ConfigDirError`` unless a file can be read."""
    try:
        path.open("rb").close()
    except OSError as e:
        raise ConfigDirError(f"{path}: {e.strerror}; give a file that can be read") from e


def _read(path: Path) -> str:
    """Return the text of a file, empty when it is missing.  Raises ``ConfigDirError``."""
    try:
        return path.read_text(errors="replace") if path.exists() else ""
    except OSError as e:
        raise ConfigDirError(f"{path}: {e.strerror}") from e
