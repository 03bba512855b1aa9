# SPDX-License-Identifier: GPL-2.0-only
"""Dropped updates that are applied automatically: their order, successors and retries."""

import signal
import time

from ksplicd import minisign
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, MANAGER, SIGNATURE
from tests.support.bus.drops import NAME, drop, left, write
from tests.support.bus.host import Host
from tests.support.host.simulator import NO_MATCH
from tests.support.waiting import wait_for


def held_back(host: Host) -> tuple[str, str]:
    """Return which update was not applied by itself, and the cause, as soon as that is told."""
    wait_for(lambda: "HELD_BACK" in host.outcomes())
    fields = next(e["fields"] for e in host.journal() if e["name"] == "HELD_BACK")
    return fields["KSPLICE_KID"], fields["KSPLICE_CAUSE"]


def test_drop_is_applied_where_that_is_the_policy(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host)
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
    assert bare_host.client().objects().updates == ()


def test_mismatch_of_a_drop(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    drop(bare_host)
    wait_for(lambda: bare_host.outcomes()[-1:] == ["NO_MATCH"])
    with bare_host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_old_bundle_does_not_bring_back_what_was_undone(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start_polkit()
    bare_host.start()
    drop(bare_host)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    bare_host.client().undo(samples.KID)
    bare_host.client().remove(samples.KID)
    drop(bare_host)
    assert held_back(bare_host) == (samples.KID, "replayed")
    wait_for(lambda: bare_host.stage_of() == "staged")
    assert bare_host.outcomes().count("LOADING") == 1
    bare_host.client().apply(samples.KID)
    assert bare_host.stage_of() == "applied"


def test_update_waits_for_what_it_depends_on(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host, samples.bundle("aaaaaaaa", depends=(samples.KID,)), "aaaaaaaa")
    assert held_back(bare_host) == ("aaaaaaaa", "missing_dependency")
    wait_for(lambda: bare_host.stage_of("aaaaaaaa") == "staged")
    drop(bare_host)
    wait_for(lambda: bare_host.outcomes().count("APPLIED") == 2)
    assert bare_host.stage_of("aaaaaaaa") == "applied"


def test_policy_holds_for_what_was_dropped_before(bare_host: Host) -> None:
    bare_host.start_polkit()
    bare_host.start()
    drop(bare_host)
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
    drop(bare_host)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
    bare_host.kill()
    bare_host.configure(on_drop="apply")
    bare_host.start()
    wait_for(lambda: "APPLIED" in bare_host.outcomes())


def test_successor_takes_the_place_of_what_it_replaces(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    drop(bare_host)
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
    drop(bare_host)
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
    drop(bare_host)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    new = samples.bundle(samples.OTHER_KID, ("vmlinux", "xfs"), replaces=(samples.KID,))
    drop(bare_host, new, samples.OTHER_KID)
    assert held_back(bare_host) == (samples.OTHER_KID, "target_not_loaded")
    message = next(e["message"] for e in bare_host.journal() if e["name"] == "HELD_BACK")
    why = (
        "is not applied automatically: patches module xfs, which is not loaded; `modprobe xfs` "
        "first"
    )
    assert message == f"Update {samples.OTHER_KID} {why}"
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
    drop(bare_host)
    wait_for(lambda: "TRANSITIONING" in bare_host.outcomes())
    with bare_host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    drop(bare_host, samples.bundle(samples.OTHER_KID), samples.OTHER_KID)
    wait_for(lambda: left(bare_host.store) == [])
    bare_host.daemon.send_signal(signal.SIGHUP)
    bare_host.hear("RELOADING=1")
    found = bare_host.client().objects().updates  # behind what the reload asks for
    assert [update["Stage"] for update in found] == ["transitioning", "staged"]
    bare_host.kernel.hold(on=False)
    wait_for(lambda: "NO_MATCH" in bare_host.outcomes())
    time.sleep(0.5)
    assert bare_host.outcomes().count("NO_MATCH") == 1


def turn_one_around(host: Host) -> None:
    """Drop an update whose code is busy, and stays so."""
    host.kernel.hold()
    drop(host)
    wait_for(lambda: "REVERSING" in host.outcomes())
    with host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: "CODE_BUSY" in host.outcomes())


def test_busy_code_is_tried_again(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", transition_limit="1", retries="2", retry_delay="1")
    bare_host.start()
    turn_one_around(bare_host)
    bare_host.kernel.hold(on=False)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    (told, *_) = [e for e in bare_host.journal() if e["name"] == "MISSING"]
    assert told["message"].endswith("; it is tried again in 1 s")


def test_busy_code_is_tried_again_after_a_restart_and_then_hourly(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", transition_limit="1", retries="1", retry_delay="3")
    bare_host.start()
    turn_one_around(bare_host)
    bare_host.kill()
    bare_host.start()
    wait_for(lambda: bare_host.outcomes().count("REVERSING") == 2)
    with bare_host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: bare_host.outcomes().count("CODE_BUSY") == 2)
    wait_for(lambda: bare_host.outcomes()[-1] == "MISSING")
    assert bare_host.journal()[-1]["message"].endswith("; it is tried again in 3600 s")


def test_what_a_person_asks_for_is_tried_once(bare_host: Host) -> None:
    bare_host.configure(transition_limit="1", retries="1", retry_delay="1")
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    client.stage(BUNDLE, SIGNATURE)
    bare_host.kernel.hold()
    assert bare_host.busctl("call", *MANAGER, "Apply", "st", samples.KID, "0").returncode == 0
    wait_for(lambda: bare_host.stage_of() == "reversing")
    bare_host.kernel.hold(on=False)
    wait_for(lambda: bare_host.stage_of() == "failed")
    time.sleep(1.5)
    assert bare_host.outcomes().count("LOADING") == 1


def test_disabled_while_it_runs(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply")
    bare_host.start()
    off = bare_host.folder / "etc/ksplicd/disable"
    off.parent.mkdir(parents=True)
    off.touch()
    drop(bare_host)
    assert held_back(bare_host) == (samples.KID, "")
    assert "automatically: there is a file" in bare_host.journal()[-1]["message"]
    assert "there is a file /etc/ksplicd/disable" in bare_host.ksplice("status").stdout
    assert bare_host.outcomes() == ["STAGED", "HELD_BACK"]
    off.unlink()
    bare_host.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "APPLIED" in bare_host.outcomes())
    assert bare_host.client().service()["Disabled"] == ""


def test_retries_heed_the_policy_of_now(bare_host: Host) -> None:
    bare_host.configure(on_drop="apply", transition_limit="1", retry_delay="2")
    bare_host.start()
    bare_host.kernel.hold()
    drop(bare_host)
    wait_for(lambda: "REVERSING" in bare_host.outcomes())
    bare_host.kernel.hold(on=False)
    wait_for(lambda: "CODE_BUSY" in bare_host.outcomes())
    # the delay of the retry may be read before or after
    bare_host.configure(on_drop="stage", transition_limit="1", retry_delay="2")
    bare_host.daemon.send_signal(signal.SIGHUP)
    assert held_back(bare_host) == (samples.KID, "")
    assert "automatically: on-drop = stage" in bare_host.journal()[-1]["message"]
    assert bare_host.outcomes().count("LOADING") == 1


def test_key_for_modules_cannot_undo_a_fix_of_the_kernel(bare_host: Host) -> None:
    """By a bundle for a module that replaces it, or that has its id."""
    lesser = samples.STRANGER
    (bare_host.folder / "keys/b.pub").write_text(minisign.write_public_key(lesser.public))
    bare_host.configure(on_drop="apply")
    config = bare_host.folder / "ksplicd.conf"
    rules = f"[signers]\nvmlinux = {samples.KEY.public.name}\n* = {lesser.public.name}\n"
    config.write_text(config.read_text() + rules)
    bare_host.start()
    drop(bare_host)
    wait_for(lambda: bare_host.stage_of() == "applied")
    claim = samples.bundle(samples.OTHER_KID, ("ext4",), replaces=(samples.KID,))
    squat = samples.bundle(samples.KID, ("ext4",))
    for kid, data in ((samples.OTHER_KID, claim), ("squatter", squat)):
        name = f"ksplice-{kid}.tar.gz"
        write(bare_host, f"{name}.minisig", samples.signature(data, lesser))
        write(bare_host, name, data)
    wait_for(lambda: bare_host.stage_of(samples.OTHER_KID) == "applied")
    wait_for(lambda: "REJECTED" in bare_host.outcomes())
    bare_host.kill()
    bare_host.start()
    assert (bare_host.stage_of(), bare_host.stage_of(samples.OTHER_KID)) == ("applied", "applied")
    assert "REVERSING" not in bare_host.outcomes()
    told = [e["message"] for e in bare_host.journal() if e["name"] == "APPLIED"]
    assert f"it cannot replace update {samples.KID}: key {lesser.public.name} may not" in told[-1]
