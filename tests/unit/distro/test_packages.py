# SPDX-License-Identifier: GPL-2.0-only
from collections.abc import Callable
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages, names_in
from ksplicd.errors import NoSuchKernelError
from tests.support.distro.archive import MadeUpArchive
from tests.support.distro.kernels import add_bookworm, add_seven, add_trixie
from tests.support.needs import needs

pytestmark = [needs("gpg"), needs("apt-get"), needs("dpkg-deb")]


def test_headers_are_where_debian_puts_them() -> None:
    packages = KernelPackages(cache=Cache(), release="6.1.0-50-cloud-amd64", version="6.1.176-1")
    assert str(packages.headers) == "/usr/src/linux-headers-6.1.0-50-cloud-amd64"


@pytest.mark.parametrize(
    ("add", "layout"), [(add_bookworm, "bookworm"), (add_trixie, "trixie"), (add_seven, "7.0")]
)
def test_each_layout_is_known(
    archive: MadeUpArchive,
    tmp_path: Path,
    add: Callable[[MadeUpArchive], tuple[str, str]],
    layout: str,
) -> None:
    release, version = add(archive)
    archive.publish()
    opened = archive.open(tmp_path / "cache")
    packages = KernelPackages(cache=opened.cache, release=release, version=version, where=opened)
    assert packages.layout().name == layout
    assert packages.vmlinuz().read_bytes() == b"image"
    assert (packages.modules() / "kernel/fs/ext4.ko").read_bytes() == b"module"
    headers = packages.headers_in_cache()
    assert (headers / ".config").read_bytes() == b"CONFIG_X86=y\n"
    assert (headers / "scripts/fixdep").read_bytes() == b"program"
    common = (headers / "Makefile").read_text().split()[-1]
    assert Path(common).read_bytes() == b"all:\n"
    assert Path(common).is_relative_to(tmp_path / "cache")


def test_package_of_another_layout(archive: MadeUpArchive, tmp_path: Path) -> None:
    archive.add("sid", "linux-image-9", "9.1-1", "linux-binary-9", {"boot/other": b""})
    archive.publish()
    opened = archive.open(tmp_path / "cache")
    packages = KernelPackages(cache=opened.cache, release="9", version="9.1-1", where=opened)
    with pytest.raises(NoSuchKernelError, match=r"linux-image-9 9\.1-1: its layout is none of"):
        packages.vmlinuz()


def test_headers_without_programs(archive: MadeUpArchive, tmp_path: Path) -> None:
    archive.add("sid", "linux-headers-9", "9.1-1", "linux-headers-9.1-common")
    archive.publish()
    opened = archive.open(tmp_path / "cache")
    packages = KernelPackages(cache=opened.cache, release="9", version="9.1-1", where=opened)
    with pytest.raises(NoSuchKernelError, match="depends on no linux-kbuild"):
        packages.headers_in_cache()


def test_names_in_dependencies() -> None:
    depends = "linux-base (>= 4.12~), a+b-1 (= 1) | c, gcc-14-for-host"
    assert names_in(depends) == ["linux-base", "a+b-1", "c", "gcc-14-for-host"]
