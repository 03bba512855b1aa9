# SPDX-License-Identifier: GPL-2.0-only
"""Patch files, edited copies, git, and earlier updates, on a small tree."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.create.patch.change import (
    Applied,
    Before,
    apply,
    from_copies,
    from_git,
    from_patches,
    paths_of,
)
from ksplicd.create.patch.series import read_series
from ksplicd.errors import CreateError, NoChangesError, PatchError, SourceTreeError
from ksplicd.run import run
from tests.support.bundles import samples

A = "".join(f"int line{i};\n" for i in range(1, 10))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "linux"
    (root / "fs").mkdir(parents=True)
    (root / "fs/a.c").write_text(A)
    (root / "fs/b.c").write_text("int b;\n")
    return root


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


# --- patch files --------------------------------------------------------------------------------


def test_paths_are_read_from_headers_only() -> None:
    """A removed line ``-- x`` and an added ``++ y`` look like a header."""
    patch = (
        b"--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1,2 +1,2 @@\n--- fs/evil.c\n+++ fs/evil.c\n int b;\n"
        b"diff --git a/fs/old.c b/fs/new.c\nrename from fs/old.c\nrename to fs/new.c\n"
        b"--- a/gone.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    )
    assert list(map(str, paths_of("p", patch))) == ["fs/a.c", "fs/old.c", "fs/new.c", "gone.c"]


def test_binary_patch_is_refused() -> None:
    text = b"diff --git a/x b/x\nindex 1..2\nGIT binary patch\nliteral 4\n"
    with pytest.raises(PatchError, match="p:3: a binary patch"):
        paths_of("p", text)


@pytest.mark.parametrize("path", ["a/../x.c", "/etc/passwd", "a", "a/x\0.c"])
def test_paths_outside_of_the_tree_are_refused(path: str) -> None:
    with pytest.raises(PatchError, match=r"^p: .*: with -p1 no path inside the source tree"):
        paths_of("p", f"--- {path}\n+++ {path}\n@@ -1 +1 @@\n-a\n+b\n".encode())


def test_hunk_of_more_lines_than_a_number_can_say() -> None:
    """Python takes no number of so many digits."""
    header = b"--- a/x.c\n+++ b/x.c\n@@ -1,%s +1 @@\n" % (b"9" * 5000)
    assert list(map(str, paths_of("p", header))) == ["x.c"]


def test_new_and_removed_files(tree: Path) -> None:
    patch = (
        b"--- a/fs/b.c\n+++ /dev/null\n@@ -1 +0,0 @@\n-int b;\n"
        b"--- /dev/null\n+++ b/include/new.h\n@@ -0,0 +1 @@\n+int n;\n"
    )
    before = state(tree)
    files = apply(Before(root=tree), {"p": patch}).files
    assert [(str(f.path), f.before, f.after) for f in files] == [
        ("fs/b.c", b"int b;\n", None),
        ("include/new.h", None, b"int n;\n"),
    ]
    assert state(tree) == before


def test_other_strip_level_is_made_the_usual_one(tree: Path, tmp_path: Path) -> None:
    patch = tmp_path / "p0.patch"
    patch.write_text("--- fs/b.c\n+++ fs/b.c\n@@ -1 +1 @@\n-int b;\n+int b2;\n")
    change = from_patches(Before(root=tree), [patch], ["-p0"])
    assert change.patch.startswith(b"--- a/fs/b.c\n+++ b/fs/b.c\n@@")
    assert apply(Before(root=tree), {"again": change.patch}).files == change.files


TWICE = "".join(f"int {c}{i};\n" for i in (1, 2) for c in "abcdef") + "int twice;\nint end;\n" * 2


def hunk(line: int, body: str, *, path: str = "fs/t.c") -> bytes:
    old = sum(text[:1] in " -" for text in body.splitlines())
    new = sum(text[:1] in " +" for text in body.splitlines())
    return f"--- a/{path}\n+++ b/{path}\n@@ -{line},{old} +{line},{new} @@\n{body}".encode()


def test_offset_is_said(tree: Path, tmp_path: Path) -> None:
    """The bundle's own patch then fits where it says."""
    (tree / "fs/t.c").write_text("/* two */\n/* lines */\n" + TWICE)
    patch = tmp_path / "p.patch"
    patch.write_bytes(hunk(3, " int c1;\n-int d1;\n+int D1;\n int e1;\n"))
    change = from_patches(Before(root=tree), [patch])
    assert change.notes == (f"{patch}: fs/t.c: hunk 1, for line 3, is applied at 5",)
    assert apply(Before(root=tree), {"again": change.patch}) == Applied(
        files=change.files, notes=()
    )


