# SPDX-License-Identifier: GPL-2.0-only
"""Toolchain roots: the compiler of another suite and what the kernel's build runs, in a folder.

::

    the mirror's sources of a suite ─mmdebstrap▸ packages, extracted ─▸ links ─▸ the cache

Packages are extracted and not installed: no script of theirs runs, so neither root nor user
namespaces are needed to make it.  What a script would have done and the build needs is done here.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ksplicd.cache import digest_of
from ksplicd.distro.apt import transport_options
from ksplicd.distro.archive import Archive
from ksplicd.distro.mirror import Mirror
from ksplicd.distro.model import ToolchainNeeds
from ksplicd.distro.versions import by_version
from ksplicd.errors import (
    DistroError,
    NoSpaceError,
    NoSuchSuiteError,
    ToolchainError,
    ToolError,
    UnreachableError,
    UntrustedError,
)
from ksplicd.run import has, run
from ksplicd.toolchain import Toolchain

_VERSION: Final = 1
"""Raised when something else is made of the same packages."""

BASE: Final = (
    *("base-files", "bash", "dash", "coreutils", "sed", "grep", "findutils", "mawk", "tar"),
    *("gzip", "diffutils", "debianutils", "util-linux", "hostname", "libc6-dev", "binutils"),
    *("gcc", "python3-minimal"),
)
"""What a system has, as far as the kernel's build runs it.  gcc makes the build's own programs."""

_NO_DOCS: Final = ("doc", "man", "locale", "info")
_LINKS: Final = {"awk": "mawk", "which": "which.debianutils"}
"""Links in /usr/bin that update-alternatives(1) would have made."""
_ALSO: Final = ("-security", "-updates")
"""Suites beside that of a release, whose packages are newer."""


def toolchain_root(
    archive: Archive, needs: ToolchainNeeds, inside: Sequence[Path] = ()
) -> Toolchain:
    """Return the toolchain of a suite, made on first use (half a minute, 350 MB).

    ``inside``: folders of this machine below /usr that programs read there.  Raises
    ``ToolchainError``, ``DistroError`` and its leaves.
    """
    for program, package in (("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap")):
        if not has(program):
            raise ToolchainError(
                f"{needs.compiler} of {needs.suite} needs a root of that suite; install the"
                f" package {package}"
            )
    cache = archive.cache
    suites = suites_of(archive.mirror, needs.suite)
    offered = [p for p in archive.index.of(needs.compiler) if p.suite in suites]
    if not offered:
        raise ToolchainError(f"{needs.compiler}: not in {', '.join(suites)} on the mirror")
    newest = max((p.version for p in offered), key=by_version)
    packages = (*needs.packages, *BASE)
    below = [path for path in inside if path.is_relative_to("/usr")]

    def make(folder: Path) -> None:
        cache.progress(f"making a root with {needs.compiler} {newest} of {needs.suite}")
        make_root(archive.mirror, folder / "root", needs.suite, suites, packages)
        for path in below:
            (folder / "root" / path.relative_to("/")).mkdir(parents=True, exist_ok=True)

    parts = [_VERSION, suites, newest, packages, [str(path) for path in below]]
    folder = cache.entry("toolchain", digest_of(parts), make)
    return Toolchain(root=folder / "root", inside=tuple(below))


def suites_of(mirror: Mirror, suite: str) -> list[str]:
    """Return the suites that a root of a release is made from."""
    return [suite, *(f"{suite}{also}" for also in _ALSO if f"{suite}{also}" in mirror.suites())]


def sources_of(mirror: Mirror, suites: Sequence[str]) -> str:
    """Return the sources of suites for mmdebstrap, in deb822 style."""
    # it takes no packages from outside of its folder but copies
    return "\n".join(map(mirror.stanza, suites)).replace("URIs: file:", "URIs: copy:")


def make_root(
    mirror: Mirror, root: Path, suite: str, suites: Sequence[str], packages: Sequence[str]
) -> None:
    """Extract packages of a suite, and what they depend on, into a new folder."""
    sources = sources_of(mirror, suites)
    options = ['Acquire::Languages "none";', *transport_options()]
    argv: list[str | Path] = [
        *("mmdebstrap", "--mode=chrootless", "--variant=extract", "--format=directory"),
        *(f"--aptopt={option}" for option in options),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NO_DOCS),
        *(f"--include={','.join(packages)}", suite, root, "-"),
    ]
    try:
        run(argv, stdin=sources.encode(), env={"TMPDIR": str(root.parent)})
        for name, to in _LINKS.items():
            link = root / "usr/bin" / name
            if not os.path.lexists(link) and (root / "usr/bin" / to).exists():
                link.symlink_to(to)
        (root / "usr/src").mkdir(exist_ok=True)
    except ToolError as e:
        raise _cause(str(e))(f"no root of {suite} can be made: {e}") from e
    except OSError as e:
        raise ToolchainError(f"{root}: {e.strerror}") from e


def _cause(words: str) -> type[DistroError]:
    for cause, signs in (
        (NoSpaceError, ("No space left", "enough free space")),
        (UntrustedError, ("not signed", "NO_PUBKEY", "BADSIG", "GPG error")),
        (UnreachableError, ("Could not connect", "Could not resolve", "failure resolving")),
        (NoSuchSuiteError, ("does not have a Release file",)),
    ):
        if any(sign in words for sign in signs):
            return cause
    return ToolchainError
