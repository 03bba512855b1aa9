# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel, with parts that do not belong together or are damaged."""

from pathlib import Path

import pytest

from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.system_map import MapSymbol, write_system_map
from ksplicd.create.stock.vmlinux import StockVmlinux, read_vmlinux
from ksplicd.errors import ConfigDirError
from tests.support.objects.link import link

BANNER = "Linux version 6.1.0 (gcc-12) #1 SMP Debian 6.1.0-1 (2024-01-01)"


def read(folder: Path, banner: str = BANNER, *more: MapSymbol) -> StockVmlinux:
    """Link an image with a banner, and read it."""
    linked = link(folder, {"a": f'const char linux_banner[] = "{banner}\\n"; void f(void) {{}}'})
    (folder / "build").mkdir()
    (folder / "build/Module.symvers").touch()
    (folder / "System.map").write_text(write_system_map([*linked.symbols, *more]))
    (folder / "vmlinuz").write_bytes(linked.elf)
    return read_vmlinux(
        ConfigDir(
            path=folder, text="", release="6.1.0", compiler="gcc", compiler_text="gcc", flags=()
        )
    )


def test_identity(tmp_path: Path) -> None:
    identity = read(tmp_path).identity
    assert (identity.release, identity.version) == (
        "6.1.0",
        "#1 SMP Debian 6.1.0-1 (2024-01-01)",
    )
    assert len(identity.build_id) == 40


def test_another_release(tmp_path: Path) -> None:
    with pytest.raises(ConfigDirError, match=r"vmlinuz: is 6\.1\.1, but .*/build is for 6\.1\.0"):
        read(tmp_path, BANNER.replace("6.1.0", "6.1.1"))


@pytest.mark.parametrize("banner", ["", "Linux version ", "Linux version 6.1.0", "Linux 6.1.0 #1"])
def test_banner_of_another_form(tmp_path: Path, banner: str) -> None:
    with pytest.raises(ConfigDirError, match="map and image are of different kernels"):
        read(tmp_path, banner)


@pytest.mark.parametrize("size", [6, -4, 1 << 40])
def test_list_of_sealed_functions_that_is_none(tmp_path: Path, size: int) -> None:
    at = 0xFFFFFFFF81000000
    table = (("__ibt_endbr_seal", at), ("__ibt_endbr_seal_end", at + size))
    with pytest.raises(ConfigDirError, match=r"^System\.map: __ibt_endbr_seal to"):
        read(tmp_path, BANNER, *(MapSymbol(address, "d", name) for name, address in table))
