# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.errors import KeyFileError, NoSuchUpdateError, StoreError
from ksplicd.host.store.store import Store, Stored
from ksplicd.host.trust.keyring import Keyring
from ksplicd.minisign import write_public_key
from tests.support.bundles.samples import KEY, KID, STRANGER


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ksplice")
    store.prepare()
    return store


def test_add_read_remove(store: Store) -> None:
    stored = Stored(bundle=b"bundle", signature=b"signature")
    store.add(KID, stored)
    assert store.kids() == [KID]
    assert store.read(KID) == stored
    store.set_signature(KID, b"another")
    assert store.read(KID).signature == b"another"
    store.take_out(KID)
    assert store.taken_out() == [KID]
    store.sweep()
    assert store.taken_out() == []
    store.take_out(KID)
    assert store.kids() == []
    assert list(store.updates.iterdir()) == []


def test_unsigned(store: Store) -> None:
    store.add(KID, Stored(bundle=b"bundle", signature=None))
    assert store.read(KID).signature is None


@pytest.mark.parametrize("kid", ["zzzz9999", "../../etc", ""])
def test_unknown(store: Store, kid: str) -> None:
    with pytest.raises(NoSuchUpdateError, match="no update of this id is stored here"):
        store.read(kid)


def test_what_a_killed_daemon_left_is_cleared_away(store: Store) -> None:
    (store.updates / f".{KID}.new").mkdir()
    (store.updates / f".{KID}.new" / "half").write_bytes(b"")
    (store.updates / f".{KID}.gone").mkdir()
    assert store.kids() == []
    store.prepare()
    assert [path.name for path in store.updates.iterdir()] == [f".{KID}.gone"]
    store.sweep()
    assert list(store.updates.iterdir()) == []
    store.add(KID, Stored(bundle=b"bundle", signature=None))


def test_what_is_ours_was_not_dropped(store: Store) -> None:
    store.guard_file.write_text("{}")
    store.metrics_link.symlink_to("/var/lib/x.prom")
    store.history_file.write_text("ab")
    (store.root / ".half.tar.gz.tmp").write_text("abc")
    sizes = store.sizes()
    assert (sizes["history"], sizes["dropped"]) == (2, 3)


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="file: File exists"):
        Store(tmp_path / "file").prepare()


# --- the keys -----------------------------------------------------------------------------------


def test_keyring(tmp_path: Path) -> None:
    owner = tmp_path.stat().st_uid
    keyring = Keyring(tmp_path / "keys.d", owner)
    assert keyring.read() == ()
    (tmp_path / "keys.d").mkdir()
    (tmp_path / "keys.d" / "README").write_text("not a key")
    for name, key in (("b.pub", STRANGER), ("a.pub", KEY)):
        path = tmp_path / "keys.d" / name
        path.write_text(write_public_key(key.public))
        path.chmod(0o644)
    assert [key.key_id for key in keyring.read()] == [KEY.key_id, STRANGER.key_id]
    path.unlink()
    assert [key.key_id for key in keyring.read()] == [STRANGER.key_id]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_key_that_others_may_write(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.pub"
    path.write_text(write_public_key(KEY.public))
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=r"a\.pub: must belong to uid \d+ and be writable by"):
        Keyring(tmp_path, tmp_path.stat().st_uid).read()


def test_key_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text(write_public_key(KEY.public))
    with pytest.raises(KeyFileError, match=r"a\.pub: must belong to uid 4711"):
        Keyring(tmp_path, 4711).read()


@pytest.mark.parametrize("data", [b"", b"\xff"])
def test_file_that_is_no_key(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.pub"
    path.write_bytes(data)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match=r"a\.pub: not a minisign key file"):
        Keyring(tmp_path, tmp_path.stat().st_uid).read()