def test_fuzz_is_refused_unless_asked_for(tree: Path) -> None:
    (tree / "fs/t.c").write_text(TWICE)
    patch = hunk(2, " int b1;\n int not_there;\n-int d1;\n+int D1;\n int e1;\n int f1;\n int a2;\n")
    with pytest.raises(PatchError, match=r"(?s)FAILED.*make the patch against this source"):
        apply(Before(root=tree), {"p": patch})
    patch = hunk(2, " int b_;\n int c1;\n-int d1;\n+int D1;\n int e1;\n int f1;\n")
    with pytest.raises(PatchError, match=r"(?s)FAILED.*--patch-opt=--fuzz=2"):
        apply(Before(root=tree), {"p": patch})
    applied = apply(Before(root=tree), {"p": patch}, ["--fuzz=1"])
    assert applied.notes == (
        "p: fs/t.c: hunk 1, for line 2, is applied at 2, without 1 lines of its context",
    )


def test_hunk_that_fits_in_two_places(tree: Path) -> None:
    (tree / "fs/t.c").write_text(TWICE)
    body = "-int twice;\n+int once;\n int end;\n"
    assert apply(Before(root=tree), {"p": hunk(13, body)}).notes == ()  # where it says
    with pytest.raises(
        PatchError, match=r"hunk 1, for line 12, fits in 2 places \(at lines 13, 15\)"
    ):
        apply(Before(root=tree), {"p": hunk(12, body)})


LIMITS = "a\n" * 9 + "if (len)\n\treturn 1;\ng();\n" + "b\n" * 9 + "if (len)\n\treturn 1;\n\nh();\n"


@pytest.mark.parametrize(
    "body",
    [
        "-if (len)\n+if (!len)\n \treturn 1;\n \n",  # a blank line alone tells which
        "-if (len)\n+if (!len)\n \treturn 1;\n \n h();\n",
        " b\n-if (len)\n+if (!len)\n \treturn 1;\n",
    ],
)
def test_hunk_of_little_context_that_has_moved(tree: Path, body: str) -> None:
    """patch(1) takes the place where it fits, and not the one next to where it was."""
    (tree / "fs/t.c").write_text(LIMITS)
    with pytest.raises(PatchError, match=r"for line 8, fits in 2 places \(at lines 1\d, 2\d\)"):
        apply(Before(root=tree), {"p": hunk(8, body)})


def test_hunk_of_enough_context_that_has_moved(tree: Path) -> None:
    (tree / "fs/t.c").write_text(LIMITS)
    body = " b\n b\n-if (len)\n+if (!len)\n \treturn 1;\n \n"
    assert len(apply(Before(root=tree), {"p": hunk(8, body)}).notes) == 1
    body = " a\n-if (len)\n+if (!len)\n \treturn 1;\n"
    assert apply(Before(root=tree), {"p": hunk(9, body)}).notes == ()  # where it says


def test_hunk_that_fits_where_it_says_beside_one_that_does_not(tree: Path) -> None:
    """A file whose lines have moved makes every line number doubtful."""
    (tree / "fs/t.c").write_text(TWICE)
    patch = (
        b"--- a/fs/t.c\n+++ b/fs/t.c\n@@ -4,3 +4,3 @@\n int c1;\n-int d1;\n+int D1;\n int e1;\n"
        b"@@ -14,2 +14,2 @@\n-int twice;\n+int once;\n int end;\n"
    )
    with pytest.raises(PatchError, match="hunk 2, for line 14, fits in 2 places"):
        apply(Before(root=tree), {"p": patch})


def test_file_that_a_patch_changes_twice(tree: Path) -> None:
    """As `git format-patch` of two commits: the second hunk meets what the first one left."""
    (tree / "fs/t.c").write_text(TWICE)
    first = hunk(13, "-int twice;\n+int once;\n int end;\n")
    second = hunk(12, "-int twice;\n+int last;\n int end;\n")
    applied = apply(Before(root=tree), {"p": b"From: x\n" + first + b"-- \n2.39\n\n" + second})
    assert applied.notes == ("p: fs/t.c: hunk 1, for line 12, is applied at 15",)


