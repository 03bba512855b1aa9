# SPDX-License-Identifier: GPL-2.0-only
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ksplicd.create.patch.change import Before, from_patches
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.create.patch.source_tree import PRESRC, PatchedFile, SourceTree
from ksplicd.errors import NoChangesError, PatchError, SourceTreeError
from ksplicd.run import run

FIRST = "".join(f"int line{i};\n" for i in range(1, 30))


@pytest.fixture
def tree(tmp_path: Path) -> SourceTree:
    root = tmp_path / "linux"
    (root / "fs").mkdir(parents=True)
    (root / "Kbuild").touch()
    (root / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 176\n")
    (root / "fs/a.c").write_text(FIRST)
    (root / "fs/b.c").write_text("int b;\n")
    os.utime(root / "fs/a.c", (1_000_000, 1_000_000))
    return SourceTree(root)


def make_patch(tree: SourceTree, tmp_path: Path, path: str, content: str) -> Path:
    """Write a patch that gives ``path`` another content."""
    old, new = tmp_path / "a" / path, tmp_path / "b" / path
    for p, text in ((old, (tree.root / path).read_text()), (new, content)):
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(text)
    out = run(["diff", "-u", f"a/{path}", f"b/{path}"], cwd=tmp_path, ok=(1,))
    patch = tmp_path / "change.patch"
    patch.write_bytes(out)
    return patch


def files_of(tree: SourceTree, *patches: Path) -> list[PatchedFile]:
    """Return the state after the patches."""
    return [with_line_numbers(f) for f in from_patches(Before(root=tree.root), patches).files]


def snapshot(tree: SourceTree) -> dict[str, tuple[bytes, int, int]]:
    return {
        str(p.relative_to(tree.root)): (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino)
        for p in sorted(tree.root.rglob("*"))
        if p.is_file()
    } | {str(p): (b"", 0, 0) for p in tree.root.rglob("*") if p.is_dir()}


def test_version(tree: SourceTree) -> None:
    assert tree.version() == "6.1.176"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceTreeError, match="not a kernel source tree"):
        SourceTree(tmp_path)


def test_patch_is_applied_beside_the_tree(tree: SourceTree, tmp_path: Path) -> None:
    before = snapshot(tree)
    patch = make_patch(tree, tmp_path, "fs/b.c", "int b = 2;\n")
    files = files_of(tree, patch)
    assert [f.path for f in files] == [Path("fs/b.c")]
    assert files[0].content == b"int b = 2;\n"
    assert snapshot(tree) == before


def test_tree_is_given_back_with_its_times(tree: SourceTree, tmp_path: Path) -> None:
    before = snapshot(tree)
    patch = make_patch(tree, tmp_path, "fs/a.c", FIRST.replace("line7", "seven"))
    with tree.patched(files_of(tree, patch)):
        assert b"seven" in (tree.root / "fs/a.c").read_bytes()
        assert (tree.root / f"fs/a.c{PRESRC}").read_text() == FIRST
    assert snapshot(tree) == before


def test_tree_is_given_back_after_an_error(tree: SourceTree) -> None:
    before = snapshot(tree)
    new = [
        PatchedFile(Path("fs/a.c"), b"x"),
        PatchedFile(Path("fs/new.c"), b"y"),
        PatchedFile(Path("fs/b.c"), None),
        PatchedFile(Path("new/folder/c.h"), b"z"),
    ]

    def fail() -> None:
        with tree.patched(new):
            assert (tree.root / "fs/new.c").exists()
            assert not (tree.root / "fs/b.c").exists()
            assert (tree.root / "new/folder/c.h").read_bytes() == b"z"
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert snapshot(tree) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from ksplicd.create.patch.change import Before, from_patches
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.create.patch.source_tree import PatchedFile, SourceTree
calls = 0
def trace(frame, event, arg):
    global calls
    if frame.f_code.co_name in ("_switch", "_restore", "_saved_place", "patched"):
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
tree = SourceTree(Path(sys.argv[1]))
sys.settrace(trace)
files = [
    PatchedFile(Path("fs/a.c"), b"x"), PatchedFile(Path("fs/new.c"), b"y"),
    PatchedFile(Path("fs/b.c"), None), PatchedFile(Path("new/deep/c.h"), b"z"),
    PatchedFile(Path("new/deep/d.h"), b"z"),
]
with tree.patched(files):
    pass
"""


def test_kill_at_every_line_is_reverted_later(tree: SourceTree) -> None:
    before = snapshot(tree)
    killed = 0
    for step in range(1, 100):
        done = subprocess.run([sys.executable, "-c", KILLED, tree.root, str(step)], check=False)
        tree.revert()
        assert snapshot(tree) == before, f"killed at traced line {step}"
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        killed += 1
    assert killed > 20


def test_leftovers_are_reverted_and_named(tree: SourceTree) -> None:
    before = snapshot(tree)
    (tree.root / "fs/a.c").rename(tree.root / f"fs/a.c{PRESRC}")
    (tree.root / "fs/a.c").write_text("patched")
    assert tree.revert() == [Path(f"fs/a.c{PRESRC}")]
    assert snapshot(tree) == before


def test_patch_that_does_not_apply(tree: SourceTree, tmp_path: Path) -> None:
    patch = make_patch(tree, tmp_path, "fs/a.c", FIRST.replace("line7", "seven"))
    (tree.root / "fs/a.c").write_text("something else\n")
    with pytest.raises(PatchError, match=r"change\.patch: does not apply to .*\n(.*\n)*.*FAILED"):
        files_of(tree, patch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no diff\n",
        "--- /etc/passwd\n+++ /etc/passwd\n",
        "--- a/../../x\n+++ b/../../x\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)
def test_what_is_no_patch_of_the_tree(tree: SourceTree, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.patch").write_text(text)
    with pytest.raises(PatchError, match=r"bad\.patch: "):
        files_of(tree, tmp_path / "bad.patch")


def test_patch_that_changes_nothing(tree: SourceTree, tmp_path: Path) -> None:
    forth = make_patch(tree, tmp_path, "fs/b.c", "int c;\n")
    back = tmp_path / "back.patch"
    back.write_bytes(run(["diff", "-u", "b/fs/b.c", "a/fs/b.c"], cwd=tmp_path, ok=(1,)))
    with pytest.raises(NoChangesError, match=r"change\.patch, .*back\.patch: changes no file"):
        files_of(tree, forth, back)


def test_tree_in_use_is_waited_for(tree: SourceTree) -> None:
    said: list[str] = []
    order: list[str] = []
    waits = threading.Event()

    def progress(line: str) -> None:
        said.append(line)
        waits.set()

    def other() -> None:
        with SourceTree(tree.root).lock(progress):
            order.append("other")

    thread = threading.Thread(target=other)
    with tree.lock():
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    assert said == [f"waiting: another ksplice-create works on {tree.root}"]


def test_what_stays_is_made_of_the_tree_as_it_was_found(tree: SourceTree) -> None:
    """Its originals come back with their times, and an object of the patched tree looks newer."""
    tree.check_untouched()
    with tree.patched([PatchedFile(Path("fs/a.c"), b"int a;\n")]):
        with pytest.raises(AssertionError, match="of the patched tree"):
            tree.check_untouched()
        with tree.patched([]), pytest.raises(AssertionError, match="would be taken"):
            tree.check_untouched()
    with tree.patched([]):
        tree.check_untouched()
