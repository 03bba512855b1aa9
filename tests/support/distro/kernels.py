# SPDX-License-Identifier: GPL-2.0-only
"""Kernels of a made-up archive, in each of Debian's layouts, with next to nothing in them."""

import io
import tarfile
from collections.abc import Sequence

from ksplicd.distro.source import series
from tests.support.distro.archive import MadeUpArchive

COMPILERS = {"bookworm": "linux-compiler-gcc-12-x86", "trixie": "gcc-14", "7.0": "gcc-14-for-host"}


def add_bookworm(
    archive: MadeUpArchive, release: str = "6.1.0-50-cloud-amd64", version: str = "6.1.176-1"
) -> tuple[str, str]:
    """Add a kernel as Debian 12 has it; return its release and version."""
    files = {f"boot/vmlinuz-{release}": b"image", f"lib/modules/{release}/{MODULE}": b"module"}
    archive.add("bookworm", f"linux-image-{release}", version, "kmod, linux-base (>= 4.3~)", files)
    common = f"linux-headers-{release.removesuffix('-cloud-amd64')}-common"
    kbuild = f"linux-kbuild-{series(version)}"
    add_headers(archive, "bookworm", release, version, [common, kbuild, COMPILERS["bookworm"]])
    add_source(archive, "bookworm", version)
    return release, version


def add_trixie(archive: MadeUpArchive) -> tuple[str, str]:
    """Add a kernel as Debian 13 has it; return its release and version."""
    release, version = "6.12.107+deb13-cloud-amd64", "6.12.107-1"
    files = {f"boot/vmlinuz-{release}": b"image", f"usr/lib/modules/{release}/{MODULE}": b"module"}
    archive.add("trixie", f"linux-image-{release}", version, "kmod", files)
    names = ["linux-headers-6.12.107+deb13-common", "linux-kbuild-6.12.107+deb13"]
    add_headers(archive, "trixie", release, version, [*names, COMPILERS["trixie"]])
    add_source(archive, "trixie", version)
    return release, version


def add_seven(archive: MadeUpArchive) -> tuple[str, str]:
    """Add a kernel as Debian has it from 7.0 on; return its release and version."""
    release, version = "7.2.9+deb13-cloud-amd64", "7.2.9-1~bpo13+1"
    suite, folder = "trixie-backports", f"usr/lib/modules/{release}"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    archive.add(suite, f"linux-image-{release}", version, ", ".join(parts))
    paths = {"config": b"", "vmlinuz": b"image", MODULE: b"module"}
    for name, (path, data) in zip(parts, paths.items(), strict=True):
        archive.add(suite, name, version, files={f"{folder}/{path}": data})
    names = ["linux-headers-7.2.9+deb13-common", "linux-kbuild-7.2.9+deb13"]
    add_headers(archive, suite, release, version, [*names, COMPILERS["7.0"]])
    add_source(archive, suite, version)
    return release, version


MODULE = "kernel/fs/ext4.ko"


def add_headers(
    archive: MadeUpArchive, suite: str, release: str, version: str, depends: Sequence[str]
) -> None:
    """Add the headers of a kernel and the packages that they depend on, but the compiler."""
    common, kbuild, _ = depends
    folder = f"usr/src/linux-headers-{release}"
    files: dict[str, bytes | str] = {
        f"{folder}/.config": b"CONFIG_X86=y\n",
        f"{folder}/Makefile": f"include /usr/src/{common}/Makefile\n".encode(),
        f"{folder}/scripts": f"../../lib/{kbuild}/scripts",
    }
    archive.add(suite, f"linux-headers-{release}", version, ", ".join(depends), files)
    archive.add(suite, common, version, files={f"usr/src/{common}/Makefile": b"all:\n"})
    archive.add(suite, kbuild, version, files={f"usr/lib/{kbuild}/scripts/fixdep": b"program"})


def add_source(archive: MadeUpArchive, suite: str, version: str) -> None:
    """Add the source package of a version."""
    name = f"linux-source-{series(version)}"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for path, data in (("Kbuild", b""), ("Makefile", b"VERSION = 6\n")):
            info = tarfile.TarInfo(f"{name}/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    archive.add(suite, name, version, files={f"usr/src/{name}.tar.xz": packed.getvalue()})
