# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.stock.config_dir import ConfigDir

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
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho cc 1\n")
    compiler.chmod(0o755)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "Kbuild").touch()
    (tree / "Makefile").write_text(MAKEFILE)
    config = ConfigDir(
        path=tmp_path, text=configuration, release="6.1.0", compiler=str(compiler),
        compiler_text="cc 1", flags=(),
    )  # fmt: skip
    built = BuildTree(SourceTree(tree), config, tmp_path / "cache")
    built.output.mkdir(parents=True)
    built.make("prepare")
    assert (built.output / "rustc").read_text() == rustc
