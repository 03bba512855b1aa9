# SPDX-License-Identifier: GPL-2.0-only
"""Bundles that are handed over on the bus, and what calls leave behind."""

import os
import time
from pathlib import Path

import pytest
from gi.repository import Gio, GLib

from ksplicd.bundle import MAX_BUNDLE_SIZE, pack
from ksplicd.bus import names
from ksplicd.bus.errors import text_of
from ksplicd.errors import (
    BadBundleError,
    BadSignatureError,
    WrongKernelError,
)
from ksplicd.model import Kernel
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, ERROR, KID, MANAGER, SIGNATURE, UPDATE, call, error_of
from tests.support.bus.forks import ROOT
from tests.support.bus.fuse import unreadable_file
from tests.support.bus.host import Host
from tests.support.waiting import PATIENCE, wait_for

KEPT = Path(__file__).parents[1] / "unit/data/schema-1.tar.gz"


def test_what_is_staged_is_described(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    (update,) = host.client().objects().updates
    assert update == {
        "Kid": KID,
        "Stage": "staged",
        "AbortCause": "",
        "Detail": update["Detail"],
        "Description": "fcntl: refuse F_SET_RW_HINT on an immutable inode",
        "Targets": ["vmlinux"],
        "Cves": ["CVE-2026-12345"],
        "Kernel": samples.KERNEL.release,
        "Wanted": False,
        "Complete": False,
        "Hunks": 0,
        "Since": update["Since"],
        "SinceMonotonic": update["SinceMonotonic"],
        "Soaked": False,
    }
    assert abs(update["Since"] / 1e6 - time.time()) < PATIENCE
    described = host.client().describe(KID)
    assert (described["Kid"], described["Functions"]) == (KID, ["vmlinux:do_fcntl (fs/fcntl.c)"])


def test_ledger_is_read_by_pages(host: Host) -> None:
    data = samples.bundle(ledger=samples.INCOMPLETE)
    host.client().stage(data, samples.signature(data))
    (update,) = host.client().objects().updates
    assert (update["Complete"], update["Hunks"]) == (False, 3)
    described = host.client().describe(KID)["Ledger"]
    assert described.startswith("incomplete: include/vdso/math64.h:8: not in effect")
    whole = host.client().hunks(KID, update["Hunks"])
    assert [hunk["Account"] for hunk in whole] == ["comment", "in_effect", "left_out"]
    assert whole[1]["By"] == ["vmlinux:do_fcntl by livepatch"]
    args = GLib.Variant("(tuu)", (0, 1, 1))
    (page,) = call(host, UPDATE, "ListHunks", args)
    assert page == whole[1:2]


def test_bundle_of_the_schema_before(host: Host) -> None:
    """Kept from the last version that had no ledgers: what became of its patch is not known."""
    client = host.client()
    data = KEPT.read_bytes()
    kid = client.stage(data, samples.signature(data))
    (update,) = client.objects().updates
    assert (update["Stage"], update["Complete"], update["Hunks"]) == ("staged", False, 0)
    assert client.describe(kid)["Ledger"] == "none"
    (page,) = call(host, UPDATE, "ListHunks", GLib.Variant("(tuu)", (0, 0, 0)))
    assert page == []
    shown = host.ksplice("view", f"--id={kid}").stdout
    assert "Complete:    not known: the bundle has no ledger\n" in shown
    assert "incomplete" not in host.ksplice("status").stdout


def test_stage_is_refused_with_the_cause(host: Host) -> None:
    client = host.client()
    with pytest.raises(BadSignatureError, match=r"\w"):
        client.stage(BUNDLE, None)
    with pytest.raises(BadSignatureError, match="not trusted"):
        client.stage(BUNDLE, samples.signature(BUNDLE, samples.STRANGER))
    with pytest.raises(BadBundleError, match="archive"):
        client.stage(b"no bundle", samples.signature(b"no bundle"))
    kernel = Kernel(release="6.1.0-49-cloud-amd64", build_id="00" * 20)
    other = samples.bundle(kernel=kernel)
    with pytest.raises(WrongKernelError, match=r"6\.1\.0-49-cloud-amd64"):
        client.stage(other, samples.signature(other))
    assert client.objects().updates == ()


def test_unknown_options_are_refused(host: Host) -> None:
    fds = Gio.UnixFDList.new()
    with os.fdopen(os.memfd_create("bundle"), "wb", buffering=0) as f:
        args = GLib.Variant("(ha{sv})", (fds.append(f.fileno()), {"force": GLib.Variant("t", 1)}))
        with pytest.raises(GLib.Error, match="force") as caught:
            host.connect().call_with_unix_fd_list_sync(
                *MANAGER, "Stage", args, None, Gio.DBusCallFlags.NONE, -1, fds, None
            )
    assert Gio.DBusError.get_remote_error(caught.value) == ERROR + "UnknownFlags"


def stage_fd(host: Host, fd: int) -> None:
    fds = Gio.UnixFDList.new()
    args = GLib.Variant("(ha{sv})", (fds.append(fd), {}))
    host.connect().call_with_unix_fd_list_sync(
        *MANAGER, "Stage", args, None, Gio.DBusCallFlags.NONE, -1, fds, None
    )


def test_a_pipe_is_no_bundle(host: Host) -> None:
    r, w = os.pipe()  # nobody writes: reading it would wait for ever
    try:
        with pytest.raises(GLib.Error, match="no regular file"):
            stage_fd(host, r)
    finally:
        os.close(r)
        os.close(w)


def test_a_file_of_fuse_is_refused_unread(host: Host) -> None:
    """Whose server would have the only thread wait; also where it is closed."""
    host.client().stage(BUNDLE, SIGNATURE)
    with unreadable_file(host.daemon.pid) as fd:
        for _ in range(3):
            with pytest.raises(GLib.Error, match="local file system") as caught:
                stage_fd(host, fd)
            assert Gio.DBusError.get_remote_error(caught.value) == ERROR + "BadBundle"
        host.client().apply(KID)
        host.client().undo(KID)
        assert host.stage_of() == "reversed"


def test_a_file_without_end_is_no_bundle(host: Host, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb+") as f:
        f.truncate(MAX_BUNDLE_SIZE + 1)
        with pytest.raises(GLib.Error, match="at most"):
            stage_fd(host, f.fileno())


@pytest.mark.parametrize("handle", [3, -1, -(2**31)])
def test_a_missing_descriptor_is_told(host: Host, handle: int) -> None:
    name, _ = error_of(host, MANAGER, "Stage", GLib.Variant("(ha{sv})", (handle, {})))
    assert name == ERROR + "BadBundle"
    with os.fdopen(os.memfd_create("bundle"), "wb", buffering=0) as f:
        fds = Gio.UnixFDList.new()
        fds.append(f.fileno())
        with pytest.raises(GLib.Error, match="carries no such descriptor"):
            host.connect().call_with_unix_fd_list_sync(
                *MANAGER, "Stage", GLib.Variant("(ha{sv})", (handle, {})), None,
                Gio.DBusCallFlags.NONE, -1, fds, None,
            )  # fmt: skip


def test_descriptors_do_not_pile_up(host: Host) -> None:
    folder = Path(f"/proc/{host.daemon.pid}/fd")
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    before = len(list(folder.iterdir()))
    for _ in range(20):
        client.stage(BUNDLE, SIGNATURE)
    wait_for(lambda: len(list(folder.iterdir())) <= before)


def test_calls_leave_no_memory_behind(host: Host) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{host.daemon.pid}/statm").read_text().split()[1]) * 4096

    connection = host.connect()
    text = "x" * 50_000
    flags = Gio.DBusCallFlags.NONE
    where = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER, "Describe")
    args = GLib.Variant("(s)", (text,))
    sizes = []
    for _ in range(2):
        for _ in range(200):
            with pytest.raises(GLib.Error, match="NoSuchUpdate"):
                connection.call_sync(*where, args, None, flags, -1, None)
        sizes.append(resident())
    assert sizes[1] - sizes[0] < 200 * len(text) / 4


def test_short_calls_leave_no_memory_behind(host: Host) -> None:
    """Half a kilobyte for each source of the loop, and each call needed some."""
    connection, calls = host.connect(), 2000
    sizes = []
    for count in (500, calls):
        for _ in range(count):
            call(host, MANAGER, "ListUpdates", GLib.Variant("(t)", (0,)), connection)
        statm = Path(f"/proc/{host.daemon.pid}/statm").read_text()
        sizes.append(int(statm.split()[1]) * 4096)
    assert sizes[1] - sizes[0] < 250 * calls


def test_largest_legal_bundle_fits_into_what_the_service_may_have(host: Host) -> None:
    manifest = samples.manifest()
    files = dict(samples.files(manifest))
    first, second, *_ = (name for name in files if name.endswith(".ko"))
    files[first] += os.urandom(MAX_BUNDLE_SIZE - (2 << 20))
    files[second] += bytes(64 << 20)
    data = pack(manifest, files)
    client = host.client()
    client.stage(data, samples.signature(data))
    for _ in range(2):
        client.apply(KID)
        client.undo(KID)
    unit = (ROOT / "units/ksplicd.service").read_text()
    limit = int(unit.partition("MemoryMax=")[2].partition("M\n")[0]) << 20
    status = Path(f"/proc/{host.daemon.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    in_memory_file = len(files[second])
    assert peak + in_memory_file < 0.75 * limit


def test_many_bundles_at_once_are_in_memory_one_by_one(host: Host, tmp_path: Path) -> None:
    # malloc keeps some of what is smaller than 32 MiB (mallopt(3), M_MMAP_THRESHOLD)
    size, calls = 40 << 20, 8
    connection, loop = host.connect(), GLib.MainLoop()
    errors: list[str] = []

    def answered(_source: object, result: Gio.AsyncResult) -> None:
        with pytest.raises(GLib.Error, match=r"\w") as caught:
            connection.call_with_unix_fd_list_finish(result)
        errors.append(text_of(caught.value))
        if len(errors) == calls:
            loop.quit()

    with (tmp_path / "large").open("w+b") as f:
        f.truncate(size)
        for _ in range(calls):
            fds = Gio.UnixFDList.new()
            options = {"signature": GLib.Variant("ay", SIGNATURE)}
            args = GLib.Variant("(ha{sv})", (fds.append(f.fileno()), options))
            connection.call_with_unix_fd_list(
                *MANAGER, "Stage", args, None, Gio.DBusCallFlags.NONE, -1, fds, None, answered
            )
        loop.run()
    assert ["did not sign these bytes" in error for error in errors] == [True] * calls
    status = Path(f"/proc/{host.daemon.pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    assert peak < 3 * size, "one is read while the last one goes"
