# SPDX-License-Identifier: GPL-2.0-only
"""Roots of a made-up archive, whose packages have next to nothing in them."""

from pathlib import Path

import pytest

from ksplicd.distro.debian import Debian
from ksplicd.distro.model import ToolchainNeeds
from ksplicd.distro.root import BASE, suites_of, toolchain_root
from ksplicd.errors import ToolchainError, UntrustedError
from tests.support.distro.archive import MadeUpArchive, SigningKey
from tests.support.distro.kernels import add_bookworm, add_seven, add_trixie
from tests.support.needs import needs

pytestmark = [needs("gpg"), needs("apt-get"), needs("mmdebstrap"), needs("bwrap")]

NEEDS = ToolchainNeeds(compiler="gcc-14", suite="trixie", packages=("gcc-14", "make"))


@pytest.fixture
def suite(archive: MadeUpArchive) -> MadeUpArchive:
    for name in (*BASE, *NEEDS.packages):
        files: dict[str, bytes | str] = {f"usr/bin/{name}": name.encode()}
        files[f"usr/share/doc/{name}/copyright"] = b"long"
        archive.add("trixie", name, "14.2.0-19", files=files)
    archive.publish()
    return archive


def test_root_is_made_once_of_the_kernels_suite(suite: MadeUpArchive, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    inside = [Path("/usr/share/ours"), tmp_path]
    made = toolchain_root(suite.open(cache), NEEDS, inside)
    assert made.root is not None
    assert made.root.is_relative_to(cache / "toolchain")
    assert (made.root / "usr/bin/gcc-14").read_bytes() == b"gcc-14"
    assert (made.root / "usr/bin/awk").readlink() == Path("mawk")
    assert not (made.root / "usr/share/doc/gcc-14/copyright").exists()
    # of this machine, the folders below /usr have a place in it; others are there anyway
    assert made.inside == (Path("/usr/share/ours"),)
    assert (made.root / "usr/share/ours").is_dir()
    suite.folder.rename(tmp_path / "gone")
    assert toolchain_root(suite.open(cache), NEEDS, inside) == made


def test_compiler_that_the_suite_does_not_have(suite: MadeUpArchive, tmp_path: Path) -> None:
    other = ToolchainNeeds(compiler="gcc-9", suite="trixie", packages=("gcc-9",))
    with pytest.raises(ToolchainError, match="gcc-9: not in trixie, trixie-updates"):
        toolchain_root(suite.open(tmp_path / "cache"), other)


def test_nothing_is_kept_of_a_root_that_could_not_be_made(
    suite: MadeUpArchive, tmp_path: Path, keys: tuple[SigningKey, SigningKey]
) -> None:
    opened = suite.open(tmp_path / "cache")
    assert opened.index.packages
    suite.publish(key=keys[1])
    with pytest.raises(UntrustedError, match="no root of trixie can be made"):
        toolchain_root(opened, NEEDS)
    assert list((tmp_path / "cache/toolchain").iterdir()) == []


def test_packages_that_are_gone(suite: MadeUpArchive, tmp_path: Path) -> None:
    opened = suite.open(tmp_path / "cache")
    missing = ToolchainNeeds(compiler="gcc-14", suite="trixie", packages=("gcc-14", "not-there"))
    with pytest.raises(ToolchainError, match=r"no root of trixie can be made.*not-there"):
        toolchain_root(opened, missing)


def test_programs_that_make_and_enter_it(
    suite: MadeUpArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = suite.open(tmp_path / "cache")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="needs a root of that suite; install the package mmd"):
        toolchain_root(opened, NEEDS)


def test_updates_belong_to_a_suite(suite: MadeUpArchive) -> None:
    assert suites_of(suite.mirror(), "trixie") == ["trixie", "trixie-updates"]
    assert suites_of(suite.mirror(), "sid") == ["sid"]


def test_rust_is_for_those_that_have_it(archive: MadeUpArchive, tmp_path: Path) -> None:
    for add in (add_bookworm, add_trixie, add_seven):
        add(archive)
    archive.publish()
    opened = archive.open(tmp_path / "cache")
    debian = Debian(opened.cache, opened)
    found = [debian.toolchain(kernel) for kernel in debian.kernels()]
    assert [(n.compiler, n.suite, "rustc" in n.packages) for n in found] == [
        ("gcc-12", "bookworm", False),
        ("gcc-14", "trixie", False),
        ("gcc-14", "trixie", True),
    ]
