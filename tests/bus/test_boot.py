# SPDX-License-Identifier: GPL-2.0-only
"""Updates that are applied again after the machine went down, and those that are not."""

import json

from ksplicd.model import Kernel
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, SIGNATURE
from tests.support.bus.drops import drop
from tests.support.bus.host import Host
from tests.support.waiting import PATIENCE, wait_for


def test_reboot_applies_again(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.reboot()
    host.start()
    assert host.stage_of() == "applied"
    assert {event["Via"] for event in host.client().history(4)} == {"boot"}
    assert host.client().history(1)[0]["Uid"] == 0


def test_busy_at_boot_is_tried_again_by_the_daemon(bare_host: Host) -> None:
    bare_host.configure(transition_limit="1", retry_delay="1")
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    bare_host.go_down()
    bare_host.kernel.hold()
    boot = bare_host.start_boot()
    wait_for(lambda: "REVERSING" in bare_host.outcomes())
    bare_host.kernel.hold(on=False)
    assert boot.wait(PATIENCE) == 1
    assert bare_host.outcomes()[-1] == "CODE_BUSY"
    bare_host.start()
    wait_for(lambda: bare_host.outcomes()[-1] == "APPLIED")
    assert bare_host.client().history(1)[0]["Via"] == "boot"


def test_reboot_applies_nothing_where_that_is_the_policy(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.configure(apply_at_boot="no")
    host.reboot()
    host.start()
    assert host.stage_of() == "staged"
    (told,) = [e for e in host.journal() if e["name"] == "WAITING"]
    assert "apply-at-boot = no" in told["message"]


def test_what_the_boot_did_not_get_to_is_applied_by_the_daemon(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.go_down()
    host.start()
    (told,) = wait_for(lambda: [e for e in host.journal() if e["name"] == "WAITING"])
    assert "now waits: ksplicd-boot.service has not applied it" in told["message"]
    wait_for(lambda: host.stage_of() == "applied")
    assert host.client().history(1)[0]["Via"] == "boot"


def test_fault_at_one_boot_costs_nobody_the_update(bare_host: Host) -> None:
    """It is missing for a while, which everybody can see, and then it is applied."""
    metrics = bare_host.folder / "ksplice.prom"
    bare_host.configure(metrics_file=str(metrics))
    bare_host.start_polkit()
    bare_host.start(KSPLICE_APPLY_SECONDS="3600")
    client = bare_host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    bare_host.kernel.fail("load_module")
    bare_host.reboot(status=1)
    assert f"update {KID} is wanted and not applied: unexpected: load_module" in bare_host.log()
    bare_host.start_unready(KSPLICE_APPLY_SECONDS="3600")
    bare_host.hear(f"STATUS=0 of 1 updates applied; wanted and not applied: {KID}")
    wait_for(lambda: "MISSING" in bare_host.outcomes())
    checked = bare_host.ksplice("status", "--check", "-t", "60")
    assert checked.returncode == 2
    assert f"{KID} is wanted and not applied: unexpected: load_module" in checked.stdout
    missing = bare_host.client().service()["WantedMissing"]
    assert missing[KID].startswith("unexpected: load_module: Too many open files")
    (update,) = bare_host.client().objects().updates
    assert (update["Stage"], update["Wanted"]) == ("failed", True)
    wait_for(lambda: "ksplice_wanted_missing 1" in metrics.read_text())

    bare_host.kill()
    bare_host.start_unready(KSPLICE_APPLY_SECONDS="0.1")
    wait_for(lambda: bare_host.outcomes()[-1] == "APPLIED")
    assert bare_host.ksplice("status", "--check", "-t", "60").returncode == 0
    assert bare_host.client().service()["WantedMissing"] == {}
    wait_for(lambda: "ksplice_wanted_missing 0" in metrics.read_text())


def apply_and_fail_at_the_next_boot(host: Host) -> None:
    host.start_polkit()
    host.start()
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.kernel.fail("load_module")
    host.reboot(status=1)


def test_what_fails_again_is_tried_again_and_again(bare_host: Host) -> None:
    apply_and_fail_at_the_next_boot(bare_host)
    bare_host.kernel.fail("load_module")
    bare_host.start(KSPLICE_APPLY_SECONDS="0.1")
    wait_for(lambda: bare_host.outcomes().count("MISSING") == 2)
    wait_for(lambda: bare_host.stage_of() == "applied")
    assert bare_host.outcomes().count("FAILED") == 2


def test_what_a_person_takes_out_is_not_tried_again(bare_host: Host) -> None:
    apply_and_fail_at_the_next_boot(bare_host)
    bare_host.start(KSPLICE_APPLY_SECONDS="3600")
    wait_for(lambda: "MISSING" in bare_host.outcomes())
    told = bare_host.ksplice("undo", KID)
    assert told.returncode == 1
    assert "is failed, not applied; it is not wanted any more" in told.stderr
    assert bare_host.client().service()["WantedMissing"] == {}
    bare_host.reboot()
    bare_host.start()
    assert bare_host.stage_of() == "reversed"


def test_nothing_is_applied_by_itself_where_the_service_is_disabled(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    (host.folder / "etc/ksplicd").mkdir(parents=True)
    (host.folder / "etc/ksplicd/disable").touch()
    host.configure(on_drop="apply")
    host.reboot()
    host.start()
    assert host.stage_of() == "staged"
    drop(host, samples.bundle(samples.OTHER_KID), samples.OTHER_KID)
    wait_for(lambda: len(host.client().objects().updates) == 2)
    assert host.stage_of(samples.OTHER_KID) == "staged"
    host.client().apply(KID)
    assert host.stage_of() == "applied"


def test_new_update_in_a_crash_is_quarantined_until_it_is_released(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.reboot(crash=True)
    host.start()
    assert host.stage_of() == "quarantined"
    (told,) = [e for e in host.journal() if e["name"] == "QUARANTINED"]
    assert told["priority"] == 2
    refused = host.ksplice("apply", KID)
    assert refused.returncode == 8
    assert f"find out why, then `ksplice release {KID}`" in refused.stderr
    assert "QuarantinedError" not in host.log()
    released = host.ksplice("release", KID)
    assert (released.returncode, released.stderr) == (0, "")
    event = host.client().history(1)[0]
    assert (event["Stage"], event["Via"]) == ("staged", "dbus")
    assert event["Detail"].startswith("released; it was quarantined because the machine went down")
    assert host.ksplice("release", KID).returncode == 1
    assert host.ksplice("apply", KID).returncode == 0


def test_drop_for_the_next_kernel_is_applied_when_that_boots(bare_host: Host) -> None:
    """And those whose kernel is gone are listed, and removed in one go."""
    after = Kernel(release="6.12.0-1-cloud-amd64", build_id="ab" * 20)
    bare_host.configure(on_drop="apply")
    bare_host.start_polkit()
    with bare_host.kernel.open() as kernel:
        kernel.installed.add(after.release)
    bare_host.start()
    drop(bare_host, samples.bundle(KID, kernel=after))
    wait_for(lambda: "HELD_BACK" in bare_host.outcomes())
    assert bare_host.stage_of() == "staged"
    checked = bare_host.ksplice("status", "--check", "-t", "60")
    assert checked.returncode == 0  # nobody need do anything
    assert (
        f"  waiting  {KID}  for kernel {after.release} (installed, not running)" in checked.stdout
    )
    bare_host.go_down()
    with bare_host.kernel.open() as kernel:
        kernel.installed.add(kernel.kernel.release)
        before, kernel.kernel = kernel.kernel, after
    assert bare_host.start_boot().wait(PATIENCE) == 0
    bare_host.start()
    assert bare_host.stage_of() == "applied"
    bare_host.go_down()
    with bare_host.kernel.open() as kernel:
        kernel.kernel, kernel.installed = before, set()
    bare_host.start()
    assert f"Stale: {KID}: " in bare_host.ksplice("status").stdout
    assert bare_host.ksplice("remove", "--stale").stdout == f"Removed: {KID}.\n"
    assert bare_host.client().objects().updates == ()


def test_power_cut_after_a_roll_out_quarantines_nothing(host: Host) -> None:
    """But the second one in a row does; and all that are can be released at once."""
    client = host.client()
    kids = (KID, samples.OTHER_KID)
    for kid in kids:
        data = samples.bundle(kid)
        client.apply(client.stage(data, samples.signature(data)))
    host.reboot(crash=True, leaves_trace=False)
    host.start()
    assert [host.stage_of(kid) for kid in kids] == ["applied", "applied"]
    host.reboot(crash=True, leaves_trace=False)
    host.start()
    assert [host.stage_of(kid) for kid in kids] == ["quarantined", "quarantined"]
    assert "for the second time in a row" in host.client().history(1)[0]["Detail"]
    assert host.ksplice("release").returncode == 64
    assert host.ksplice("release", "--all", KID).returncode == 64
    released = host.ksplice("release", "--all", "--json")
    assert json.loads(released.stdout)["kids"] == [*kids]
    assert [host.stage_of(kid) for kid in kids] == ["staged", "staged"]
    assert "Nothing is quarantined" in host.ksplice("release", "--all").stdout


def test_mistake_in_the_configuration_costs_no_boot_its_updates(bare_host: Host) -> None:
    """The last good one holds for the boot and the daemon, with what the file forbids."""
    bare_host.configure(require_signature="no", soak_time="0")
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    client.apply(client.stage(BUNDLE, None))
    other = samples.bundle(samples.OTHER_KID)
    client.apply(client.stage(other, samples.signature(other)))
    bare_host.configure(require_signature="yes", soak_tme="0")
    bare_host.reboot(status=1)
    bare_host.start()
    assert "ksplicd.conf:3: unknown key 'soak-tme'" in bare_host.log()
    assert bare_host.stage_of(samples.OTHER_KID) == "applied"
    assert bare_host.stage_of() == "rejected"  # it has no signature
    assert "signature: missing" in bare_host.client().service()["WantedMissing"][KID]


def test_soak_mark_that_cannot_be_written_is_written_later(bare_host: Host) -> None:
    bare_host.configure(soak_time="1")
    bare_host.start_polkit()
    (bare_host.store / "guard.json").mkdir(parents=True)
    bare_host.start()
    client = bare_host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    wait_for(lambda: "the soak times cannot be recorded" in bare_host.log())
    (bare_host.store / "guard.json").rmdir()
    wait_for((bare_host.store / "guard.json").exists)
    bare_host.reboot(crash=True)
    bare_host.start()
    assert bare_host.stage_of() == "applied"


def test_update_that_has_run_for_its_soak_time_outlives_a_crash(bare_host: Host) -> None:
    bare_host.configure(soak_time="1")
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    wait_for((bare_host.store / "guard.json").exists)
    bare_host.reboot(crash=True)
    bare_host.start()
    assert bare_host.stage_of() == "applied"
