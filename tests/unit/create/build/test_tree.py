# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.build.tree import without_revision
from ksplicd.errors import ConfigDirError, ImageMismatchError
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


# --- the compiler -------------------------------------------------------------------------------


def test_other_revision_of_the_compiler_is_taken_with_a_note(tmp_path: Path) -> None:
    built = empty_tree(tmp_path, built_with="cc (Debian 1-2+deb12u1) 1")
    (note,) = built.notes
    assert note.startswith("the compiler is “cc 1”, that of the kernel was “cc (Debian 1-2+deb12u1")
    with (
        pytest.raises(ImageMismatchError, match=r"f: other bytes\nthe compiler is .*chain root"),
        built.naming_compiler(),
    ):
        raise ImageMismatchError("f: other bytes")


def test_the_very_compiler_needs_no_note(tmp_path: Path) -> None:
    built = empty_tree(tmp_path)
    assert built.notes == ()
    with (
        pytest.raises(ImageMismatchError, match=r"^f: other bytes$"),
        built.naming_compiler(),
    ):
        raise ImageMismatchError("f: other bytes")


def test_other_version_of_the_compiler_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigDirError, match=r"is “cc 1”, but the kernel was built with “cc .*2”"):
        empty_tree(tmp_path, built_with="cc (Debian 2-1) 2")


def test_only_the_distributions_words_make_a_revision() -> None:
    text = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
    assert without_revision(text) == without_revision("gcc-12 (Debian 12.2.0-14) 12.2.0")
    assert without_revision(text) != without_revision("gcc-12 (Debian 12.3.0-1) 12.3.0")
    assert without_revision(text) != without_revision("gcc-13 (Debian 12.2.0-14) 12.2.0")


def test_option_that_names_the_compiler_may_differ_with_a_revision(tmp_path: Path) -> None:
    makefile = """\
olddefconfig:
\t@printf 'CONFIG_CC_VERSION_TEXT="cc 1"\\n%s' '$(MORE)' >$(O)/.config
prepare:
"""
    option = 'CONFIG_CC_VERSION_TEXT="cc (Debian) 1"\n'
    built = empty_tree(tmp_path / "a", option, makefile, built_with="cc (Debian) 1")
    with built.prepared():
        pass
    built = empty_tree(tmp_path / "b", option, makefile)
    with pytest.raises(ConfigDirError, match="does not fit"), built.prepared():
        pass
