# SPDX-License-Identifier: GPL-2.0-only
"""Exports, read from Module.symvers."""

from pathlib import Path

import pytest

from ksplicd.create.stock.symvers import read_exports
from ksplicd.errors import ConfigDirError


def test_exports(tmp_path: Path) -> None:
    symvers = tmp_path / "Module.symvers"
    symvers.write_text(
        "0x1\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"
        "0x2\text4_x\tfs/ext4/ext4\tEXPORT_SYMBOL_GPL\t\n"
        "0x3\tspaced\tvmlinux\tEXPORT_SYMBOL_GPL\tSOME_NS\n"
    )
    exports = read_exports(symvers)
    assert exports.vmlinux == {"printk"}
    assert exports.modules == {"ext4_x": "ext4"}


def test_exports_of_another_form(tmp_path: Path) -> None:
    symvers = tmp_path / "Module.symvers"
    for data in (b"not tabs\n", b"0x1\tf\xff\tvmlinux\n"):
        symvers.write_bytes(data)
        with pytest.raises(ConfigDirError, match=r"Module\.symvers:1: not a line"):
            read_exports(symvers)
    with pytest.raises(ConfigDirError, match=r"No such file.*headers package"):
        read_exports(tmp_path / "none")
