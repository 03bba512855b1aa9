# SPDX-License-Identifier: GPL-2.0-only
"""Whatever is given to the commands of the build machine, a sentence comes back."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksplicd.cli.main import main
from ksplicd.create.patch.change import Before, from_patches
from ksplicd.errors import KspliceError

RELEASE = "6.1.0-50-cloud-amd64"

PATCHES = (
    b"--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1 +1 @@\n-int a;\n+int b;\n",
    b"--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1,99999999999 +1 @@\n-int a;\n",
    b"--- a/fs/\xff.c\n+++ b/fs/\xff.c\n@@ -1 +1 @@\n-x\n+y\n",
    b"--- a/f\0.c\n+++ b/f\0.c\n@@ -1 +1 @@\n-x\n+y\n",
    b"--- a/fs\n+++ b/fs\n@@ -1 +1 @@\n-x\n+y\n",
    b"--- a/fs/a.c/x\n+++ b/fs/a.c/x\n@@ -0,0 +1 @@\n+y\n",
    b"--- a/" + b"n" * 300 + b"\n+++ b/" + b"n" * 300 + b"\n@@ -0,0 +1 @@\n+y\n",
    b"rename from a/fs/a.c\nrename to b/fs/b.c\n",
    b"diff --git a/x b/x\nGIT binary patch\n",
    b"--- a\n", b"\0" * 64, b"",
)  # fmt: skip


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of things that may be given for something else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty").touch()
        (folder / "folder").mkdir()
        (folder / "bytes").write_bytes(bytes(range(256)) * 16)
        (folder / "elf").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200))
        (folder / "bzimage").write_bytes(bytes(0x202) + b"HdrS" + bytes(0x100))
        (folder / "loop").symlink_to("loop")
        (folder / "text\n\udcff").write_text("words")
        (folder / "map").write_text("0000000000000000 T _text\n")
        for number, patch in enumerate(PATCHES):
            (folder / f"patch{number}").write_bytes(patch)
        tree = folder / "tree"
        (tree / "fs").mkdir(parents=True)
        (tree / "Kbuild").touch()
        (tree / "Makefile").write_text("VERSION = 6\n")
        (tree / "fs/a.c").write_text("int a;\n")
        config = folder / "config"
        (config / "build/include/generated").mkdir(parents=True)
        (config / "build/include/generated/utsrelease.h").write_text(
            f'#define UTS_RELEASE "{RELEASE}"\n'
        )
        (config / "System.map").write_bytes(b"\xff\xfe")
        (config / ".config").write_text('CONFIG_CC_VERSION_TEXT="no-such-gcc 1"\n')
        (config / "vmlinuz").write_bytes(b"\x7fELF" + bytes(100))
        yield folder


NAMES = st.sampled_from([
    "empty", "folder", "bytes", "elf", "bzimage", "loop", "text\n\udcff", "map", "missing",
    "tree", "config", "empty/x", "x" * 300, "/dev/null", "/", "", "a/b/c", "-",
    *(f"patch{i}" for i in range(len(PATCHES))),
])  # fmt: skip
WORDS = st.one_of(
    NAMES,
    st.sampled_from(["8c4o6ucj", "HEAD", "..", ".new", "0", "-1", "CVE-1-1", "fs/a.c:1"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
CREATE = st.lists(
    st.tuples(
        st.sampled_from([
            "--patch", "--patch-opt", "--diffext", "--git", "--config", "--series", "--id", "-o",
            "--sign-key", "--module-sign-key", "--module-sign-cert", "--only-targets", "--cve",
            "--allow-layout", "--accept", "--keep", "--description", "--depends", "-j",
        ]),
        WORDS,
    ).map(lambda pair: f"{pair[0]}={pair[1]}" if pair[0].startswith("--") else pair[0] + pair[1]),
    max_size=4,
)  # fmt: skip


def sentence(place: Path, words: list[str]) -> str:
    """Run a command; return what it says.  Raises what it raises but an exit."""
    said, before = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict"), Path.cwd()
    os.chdir(place)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                status: object = main(words)
            except SystemExit as e:
                status = e.code
    finally:
        os.chdir(before)
    said.flush()
    text = said.buffer.getvalue().decode()
    assert isinstance(status, int)
    assert status == 0 or text.strip(), words
    assert "Traceback" not in text
    return text


@settings(max_examples=150, deadline=None)
@given(options=CREATE, tree=NAMES, patch=st.integers(0, len(PATCHES) - 1))
def test_create(place: Path, options: list[str], tree: str, patch: int) -> None:
    common = ["create", "-q", *options, "--", tree]
    sentence(place, common)
    sentence(place, ["create", "--config=config", f"--patch=patch{patch}", *options, "--", "tree"])


@pytest.mark.parametrize("options", [[], ["-p0"], ["-p3"], ["-R"], ["--fuzz=9"]])
@pytest.mark.parametrize("number", range(len(PATCHES)))
def test_patches(place: Path, number: int, options: list[str]) -> None:
    before = Before(root=place / "tree")
    with contextlib.suppress(KspliceError):
        assert from_patches(before, [place / f"patch{number}"], options).files


@settings(max_examples=150, deadline=None)
@given(verb=st.sampled_from(["objdiff", "verify", "sign", "keygen", "view"]), words=st.data())
def test_other_commands(place: Path, verb: str, words: st.DataObject) -> None:
    given_words = words.draw(st.lists(WORDS, max_size=3))
    sentence(place, [verb, *(w for w in given_words if not w.startswith("-"))])


def test_name_that_no_terminal_can_show(place: Path) -> None:
    assert sys.getfilesystemencodeerrors() == "surrogateescape"
    assert "\\udcff" in sentence(place, ["create", "--config=config", "--git=x", "text\n\udcff"])


def test_name_that_is_too_long(place: Path) -> None:
    text = sentence(place, ["create", "--config=config", "--patch=" + "x" * 300, "tree"])
    assert "x" * 300 in text
    assert "File name too long" in text
