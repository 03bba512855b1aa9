# SPDX-License-Identifier: GPL-2.0-only
"""One signed bundle for a stock kernel, and what its tests share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from tests.support.kernels import slice as sample

KID: Final = "8c4o6ucj"
BUS: Final = "org.ksplice.Ksplicd1"
MANAGER: Final = f"{BUS} /org/ksplice/Ksplicd1 {BUS}.Manager"
NAME: Final = bundle.file_name(KID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A bundle for the stock kernel."""

    file: Path
    public_key: Path


def signed_fix(cache: Cache, kernel: KernelPackages, fix: sample.Fix, folder: Path) -> Signed:
    """Make the update of a fix in ``folder``, signed by a key of its own."""
    key = sample.throwaway_key(folder)
    patch = sample.cut_patch(cache, fix.old, fix.new, [fix.file])
    file = sample.make_update(cache, kernel, patch, key.secret, out=folder, kid=KID)
    return Signed(file=file, public_key=key.public)
