# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice`` against the daemon."""

import io
import json
import re
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ksplicd import __version__
from ksplicd.host.stages import Conflict
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, begin
from tests.support.bus.host import Host
from tests.support.host.simulator import NO_MATCH
from tests.support.waiting import wait_for


@pytest.fixture
def tarball(tmp_path: Path) -> str:
    path = tmp_path / f"ksplice-{KID}.tar.gz"
    path.write_bytes(BUNDLE)
    path.with_name(path.name + ".minisig").write_bytes(samples.signature(BUNDLE))
    return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An unpacked bundle."""
    with tarfile.open(fileobj=io.BytesIO(BUNDLE)) as tar:
        members = {m.name: tar.extractfile(m) for m in tar.getmembers()}
        folder = tmp_path / f"ksplice-{KID}"
        folder.mkdir()
        for name, content in members.items():
            assert content is not None
            (tmp_path / name).write_bytes(content.read())
    return folder


def run_json(host: Host, *argv: str) -> Any:
    done = host.ksplice(*argv, "--json")
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_apply_view_undo(host: Host, tarball: str) -> None:
    applied = host.ksplice("apply", tarball)
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout == f"Update {KID} is applied. Undo it with: ksplice undo {KID}\n"
    assert host.ksplice("view", "-q").stdout == f"{KID}\n"
    assert host.ksplice("view").stdout == (
        f"{KID}  applied  vmlinux  fcntl: refuse F_SET_RW_HINT on an immutable inode  "
        "CVE-2026-12345\n"
    )
    undone = host.ksplice("undo", f"ksplice_{KID}")
    assert (undone.returncode, undone.stdout) == (0, f"Update {KID} is undone.\n")
    assert host.ksplice("view").stdout == ""
    assert "Fixed live: nothing" in host.ksplice("status").stdout


def test_status_names_what_is_redirected_without_livepatch(host: Host, tmp_path: Path) -> None:
    data, path = samples.bundle(how="kprobe"), tmp_path / f"ksplice-{KID}.tar.gz"
    path.write_bytes(data)
    path.with_name(path.name + ".minisig").write_bytes(samples.signature(data))
    assert host.ksplice("apply", str(path)).returncode == 0
    line = "  vmlinux:do_fcntl by kprobe, not by livepatch\n"
    assert line in host.ksplice("status").stdout
    assert host.client().describe(KID)["Redirects"] == ["vmlinux:do_fcntl by kprobe"]
    host.ksplice("undo", KID)
    assert line not in host.ksplice("status").stdout


def test_applied_already_is_a_success(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    again = host.ksplice("apply", tarball)
    assert (again.returncode, again.stdout) == (0, f"Update {KID} is already applied.\n")


def test_apply_by_id(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    host.ksplice("undo", KID)
    assert run_json(host, "apply", f"ksplice-{KID}") == {
        "schema": 1,
        "kid": KID,
        "result": "done",
        "job": 3,
    }


def test_undo_twice_is_refused_with_the_cause_first(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    host.ksplice("undo", KID)
    done = host.ksplice("undo", "--raw-errors", KID)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "already_reversed"
    assert KID in done.stderr.splitlines()[1]


def test_mismatch_has_its_cause_and_status(host: Host, tarball: str) -> None:
    with host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    done = host.ksplice("apply", "--raw-errors", "--debug", tarball)
    assert done.returncode == 5
    stages = [line.split("  ")[2] for line in done.stderr.splitlines()[:-2]]
    assert stages == ["staged", "loading", "failed"]
    cause, message = done.stderr.splitlines()[-2:]
    assert cause == "no_match"
    assert "do_fcntl+0x1c" in message


def test_debugfile(host: Host, tarball: str, tmp_path: Path) -> None:
    file = tmp_path / "debug"
    done = host.ksplice("apply", "--debugfile", str(file), tarball)
    assert (done.returncode, done.stderr) == (0, "")
    stages = [line.split("  ")[2] for line in file.read_text().splitlines()]
    assert stages == ["staged", "loading", "matched", "transitioning", "applied"]


def test_debugfile_that_cannot_be_written(host: Host, tarball: str, tmp_path: Path) -> None:
    file = tmp_path / "none/debug"
    done = host.ksplice("apply", "--debugfile", str(file), tarball)
    assert (done.returncode, done.stderr) == (0, f"ksplice: {file}: No such file or directory\n")
    assert "is applied" in done.stdout


def test_unpacked_tree_needs_a_policy_that_allows_it(bare_host: Host, tree: Path) -> None:
    bare_host.start_polkit()
    bare_host.start()
    done = bare_host.ksplice("apply", str(tree))
    assert done.returncode == 3
    assert "signature" in done.stderr


def test_unpacked_tree_is_the_same_bundle(bare_host: Host, tree: Path) -> None:
    bare_host.configure(require_signature="no")
    bare_host.start_polkit()
    bare_host.start()
    assert run_json(bare_host, "apply", str(tree))["result"] == "done"
    kept = bare_host.store / "updates" / KID / f"ksplice-{KID}.tar.gz"
    assert kept.read_bytes() == BUNDLE


def test_altered_tree_is_refused(bare_host: Host, tree: Path) -> None:
    bare_host.configure(require_signature="no")
    bare_host.start_polkit()
    bare_host.start()
    (tree / "patch").write_text("another patch\n")
    done = bare_host.ksplice("apply", str(tree))
    assert done.returncode == 2
    assert f"{tree}/patch: is not the file that manifest.json describes" in done.stderr


def test_json_documents(host: Host, tarball: str) -> None:
    run_json(host, "apply", tarball)
    update = {
        "kid": KID,
        "stage": "applied",
        "abort_cause": "",
        "detail": "",
        "description": "fcntl: refuse F_SET_RW_HINT on an immutable inode",
        "targets": ["vmlinux"],
        "cves": ["CVE-2026-12345"],
        "kernel": samples.KERNEL.release,
        "wanted": True,
        "complete": False,
        "hunks": 0,
        "soaked": False,
    }
    status = run_json(host, "status")
    assert status.keys() == {
        *("schema", "kernel", "applied", "cves", "updates", "jobs", "health", "reasons"),
        *("version", "disabled", "missing", "stale", "store"),
        *("last_check", "last_check_monotonic"),
    }
    assert (status["version"], status["disabled"]) == (__version__, "")
    assert status["store"]["updates"] == {
        "bytes": len(BUNDLE) + len(samples.signature(BUNDLE)),
        "limit": 1024 << 20,
    }
    assert status["store"]["dropped"] == {"bytes": 0, "limit": None}
    assert (status["cves"], status["health"], status["reasons"]) == (["CVE-2026-12345"], "ok", [])
    assert (status["schema"], status["applied"], status["jobs"]) == (1, 1, [])
    (shown,) = status["updates"]
    assert shown["since"].endswith("+00:00")
    assert 0 < shown["since_monotonic"] <= status["last_check_monotonic"] + 600
    update |= {key: shown[key] for key in ("detail", "since", "since_monotonic")}
    assert shown == update
    assert run_json(host, "view")["updates"] == status["updates"]
    assert run_json(host, "view", f"--id={KID}")["updates"] == status["updates"]
    file = {**update, "stage": "", "wanted": False, "detail": ""}
    file |= {"since": None, "since_monotonic": None}
    assert run_json(host, "view", f"--file={tarball}")["updates"] == [file]
    events = run_json(host, "history", "-n", "2")["events"]
    assert [event["stage"] for event in events] == ["applied", "transitioning"]
    assert run_json(host, "history", f"--id={samples.OTHER_KID}")["events"] == []


def test_incomplete_update_is_shown_as_such(host: Host, tmp_path: Path) -> None:
    data = samples.bundle(ledger=samples.INCOMPLETE)
    path = tmp_path / "incomplete.tar.gz"
    path.write_bytes(data)
    Path(f"{path}.minisig").write_bytes(samples.signature(data))
    applied = host.ksplice("apply", str(path)).stdout
    assert applied.endswith("\nIt is incomplete: include/vdso/math64.h:8: not in effect, on the"
                            " author's word\n")  # fmt: skip
    status = host.ksplice("status").stdout
    assert f"  applied (incomplete)  {KID}  fcntl: " in status
    (update,) = run_json(host, "status")["updates"]
    assert (update["complete"], update["hunks"]) == (False, 3)
    shown = host.ksplice("view", f"--id={KID}").stdout
    missing = "  include/vdso/math64.h:8-11  left out  the vDSO has it  accepted by its author\n"
    assert missing in shown
    document = run_json(host, "view", f"--id={KID}")
    assert document["ledger"] == run_json(host, "view", f"--file={path}")["ledger"]
    assert [hunk["account"] for hunk in document["ledger"]] == ["comment", "in_effect", "left_out"]
    assert run_json(host, "view", "-q", f"--id={KID}") == document


def test_status_checks_the_host(host: Host, tarball: str) -> None:
    assert host.ksplice("status", "--check").returncode == 0
    host.ksplice("apply", tarball)
    assert host.ksplice("status", "--check").returncode == 0
    host.reboot(crash=True)
    assert host.ksplice("status", "--check").returncode == 3
    host.start()
    assert host.ksplice("status").returncode == 0
    checked = host.ksplice("status", "--check", "--json")
    assert checked.returncode == 2
    document = json.loads(checked.stdout)
    assert document["health"] == "critical"
    assert document["reasons"][0].startswith(f"{KID} is quarantined: the machine went down")
    host.ksplice("release", KID)
    assert host.ksplice("status", "--check").returncode == 1


def test_check_is_a_monitoring_plugin(host: Host, tarball: str) -> None:
    """Its first line is what monitoring shows."""

    def check(*options: str) -> tuple[int, str]:
        done = host.ksplice("status", *options)
        return done.returncode, done.stdout.partition("\n")[0]

    host.ksplice("apply", tarball)
    status, first = check("--check")
    ok = (
        r"OK - 1 update applied, 1 CVE fixed \| "
        r"applied=1;;;0 cves=1;;;0 missing=0;;0;0 check_age=\d+s;;;0"
    )
    assert status == 0
    assert re.fullmatch(ok, first)
    assert check("--require=CVE-2026-12345", "--max-age=1d")[0] == 0
    status, first = check("--require=cve-2026-54321")
    assert (status, first.partition(" | ")[0]) == (
        2, "CRITICAL - CVE-2026-54321 is not fixed live: no update here names it",
    )  # fmt: skip
    document = json.loads(host.ksplice("status", "--require=CVE-2026-54321", "--json").stdout)
    assert document["health"] == "critical"
    host.stop()
    status, first = check("--check")
    assert (status, first) == (
        3, "UNKNOWN - ksplicd is not running; start it with: systemctl start ksplicd",
    )  # fmt: skip


def test_ksplice_alone_is_the_glance(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    shown = host.ksplice()
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Fixed live: 1 update, 1 CVE\n" in shown.stdout
    assert re.search(
        rf"^  applied  {KID}  fcntl: .*, 1 function  CVE-2026-12345  just now, soaking$",
        shown.stdout, re.MULTILINE,
    )  # fmt: skip
    assert "\nTo do: nothing\nLast check: just now\n" in shown.stdout
    assert run_json(host)["applied"] == 1


def test_service_looks_though_nothing_happens(bare_host: Host, tarball: str) -> None:
    bare_host.configure(metrics_file=str(bare_host.folder / "ksplice.prom"))
    bare_host.start_polkit()
    bare_host.start(KSPLICE_BEAT_SECONDS="0.2")
    first = run_json(bare_host, "status")["last_check_monotonic"]
    wait_for(lambda: run_json(bare_host, "status")["last_check_monotonic"] > first)

    def beat() -> float:
        text = (bare_host.folder / "ksplice.prom").read_text()
        return float(text.partition("\nksplice_heartbeat_timestamp_seconds ")[2].split()[0])

    wait_for(lambda: (bare_host.folder / "ksplice.prom").exists())
    seen = beat()
    wait_for(lambda: beat() > seen)


def test_status_names_what_a_deleted_key_had_signed(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    (host.folder / "keys/test.pub").unlink()
    host.daemon.send_signal(signal.SIGHUP)
    wait_for(lambda: host.ksplice("status", "--check").returncode == 1)
    status = host.ksplice("status").stdout
    why = f"its bundle no longer verifies: signature: made by key {samples.KEY.public.name}"
    assert f"  bad_signature: {why}" in status
    undone = host.ksplice("undo", KID)
    assert (undone.returncode, undone.stderr) == (0, "")


def test_view_of_an_unknown_id(host: Host) -> None:
    done = host.ksplice("view", f"--id={samples.OTHER_KID}")
    assert done.returncode == 1
    assert samples.OTHER_KID in done.stderr


def test_message_is_the_daemons(host: Host) -> None:
    done = host.ksplice("undo", samples.OTHER_KID)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ksplice: {samples.OTHER_KID}: ")


def test_remove(host: Host, tarball: str) -> None:
    host.ksplice("apply", tarball)
    refused = host.ksplice("remove", KID)
    assert refused.returncode == 1
    host.ksplice("undo", KID)
    assert run_json(host, "remove", KID)["result"] == "removed"
    assert run_json(host, "status")["updates"] == []


def test_without_a_daemon(bare_host: Host) -> None:
    done = bare_host.ksplice("status")
    assert (done.returncode, done.stderr) == (
        1,
        "ksplice: ksplicd is not running; start it with: systemctl start ksplicd\n",
    )


def test_check_without_a_daemon(bare_host: Host) -> None:
    checked = bare_host.ksplice("status", "--check", "--json")
    assert checked.returncode == 3
    assert json.loads(checked.stdout) == {
        "schema": 1,
        "error": {
            "name": "org.ksplice.Ksplicd1.Error.NoDaemon",
            "abort_cause": None,
            "message": "ksplicd is not running; start it with: systemctl start ksplicd",
        },
    }
    assert checked.stderr.startswith("ksplice: ksplicd is not running")


def test_check_of_a_daemon_that_hangs(host: Host) -> None:
    host.daemon.send_signal(signal.SIGSTOP)
    checked = host.ksplice("status", "--check", "-t", "1")
    assert checked.returncode == 3
    assert checked.stderr == "ksplice: ksplicd has not answered for 1 s\n"


@pytest.mark.parametrize("lines", ["-1", "4294967296", "some"])
def test_history_of_no_number(bare_host: Host, lines: str) -> None:
    done = bare_host.ksplice("history", "-n", lines)
    assert done.returncode == 64
    assert f"{lines}: not a whole number" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_names_who_holds_a_job_up(host: Host, tarball: str) -> None:
    begin(host)
    with host.kernel.open() as kernel:
        command = "sleeper\n\x1b[2K"  # anybody may call a task anything
        kernel.holders.append(Conflict(pid=17, command=command, stack="do_fcntl < schedule"))
    status = host.ksplice("status").stdout
    assert f"Job 1: apply of {KID}: transitioning\n" in status
    assert r"  held up by sleeper\n\x1b[2K[17] in do_fcntl < schedule" in status.splitlines()
    host.kernel.hold(on=False)


# --- several at once ------------------------------------------------------------------------------


def drop_pair(host: Host, folder: Path) -> None:
    """Stage an update, and one that goes on top of it and is first by its id."""
    for data in (samples.bundle("zzzzzzzz"), samples.bundle("aaaaaaaa", depends=("zzzzzzzz",))):
        host.client().stage(data, samples.signature(data))


def test_all_are_applied_in_their_order_and_undone_in_the_other(host: Host, tmp_path: Path) -> None:
    drop_pair(host, tmp_path)
    applied = host.ksplice("apply", "--all")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout == "Update zzzzzzzz is applied.\nUpdate aaaaaaaa is applied.\n"
    assert host.ksplice("apply", "--all").stdout == "Nothing waits to be applied.\n"
    assert host.ksplice("list", "-q").stdout == "aaaaaaaa\nzzzzzzzz\n"
    undone = run_json(host, "undo", "--all")
    assert undone == {
        "schema": 1, "kids": ["aaaaaaaa", "zzzzzzzz"], "result": "done", "failed": {},
    }  # fmt: skip
    assert host.ksplice("undo", "--all").stdout == "Nothing is applied.\n"
    # a person has undone them, and only a person applies them again, each by its name
    assert host.ksplice("apply", "--all").stdout == "Nothing waits to be applied.\n"
    assert [u["stage"] for u in run_json(host, "list")["updates"]] == ["reversed", "reversed"]


def test_one_that_fails_ends_nothing_but_itself(host: Host, tmp_path: Path) -> None:
    drop_pair(host, tmp_path)
    data = samples.bundle(KID)
    host.client().stage(data, samples.signature(data))
    with host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    done = host.ksplice("apply", "--all", "--json")
    assert done.returncode == 5
    document = json.loads(done.stdout)
    assert (document["result"], document["kids"]) == ("failed", [])
    assert document["failed"].keys() == {"aaaaaaaa", "zzzzzzzz", KID}
    assert document["failed"]["zzzzzzzz"]["abort_cause"] == "no_match"
