# SPDX-License-Identifier: GPL-2.0-only
"""The daemon as a process: start, stop, signals, and what a new one finds after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.daemon import watchdog_seconds
from ksplicd.errors import AlreadyAppliedError, NoDaemonError, UnexpectedError
from ksplicd.model import core_module, new_module
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, MANAGER, SIGNATURE
from tests.support.bus.forks import ROOT, Fork
from tests.support.bus.host import Host
from tests.support.waiting import PATIENCE, wait_for


def test_sigterm_is_a_clean_end(host: Host) -> None:
    assert host.stop() == 0
    host.hear("STOPPING=1")
    assert "Traceback" not in host.log()


def test_watchdog_hears_of_us(bare_host: Host) -> None:
    bare_host.start(WATCHDOG_USEC="2000000")
    bare_host.hear("WATCHDOG=1")


def test_a_stuck_engine_ends_the_daemon(bare_host: Host, polkit: Fork) -> None:
    """And the next one knows how far the kernel is."""
    bare_host.start(WATCHDOG_USEC="2000000", KSPLICE_IDLE_SECONDS="2")
    bare_host.client().stage(BUNDLE, SIGNATURE)
    bare_host.kernel.stick()
    with pytest.raises((GLib.Error, NoDaemonError, UnexpectedError)):
        bare_host.client().apply(KID)
    assert bare_host.daemon.wait(PATIENCE) == 1
    assert "Engine.start_apply has got nowhere for 2 s" in bare_host.log()
    bare_host.kernel.stick(on=False)
    bare_host.start()
    assert bare_host.stage_of() == "failed"
    with bare_host.kernel.open() as kernel:
        assert core_module(KID) not in kernel.modules()
    bare_host.client().apply(KID)
    assert bare_host.stage_of() == "applied"


def test_an_engine_with_much_to_do_is_not_stuck(bare_host: Host, polkit: Fork) -> None:
    bare_host.start(WATCHDOG_USEC="2000000", KSPLICE_IDLE_SECONDS="2")
    bare_host.client().stage(BUNDLE, SIGNATURE)
    bare_host.kernel.busy(1.5)
    bare_host.client().apply(KID)
    assert bare_host.stage_of() == "applied"
    bare_host.hear("WATCHDOG=1")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "60000000"}, 30),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "77"}, 30),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0),
    ],
)
def test_watchdog_interval(environment: dict[str, str], seconds: int) -> None:
    assert watchdog_seconds(environment, 77) == seconds


def test_second_daemon_on_a_bus_gives_up(host: Host) -> None:
    first = host.daemon
    host.start_unready()
    assert host.daemon.wait(PATIENCE) == 1
    assert "another ksplicd runs" in host.log()
    assert first.poll() is None


def test_lost_bus_ends_the_daemon(bare_host: Host) -> None:
    bus, polkit = bare_host._processes[0], bare_host.start_polkit()
    bare_host.start()
    bare_host.client().stage(BUNDLE, SIGNATURE)
    polkit.kill()
    bus.kill()
    assert bare_host.daemon.wait(PATIENCE) == 1
    assert "Traceback" not in bare_host.log()


def test_more_than_a_message_holds(host: Host) -> None:
    """Who sends a message of over 32 MiB is cut off by the bus; we would be, again and again."""
    client = host.client()
    for kid in ("book0001", "book0002", "book0003", "book0004"):
        data = samples.bundle(kid, description="a" * 4_000_000)
        client.stage(data, samples.signature(data))
    with pytest.raises(UnexpectedError, match="of 4 objects are too long for one message"):
        client.objects()
    assert host.stage_of("book0004") == "staged"


def test_bad_configuration_stops_the_start(bare_host: Host) -> None:
    bare_host.configure(require_signatur="no")
    bare_host.start_unready()
    assert bare_host.daemon.wait(PATIENCE) == 1
    assert "ksplicd.conf:2: unknown key 'require-signatur'" in bare_host.log()


def test_what_is_said_has_its_priority_in_the_journal(tmp_path: Path) -> None:
    config, log = tmp_path / "ksplicd.conf", tmp_path / "log"
    config.write_text("[ksplicd]\non-drip = apply\n")
    with log.open("w") as f:
        status = os.fstat(f.fileno())
        done = subprocess.run(
            [sys.executable, "-c", "import ksplicd.daemon as d; raise SystemExit(d.main())",
             "--config", str(config), "--store", str(tmp_path / "store")],
            stderr=f, check=False, cwd=ROOT,
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )  # fmt: skip
    assert done.returncode == 1
    assert log.read_text().startswith(f"<2>CRITICAL: {config}:2: unknown key 'on-drip'")


def test_sighup_reads_the_configuration(host: Host) -> None:
    host.configure(on_drop="apply")
    host.daemon.send_signal(signal.SIGHUP)
    host.hear("RELOADING=1")
    host.hear("READY=1")
    drop = host.store / "ksplice-8c4o6ucj.tar.gz"
    drop.write_bytes(BUNDLE)
    drop.with_name(drop.name + ".minisig").write_bytes(SIGNATURE)
    wait_for(lambda: "APPLIED" in host.outcomes())


def test_sighup_compares_with_the_kernel(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    with host.kernel.open() as kernel:
        kernel.set_enabled(new_module(KID), enabled=False)
        kernel.complete()
    host.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: "REVERSED" in host.outcomes())
    assert client.history(1)[0]["Detail"] == "undone by somebody else"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_transition_of_somebody_else_is_one_job(host: Host) -> None:
    """However often we look while it begins."""
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.kernel.hold()
    with host.kernel.open() as kernel:
        kernel.set_enabled(new_module(KID), enabled=False)
    for _ in range(5):
        host.daemon.send_signal(signal.SIGHUP)
        host.hear("RELOADING=1")
    wait_for(lambda: client.objects().jobs)
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "reversed")
    wait_for(lambda: not client.objects().jobs)
    time.sleep(0.3)
    assert host.outcomes().count("REVERSED") == 1


def test_sighup_with_a_bad_configuration_keeps_the_old_one(host: Host) -> None:
    host.configure(on_drop="perhaps")
    host.daemon.send_signal(signal.SIGHUP)
    host.hear("READY=1")
    assert "the old configuration stays in force" in host.log()
    assert host.client().stage(BUNDLE, SIGNATURE) == KID


def test_start_is_told(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.stop()
    host.start()
    entries = [e for e in host.journal() if e["name"] == "STARTED"]
    assert [e["fields"]["KSPLICE_KID"] for e in entries] == ["", KID]
    assert samples.KERNEL.release in entries[0]["message"]


def test_killed_when_idle_it_knows_what_is_applied(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.kill()
    host.start()
    assert host.stage_of() == "applied"
    with pytest.raises(AlreadyAppliedError, match=KID):
        host.client().apply(KID)


def test_killed_during_a_transition_it_watches_on(host: Host) -> None:
    host.kernel.hold()
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    assert host.busctl("call", *MANAGER, "Apply", "st", KID, "0").returncode == 0
    assert host.stage_of() == "transitioning"
    host.kill()
    host.start()
    assert host.stage_of() == "transitioning"
    (job,) = host.client().objects().jobs
    assert job["Type"] == "apply"
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "applied")
    wait_for(lambda: not host.client().objects().jobs)


def test_killed_while_it_loads_nothing_is_left(host: Host) -> None:
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    host.kernel.slow()
    connection = host.connect()
    args = GLib.Variant("(st)", (KID, 0))
    connection.call(*MANAGER, "Apply", args, None, Gio.DBusCallFlags.NONE, -1, None, None)
    connection.flush_sync(None)
    wait_for(lambda: _is_loaded(host, core_module(KID)))
    host.kill()
    host.kernel.slow(on=False)
    assert not _is_loaded(host, new_module(KID))
    host.start()
    assert host.stage_of() == "failed"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_killed_during_an_undo_it_watches_on(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    host.kernel.hold()
    assert host.busctl("call", *MANAGER, "Undo", "st", KID, "0").returncode == 0
    host.kill()
    host.kernel.hold(on=False)
    host.start()
    wait_for(lambda: host.stage_of() == "reversed")
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_client_hears_that_the_daemon_went_away(host: Host) -> None:
    host.kernel.hold()
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(300, host.daemon.kill)
    with pytest.raises(NoDaemonError, match="ksplicd stopped"):
        client.apply(KID)


def _is_loaded(host: Host, name: str) -> bool:
    with host.kernel.open() as kernel:
        return name in kernel.modules()


def test_metrics_follow_the_updates(bare_host: Host) -> None:
    path = bare_host.folder / "ksplice.prom"
    bare_host.configure(metrics_file=str(path))
    bare_host.start_polkit()
    bare_host.start()
    client = bare_host.client()
    wait_for(lambda: path.exists() and 'ksplice_updates{stage="applied"} 0' in path.read_text())
    client.apply(client.stage(BUNDLE, SIGNATURE))
    wait_for(lambda: 'ksplice_updates{stage="applied"} 1' in path.read_text())
    client.undo(KID)
    wait_for(lambda: 'ksplice_updates{stage="reversed"} 1' in path.read_text())
    bare_host.configure()
    bare_host.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: not path.exists())
    bare_host.configure(metrics_file=str(path))
    bare_host.daemon.send_signal(signal.SIGHUP)
    wait_for(path.exists)
    bare_host.stop()
    bare_host.configure()
    bare_host.start()
    wait_for(lambda: not path.exists())


def test_job_that_went_wrong_is_looked_into(host: Host) -> None:
    """The kernel could not be asked once: the caller hears of it, and what became of it is seen."""
    host.client().stage(BUNDLE, SIGNATURE)
    host.kernel.hold()
    job = host.busctl(
        "call", names.BUS_NAME, names.ROOT_PATH, names.MANAGER, "Apply", "st", samples.KID, "0"
    )
    assert job.stdout == 'to 1 "/org/ksplice/Ksplicd1/job/1"\n'

    def has_gone_wrong() -> bool:
        if not host.kernel.will_fail():  # whoever shows the status asks the kernel, too
            host.kernel.fail("livepatch")
        return f"update {KID}: livepatch: Too many open files" in host.log()

    wait_for(has_gone_wrong)
    host.kernel.heal()
    host.kernel.hold(on=False)
    wait_for(lambda: host.outcomes()[-1:] == ["APPLIED"])
    assert host.stage_of() == "applied"
    host.client().undo(samples.KID)


def test_status_says_that_it_is_not_known_what_is_missing(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    host.kernel.fail("build_id", new_module(KID))  # only the status asks for it then
    assert host.client().apply(KID).result == "done"
    host.hear(
        "STATUS=0 of 1 updates applied; what is wanted and not applied is not known:"
        " build_id: Too many open files"
    )
    assert host.client().undo(KID).result == "done"


def test_job_goes_on_when_the_updates_cannot_be_shown(host: Host) -> None:
    """Else its turn would never end."""
    host.client().stage(BUNDLE, SIGNATURE)
    host.kernel.fail("livepatches", new_module(KID))  # that is when the updates are shown
    assert host.client().apply(KID).result == "done"
    assert "the updates cannot be shown: livepatches: Too many open files" in host.log()
    assert host.client().undo(KID).result == "done"


def test_what_could_not_be_written_is_written_when_it_can_be(bare_host: Host, polkit: Fork) -> None:
    """Nothing else happens meanwhile that would write it."""
    bare_host.start(KSPLICE_APPLY_SECONDS="2")
    bare_host.client().stage(BUNDLE, SIGNATURE)
    wanted = bare_host.store / "wanted.json"
    wanted.mkdir()
    bare_host.client().apply(KID)
    assert "what is wanted cannot be written down yet" in bare_host.log()
    time.sleep(1)  # until the job's end has been shown to everybody
    wanted.rmdir()
    wait_for(wanted.is_file)
    assert KID in wanted.read_text()
