# SPDX-License-Identifier: GPL-2.0-only
"""Owner and mode of dropped files; test_staging.py tests the other steps."""

import os
from pathlib import Path

import pytest

from ksplicd.errors import BadBundleError, BadSignatureError
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.trust.verify import check_signature, read_file

OWNER = os.getuid()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"data")
    path.chmod(0o644)
    return path


def test_read(path: Path) -> None:
    assert read_file(path, owner=OWNER) == b"data"


def test_owner(path: Path) -> None:
    with pytest.raises(BadBundleError, match=rf"x\.tar\.gz: belongs to uid {OWNER}, not to 4711"):
        read_file(path, owner=4711)


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_mode(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(BadBundleError, match=f"mode {mode:04o} lets others write; chmod it"):
        read_file(path, owner=OWNER)


def test_hard_link(path: Path) -> None:
    path.with_name("other").hardlink_to(path)
    with pytest.raises(BadBundleError, match="has 2 names"):
        read_file(path, owner=OWNER)


def test_symbolic_link(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(BadBundleError, match="link: cannot be opened as a plain file"):
        read_file(link, owner=OWNER)


def test_fifo_does_not_block(path: Path) -> None:
    fifo = path.with_name("fifo")
    os.mkfifo(fifo, 0o600)
    with pytest.raises(BadBundleError, match="fifo: not a plain file"):
        read_file(fifo, owner=OWNER)


def test_device() -> None:
    with pytest.raises(BadBundleError, match="/dev/null: not a plain file"):
        read_file(Path("/dev/null"), owner=0)


def test_folder(path: Path) -> None:
    with pytest.raises(BadBundleError, match="not a plain file"):
        read_file(path.parent, owner=OWNER)


def test_size(path: Path) -> None:
    assert read_file(path, 4, OWNER) == b"data"
    with pytest.raises(BadBundleError, match="over 3 bytes"):
        read_file(path, 3, OWNER)


@pytest.mark.parametrize(
    ("signature", "message"), [(bytes(16385), "over 16384 bytes"), (b"\xff", "not text")]
)
def test_signature_that_is_none(tmp_path: Path, signature: bytes, message: str) -> None:
    with pytest.raises(BadSignatureError, match=message):
        check_signature(b"", signature, Keyring(tmp_path, OWNER), 0)
