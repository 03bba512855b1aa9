# SPDX-License-Identifier: GPL-2.0-only
import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.archive import (
    FRESH,
    Archive,
    Index,
    Package,
    check_room,
    parse_packages,
    space_or,
)
from ksplicd.distro.mirror import Mirror
from ksplicd.distro.unpack import unpack_debs, with_cause
from ksplicd.errors import (
    DistroError,
    NoSpaceError,
    NoSuchSuiteError,
    ToolError,
    UnreachableError,
    UntrustedError,
)
from tests.support.distro.archive import MadeUpArchive, SigningKey
from tests.support.needs import have_no_root, needs

pytestmark = [needs("gpg"), needs("apt-get"), needs("dpkg-deb")]

IMAGE = "linux-image-6.1.0-50-cloud-amd64"
NOBODY = "http://127.0.0.1:9/debian"
"""Nothing listens there."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def publish(archive: MadeUpArchive) -> Path:
    deb = archive.add("bookworm", IMAGE, "6.1.176-1", "kmod, linux-base (>= 4.3~)")
    archive.add("trixie", "gcc-14", "14.2.0-19")
    archive.add("trixie", "nodejs", "1")
    archive.publish()
    return deb


def test_lists_are_read_verified_and_kept(archive: MadeUpArchive, cache: Path) -> None:
    deb = publish(archive)
    index = archive.open(cache).index
    assert index.notes == ()
    assert index.packages == (
        Package(
            name=IMAGE,
            version="6.1.176-1",
            suite="bookworm",
            size=deb.stat().st_size,
            depends="kmod, linux-base (>= 4.3~)",
        ),
        Package(
            name="gcc-14",
            version="14.2.0-19",
            suite="trixie",
            size=(archive.folder / "pool/gcc-14_14.2.0-19_amd64.deb").stat().st_size,
            depends="",
        ),
    )
    shutil.rmtree(archive.folder)
    assert archive.open(cache).index.packages == index.packages


def test_lists_are_asked_for_again_when_they_are_old(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    assert len(archive.open(cache).index.packages) == 2
    archive.add("sid", "gcc-16", "16.1-1")
    archive.publish()
    assert len(archive.open(cache).index.packages) == 2
    old = time.time() - FRESH - 1
    os.utime(cache / "apt/index.json", (old, old))
    assert len(archive.open(cache).index.packages) == 3


def test_lists_of_another_mirror_do_not_serve(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    assert archive.open(cache).index.packages
    with pytest.raises(UnreachableError, match="does not answer"):
        _ = archive.open(cache, NOBODY).index


def test_suite_that_the_mirror_lacks_is_noted(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    shutil.rmtree(archive.folder / "dists/forky")
    opened = archive.open(cache)
    assert opened.index.notes == ("forky: the mirror has no such suite",)
    assert len(opened.index.packages) == 2
    with pytest.raises(NoSuchSuiteError, match="forky: the mirror has no such suite"):
        opened.read_index(["forky"])
    with pytest.raises(NoSuchSuiteError, match="lenny: no suite of Debian that is known"):
        opened.read_index(["lenny"])


@pytest.mark.parametrize("how", ["unsigned", "stranger"])
def test_lists_without_a_good_signature_are_refused(
    archive: MadeUpArchive, cache: Path, keys: tuple[SigningKey, SigningKey], how: str
) -> None:
    publish(archive)
    archive.publish(is_signed=how != "unsigned", key=keys[1])
    with pytest.raises(UntrustedError, match=r"is not signed by a key of .*keyring.gpg"):
        _ = archive.open(cache).index
    assert not (cache / "apt/index.json").exists()


def test_one_changed_list_is_refused(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    for path in (archive.folder / "dists/trixie/main/binary-amd64").iterdir():
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UntrustedError, match="trixie is not signed"):
        _ = archive.open(cache).index


def test_settings_that_allow_unsigned_archives_change_nothing(
    archive: MadeUpArchive, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(archive)
    archive.publish(is_signed=False)
    settings = tmp_path / "apt.conf"
    settings.write_text(
        'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n'
        'Acquire::AllowWeakRepositories "true";\n'
        f'APT::Update::Pre-Invoke {{"touch {tmp_path}/hook";}};\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(settings))
    with pytest.raises(UntrustedError, match="is not signed"):
        _ = archive.open(cache).index
    assert not (tmp_path / "hook").exists()


def test_without_a_network_the_last_lists_serve(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    there = archive.open(cache).index.packages
    (archive.folder / "dists").rename(archive.folder / "gone")
    opened = archive.open(cache)
    again = opened.read_index(fresh=0)
    assert again.packages == there
    assert "bookworm: the mirror has no such suite" in again.notes


def test_without_a_network_and_lists(archive: MadeUpArchive, cache: Path) -> None:
    with pytest.raises(UnreachableError, match="does not answer, and the cache has no list"):
        _ = archive.open(cache, NOBODY).index


def test_package_is_downloaded_once(archive: MadeUpArchive, cache: Path) -> None:
    deb = publish(archive)
    got = archive.open(cache).download(IMAGE, "6.1.176-1")
    assert got.parent == cache / "dl"
    assert got.read_bytes() == deb.read_bytes()
    shutil.rmtree(archive.folder)
    assert archive.open(cache, NOBODY).download(IMAGE, "6.1.176-1") == got


def test_package_that_is_not_the_signed_one(archive: MadeUpArchive, cache: Path) -> None:
    deb = publish(archive)
    deb.write_bytes(deb.read_bytes()[:-1] + b"x")
    with pytest.raises(UntrustedError, match="could not be had"):
        archive.open(cache).download(IMAGE, "6.1.176-1")
    assert list((cache / "dl").iterdir()) == []


def test_package_that_is_gone_from_the_mirror(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive).unlink()
    with pytest.raises(DistroError, match="could not be had"):
        archive.open(cache).download(IMAGE, "6.1.176-1")


def test_half_a_download_is_removed(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    half = cache / "dl" / f".{IMAGE}_6.1.176-1-abc"
    half.mkdir(parents=True)
    (half / f"{IMAGE}_6.1.176-1_amd64.deb").write_bytes(b"half")
    got = archive.open(cache).download(IMAGE, "6.1.176-1")
    assert [path.name for path in (cache / "dl").iterdir()] == [got.name]


def test_version_that_is_not_offered(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    with pytest.raises(DistroError, match=r"6\.1\.1-1 is not on the mirror .*it has 6\.1\.176-1"):
        archive.open(cache).download(IMAGE, "6.1.1-1")
    with pytest.raises(DistroError, match=r"9 is not on the mirror .*it has none of it"):
        archive.open(cache).download("gcc-9", "9")


def test_programs_may_be_newer_than_the_kernel() -> None:
    def package(name: str, version: str) -> Package:
        return Package(name=name, version=version, suite="bookworm", size=1, depends="")

    versions = ("6.1.99-1", "6.1.176-1", "6.1.192-3")
    index = Index(packages=tuple(package("linux-kbuild-6.1", v) for v in versions))
    assert index.of_kernel("linux-kbuild-6.1", "6.1.176-1") == ["6.1.176-1"]
    assert index.of_kernel("linux-kbuild-6.1", "6.1.170-3") == ["6.1.192-3", "6.1.176-1"]
    assert index.of_kernel("linux-kbuild-6.1", "6.1.200-1") == []
    assert index.of_kernel("linux-image-6.1", "6.1.170-3") == []


def test_only_parts_of_kernels_are_remembered() -> None:
    names = ("linux-image-6.1.0-50-amd64-dbg", "linux-image-6.1.0-50-amd64-unsigned", "linux-doc")
    text = "\n\n".join(f"Package: {n}\nVersion: 1\nSize: 1" for n in (*names, IMAGE)) + "\n"
    assert [p.name for p in parse_packages(text, "sid")] == [IMAGE]


def test_damaged_index_is_made_again(archive: MadeUpArchive, cache: Path) -> None:
    publish(archive)
    assert archive.open(cache).index.packages
    (cache / "apt/index.json").write_text('{"schema": 1')
    assert len(archive.open(cache).index.packages) == 2


def test_full_disk_is_named(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(space_or(full, tmp_path), NoSpaceError)
    assert not isinstance(space_or(PermissionError(13, "x"), tmp_path), NoSpaceError)
    deb = tmp_path / "a.deb"
    deb.touch()

    def fail() -> None:
        raise ToolError("dpkg-deb: exit status 2\nerror: No space left on device")

    with pytest.raises(NoSpaceError, match="ksplice cache"):
        with_cause(deb, fail)
    assert deb.exists()


def test_lists_are_not_asked_for_on_a_full_disk(tmp_path: Path) -> None:
    check_room(tmp_path, 0)
    with pytest.raises(NoSpaceError, match=r"MB are free, and \d+ MB are needed; see `ksplice ca"):
        check_room(tmp_path, 1 << 60)


def test_damaged_package_is_deleted(tmp_path: Path) -> None:
    deb = tmp_path / "a.deb"
    deb.write_bytes(b"!<arch>\n")
    with pytest.raises(DistroError, match="the next run downloads it again"):
        unpack_debs(Cache(tmp_path / "cache"), [deb], tmp_path / "out")
    assert not deb.exists()


@have_no_root
def test_cache_that_cannot_be_written(archive: MadeUpArchive, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "locks").mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(DistroError, match="Permission denied"):
        _ = archive.open(cache).index


def test_mirror_is_found_only_when_it_is_needed(tmp_path: Path) -> None:
    deb = tmp_path / "dl/x_1_all.deb"
    deb.parent.mkdir()
    deb.touch()
    nowhere = Mirror(main="", security=None, keyring=tmp_path)
    assert Archive(Cache(tmp_path), nowhere).download("x", "1") == deb
