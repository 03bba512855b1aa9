# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory, from a file that appears to the stage of its update."""

import os
import re
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles import samples
from tests.bus.conftest import Host, wait_for
from tests.unit.host.simulator import NO_MATCH

BUNDLE = samples.bundle()
SIGNATURE = samples.signature(BUNDLE)
NAME = f"ksplice-{samples.KID}.tar.gz"


def write(host: Host, name: str, data: bytes) -> None:
    (host.store / name).write_bytes(data)


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
    wait_for(lambda: [u["Stage"] for u in host.client().look().updates] == ["staged"])
    assert left(host.store) == []


def left(folder: Path) -> list[str]:
    """Return the bundles and signatures in ``folder`` itself."""
    return sorted(p.name for p in folder.iterdir() if ".tar.gz" in p.name)


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


def test_drop_is_applied_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["APPLIED"])
    assert {e["Via"] for e in bare_host.client().history()} == {"drop"}


def test_broken_signature_never_reaches_the_kernel(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", samples.signature(BUNDLE, samples.STRANGER))
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    wait_for(lambda: left(bare_host.store) == [])
    assert "BadSignature" in (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    with bare_host.kernel.open() as kernel:
        assert kernel.calls == []
    assert bare_host.client().look().updates == ()


def test_mismatch_of_a_drop(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    write(bare_host, NAME, BUNDLE)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["NO_MATCH"])
    with bare_host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_unsigned_drop_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(require_signature="no")
    bare_host.start()
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_old_bundle_does_not_bring_back_what_was_undone(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start_polkit()
    bare_host.start()
    write(bare_host, NAME + ".minisig", SIGNATURE)
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    bare_host.client().undo(samples.KID)
    bare_host.client().remove(samples.KID)
    write(bare_host, NAME + ".minisig", SIGNATURE)
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: "is staged only" in bare_host.log())
    assert bare_host.stage_of() == "staged"
    assert bare_host.outcomes().count("LOADING") == 1
    bare_host.client().apply(samples.KID)
    assert bare_host.stage_of() == "applied"


def drop(host: Host, data: bytes, kid: str) -> None:
    name = f"ksplice-{kid}.tar.gz"
    write(host, f"{name}.minisig", samples.signature(data))
    write(host, name, data)


def test_update_waits_for_what_it_depends_on(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host, samples.bundle("aaaaaaaa", depends=(samples.KID,)), "aaaaaaaa")
    wait_for(lambda: "depends on update" in bare_host.log())
    assert bare_host.stage_of("aaaaaaaa") == "staged"
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: bare_host.outcomes().count("APPLIED") == 2)
    assert bare_host.stage_of("aaaaaaaa") == "applied"


def test_policy_holds_for_what_was_dropped_before(bare_host: Host) -> None:
    bare_host.start_polkit()
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
    by_hand = samples.bundle(samples.OTHER_KID)
    bare_host.client().stage(by_hand, samples.signature(by_hand))
    bare_host.configure(on_drop="apply")
    bare_host.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    assert bare_host.stage_of() == "applied"
    assert bare_host.stage_of(samples.OTHER_KID) == "staged"


def test_killed_before_it_applied_a_drop(bare_host: Host) -> None:
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
    bare_host.kill()
    bare_host.configure(on_drop="apply")
    bare_host.start()
    wait_for(lambda: "APPLIED" in bare_host.outcomes())


def test_successor_takes_the_place_of_what_it_replaces(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    new = samples.bundle(samples.OTHER_KID, replaces=(samples.KID,))
    drop(bare_host, new, samples.OTHER_KID)
    wait_for(lambda: "REVERSED" in bare_host.outcomes())
    assert bare_host.stage_of(samples.OTHER_KID) == "applied"
    assert bare_host.stage_of() == "reversed"
    story = [name for name in bare_host.outcomes() if name in {"APPLIED", "REVERSING", "REVERSED"}]
    assert story == ["APPLIED", "APPLIED", "REVERSING", "REVERSED"], "never neither of them"
    events = bare_host.client().history()
    said = [event["Detail"] for event in events if event["Kid"] == samples.KID]
    assert sum(f"superseded by update {samples.OTHER_KID}" in detail for detail in said) == 2


def test_successor_that_cannot_go_on_top_comes_after(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host, samples.bundle(how="kprobe"), samples.KID)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    new = samples.bundle(samples.OTHER_KID, replaces=(samples.KID,))
    drop(bare_host, new, samples.OTHER_KID)
    wait_for(lambda: bare_host.outcomes().count("APPLIED") == 2)
    story = [name for name in bare_host.outcomes() if name in {"APPLIED", "REVERSING", "REVERSED"}]
    assert story == ["APPLIED", "REVERSING", "REVERSED", "APPLIED"]


def test_successor_that_does_not_match_leaves_the_old_one(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["ext4"] = ("no_match", NO_MATCH)
    new = samples.bundle(samples.OTHER_KID, ("vmlinux", "ext4"), replaces=(samples.KID,))
    drop(bare_host, new, samples.OTHER_KID)
    wait_for(lambda: "NO_MATCH" in bare_host.outcomes())
    assert "REVERSING" not in bare_host.outcomes()
    assert bare_host.stage_of() == "applied"
    assert bare_host.stage_of(samples.OTHER_KID) == "failed"


def test_successor_that_cannot_be_applied_undoes_nothing(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", retries="0")
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    new = samples.bundle(samples.OTHER_KID, ("vmlinux", "xfs"), replaces=(samples.KID,))
    drop(bare_host, new, samples.OTHER_KID)
    told = f"WARNING:ksplicd.bus.automatic:{samples.OTHER_KID}: is not applied: "
    why = f"{told}{samples.OTHER_KID}: patches module xfs, which is not loaded"
    wait_for(lambda: why in bare_host.log())
    assert bare_host.stage_of() == "applied"
    assert "REVERSING" not in bare_host.outcomes()


def test_several_at_once_are_applied_one_by_one(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.store.mkdir()
    kids = [f"drop{number:04}" for number in range(5)]
    for kid in kids:
        drop(bare_host, samples.bundle(kid), kid)
    bare_host.start()
    wait_for(lambda: bare_host.outcomes().count("APPLIED") == 5)
    ways = [e["fields"]["KSPLICE_KID"] for e in bare_host.journal() if e["name"] == "APPLIED"]
    assert ways == kids
    story = [name for name in bare_host.outcomes() if name != "STAGED"]
    assert story == ["LOADING", "MATCHED", "TRANSITIONING", "APPLIED"] * 5


def test_reload_queues_nothing_twice(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    bare_host.kernel.hold()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "TRANSITIONING" in bare_host.outcomes())
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    drop(bare_host, samples.bundle(samples.OTHER_KID), samples.OTHER_KID)
    wait_for(lambda: left(bare_host.store) == [])
    bare_host.daemon.send_signal(signal.SIGHUP)
    bare_host.hear("RELOADING=1")
    found = bare_host.client().look().updates  # behind what the reload asks for
    assert [update["Stage"] for update in found] == ["transitioning", "staged"]
    bare_host.kernel.hold(on=False)
    wait_for(lambda: "NO_MATCH" in bare_host.outcomes())
    time.sleep(0.5)
    assert bare_host.outcomes().count("NO_MATCH") == 1


def test_busy_code_is_tried_again(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", transition_limit="1", retries="2", retry_delay="1")
    bare_host.start()
    bare_host.kernel.hold()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "REVERSING" in bare_host.outcomes())
    with bare_host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: "CODE_BUSY" in bare_host.outcomes())
    bare_host.kernel.hold(on=False)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    assert "is tried again in 1 s" in bare_host.log()


def test_busy_code_is_tried_again_after_a_restart_and_not_for_ever(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", transition_limit="1", retries="1", retry_delay="3")
    bare_host.start()
    bare_host.kernel.hold()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: "REVERSING" in bare_host.outcomes())
    with bare_host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: "CODE_BUSY" in bare_host.outcomes())
    bare_host.kill()
    bare_host.start()
    wait_for(lambda: bare_host.outcomes().count("REVERSING") == 2)
    with bare_host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: bare_host.outcomes().count("CODE_BUSY") == 2)
    time.sleep(4)
    assert bare_host.outcomes().count("LOADING") == 2


def test_what_a_person_asks_for_is_tried_once(bare_host: Host) -> None:
    bare_host.configure(transition_limit="1", retries="1", retry_delay="1")
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    client.stage(BUNDLE, SIGNATURE)
    bare_host.kernel.hold()
    manager = "org.ksplice.Ksplicd1", "/org/ksplice/Ksplicd1", "org.ksplice.Ksplicd1.Manager"
    assert bare_host.busctl("call", *manager, "Apply", "st", samples.KID, "0").returncode == 0
    wait_for(lambda: bare_host.stage_of() == "reversing")
    bare_host.kernel.hold(on=False)
    wait_for(lambda: bare_host.stage_of() == "failed")
    time.sleep(1.5)
    assert bare_host.outcomes().count("LOADING") == 1


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
    bare_host.store.mkdir()
    if when == "after":
        bare_host.start()
    umask = os.umask(0o022)
    put(bare_host.store / NAME)
    os.umask(umask)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    if when == "before":
        bare_host.start()
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    assert left(bare_host.store) == []
    rejected = bare_host.store / "rejected"
    names = {path.name for path in rejected.iterdir()}
    assert names == {NAME, f"{NAME}.minisig", f"{NAME}.reason"}  # nothing is lost
    assert re.search(reason, (rejected / f"{NAME}.reason").read_text())
    assert bare_host.client().look().updates == ()


def test_file_of_another_user_is_rejected(bare_host: Host) -> None:
    if os.getuid():
        pytest.skip("only root can give a file away")
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
        pytest.skip("devices cannot be made here")
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    reason = (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    assert "not a plain file" in reason


def test_same_bundle_twice(bare_host: Host) -> None:
    bare_host.start()
    for _ in range(2):
        drop(bare_host, BUNDLE, samples.KID)
        wait_for(lambda: left(bare_host.store) == [])
    wait_for(lambda: bare_host.stage_of() == "staged")
    assert bare_host.outcomes() == ["STAGED"]


def test_same_id_with_other_content(bare_host: Host) -> None:
    bare_host.start()
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
    drop(bare_host, samples.bundle(description="other"), samples.KID)
    wait_for(lambda: bare_host.outcomes() == ["STAGED", "REJECTED"])
    reason = (bare_host.store / "rejected" / f"{NAME}.reason").read_text()
    assert reason.startswith("AlreadyStaged: 8c4o6ucj: another bundle of this id is stored;")


def test_drop_that_is_gone_again(bare_host: Host) -> None:
    """Removed while it is being looked at: no harm, and the next one is taken."""
    bare_host.start()
    path = bare_host.store / NAME
    for _ in range(50):
        write(bare_host, f"{NAME}.minisig", SIGNATURE)
        write(bare_host, NAME, BUNDLE)
        path.unlink(missing_ok=True)
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    write(bare_host, NAME, BUNDLE)
    wait_for(lambda: "STAGED" in bare_host.outcomes())
    assert "Traceback" not in bare_host.log()


def test_one_that_cannot_be_kept_keeps_no_other_waiting(bare_host: Host) -> None:
    """It is no fault of the file's that something is in its way in the store."""
    stuck = "ksplice-00000000.tar.gz"
    in_the_way = bare_host.store / "updates/00000000"
    in_the_way.mkdir(parents=True)
    drop(bare_host, samples.bundle("00000000"), "00000000")
    drop(bare_host, BUNDLE, samples.KID)
    bare_host.start(KSPLICE_RETRY_SECONDS="0.2")
    wait_for(lambda: left(bare_host.store) == [stuck, f"{stuck}.minisig"])
    assert bare_host.stage_of() == "staged"
    wait_for(lambda: f"{stuck}: stays where it is, and is tried again" in bare_host.log())
    in_the_way.rmdir()
    wait_for(lambda: left(bare_host.store) == [])


def test_drop_waits_until_the_keys_are_in_order(bare_host: Host) -> None:
    bare_host.start(KSPLICE_RETRY_SECONDS="0.2")
    doubtful = bare_host.folder / "keys/doubtful.pub"
    doubtful.write_text("no key")
    drop(bare_host, BUNDLE, samples.KID)
    wait_for(lambda: f"is tried again: {doubtful}: " in bare_host.log())
    assert left(bare_host.store) == [NAME, f"{NAME}.minisig"]
    doubtful.unlink()
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])


def test_metrics_tell_of_a_rejected_drop(bare_host: Host) -> None:
    path = bare_host.folder / "ksplice.prom"
    bare_host.configure(metrics_file=str(path))
    bare_host.start()
    write(bare_host, NAME, b"no bundle")
    write(bare_host, f"{NAME}.minisig", SIGNATURE)
    wait_for(lambda: bare_host.outcomes() == ["REJECTED"])
    error = f'ksplice_last_error_timestamp_seconds{{kid="{samples.KID}",cause="bad_signature"}} '
    wait_for(lambda: path.exists() and error in path.read_text())
