# SPDX-License-Identifier: GPL-2.0-only
"""The symbols that are read from a stock image are those that the booted kernel shows."""

import pytest

from ksplicd.create.stock.from_machine import unslide
from ksplicd.create.stock.image import read_image
from ksplicd.create.stock.kallsyms import read_kallsyms
from ksplicd.create.stock.system_map import read_system_map
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest


@pytest.mark.kernels("6.1", "6.12")
def test_symbols_of_the_image_are_those_of_the_running_kernel(
    guest: Guest, kernel: KernelPackages
) -> None:
    image = read_image(kernel.vmlinuz().read_bytes())
    text = guest.get("/proc/kallsyms").decode()
    booted = unslide(read_system_map(text), image.segments[0].address)
    read = read_kallsyms(image)
    assert read == booted
