# SPDX-License-Identifier: GPL-2.0-only
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.distro.debian import Debian, compiler_in
from ksplicd.distro.model import Distribution, Kernel
from ksplicd.errors import NoSuchKernelError
from tests.support.distro.archive import MadeUpArchive
from tests.support.distro.kernels import add_bookworm, add_seven, add_source, add_trixie
from tests.support.needs import needs

pytestmark = [needs("gpg"), needs("apt-get"), needs("dpkg-deb")]

CLOUD = Kernel(
    release="6.1.0-50-cloud-amd64",
    version="6.1.176-1",
    suite="bookworm",
    newer="6.1.192-2",
    compiler="gcc-12",
    cached=False,
)


def open_debian(archive: MadeUpArchive, tmp_path: Path, uri: str = "") -> Debian:
    opened = archive.open(tmp_path / "cache", uri)
    return Debian(opened.cache, opened)


@pytest.fixture
def debian(archive: MadeUpArchive, tmp_path: Path) -> Debian:
    """A kernel of each layout, and newer sources."""
    for add in (add_bookworm, add_trixie, add_seven):
        add(archive)
    for version in ("6.1.187-1", "6.1.192-2", "6.1.170-3"):
        add_source(archive, "bookworm", version)
    add_source(archive, "trixie", "6.12.117-1~deb12u1")  # for another release of Debian
    archive.add("sid", "linux-image-6.12-cloud-amd64", "6.12.118-1")  # names no kernel
    archive.add("sid", "linux-image-6.1.0-49-cloud-amd64", "6.1.170-3")  # no headers
    archive.publish()
    return open_debian(archive, tmp_path)


def test_kernels_of_all_suites(debian: Debian) -> None:
    distribution: Distribution = debian
    assert distribution.kernels() == [
        CLOUD,
        Kernel(
            release="6.12.107+deb13-cloud-amd64",
            version="6.12.107-1",
            suite="trixie",
            newer=None,
            compiler="gcc-14",
            cached=False,
        ),
        Kernel(
            release="7.2.9+deb13-cloud-amd64",
            version="7.2.9-1~bpo13+1",
            suite="trixie-backports",
            newer=None,
            compiler="gcc-14",
            cached=False,
        ),
    ]
    assert distribution.newer(CLOUD) == ["6.1.187-1", "6.1.192-2"]


def test_parts_are_fetched_once_and_serve_without_a_network(
    debian: Debian, archive: MadeUpArchive, tmp_path: Path
) -> None:
    for kernel in debian.kernels():
        parts = debian.parts(kernel)
        assert parts.image.path.read_bytes() == b"image"
        assert (parts.modules.path / "kernel/fs/ext4.ko").exists()
        assert (parts.headers.path / ".config").exists()
        assert (parts.source.path / "Kbuild").exists()
        assert kernel.version in parts.source.origin
        assert kernel.suite in parts.image.origin
    shutil.rmtree(archive.folder)
    again = open_debian(archive, tmp_path)
    kernel = again.kernel(CLOUD.release)
    assert kernel == replace(CLOUD, cached=True)
    assert again.parts(kernel).image.path.read_bytes() == b"image"


def test_toolchain_is_of_the_kernels_release(debian: Debian) -> None:
    seven = debian.kernel("7.2.9+deb13-cloud-amd64")
    needs_ = debian.toolchain(seven)
    assert (needs_.compiler, needs_.suite) == ("gcc-14", "trixie")
    assert "gcc-14" in needs_.packages


def test_release_that_is_unknown(debian: Debian) -> None:
    with pytest.raises(NoSuchKernelError, match=r"6\.1\.0-99-amd64: no kernel of Debian .*-50-cl"):
        debian.kernel("6.1.0-99-amd64")
    with pytest.raises(NoSuchKernelError, match=r"cloud-amd64 6\.1\.1-1: no kernel of Debian"):
        debian.kernel(CLOUD.release, "6.1.1-1")


def test_release_of_which_a_part_is_gone(debian: Debian) -> None:
    with pytest.raises(
        NoSuchKernelError,
        match=r"has the image, but no longer linux-headers-6\.1\.0-49-cloud-amd64 in version 6\.1",
    ):
        debian.kernel("6.1.0-49-cloud-amd64")


def test_release_newer_than_the_lists_is_found(
    debian: Debian, archive: MadeUpArchive, tmp_path: Path
) -> None:
    assert len(debian.kernels()) == 3
    add_bookworm(archive, "6.1.0-56-cloud-amd64", "6.1.192-2")
    archive.publish()
    index = tmp_path / "cache/apt/index.json"
    asked = time.time() - 3600
    os.utime(index, (asked, asked))
    assert debian.kernel("6.1.0-56-cloud-amd64").version == "6.1.192-2"


@pytest.mark.parametrize(
    ("depends", "compiler"),
    [
        ("linux-headers-6.1.0-50-common (= 1), linux-compiler-gcc-12-x86", "gcc-12"),
        ("linux-kbuild-6.12.107+deb13, gcc-14", "gcc-14"),
        ("gcc-14-for-host, linux-base (>= 4.12~)", "gcc-14"),
        ("linux-base", ""),
    ],
)
def test_compiler_that_headers_depend_on(depends: str, compiler: str) -> None:
    assert compiler_in(depends) == compiler
