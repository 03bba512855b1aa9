# SPDX-License-Identifier: GPL-2.0-only
"""A folder of one's own: the kernel that somebody has built.

The folder is that of the build (``make O=``), or one with the same names:

==========================================  ======================================================
``.config``                                 the configuration
``vmlinuz``, ``arch/x86/boot/bzImage`` or   the image that boots
``vmlinux``
``source``                                  the source tree, or a link to it (kbuild makes it)
``build``                                   what modules are built against; default: the folder
``modules``                                 the kernel's folder of modules, to change a module
``System.map``                              the symbols; without it, those in the image
``flags``                                   further arguments for make
==========================================  ======================================================

Nothing is fetched, and the folder is not changed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from ksplicd.distro.model import ChangelogEntry, Kernel, Part, Parts, ToolchainNeeds
from ksplicd.errors import NoSuchKernelError

_IMAGES: Final = ("vmlinuz", "arch/x86/boot/bzImage", "vmlinux")
_RELEASE: Final = re.compile(r'^#define UTS_RELEASE "(\S+)"', re.MULTILINE)
_COMPILER: Final = re.compile(r'^CONFIG_CC_VERSION_TEXT="(\S+) ', re.MULTILINE)
_NUMBER: Final = re.compile(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)", re.MULTILINE)


class Plain:
    """The distribution of one kernel, which lies in a folder.

    Methods raise ``NoSuchKernelError`` naming the file that is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def kernels(self) -> Sequence[Kernel]:
        """Return the one kernel."""
        header = self._headers() / "include/generated/utsrelease.h"
        release = self._found(_RELEASE, header, "UTS_RELEASE")
        source = self._there("source", "the source tree, or a link to it")
        makefile = self._text(source / "Makefile")
        return [
            Kernel(
                release=release,
                version=".".join(_NUMBER.findall(makefile)),
                suite="",
                newer=None,
                compiler=self._found(_COMPILER, self.folder / ".config", "CONFIG_CC_VERSION_TEXT"),
                cached=True,
            )
        ]

    def kernel(self, release: str, version: str | None = None) -> Kernel:
        """Return the kernel, if it has this release and, where one is given, version."""
        kernel = self.kernels()[0]
        if release != kernel.release or version not in (None, kernel.version):
            wanted = release if version is None else f"{release} {version}"
            self._refuse(f"has {kernel.release} {kernel.version}, not {wanted}")
        return kernel

    def parts(self, kernel: Kernel) -> Parts:
        """Return where everything is; what only some changes need may be missing."""
        image = next((self.folder / n for n in _IMAGES if (self.folder / n).is_file()), None)
        if image is None:
            self._refuse(f"has none of {', '.join(_IMAGES)}: the image that boots")
        symbols, flags = self.folder / "System.map", self.folder / "flags"
        return Parts(
            kernel=kernel,
            image=_part(image),
            modules=_part(self.folder / "modules"),
            headers=_part(self._headers()),
            source=_part(self._there("source", "the source tree, or a link to it")),
            symbols=_part(symbols) if symbols.exists() else None,
            flags=_part(flags) if flags.exists() else None,
        )

    def newer(self, kernel: Kernel) -> Sequence[str]:
        """Return nothing: a folder has one version."""
        return []

    def changelog(self, version: str) -> Sequence[ChangelogEntry]:
        """Return nothing: a folder has no changelog."""
        return []

    def toolchain(self, kernel: Kernel) -> ToolchainNeeds:
        """Return the compiler of this machine that the configuration names."""
        return ToolchainNeeds(compiler=kernel.compiler, suite="", packages=())

    def _headers(self) -> Path:
        build = self.folder / "build"
        return build if build.exists() else self.folder

    def _there(self, name: str, what: str) -> Path:
        path = self.folder / name
        if not path.exists():
            self._refuse(f"has no {name}: {what}")
        return path

    def _found(self, pattern: re.Pattern[str], path: Path, name: str) -> str:
        match = pattern.search(self._text(path))
        if match is None:
            self._refuse(f"{path}: no {name} in it")
        return match[1]

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(errors="replace")
        except OSError as e:
            self._refuse(f"{path}: {e.strerror}")

    def _refuse(self, words: str) -> NoReturn:
        raise NoSuchKernelError(
            f"{self.folder}: {words}; ksplice(1) says what a folder for --kernel has"
        )


def _part(path: Path) -> Part:
    return Part(path=path, origin=str(path))