@pytest.mark.parametrize("option", ["-R", "--reverse"])
def test_reversed_patch_that_fits_in_two_places(tree: Path, option: str) -> None:
    (tree / "fs/t.c").write_text(TWICE)
    body = "-int once;\n+int twice;\n int end;\n"
    assert apply(Before(root=tree), {"p": hunk(13, body)}, [option]).files
    with pytest.raises(PatchError, match="fits in 2 places"):
        apply(Before(root=tree), {"p": hunk(12, body)}, [option])


def test_hunk_without_any_context(tree: Path) -> None:
    (tree / "fs/t.c").write_text(TWICE)
    patch = b"--- a/fs/t.c\n+++ b/fs/t.c\n@@ -3,0 +4 @@\n+int new;\n"
    with pytest.raises(PatchError, match=r"hunk 1 has no line of the file .* git diff -U3"):
        apply(Before(root=tree), {"p": patch})


def test_renamed_file(tree: Path) -> None:
    rename = "diff --git a/fs/b.c b/fs/c.c\nsimilarity index 100%\n"
    rename += "rename from fs/b.c\nrename to fs/c.c\n"
    files = apply(Before(root=tree), {"p": rename.encode()}).files
    assert [(str(f.path), f.after) for f in files] == [("fs/b.c", None), ("fs/c.c", b"int b;\n")]


@pytest.mark.parametrize(
    "option",
    ["-o/etc/x", "--directory=/", "-d", "--dry-run", "-p", "-px", "--fuzz=x", "--help", ""],
)
def test_options_that_are_not_passed_on(tree: Path, option: str) -> None:
    with pytest.raises(PatchError, match=r"only -pN, --fuzz=N"):
        apply(Before(root=tree), {"p": hunk(1, " x\n")}, [option])


# --- edited copies ------------------------------------------------------------------------------


def test_edited_copies(tree: Path) -> None:
    (tree / "fs/a.c.new").write_text(A.replace("line3", "three"))
    (tree / "fs/b.c.new").write_text("int b;\n")  # the same
    (tree / "fs/c.h.new").write_text("int c;\n")  # no original
    for copy in tree.glob("fs/*.new"):
        os.utime(copy, (1_700_000_000, 1_700_000_000))
    before = state(tree)
    change = from_copies(Before(root=tree), ".new")
    assert [(str(f.path), f.before is None) for f in change.files] == [
        ("fs/a.c", False),
        ("fs/c.h", True),
    ]
    assert change.timestamp == 1_700_000_000
    assert apply(Before(root=tree), {"again": change.patch}).files == change.files
    assert state(tree) == before


def test_no_edited_copy(tree: Path) -> None:
    (tree / "fs/b.c.new").write_text("int b;\n")
    with pytest.raises(NoChangesError, match=r"1 files end in \.new, and none of them differs"):
        from_copies(Before(root=tree), ".new")


@pytest.mark.parametrize("extension", ["", "/new", "*", ".c", ".h"])
def test_extension_that_sources_have(tree: Path, extension: str) -> None:
    with pytest.raises(PatchError, match="no extension for edited copies"):
        from_copies(Before(root=tree), extension)


# --- git ----------------------------------------------------------------------------------------


@pytest.fixture
def repository(tree: Path) -> Path:
    """Three commits: base (checked out), one that changes a.c, one that changes b.c."""
    git(tree, "init", "-q", "-b", "main")
    commit(tree, "base")
    (tree / "fs/a.c").write_text(A.replace("line3", "three"))
    commit(tree, "one")
    (tree / "fs/b.c").write_text("int b2;\n")
    commit(tree, "two")
    git(tree, "checkout", "-q", "HEAD~2")
    return tree


def git(tree: Path, *words: str) -> bytes:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    date = {"GIT_COMMITTER_DATE": "1700000000 +0000"}
    return run(["git", "-C", tree, *who, *words], env=date)


def commit(tree: Path, subject: str) -> None:
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", subject)


