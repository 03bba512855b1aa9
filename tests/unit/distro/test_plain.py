# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.distro.model import Distribution
from ksplicd.distro.plain import Plain
from ksplicd.errors import NoSuchKernelError

RELEASE = "6.6.1-mine"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``make O=`` leaves, as far as it matters."""
    folder, source = tmp_path / "out", tmp_path / "linux"
    (folder / "include/generated").mkdir(parents=True)
    (folder / "arch/x86/boot").mkdir(parents=True)
    source.mkdir()
    (source / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 6\nSUBLEVEL = 1\n")
    (folder / "source").symlink_to(source)
    (folder / ".config").write_text('CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"\n')
    (folder / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
    for name in ("vmlinux", "arch/x86/boot/bzImage", "System.map"):
        (folder / name).touch()
    return folder


def answers_to(distribution: Distribution) -> Distribution:
    return distribution


def test_folder_of_a_build(folder: Path) -> None:
    plain = answers_to(Plain(folder))
    (kernel,) = plain.kernels()
    assert (kernel.release, kernel.version, kernel.compiler) == (RELEASE, "6.6.1", "gcc-12")
    assert plain.kernel(RELEASE) == kernel
    parts = plain.parts(kernel)
    assert parts.image.path == folder / "arch/x86/boot/bzImage"
    assert parts.headers.path == folder
    assert parts.source.path.resolve() == folder.parent / "linux"
    assert parts.symbols is not None
    assert parts.symbols.path == folder / "System.map"
    assert parts.flags is None
    assert not parts.modules.path.exists()
    assert plain.toolchain(kernel).compiler == "gcc-12"
    assert (plain.newer(kernel), plain.changelog("6.6.1")) == ([], [])


def test_folder_that_was_filled_by_hand(folder: Path) -> None:
    (folder / "vmlinuz").touch()
    (folder / "System.map").unlink()
    (folder / "flags").write_text("V=1")
    (folder / "include").rename(folder.parent / "include")
    (folder / "build").symlink_to(folder.parent)
    parts = Plain(folder).parts(Plain(folder).kernels()[0])
    assert (parts.image.path, parts.headers.path) == (folder / "vmlinuz", folder / "build")
    assert parts.symbols is None
    assert parts.flags is not None


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("source", "has no source: the source tree"),
        (".config", r"\.config: No such file"),
        ("include/generated/utsrelease.h", r"utsrelease\.h: No such file"),
    ],
)
def test_part_that_is_missing_is_named(folder: Path, missing: str, words: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(NoSuchKernelError, match=rf"{words}.*; ksplice\(1\) says what a folder"):
        Plain(folder).kernels()


def test_folder_without_an_image_or_a_compiler(folder: Path) -> None:
    kernel = Plain(folder).kernels()[0]
    for name in ("vmlinux", "arch/x86/boot/bzImage"):
        (folder / name).unlink()
    with pytest.raises(NoSuchKernelError, match="has none of vmlinuz, arch/x86/boot/bzImage"):
        Plain(folder).parts(kernel)
    (folder / ".config").write_text("")
    with pytest.raises(NoSuchKernelError, match=r"\.config: no CONFIG_CC_VERSION_TEXT in it"):
        Plain(folder).kernels()


def test_other_release(folder: Path) -> None:
    with pytest.raises(NoSuchKernelError, match=r"has 6\.6\.1-mine 6\.6\.1, not 6\.1\.0"):
        Plain(folder).kernel("6.1.0")
    with pytest.raises(NoSuchKernelError, match=r"not 6\.6\.1-mine 6\.6\.2"):
        Plain(folder).kernel(RELEASE, "6.6.2")
