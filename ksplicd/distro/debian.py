# SPDX-License-Identifier: GPL-2.0-only
"""Debian: the kernels of all its suites that one mirror has, and their parts."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ksplicd.cache import Cache
from ksplicd.distro.archive import Archive, Index, Package, deb_files
from ksplicd.distro.layouts import IMAGE, LAYOUTS
from ksplicd.distro.model import ChangelogEntry, Kernel, Part, Parts, ToolchainNeeds
from ksplicd.distro.packages import KernelPackages, names_in
from ksplicd.distro.source import KernelSource, series
from ksplicd.distro.versions import by_version, compare, made_for
from ksplicd.errors import NoSuchKernelError

_RELEASE: Final = re.compile(r"linux-image-(\d+\.\d+\.\d\S*-amd64)")
_COMPILER: Final = re.compile(r"(?:linux-compiler-)?(gcc-\d+)(?:-x86|-for-host)?")
"""A package that the headers depend on."""
_RECENT: Final = 600.0
"""Seconds for which lists are believed that have not what is asked for."""
_NAMED: Final = 8
"""How many releases an error names."""

_PROGRAMS: Final = (
    *("make", "flex", "bison", "bc", "libelf-dev", "libssl-dev", "pahole", "perl", "rsync"),
    *("patch", "kmod", "cpio", "lz4", "xz-utils", "zstd"),
)
"""What the build of every kernel runs, as names of packages; dwarves has pahole in Debian 12."""

_RUST: Final = ("rustc", "rust-src", "bindgen")
_RUST_SINCE: Final = "7.0"
"""From here on Debian's configuration has CONFIG_RUST, which goes without these programs."""


