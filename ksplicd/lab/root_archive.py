# SPDX-License-Identifier: GPL-2.0-only
"""The root file system of a guest, without kernel: an archive of one suite's packages.

Packages come from the mirror that this machine is configured with, for the machine's own suite as
for others; Debian's keyring verifies them.  Making one needs root, or sudo.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of
from ksplicd.distro.apt import sudo, transport_options
from ksplicd.distro.mirror import Mirror
from ksplicd.distro.root import sources_of, suites_of
from ksplicd.run import run

SUITE: Final = "bookworm"
"""That of a guest unless another is asked for, whatever the host is."""

PACKAGES: Final = (
    *("systemd-sysv", "systemd", "udev", "dbus", "polkitd", "kmod", "procps", "less", "busybox"),
    *("python3", "python3-gi", "python3-pydbus", "python3-systemd", "python3-pyudev"),
    *("python3-pyroute2", "python3-pyelftools", "gir1.2-glib-2.0"),
)

_VERSION: Final = 2
"""Raised when this module makes something else of the same parts."""

_NO_DOCS: Final = ("doc", "man", "locale", "info")

_MOVING: Final = frozenset({"forky", "sid"})
"""Suites that are not released: what they have is another system after a week."""
_WEEK: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class RootArchive:
    """Which packages of which suite; made on first use."""

    mirror: Mirror
    suite: str = SUITE
    packages: Sequence[str] = PACKAGES

    @property
    def sources(self) -> str:
        """apt's sources, of the suite and of its updates."""
        return sources_of(self.mirror, suites_of(self.mirror, self.suite))

    def digest(self) -> str:
        """Return what names the archive; of a suite that moves, another one each week."""
        week = int(time.time() // _WEEK) if self.suite in _MOVING else None
        return digest_of(_VERSION, tuple(self.packages), self.sources, week)

    def made(self, cache: Cache) -> Path:
        """Return the tar archive, made on first use (30-45 s).

        Raises ``NoSuchSuiteError``, or ``ToolError`` with mmdebstrap's words.
        """
        self.mirror.check_suites([self.suite])

        def make(new: Path) -> None:
            cache.progress(f"building the guest's root of {self.suite} (about a minute)")
            options = ['Acquire::Languages "none";', *transport_options()]
            run(
                [
                    *(*sudo(), "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"),
                    *(f"--aptopt={option}" for option in options),
                    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NO_DOCS),
                    f"--include={','.join(self.packages)}",
                    *(self.suite, new / "root.tar", "-"),
                ],
                stdin=self.sources.encode(),
            )
            run([*sudo(), "chown", f"{os.geteuid()}:{os.getegid()}", new / "root.tar"])

        return cache.entry("root", self.digest(), make) / "root.tar"
