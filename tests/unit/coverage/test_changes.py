# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

from tests.coverage.changes import changed_files, diff_file, independent_changes

FILLER = "".join(f"int filler_{c};\n" for c in "abcdefgh")


def trees(tmp_path: Path, old: str, new: str) -> tuple[Path, Path]:
    for tree, text in (("old", old), ("new", new)):
        (tmp_path / tree).mkdir(exist_ok=True)
        (tmp_path / tree / "a.c").write_text(text)
    return tmp_path / "old", tmp_path / "new"


def parts(tmp_path: Path, old: str, new: str) -> list[bytes]:
    before, after = trees(tmp_path, old, new)
    return independent_changes(diff_file(before, after, "a.c"), old.encode(), new.encode())


def test_changed_files_are_in_both_trees_and_differ(tmp_path: Path) -> None:
    old, new = trees(tmp_path, "1\n", "2\n")
    for tree, name in ((old, "same.c"), (new, "same.c"), (old, "gone.c"), (new, "added.c")):
        (tree / name).write_text("x\n")
    assert changed_files(old, new, ["same.c", "gone.c", "added.c", "a.c", "none.c"]) == ["a.c"]


def test_a_diff_names_the_file_as_patches_do(tmp_path: Path) -> None:
    patch = diff_file(*trees(tmp_path, "1\n", "2"), "a.c")
    assert patch.startswith(b"--- a/a.c\n+++ b/a.c\n@@")
    assert patch.endswith(b"\\ No newline at end of file\n")


def test_unrelated_hunks_separate(tmp_path: Path) -> None:
    old = f"int a = 1;\n{FILLER}int b = 1;\n"
    found = parts(tmp_path, old, old.replace("1", "2"))
    assert len(found) == 2
    assert b"+int a = 2" in found[0]
    assert b"+int b = 2" in found[1]
    assert all(p.startswith(b"--- a/a.c\n") for p in found)


def test_a_new_helper_stays_with_its_caller(tmp_path: Path) -> None:
    old = f"int a;\n{FILLER}int b;\n{FILLER}int c = 1;\n"
    new = f"int a;\nint helper;\n{FILLER}int b = helper;\n{FILLER}int c = 2;\n"
    first, second = parts(tmp_path, old, new)
    assert b"+int helper" in first
    assert b"+int b = helper" in first
    assert b"+int c = 2" in second


def test_what_loses_a_name_stays_together(tmp_path: Path) -> None:
    old = f"int gone;\n{FILLER}int b = gone;\n"
    assert len(parts(tmp_path, old, f"{FILLER}int b = 0;\n")) == 1


def test_chains_of_names_join(tmp_path: Path) -> None:
    old = f"int a;\n{FILLER}int b;\n{FILLER}int c;\n"
    new = f"int a = x;\n{FILLER}int b = x + y;\n{FILLER}int c = y;\n"
    assert len(parts(tmp_path, old, new)) == 1
