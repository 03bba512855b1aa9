# SPDX-License-Identifier: GPL-2.0-only
"""The update whose modules are damaged, or loaded without memory."""

import os
from typing import Final

import pytest

from ksplicd import bundle
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from tests.support.guest.hand import Edit, make_bundle, write_patch
from tests.support.guest.modules import ROMFS
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import stock_kernel

KID: Final = "hostile1"
TSC: Final = Edit(
    "arch/x86/kernel/process.c", "val = PR_TSC_SIGSEGV;", "val = PR_TSC_SIGSEGV | 64;"
)
"""In a unit with patch sites of each kind."""
MUTATIONS: Final = int(os.environ.get("KSPLICE_MUTATIONS", "100"))


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    fix = sample.FCNTL if kernel.version == stock_kernel(lab_cache).version else sample.DCACHE
    folder = tmp_path_factory.mktemp("hostile")
    tree = sample.source_tree(lab_cache, kernel)
    patches = [
        write_patch(tree, folder / "edits.patch", ROMFS, TSC),
        sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file]),
    ]
    return make_bundle(lab_cache, kernel, KID, patches)
