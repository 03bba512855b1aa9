# SPDX-License-Identifier: GPL-2.0-only
import os
from pathlib import Path

import pytest

from ksplicd.errors import BadBundleError, BadSignatureError, StoreError
from ksplicd.host.store.drop_dir import Drop, DropDir

NAME = "ksplice-8c4o6ucj.tar.gz"
SIGNATURE = f"{NAME}.minisig"


@pytest.fixture
def folder(tmp_path: Path) -> DropDir:
    return DropDir(tmp_path, require_signature=True)


def write(folder: DropDir, *names: str) -> None:
    for name in names:
        (folder.root / name).write_bytes(b"x")


@pytest.mark.parametrize("order", [(NAME, SIGNATURE), (SIGNATURE, NAME)])
def test_bundle_and_signature_in_either_order(folder: DropDir, order: tuple[str, str]) -> None:
    write(folder, order[0])
    assert folder.consider(order[0]) is None
    write(folder, order[1])
    drop = Drop(bundle=folder.root / NAME, signature=folder.root / SIGNATURE)
    assert folder.consider(order[1]) == drop
    assert folder.scan() == [drop]


def test_bundle_that_waits(folder: DropDir) -> None:
    write(folder, NAME)
    assert folder.scan() == []
    assert folder.waiting() == [NAME]
    write(folder, SIGNATURE)
    assert folder.waiting() == []


def test_without_signatures(tmp_path: Path) -> None:
    folder = DropDir(tmp_path, require_signature=False)
    write(folder, NAME)
    assert folder.consider(NAME) == Drop(bundle=tmp_path / NAME, signature=None)


@pytest.mark.parametrize(
    "name", [f".{NAME}", f".{NAME}.Xy3k", f"{NAME}.part", "history.jsonl", "x.tgz", "../x.tar.gz"]
)
def test_names_that_are_left_alone(folder: DropDir, name: str) -> None:
    write(folder, f"a{name}" if "/" not in name else "b")
    if "/" not in name:
        write(folder, name)
    assert folder.consider(name) is None
    assert folder.scan() == []


@pytest.mark.parametrize("late", [NAME, SIGNATURE])
def test_half_a_copy_is_left_alone(folder: DropDir, late: str) -> None:
    write(folder, NAME, SIGNATURE)
    with (folder.root / late).open("ab") as f:
        f.write(b"y")
        f.flush()
        assert folder.consider(late) is None
        assert folder.scan() == []
    assert folder.consider(late) is not None


def test_unsigned_bundle_waits_for_a_signature_that_is_coming(tmp_path: Path) -> None:
    folder = DropDir(tmp_path, require_signature=False)
    write(folder, NAME, SIGNATURE)
    with (tmp_path / SIGNATURE).open("ab"):
        assert folder.consider(NAME) is None


def test_link_is_to_be_looked_at(folder: DropDir) -> None:
    (folder.root / NAME).symlink_to("/etc/shadow")
    write(folder, SIGNATURE)
    assert folder.consider(NAME) is not None


def test_forget(folder: DropDir) -> None:
    write(folder, NAME, SIGNATURE)
    (drop,) = folder.scan()
    folder.forget(drop)
    assert list(folder.root.iterdir()) == []


def test_reject_keeps_what_was_rejected_before(folder: DropDir) -> None:
    for number in ("", ".1", ".2"):
        write(folder, NAME, SIGNATURE)
        (drop,) = folder.scan()
        place = folder.reject(drop, BadSignatureError("signature: no"))
        assert place == folder.rejected / f"{NAME}{number}"
        assert place.read_bytes() == b"x"
        assert place.with_name(f"{place.name}.minisig").exists()
        reason = place.with_name(f"{place.name}.reason").read_text()
        assert reason == "BadSignature: signature: no\n"
    assert folder.scan() == []
    assert len(list(folder.rejected.iterdir())) == 9


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none: No such file or directory"):
        DropDir(tmp_path / "none", require_signature=True).scan()


def reject(folder: DropDir, name: str, size: int, when: int) -> Path:
    bundle = folder.root / name
    bundle.write_bytes(bytes(size))
    signature = bundle.with_name(bundle.name + ".minisig")
    signature.write_bytes(b"")
    place = folder.reject(Drop(bundle=bundle, signature=signature), BadBundleError("bad"))
    os.utime(place.with_name(place.name + ".reason"), (when, when))
    return place


def test_old_rejects_go(folder: DropDir) -> None:
    folder.prune(0)
    newest = reject(folder, "b.tar.gz", 3000, 3)
    older = reject(folder, "a.tar.gz", 1000, 2)
    oldest = reject(folder, "a.tar.gz", 1000, 1)
    (folder.rejected / "of-a-person").write_bytes(bytes(10))
    folder.prune(5000)
    assert (older.exists(), oldest.exists()) == (True, False)
    folder.prune(0)
    assert sorted(path.name for path in folder.rejected.iterdir()) == [
        "b.tar.gz", "b.tar.gz.minisig", "b.tar.gz.reason", "of-a-person",
    ]  # fmt: skip
    assert newest.stat().st_size == 3000


def test_rejected_folder_goes_whole(folder: DropDir) -> None:
    place = reject(folder, "a.tar.gz", 1, 1)
    place.unlink()
    (place / "within").mkdir(parents=True)
    reject(folder, "b.tar.gz", 1, 2)
    folder.prune(0)
    assert not place.exists()
