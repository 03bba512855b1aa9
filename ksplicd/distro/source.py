# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernel source packages: the tree, single files and the changelog of one exact version.

Downloads and unpacked trees are kept in the cache.  All users share the trees: copy one, or put an
overlay over it, before changing a file.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of
from ksplicd.distro import apt
from ksplicd.distro.archive import Archive
from ksplicd.distro.model import ChangelogEntry
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.unpack import with_cause
from ksplicd.errors import DistroError
from ksplicd.run import run

# The source package holds one .tar.xz, and that one top folder linux-source-X.Y.  bash for
# pipefail; $1 is the .deb, $2 the folder to fill, the rest names of files.  xz uses both cores:
# the archive has many blocks.
_UNPACK_TREE: Final = """
set -euo pipefail
dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
    xz -T0 -dc | tar -x -C "$2" --strip-components=1 --no-same-owner
"""

# The last tar stops at the last wanted file and the others end by SIGPIPE: no pipefail.
_UNPACK_FILES: Final = """
set -eu
deb=$1 folder=$2 top=$3
shift 3
dpkg-deb --fsys-tarfile "$deb" 2>&- | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' 2>&- |
    xz -T0 -dc 2>&- | tar -x -C "$folder" --strip-components=1 --no-same-owner --occurrence=1 \\
        "${@/#/$top/}"
"""

_READ_CHANGELOG: Final = """
dpkg-deb --fsys-tarfile "$1" 2>&- |
    tar -xO --occurrence=1 --wildcards './usr/share/doc/*/changelog.Debian.gz'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSource:
    """One version of a kernel source package."""

    cache: Cache
    version: str
    """Debian's version, such as ``6.1.192-2``."""
    where: Archive | None = field(default=None, compare=False, repr=False)
    """Where the package comes from; by default the machine's mirror."""

    @property
    def package(self) -> str:
        """The package's name, such as ``linux-source-6.1``."""
        return f"linux-source-{series(self.version)}"

    def deb(self) -> Path:
        """Return the package's file."""
        return (self.where or Archive(self.cache)).download(self.package, self.version)

    def tree(self) -> Path:
        """Return the unpacked source tree, 1.3 GB; not to be changed."""
        deb = self.deb()

        def unpack(new: Path) -> None:
            self.cache.progress(f"unpacking the kernel source {self.version}")
            with_cause(deb, lambda: run(["bash", "-c", _UNPACK_TREE, "unpack", deb, new]))

        return self.cache.entry("source", self.version, unpack)

    def files(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the contents of single files, without unpacking the tree.

        Raises ``DistroError`` when one is not in the source.
        """
        whole = self.cache.root / "source" / self.version
        if whole.is_dir():
            return self._read(whole, names)
        deb = self.deb()

        def unpack(new: Path) -> None:
            self.cache.progress(f"reading {len(names)} files of the kernel source {self.version}")
            run(
                ["bash", "-c", _UNPACK_FILES, "unpack", deb, new, self.package, *sorted(names)],
                ok=(0, 2),
            )

        entry = digest_of(self.version, sorted(names))
        return self._read(self.cache.entry("source-files", entry, unpack), names)

    def changelog(self) -> tuple[ChangelogEntry, ...]:
        """Return the changelog, newest version first."""
        packed = run(["bash", "-c", _READ_CHANGELOG, "read", self.deb()])
        return parse_changelog(gzip.decompress(packed).decode(errors="replace"))

    def _read(self, root: Path, names: Sequence[str]) -> dict[str, bytes]:
        try:
            return {name: (root / name).read_bytes() for name in names}
        except FileNotFoundError as e:
            missing = Path(e.filename).relative_to(root)
            raise DistroError(f"{self.package} {self.version} has no file {missing}") from e


def series(version: str) -> str:
    """Return the kernel series of a Debian version: ``6.1`` for ``6.1.176-1``."""
    match = re.match(r"(\d+\.\d+)\.", version)
    if match is None:
        raise DistroError(
            f"{version!r} is no version of a Debian kernel package, such as 6.1.176-1"
        )
    return match[1]


def stock_kernels(cache: Cache, kernel_series: str, flavour: str) -> list[KernelPackages]:
    """Return the kernels that can be patched with what this machine's sources have, newest first.

    ``flavour`` is such as ``cloud-amd64``.  Image, headers and source of each are there.
    """
    # 6.1.0-50-cloud-amd64 in a stable release, 6.12.107+deb12-cloud-amd64 where it is a backport
    number = rf"{re.escape(kernel_series)}\.(?:0-\d+|\d+\+deb\d+)"
    name = re.compile(rf"linux-image-({number}-{re.escape(flavour)})")
    names = apt.package_names(f"linux-image-{kernel_series}.")
    releases = [match[1] for match in map(name.fullmatch, names) if match]
    source = f"linux-source-{kernel_series}"
    wanted = [f"linux-{kind}-{release}" for release in releases for kind in ("image", "headers")]
    offered = apt.versions_of([source, *wanted])
    return [
        KernelPackages(cache=cache, release=release, version=version)
        for version in offered[source]
        for release in releases
        if version in offered[f"linux-image-{release}"]
        and version in offered[f"linux-headers-{release}"]
    ]


def parse_changelog(text: str) -> tuple[ChangelogEntry, ...]:
    """Return the entries of a debian/changelog, newest first; see deb-changelog(5)."""
    entries: list[ChangelogEntry] = []
    version, changes = "", list[str]()
    for line in text.splitlines():
        if match := re.match(r"\S+ \(([^)]+)\) ", line):
            version, changes = match[1], []
        elif line.startswith(" -- "):
            entries.append(ChangelogEntry(version=version, changes=tuple(changes)))
        elif bullet := re.match(r"\s+[-*+] (.*)", line):
            changes.append(bullet[1].strip())
        elif line.strip() and changes and not re.match(r"\s+\[", line):
            changes[-1] += f" {line.strip()}"
    return tuple(entries)
