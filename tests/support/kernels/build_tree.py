# SPDX-License-Identifier: GPL-2.0-only
"""A source tree with nothing in it, and its output tree; the compiler only prints its version."""

from pathlib import Path

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.stock.config_dir import ConfigDir


def empty_tree(
    folder: Path, configuration: str = "", makefile: str = "", built_with: str = "cc 1"
) -> BuildTree:
    """Return the output tree for a source tree made in ``folder``."""
    folder.mkdir(exist_ok=True)
    compiler = folder / "cc"
    compiler.write_text("#!/bin/sh\necho cc 1\n")
    compiler.chmod(0o755)
    root = folder / "source"
    (root / "include").mkdir(parents=True)
    (root / "Kbuild").touch()
    (root / "Makefile").write_text(makefile)
    config = ConfigDir(
        path=folder, text=configuration, release="6.1.0", compiler=str(compiler),
        compiler_text=built_with, flags=(),
    )  # fmt: skip
    tree = BuildTree(SourceTree(root), config, folder / "cache")
    tree.output.mkdir(parents=True)
    (tree.output / "ksplice-foreign").touch()
    (tree.output / "ksplice-recipes").write_text("[]")
    return tree
