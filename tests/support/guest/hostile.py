# SPDX-License-Identifier: GPL-2.0-only
"""The update whose modules are damaged, or loaded without memory."""

import os
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from tests.support.guest.hand import Edit, make_bundle, write_patch
from tests.support.guest.modules import ROMFS
from tests.support.kernels import slice as sample

KID: Final = "hostile1"
TSC: Final = Edit(
    "arch/x86/kernel/process.c", "val = PR_TSC_SIGSEGV;", "val = PR_TSC_SIGSEGV | 64;"
)
"""In a unit with patch sites of each kind."""
MUTATIONS: Final = int(os.environ.get("KSPLICE_MUTATIONS", "100"))


def make_hostile_bundle(
    cache: Cache, kernel: KernelPackages, fix: sample.Fix, folder: Path
) -> bundle.Bundle:
    """Make the update, whole as yet."""
    tree = sample.source_tree(cache, kernel)
    patches = [
        write_patch(tree, folder / "edits.patch", ROMFS, TSC),
        sample.cut_patch(cache, fix.old, fix.new, [fix.file]),
    ]
    return make_bundle(cache, kernel, KID, patches)