def test_commit_and_range(repository: Path) -> None:
    before = state(repository)
    one = from_git(Before(root=repository), "main~1")
    assert [str(f.path) for f in one.files] == ["fs/a.c"]
    assert one.timestamp == 1_700_000_000
    both = from_git(Before(root=repository), "HEAD..main")
    assert [str(f.path) for f in both.files] == ["fs/a.c", "fs/b.c"]
    assert state(repository) == before  # the index, too


def test_commit_that_the_tree_has(repository: Path) -> None:
    git(repository, "checkout", "-q", "main")
    with pytest.raises(PatchError, match=r"(?s)does not apply.*Check out what the running kernel"):
        from_git(Before(root=repository), "main~1")


def test_tree_with_changes_of_its_own(repository: Path) -> None:
    (repository / "fs/b.c").write_text("int mine;\n")
    with pytest.raises(SourceTreeError, match=r"fs/b\.c: changed and not committed"):
        from_git(Before(root=repository), "main")


@pytest.mark.parametrize("revision", ["nothing", "HEAD", "--output=x"])
def test_what_git_cannot_give(repository: Path, revision: str) -> None:
    """HEAD is the first commit here: there is nothing before it."""
    with pytest.raises(PatchError, match=r"--git: .*: git diff: "):
        from_git(Before(root=repository), revision)
    assert not (repository / "x").exists()


def test_no_repository(tree: Path) -> None:
    with pytest.raises(PatchError, match=r"--git: .*not a git repository"):
        from_git(Before(root=tree), "HEAD")


# --- earlier updates ----------------------------------------------------------------------------


def earlier(folder: Path, kid: str, patch: bytes, depends: tuple[str, ...] = ()) -> Path:
    made = samples.manifest(kid)
    manifest = replace(made, depends=depends)
    path = folder / bundle.file_name(kid)
    path.write_bytes(bundle.pack(manifest, {**samples.files(manifest), "patch": patch}))
    return path


ONE = b"--- a/fs/b.c\n+++ b/fs/b.c\n@@ -1 +1 @@\n-int b;\n+int b2;\n"
TWO = b"--- a/fs/b.c\n+++ b/fs/b.c\n@@ -1 +1 @@\n-int b2;\n+int b3;\n"


def test_changes_go_on_top_of_earlier_ones(tree: Path, tmp_path: Path) -> None:
    first = earlier(tmp_path, "aaaaaaaa", ONE)
    second = earlier(tmp_path, "bbbbbbbb", TWO, depends=("aaaaaaaa",))
    series = read_series(tree, [first, second])
    assert series.kids == ("aaaaaaaa", "bbbbbbbb")
    assert series.contents == {Path("fs/b.c"): b"int b3;\n"}
    patch = b"--- a/fs/b.c\n+++ b/fs/b.c\n@@ -1 +1 @@\n-int b3;\n+int b4;\n"
    (file,) = apply(Before(root=tree, contents=series.contents), {"p": patch}).files
    assert (file.before, file.after) == (b"int b3;\n", b"int b4;\n")
    assert (tree / "fs/b.c").read_text() == "int b;\n"


def test_series_that_is_not_whole(tree: Path, tmp_path: Path) -> None:
    second = earlier(tmp_path, "bbbbbbbb", TWO, depends=("aaaaaaaa",))
    with pytest.raises(CreateError, match="depends on aaaaaaaa; give those bundles too"):
        read_series(tree, [second])


def test_series_in_the_wrong_order(tree: Path, tmp_path: Path) -> None:
    first, second = earlier(tmp_path, "aaaaaaaa", ONE), earlier(tmp_path, "bbbbbbbb", TWO)
    with pytest.raises(CreateError, match="patch of bbbbbbbb: does not apply"):
        read_series(tree, [second, first])


def test_series_for_another_kernel(tree: Path, tmp_path: Path) -> None:
    series = read_series(tree, [earlier(tmp_path, "aaaaaaaa", ONE)])
    series.check_kernel(samples.KERNEL)
    with pytest.raises(CreateError, match="--id aaaaaaaa: an earlier update"):
        series.check_kid("aaaaaaaa")
    with pytest.raises(CreateError, match=r"aaaaaaaa is for 6\.1\.0-50-cloud-amd64 .*, not for"):
        series.check_kernel(replace(samples.KERNEL, build_id="ff" * 20))
