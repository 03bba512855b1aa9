# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import DistroError
from ksplicd.run import run


def test_headers_are_where_debian_puts_them() -> None:
    packages = KernelPackages(cache=Cache(), release="6.1.0-50-cloud-amd64", version="6.1.176-1")
    assert str(packages.headers) == "/usr/src/linux-headers-6.1.0-50-cloud-amd64"


@pytest.mark.parametrize(("part", "missing"), [("vmlinuz", "boot/vmlinuz-9"), ("modules", "lib/")])
def test_package_of_another_layout(tmp_path: Path, part: str, missing: str) -> None:
    """As Debian's from 7.0 on, where linux-image is an empty one that depends on others."""
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN/control").write_text(
        "Package: linux-image-9\nVersion: 9.1-1\nArchitecture: amd64\nMaintainer: x\n"
        "Description: x\n"
    )
    dl = tmp_path / "cache/dl"
    dl.mkdir(parents=True)
    deb = dl / "linux-image-9_9.1-1_amd64.deb"
    run(["dpkg-deb", "--root-owner-group", "-b", content, deb])
    packages = KernelPackages(cache=Cache(tmp_path / "cache"), release="9", version="9.1-1")
    with pytest.raises(DistroError, match=rf"linux-image-9 9\.1-1: has no {missing}.* layout"):
        getattr(packages, part)()