class Debian:
    """The distribution Debian, by its archive."""

    name: Final = "debian"

    def __init__(self, cache: Cache, archive: Archive | None = None) -> None:
        """``archive``: by default that of the machine's mirror."""
        self.cache = cache
        self.archive = archive or Archive(cache)

    # --- kernels --------------------------------------------------------------------------------

    def kernels(self) -> list[Kernel]:
        """Return the kernels whose image, headers and source the mirror has, oldest first."""
        index = self.archive.index
        found = [k for name in index.names() for k in self._kernels_of(index, name)]
        return sorted(found, key=lambda k: (by_version(k.version), k.release))

    def kernel(self, release: str, version: str | None = None) -> Kernel:
        """Return one kernel; by default the newest version of the release.

        Raises ``NoSuchKernelError`` saying what is missing.
        """
        found = self._find(self.archive.index, release, version)
        if not found:  # it may be newer than the lists
            self.archive.index = self.archive.read_index(fresh=_RECENT)
            found = self._find(self.archive.index, release, version)
        if not found:
            raise NoSuchKernelError(self._why_not(release, version))
        return max(found, key=lambda k: by_version(k.version))

    def _find(self, index: Index, release: str, version: str | None) -> list[Kernel]:
        found = self._kernels_of(index, IMAGE.format(release=release))
        return [k for k in found if version in (None, k.version)]

    def _kernels_of(self, index: Index, image: str) -> list[Kernel]:
        """Return each version of an image package whose other parts are there too."""
        match = _RELEASE.fullmatch(image)
        found: dict[str, Kernel] = {}
        for package in index.of(image) if match else ():
            kernel = self._kernel_of(index, match[1], package) if match else None
            if kernel is not None:
                found.setdefault(package.version, kernel)
        return list(found.values())

    def _kernel_of(self, index: Index, release: str, image: Package) -> Kernel | None:
        headers = index.of(f"linux-headers-{release}", image.version)
        if not headers or self._missing(index, release, image):
            return None
        kernel = Kernel(
            release=release,
            version=image.version,
            suite=image.suite,
            newer=None,
            compiler=compiler_in(headers[0].depends),
            cached=self._is_cached(release, image, headers[0]),
        )
        newer = _newer(index, kernel)
        return replace(kernel, newer=newer[-1] if newer else None)

    def _missing(self, index: Index, release: str, image: Package) -> list[str]:
        """Return the packages of a kernel that the mirror does not have in its version."""
        names = [f"linux-headers-{release}", f"linux-source-{series(image.version)}"]
        names += [n for n in names_in(image.depends) if n in _parted(release)]
        for headers in index.of(f"linux-headers-{release}", image.version)[:1]:
            names += [n for n in names_in(headers.depends) if _is_part_of_headers(n)]
        return [n for n in names if not index.of_kernel(n, image.version)]

    def _why_not(self, release: str, version: str | None) -> str:
        """Return the message for a release that cannot be patched."""
        index = self.archive.index
        images = index.of(IMAGE.format(release=release), version)
        wanted = f"{release} {version}" if version else release
        if images and _RELEASE.fullmatch(images[0].name):
            missing = ", ".join(self._missing(index, release, images[0]))
            return (
                f"{wanted}: the mirror has the image, but no longer {missing} in version"
                f" {images[0].version}; take it from where you have it, with --config"
            )
        known = [k.release for k in self.kernels()]
        prefix = ".".join(release.split(".")[:2])
        alike = [r for r in known if r.startswith(f"{prefix}.")] or known
        shown = ", ".join(alike[-_NAMED:])
        notes = "".join(f"; {note}" for note in index.notes)
        return (
            f"{wanted}: no kernel of Debian that can be patched{notes}."
            f" `ksplice kernels` lists them{f': {shown}' if shown else ''}"
        )

    def _is_cached(self, release: str, image: Package, headers: Package) -> bool:
        """Tell whether the files of all packages, or their contents, are in the cache."""
        source = KernelSource(cache=self.cache, version=image.version)
        names = [image.name, *(n for n in names_in(image.depends) if n in _parted(release))]
        names += [headers.name]
        names += [n for n in names_in(headers.depends) if _is_part_of_headers(n)]
        folder = self.cache.root / "dl"
        debs = [
            deb_files(folder, name, self.archive.version_for(name, image.version)) for name in names
        ]
        has_source = (self.cache.root / "source" / image.version).is_dir() or deb_files(
            folder, source.package, image.version
        )
        return all(debs) and bool(has_source)

    # --- parts ----------------------------------------------------------------------------------

    def packages(self, kernel: Kernel) -> KernelPackages:
        """Return the packages of a kernel."""
        return KernelPackages(
            cache=self.cache, release=kernel.release, version=kernel.version, where=self.archive
        )

    def parts(self, kernel: Kernel) -> Parts:
        """Return all parts of a kernel, downloaded and unpacked where they are not there."""
        packages = self.packages(kernel)
        layout = packages.layout()
        source = KernelSource(cache=self.cache, version=kernel.version, where=self.archive)

        def origin(name: str) -> str:
            return f"{name.format(release=kernel.release)} {kernel.version} ({kernel.suite})"

        return Parts(
            kernel=kernel,
            image=Part(path=packages.vmlinuz(), origin=origin(layout.image)),
            modules=Part(path=packages.modules(), origin=origin(layout.modules)),
            headers=Part(
                path=packages.headers_in_cache(), origin=origin("linux-headers-{release}")
            ),
            source=Part(path=source.tree(), origin=origin(source.package)),
            symbols=None,
        )

    def newer(self, kernel: Kernel) -> list[str]:
        """Return the newer versions of the source for the same release of Debian, oldest first."""
        return _newer(self.archive.index, kernel)

    def changelog(self, version: str) -> Sequence[ChangelogEntry]:
        """Return the changelog up to a version of the source, newest entry first."""
        return KernelSource(cache=self.cache, version=version, where=self.archive).changelog()

    def toolchain(self, kernel: Kernel) -> ToolchainNeeds:
        """Return what the kernel's units are compiled with."""
        rust = _RUST if compare(kernel.version, _RUST_SINCE) >= 0 else ()
        return ToolchainNeeds(
            compiler=kernel.compiler,
            suite=kernel.suite.partition("-")[0],
            packages=(kernel.compiler, *_PROGRAMS, *rust),
        )


def compiler_in(depends: str) -> str:
    """Return the compiler that the headers of a kernel depend on, empty when there is none."""
    found = (_COMPILER.fullmatch(name) for name in names_in(depends))
    return next((match[1] for match in found if match), "")


def _newer(index: Index, kernel: Kernel) -> list[str]:
    offered = {p.version for p in index.of(f"linux-source-{series(kernel.version)}")}
    return sorted(
        (
            v
            for v in offered
            if made_for(v) == made_for(kernel.version) and compare(v, kernel.version) > 0
        ),
        key=by_version,
    )


def _parted(release: str) -> set[str]:
    """Return the packages that a kernel's image is parted into, in any layout."""
    return {name for layout in LAYOUTS for name in layout.packages(release)}


def _is_part_of_headers(name: str) -> bool:
    return name.startswith("linux-kbuild-") or "-common" in name
