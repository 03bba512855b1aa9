# SPDX-License-Identifier: GPL-2.0-only
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages


def test_headers_are_where_debian_puts_them() -> None:
    packages = KernelPackages(cache=Cache(), release="6.1.0-50-cloud-amd64", version="6.1.176-1")
    assert str(packages.headers) == "/usr/src/linux-headers-6.1.0-50-cloud-amd64"
