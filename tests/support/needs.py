# SPDX-License-Identifier: GPL-2.0-only
"""Marks that skip a test, with the reason, on a machine that lacks something (as in RAUC)."""

import os
from typing import Final

import pytest

from ksplicd.run import has


def needs(program: str) -> pytest.MarkDecorator:
    """Return the mark of tests that start a program."""
    return pytest.mark.skipif(not has(program), reason=f"{program} is not installed")


def require(program: str) -> None:
    """Skip the test that asks, as ``needs`` does, where the program depends on a parameter."""
    if not has(program):
        pytest.skip(f"{program} is not installed")


have_root: Final = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
have_no_root: Final = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
