# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel that tests, demo and benchmarks run on."""

from typing import Final

from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages

RELEASE: Final = "6.1.0-50-cloud-amd64"
VERSION: Final = "6.1.176-1"


def stock_kernel(cache: Cache) -> KernelPackages:
    """Return the packages of the kernel under test."""
    return KernelPackages(cache=cache, release=RELEASE, version=VERSION)
