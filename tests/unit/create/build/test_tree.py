# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from tests.support.kernels.build_tree import empty_tree

MAKEFILE = """\
RUSTC = rustc
prepare:
\t@echo $(RUSTC) >$(O)/rustc
"""


@pytest.mark.parametrize(
    ("configuration", "rustc"),
    [("CONFIG_A=y\n", "false\n"), ("CONFIG_A=y\nCONFIG_RUST=y\nCONFIG_B=y\n", "rustc\n")],
)
def test_a_rust_compiler_that_happens_to_be_here_is_not_seen(
    tmp_path: Path, configuration: str, rustc: str
) -> None:
    built = empty_tree(tmp_path, configuration, MAKEFILE)
    built.make("prepare")
    assert (built.output / "rustc").read_text() == rustc
