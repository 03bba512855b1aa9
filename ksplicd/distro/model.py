# SPDX-License-Identifier: GPL-2.0-only
"""What every distribution answers about its kernels, and the records of the answers.

A distribution is an adapter behind ``Distribution``; nothing outside this room knows one by name
but the commands, which choose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel that can be patched: its image, headers and source can all be had."""

    release: str
    """``uname -r``."""
    version: str
    """The distribution's version of the packages."""
    suite: str
    """The part of the distribution that has it, such as ``trixie-backports``."""
    newer: str | None
    """The newest version of the same series whose source is there; None: this one."""
    compiler: str
    """The compiler that it was built with, such as ``gcc-14``."""
    cached: bool
    """Whether all parts are in the cache, and no network is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A file or a folder, and where it came from."""

    path: Path
    origin: str
    """Such as ``linux-image-6.1.0-50-cloud-amd64 6.1.176-1``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All that an update of one kernel is made from."""

    kernel: Kernel
    image: Part
    """The bootable image."""
    modules: Part
    """The folder of the kernel's modules; it may be missing, and then no module is changed."""
    headers: Part
    """The folder against which modules are built; with ``.config``."""
    source: Part
    """The source tree."""
    symbols: Part | None
    """A map of the symbols; None: only the tables inside the image."""
    flags: Part | None = None
    """Further arguments for make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainNeeds:
    """What the units of a kernel are compiled with."""

    compiler: str
    """The program, such as ``gcc-14``."""
    suite: str
    """The suite whose packages these are, such as ``trixie``."""
    packages: tuple[str, ...]
    """Names of packages that have the compiler and what the kernel's build runs beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangelogEntry:
    """One version's part of the changelog."""

    version: str
    """Such as ``6.1.192-2``."""
    changes: tuple[str, ...]
    """One line each, unfolded: ``fcntl: fix … (CVE-…)``."""


class Distribution(Protocol):
    """A distribution.  Every method raises ``DistroError`` and its leaves."""

    @property
    def name(self) -> str:
        """The distribution's name."""

    def kernels(self) -> Sequence[Kernel]:
        """Return the kernels that can be patched, oldest first."""

    def kernel(self, release: str, version: str | None = None) -> Kernel:
        """Return one kernel; by default the newest version of the release."""

    def parts(self, kernel: Kernel) -> Parts:
        """Return all parts of a kernel, fetched where they are not in the cache."""

    def newer(self, kernel: Kernel) -> Sequence[str]:
        """Return the newer versions of its source, oldest first."""

    def changelog(self, version: str) -> Sequence[ChangelogEntry]:
        """Return the changelog up to a version of the source, newest entry first."""

    def toolchain(self, kernel: Kernel) -> ToolchainNeeds:
        """Return what the kernel's units are compiled with."""
