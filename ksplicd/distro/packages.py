# SPDX-License-Identifier: GPL-2.0-only
"""Debian's kernel packages: image and headers of one exact version.

Downloads and unpacked trees live in the cache.  Trees are shared by all who use them: copy one, or
lay an overlay over it, before changing a file.
"""

from dataclasses import dataclass
from pathlib import Path

from ksplicd.cache import Cache, digest_of
from ksplicd.distro import apt
from ksplicd.errors import DistroError
from ksplicd.run import run


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPackages:
    """The packages that belong to one kernel image."""

    cache: Cache
    release: str
    """``uname -r`` of the kernel, such as ``6.1.0-50-cloud-amd64``."""
    version: str
    """Debian's version, such as ``6.1.176-1``."""

    @property
    def headers(self) -> Path:
        """The headers' folder, which is there after ``install_headers()``."""
        return Path(f"/usr/src/linux-headers-{self.release}")

    def image_deb(self) -> Path:
        """Return the image package's file."""
        return apt.download(self.cache, f"linux-image-{self.release}", self.version)

    def image_root(self) -> Path:
        """Return a folder with the unpacked image package: ``boot/``, ``lib/modules/RELEASE/``."""
        deb = self.image_deb()

        def unpack(new: Path) -> None:
            self.cache.progress(f"unpacking {deb.name}")
            run(["dpkg-deb", "-x", deb, new])

        return self.cache.entry("kernel", digest_of(deb.name), unpack)

    def vmlinuz(self) -> Path:
        """Return the bootable image.  Raises ``DistroError`` where the layout is another."""
        return self._part(f"boot/vmlinuz-{self.release}")

    def modules(self) -> Path:
        """Return the folder of the kernel's modules.  Raises ``DistroError`` as ``vmlinuz``."""
        return self._part(f"lib/modules/{self.release}")

    def _part(self, path: str) -> Path:
        """Return a part of the unpacked image package."""
        root = self.image_root()
        if not (root / path).exists():
            raise DistroError(
                f"linux-image-{self.release} {self.version}: has no {path}; its layout is not that"
                " of Debian 12's packages. Install the kernel, and use `ksplice config --running`"
                " on that machine, or fill the folder by hand (ksplice(1))"
            )
        return root / path

    def install_headers(self) -> Path:
        """Install the headers on this host, because their Makefile holds absolute paths."""
        apt.install(self.cache, f"linux-headers-{self.release}", self.version)
        if not (self.headers / ".config").is_file():
            raise DistroError(
                f"linux-headers-{self.release} {self.version}: has no {self.headers}/.config; its"
                " layout is not that of Debian's packages"
            )
        return self.headers
