# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernels that tests, demo and benchmarks run on."""

from collections.abc import Callable, Mapping
from typing import Final

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages

RELEASE: Final = "6.1.0-50-cloud-amd64"
VERSION: Final = "6.1.176-1"

NEXT_RELEASE: Final = "6.12.115+deb12-cloud-amd64"
NEXT_VERSION: Final = "6.12.115-2~deb12u1"
NEXT_NEWER: Final = "6.12.117-1~deb12u1"
"""The kernel of Debian's backports that is tested too, and the source that its fixes come from."""


def stock_kernel(cache: Cache) -> KernelPackages:
    """Return the packages of Debian 12's kernel."""
    return KernelPackages(cache=cache, release=RELEASE, version=VERSION)


def next_kernel(cache: Cache) -> KernelPackages:
    """Return the packages of the newer kernel, of Debian's backports."""
    return KernelPackages(cache=cache, release=NEXT_RELEASE, version=NEXT_VERSION)


KERNELS: Final[Mapping[str, Callable[[Cache], KernelPackages]]] = {
    "6.1": stock_kernel,
    "6.12": next_kernel,
}
"""The kernels under test, by the names that tests have for them."""


def of_flavour(kernel: KernelPackages, flavour: str) -> KernelPackages:
    """Return the same version of a kernel in another flavour: ``cloud`` or ``generic``."""
    release = kernel.release.replace("-cloud-", "-" if flavour == "generic" else f"-{flavour}-")
    return KernelPackages(cache=kernel.cache, release=release, version=kernel.version)
