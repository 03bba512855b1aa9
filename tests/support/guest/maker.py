# SPDX-License-Identifier: GPL-2.0-only
"""Makes updates, all signed by one key."""

from dataclasses import replace
from pathlib import Path

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from tests.support.guest.hand import Edit, write_patch
from tests.support.kernels import slice as sample

GETFD = "\t\terr = get_close_on_exec(fd) ? FD_CLOEXEC : 0;\n"
FIRST = Edit("fs/fcntl.c", GETFD, f"{GETFD}\t\terr |= 16;\n")
AUXV = Edit(
    "kernel/sys.c",
    "\tif (len > sizeof(user_auxv))\n\t\treturn -EINVAL;\n",
    "\tif (len > sizeof(user_auxv))\n\t\treturn -E2BIG;\n",
)


class Maker:
    """Makes and signs bundles."""

    def __init__(self, cache: Cache, kernel: KernelPackages, folder: Path) -> None:
        self.cache, self.kernel, self.folder = cache, kernel, folder
        self.tree = sample.source_tree(cache, kernel)
        self.key = sample.throwaway_key(folder)

    def make(
        self,
        kid: str,
        *edits: Edit,
        on: tuple[Edit, ...] = (),
        series: tuple[Path, ...] = (),
        replaces: tuple[str, ...] = (),
        folder: Path | None = None,
    ) -> Path:
        patch = write_patch(self.tree, self.folder / f"{kid}.patch", *edits, on=on)
        request = replace(
            sample.request_for(self.cache, self.kernel, patch, kid=kid),
            series=series,
            replaces=replaces,
        )
        return self.sign(kid, sample.made(self.cache, request, self.cache.progress), folder)

    def sign(self, kid: str, data: bytes, folder: Path | None = None) -> Path:
        return sample.write_signed(kid, data, self.key.secret, folder or self.folder)
