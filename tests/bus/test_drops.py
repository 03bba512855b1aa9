# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory, from a file that appears to the stage of its update."""

import contextlib
import os
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, SIGNATURE
from tests.support.bus.drops import NAME, drop, left, write
from tests.support.bus.host import Host
from tests.support.needs import have_root
from tests.support.waiting import wait_for


def write_slowly(host: Host, name: str, data: bytes) -> None:
    with (host.store / name).open("wb", buffering=0) as f:
        for i in range(0, len(data), 1 + len(data) // 5):
            f.write(data[i : i + 1 + len(data) // 5])


def move(host: Host, name: str, data: bytes) -> None:
    outside = host.folder / name
    outside.write_bytes(data)
    outside.rename(host.store / name)


def rename(host: Host, name: str, data: bytes) -> None:
    hidden = host.store / f".{name}.tmp"
    hidden.write_bytes(data)
    hidden.rename(host.store / name)


def copy(host: Host, name: str, data: bytes) -> None:
    outside = host.folder / name
    outside.write_bytes(data)
    shutil.copy(outside, host.store / name)


@pytest.mark.parametrize("put", [write, write_slowly, move, rename, copy])
@pytest.mark.parametrize("signature_first", [False, True])
def test_drop_is_staged(
    host: Host,
    put: Callable[[Host, str, bytes], None],
    signature_first: bool,  # noqa: FBT001
) -> None:
    parts = [(NAME, BUNDLE), (f"{NAME}.minisig", SIGNATURE)]
    for name, data in reversed(parts) if signature_first else parts:
        put(host, name, data)
    wait_for(lambda: host.outcomes() == ["STAGED"])
    wait_for(lambda: [u["Stage"] for u in host.client().objects().updates] == ["staged"])
    assert left(host.store) == []


def test_drop_while_the_daemon_is_away(bare_host: Host) -> None:
    bare_host.store.mkdir()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    bare_host.start()
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_bundle_whose_signature_does_not_come(bare_host: Host, when: str) -> None:
    bare_host.store.mkdir()
    if when == "after":
        bare_host.start()
    write(bare_host, NAME, BUNDLE)
    if when == "before":
        bare_host.start()
    wait_for(lambda: f"{NAME}: waits for its signature, {NAME}.minisig" in bare_host.log())
    assert left(bare_host.store) == [NAME]
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_unsigned_drop_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(require_signature="no")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


# --- what is no drop of ours --------------------------------------------------------------------


def link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(BUNDLE)
    path.symlink_to(outside)


def hard_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.write_bytes(BUNDLE)
    path.hardlink_to(outside)


def huge(path: Path) -> None:
    with path.open("wb") as f:
        f.truncate(1 << 40)  # a hole


def writable(path: Path) -> None:
    path.write_bytes(BUNDLE)
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (link, "BadBundle: .* cannot be opened as a plain file"),
        (hard_link, r"BadBundle: .* has 2 names \(hard links\)"),
        (os.mkfifo, "BadBundle: .* not a plain file"),
        (Path.mkdir, "BadBundle: .* not a plain file"),
        (huge, "BadBundle: .* over 67108864 bytes"),
        (writable, "BadBundle: .* mode 0666 lets others write"),
        (Path.touch, "BadSignature: .* did not sign these bytes"),
        (lambda path: path.write_bytes(b"x" * 999), "BadSignature: .* did not sign these bytes"),
    ],
    ids=["link", "hard-link", "fifo", "folder", "huge", "writable", "empty", "no-bundle"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_no_bundle_is_rejected(
    bare_host: Host, put: Callable[[Path], object], reason: str, when: str
) -> None:
    with started(bare_host, when):
        put_as_is(put, bare_host.store / NAME)
        write(bare_host, f"{NAME}.minisig", SIGNATURE)
    assert_rejected(bare_host, reason)
    assert bare_host.client().objects().updates == ()


@contextlib.contextmanager
def started(host: Host, when: str) -> Iterator[None]:
    """What is done within is done before or after the start of the daemon."""
    host.store.mkdir()
    if when == "after":
        host.start()
    yield
    if when == "before":
        host.start()


def put_as_is(put: Callable[[Path], object], path: Path) -> None:
    """Put something there that the mask of this process does not change."""
    umask = os.umask(0o022)
    put(path)
    os.umask(umask)


def assert_rejected(host: Host, reason: str) -> None:
    """See the drop in rejected/, whole and with the reason."""
    wait_for(lambda: host.outcomes() == ["REJECTED"])
    assert left(host.store) == []
    rejected = host.store / "rejected"
    names = {path.name for path in rejected.iterdir()}
    assert names == {NAME, f"{NAME}.minisig", f"{NAME}.reason"}  # nothing is lost
    assert re.search(reason, (rejected / f"{NAME}.reason").read_text())


def bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (link, "BadBundle: .* cannot be opened as a plain file"),
        (lambda path: path.symlink_to("nowhere"), "BadBundle: .* cannot be opened as a plain file"),
        (bind, "BadBundle: .* cannot be opened as a plain file"),
        (hard_link, r"BadBundle: .* has 2 names \(hard links\)"),
        (os.mkfifo, "BadBundle: .* not a plain file"),
        (Path.mkdir, "BadBundle: .* not a plain file"),
        (huge, "BadBundle: .* over 16384 bytes"),
        (writable, "BadBundle: .* mode 0666 lets others write"),
        (Path.touch, "BadSignature: .* a .minisig file has four"),
    ],
    ids=["link", "dangling", "socket", "hard-link", "fifo", "folder", "huge", "writable", "empty"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_no_signature_is_rejected(
    bare_host: Host, put: Callable[[Path], object], reason: str, when: str
) -> None:
    with started(bare_host, when):
        write(bare_host, NAME, BUNDLE)
        put_as_is(put, bare_host.store / f"{NAME}.minisig")
    assert_rejected(bare_host, reason)


@have_root
def test_file_of_another_user_is_rejected(bare_host: Host) -> None:
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    os.chown(bare_host.store / NAME, 65534, 65534)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    reason = (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    assert "belongs to uid 65534, not to 0; chown it" in reason


def test_device_is_rejected(bare_host: Host) -> None:
    bare_host.start()
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    try:
        os.mknod(bare_host.store / NAME, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only a process with CAP_MKNOD can make a device")
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    reason = (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    assert "not a plain file" in reason


def test_same_bundle_twice(bare_host: Host) -> None:
    bare_host.start()
    for _ in range(2):
        drop(bare_host)
        wait_for(lambda: left(bare_host.store) == [])
    wait_for(lambda: bare_host.stage_of() == "staged")
    assert bare_host.outcomes() == ["STAGED"]


def test_same_id_with_other_content(bare_host: Host) -> None:
    bare_host.start()
    drop(bare_host)
    wait_for(lambda: bare_host.stage_of() == "staged")
    drop(bare_host, samples.bundle(description="other"))
    wait_for(lambda: bare_host.outcomes() == ["STAGED", "REJECTED"])
    reason = (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    assert reason.startswith("AlreadyStaged: 8c4o6ucj: another bundle of this id is stored;")


def test_drop_that_is_gone_again(bare_host: Host) -> None:
    """Removed while it is being looked at: no harm, and the next one is taken."""
    bare_host.start()
    path = bare_host.store / NAME
    for _ in range(50):
        drop(bare_host)
        path.unlink(missing_ok=True)
    drop(bare_host)
    wait_for(lambda: "STAGED" in bare_host.outcomes())
    assert "Traceback" not in bare_host.log()


def test_one_that_cannot_be_kept_keeps_no_other_waiting(bare_host: Host) -> None:
    """It is no fault of the file's that something is in its way in the store."""
    stuck = "ksplice-00000000.tar.gz"
    in_the_way = bare_host.store / "updates/00000000"
    in_the_way.mkdir(parents=True)
    drop(bare_host, samples.bundle("00000000"), "00000000")
    drop(bare_host)
    bare_host.start(KSPLICE_RETRY_SECONDS="0.2")
    wait_for(lambda: left(bare_host.store) == [stuck, f"{stuck}.minisig"])
    wait_for(lambda: bare_host.stage_of() == "staged")
    wait_for(lambda: f"{stuck}: stays where it is, and is tried again" in bare_host.log())
    in_the_way.rmdir()
    wait_for(lambda: left(bare_host.store) == [])


def test_drop_waits_until_the_keys_are_in_order(bare_host: Host) -> None:
    bare_host.start(KSPLICE_RETRY_SECONDS="0.2")
    key = bare_host.folder / "keys/test.pub"
    whole = key.read_text()
    key.write_text("no key")
    drop(bare_host)
    wait_for(lambda: "is tried again: signature: made by none of the keys" in bare_host.log())
    assert f"{key}: not a minisign key file" in bare_host.log()
    assert left(bare_host.store) == [NAME, f"{NAME}.minisig"]
    key.write_text(whole)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_bad_key_file_keeps_no_update_of_another_key_from_the_kernel(bare_host: Host) -> None:
    """What an editor, a slip and an interrupted copy leave."""
    keys = bare_host.folder / "keys"
    (keys / "empty.pub").touch()
    (keys / "never.pub").write_text(
        (keys / "test.pub").read_text().replace("\n", " never expires\n", 1)
    )
    (keys / ".#test.pub").symlink_to("alice@host.4711:1764000000")
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["APPLIED"])
    bare_host.reboot()
    bare_host.start()
    assert bare_host.stage_of() == "applied"
    assert "never.pub: its comment says expires" in bare_host.log()


def test_metrics_tell_of_a_rejected_drop(bare_host: Host) -> None:
    path = bare_host.folder / "ksplice.prom"
    bare_host.configure(metrics_file=str(path))
    bare_host.start()
    write(bare_host, NAME, b"no bundle")
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    error = f'ksplice_last_error_timestamp_seconds{{kid="{samples.KID}",cause="bad_signature"}} '
    wait_for(lambda: path.exists() and error in path.read_text())


def test_drop_is_tried_again_when_the_disk_was_full(bare_host: Host) -> None:
    bare_host.start(KSPLICE_RETRY_SECONDS="0.2")
    (bare_host.store / "updates").rmdir()
    (bare_host.store / "updates").write_text("in the way")
    drop(bare_host)
    wait_for(lambda: "is tried again" in bare_host.log())
    assert (bare_host.store / NAME).exists()
    (bare_host.store / "updates").unlink()
    (bare_host.store / "updates").mkdir()
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
