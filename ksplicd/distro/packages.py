# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernel packages: image, modules and headers of one exact version.

Downloads and unpacked trees live in the cache.  Trees are shared by all who use them: copy one, or
lay an overlay over it, before changing a file.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of
from ksplicd.distro import apt
from ksplicd.distro.archive import Archive
from ksplicd.distro.layouts import IMAGE, LAYOUTS, Layout
from ksplicd.distro.unpack import unpack_debs
from ksplicd.errors import DistroError, NoSuchKernelError
from ksplicd.run import run

_HEADERS_VERSION: Final = 1
"""Raised when something else is made of the same packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPackages:
    """The packages that belong to one kernel image."""

    cache: Cache
    release: str
    """``uname -r`` of the kernel, such as ``6.1.0-50-cloud-amd64``."""
    version: str
    """Debian's version, such as ``6.1.176-1``."""
    where: Archive | None = field(default=None, compare=False, repr=False)
    """Where the packages come from; by default the machine's mirror."""

    @property
    def archive(self) -> Archive:
        """Where the packages come from."""
        return self.where or Archive(self.cache)

    @property
    def headers(self) -> Path:
        """The headers' folder, which is there after ``install_headers()``."""
        return Path(f"/usr/src/linux-headers-{self.release}")

    # --- image and modules ----------------------------------------------------------------------

    def image_deb(self) -> Path:
        """Return the file of the package linux-image."""
        return self._deb(IMAGE.format(release=self.release))

    def image_root(self) -> Path:
        """Return a folder with the unpacked package that has the image."""
        return self._root(self.layout().image.format(release=self.release))

    def vmlinuz(self) -> Path:
        """Return the bootable image.  Raises ``DistroError`` when no layout is known that fits."""
        return self.image_root() / self.layout().vmlinuz.format(release=self.release)

    def modules(self) -> Path:
        """Return the folder of the kernel's modules.  Raises ``DistroError`` as ``vmlinuz``."""
        layout = self.layout()
        root = self._root(layout.modules.format(release=self.release))
        return root / layout.folder.format(release=self.release)

    def layout(self) -> Layout:
        """Return which of Debian's layouts these packages have.

        Raises ``NoSuchKernelError`` when it is none of them.
        """
        depends = names_in(run(["dpkg-deb", "-f", self.image_deb(), "Depends"]).decode())
        for layout in LAYOUTS:
            image, *_ = packages = layout.packages(self.release)
            is_meta = image != IMAGE.format(release=self.release)
            if is_meta and not set(packages) <= set(depends):
                continue
            places = ((layout.image, layout.vmlinuz), (layout.modules, layout.folder))
            if all(
                (self._root(p.format(release=self.release)) / at.format(release=self.release))
                .exists() for p, at in places
            ):  # fmt: skip
                return layout
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise NoSuchKernelError(
            f"linux-image-{self.release} {self.version}: its layout is none of those known"
            f" ({known}): the image is not where they have it. Install the kernel, and use"
            " `ksplice config --running` on that machine, or fill the folder by hand (ksplice(1))"
        )

    # --- headers --------------------------------------------------------------------------------

    def headers_root(self) -> Path:
        """Return a folder with all that modules are built against, at its place below.

        The packages' makefiles include each other by absolute names; here they name this folder.
        """
        debs = [self.archive.download(*which) for which in self.headers_packages()]
        kind, digest = "headers", digest_of(_HEADERS_VERSION, [deb.name for deb in debs])

        def unpack(new: Path) -> None:
            unpack_debs(self.cache, debs, new)
            final = self.cache.root / kind / digest
            makefile = new / f"usr/src/linux-headers-{self.release}/Makefile"
            text = makefile.read_text()
            makefile.write_text(re.sub(r"(?<![\w./])/usr/src/", f"{final}/usr/src/", text))

        return self.cache.entry(kind, digest, unpack)

    def headers_packages(self) -> Sequence[tuple[str, str]]:
        """Return the packages of the headers: of the flavour, of all flavours, the programs.

        The programs (linux-kbuild) may be newer than the kernel, as the dependency says.
        """
        first = f"linux-headers-{self.release}"
        depends = names_in(run(["dpkg-deb", "-f", self._deb(first), "Depends"]).decode())
        wanted = re.compile(r"linux-headers-\d\S*-common(?:-rt)?|linux-kbuild-\d\S*")
        found = [name for name in depends if wanted.fullmatch(name)]
        if not any(name.startswith("linux-kbuild-") for name in found):
            raise NoSuchKernelError(
                f"{first} {self.version}: depends on no linux-kbuild; its layout is not that of"
                " Debian's packages"
            )
        return [(name, self.archive.version_for(name, self.version)) for name in [first, *found]]

    def headers_in_cache(self) -> Path:
        """Return the folder against which modules are built, without installing anything."""
        folder = self.headers_root() / f"usr/src/linux-headers-{self.release}"
        return self._checked(folder)

    def install_headers(self) -> Path:
        """Install the headers on this host, and return their folder."""
        apt.install(self.cache, f"linux-headers-{self.release}", self.version)
        return self._checked(self.headers)

    def _checked(self, folder: Path) -> Path:
        if not (folder / ".config").is_file():
            raise DistroError(
                f"linux-headers-{self.release} {self.version}: has no {folder}/.config; its"
                " layout is not that of Debian's packages"
            )
        return folder

    # --- what is there --------------------------------------------------------------------------

    def _deb(self, package: str) -> Path:
        return self.archive.download(package, self.version)

    def _root(self, package: str) -> Path:
        """Return a folder with an unpacked package."""
        deb = self._deb(package)
        return self.cache.entry(
            "kernel", digest_of(deb.name), lambda new: unpack_debs(self.cache, [deb], new)
        )


def names_in(depends: str) -> list[str]:
    """Return the names of packages in a field ``Depends``, alternatives too, in order."""
    return [part.split()[0] for part in re.split(r"[,|]", depends) if part.strip()]
