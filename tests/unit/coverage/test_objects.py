# SPDX-License-Identifier: GPL-2.0-only
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksplicd.create.patch.source_tree import PatchedFile
from tests.coverage.objects import SharedTree, locked


def is_free(path: Path) -> bool:
    with path.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def shared_tree(folder: Path) -> Iterator[SharedTree]:
    for name, text in (("Kbuild", ""), ("Makefile", "VERSION = 6\n"), ("fs/a.c", "old\n")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    tree = SharedTree(folder)
    tree.locks = folder / "locks"
    yield tree


def test_locks_last_as_long_as_the_context(tmp_path: Path) -> None:
    with locked(tmp_path / "locks", ["b", "a", "b"]):
        assert not is_free(tmp_path / "locks/a")
        assert not is_free(tmp_path / "locks/b")
    assert is_free(tmp_path / "locks/a")


def test_nobody_else_compiles_what_is_patched(tmp_path: Path) -> None:
    with shared_tree(tmp_path) as tree, tree.patched([PatchedFile(Path("fs/a.c"), b"new\n")]):
        assert (tmp_path / "fs/a.c").read_text() == "new\n"
        assert not is_free(tmp_path / "locks/fs-a")
    assert (tmp_path / "fs/a.c").read_text() == "old\n"
    assert is_free(tmp_path / "locks/fs-a")


def test_an_error_gives_lock_and_file_back(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="compiler"),
        shared_tree(tmp_path) as tree,
        tree.patched([PatchedFile(Path("fs/a.c"), b"new\n")]),
    ):
        raise RuntimeError("compiler")
    assert (tmp_path / "fs/a.c").read_text() == "old\n"
    assert is_free(tmp_path / "locks/fs-a")
