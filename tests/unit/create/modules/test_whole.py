# SPDX-License-Identifier: GPL-2.0-only
"""``--build-modules`` where no module changes; with one, tests/vm/test_create.py builds it."""

from pathlib import Path

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.modules.whole import build_whole_modules
from tests.support.kernels.build_tree import empty_tree


def test_no_module_is_not_the_whole_kernel(tmp_path: Path) -> None:
    """make without a target makes all; here it would fail, for the Makefile has no rule."""
    kbuild = Kbuild(empty_tree(tmp_path))
    assert build_whole_modules(tmp_path / "whole", kbuild, [], []) == {}
    assert not (tmp_path / "whole").exists()
