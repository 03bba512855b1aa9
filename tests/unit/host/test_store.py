# SPDX-License-Identifier: GPL-2.0-only
import os
import re
from pathlib import Path

import pytest

from ksplicd.errors import BadSignatureError, KeyFileError, NoSuchUpdateError, StoreError
from ksplicd.host.store.store import Store, Stored
from ksplicd.host.trust.keyring import Keyring, Keys
from ksplicd.host.trust.verify import check_signature
from ksplicd.minisign import sign, write_public_key
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
    assert keyring.read() == Keys()
    (tmp_path / "keys.d").mkdir()
    (tmp_path / "keys.d" / "README").write_text("not a key")
    for name, key in (("b.pub", STRANGER), ("a.pub", KEY)):
        path = tmp_path / "keys.d" / name
        path.write_text(write_public_key(key.public))
        path.chmod(0o644)
    assert [key.key_id for key in keyring.read().trusted] == [KEY.key_id, STRANGER.key_id]
    path.unlink()
    assert [key.key_id for key in keyring.read().trusted] == [STRANGER.key_id]


def put_key(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    path.chmod(0o644)
    return path


WHOLE = write_public_key(KEY.public).encode()
NEVER = WHOLE.replace(b"\n", b" never expires\n", 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a minisign key file"),
        (b"\xff", "not a minisign key file"),
        (b"\xef\xbb\xbf" + WHOLE, "not a minisign key file"),
        (NEVER, "its comment says expires ''"),
        (WHOLE[:-9], "bytes of base64"),
    ],
)
def test_bad_file_costs_no_other_key(
    tmp_path: Path, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is reported once, by name."""
    put_key(tmp_path, "a.pub", data)
    put_key(tmp_path, "b.pub", write_public_key(STRANGER.public).encode())
    keyring = Keyring(tmp_path, tmp_path.stat().st_uid)
    for _ in range(2):
        keys = keyring.read()
        assert [key.key_id for key in keys.trusted] == [STRANGER.key_id]
        assert why in keys.ignored["a.pub"]
    (told,) = caplog.messages
    assert told.startswith(f"{tmp_path}/a.pub:")


@pytest.mark.parametrize("name", [".#a.pub", ".a.pub", ".a.pub.swp", "a.pub~", "README"])
def test_other_names_are_no_keys(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the link of an editor to nowhere."""
    put_key(tmp_path, "a.pub", WHOLE)
    (tmp_path / name).symlink_to("alice@host.4711:1764000000")
    keys = Keyring(tmp_path, tmp_path.stat().st_uid).read()
    assert ([key.key_id for key in keys.trusted], keys.ignored) == ([KEY.key_id], {})
    assert caplog.messages == []


@pytest.mark.parametrize("make", ["fifo", "folder", "link to nowhere"])
def test_key_that_is_no_file(tmp_path: Path, make: str) -> None:
    put_key(tmp_path, "a.pub", WHOLE)
    match make:
        case "fifo":
            os.mkfifo(tmp_path / "b.pub")
        case "folder":
            (tmp_path / "b.pub").mkdir()
        case _:
            (tmp_path / "b.pub").symlink_to("nowhere")
    keys = Keyring(tmp_path, tmp_path.stat().st_uid).read()
    assert ([key.key_id for key in keys.trusted], [*keys.ignored]) == ([KEY.key_id], ["b.pub"])


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_key_that_others_may_write(tmp_path: Path, mode: int) -> None:
    put_key(tmp_path, "a.pub", WHOLE).chmod(mode)
    keys = Keyring(tmp_path, tmp_path.stat().st_uid).read()
    assert keys.trusted == ()
    assert re.search(r"a\.pub: must belong to uid \d+ and be writable by", keys.ignored["a.pub"])


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_folder_that_others_may_write(tmp_path: Path, mode: int) -> None:
    """Anybody could have put a key there."""
    put_key(tmp_path, "a.pub", WHOLE)
    tmp_path.chmod(mode)
    with pytest.raises(KeyFileError, match=r"must belong to uid \d+ and be writable by nobody"):
        Keyring(tmp_path, tmp_path.stat().st_uid).read()


def test_folder_of_somebody_else(tmp_path: Path) -> None:
    put_key(tmp_path, "a.pub", WHOLE)
    with pytest.raises(KeyFileError, match=r": must belong to uid 4711"):
        Keyring(tmp_path, 4711).read()


def test_bundle_is_not_at_fault_where_its_key_may_be_in_a_bad_file(tmp_path: Path) -> None:
    """One that another key signed is read all the same; one that was altered is refused."""
    put_key(tmp_path, "a.pub", b"")
    put_key(tmp_path, "b.pub", WHOLE)
    keyring = Keyring(tmp_path, tmp_path.stat().st_uid)
    assert check_signature(b"x", sign(b"x", KEY).encode(), keyring, 0).key.key_id == KEY.key_id
    with pytest.raises(BadSignatureError, match="did not sign these bytes"):
        check_signature(b"y", sign(b"x", KEY).encode(), keyring, 0)
    with pytest.raises(KeyFileError, match=r"a\.pub: not a minisign key file"):
        check_signature(b"x", sign(b"x", STRANGER).encode(), keyring, 0)
