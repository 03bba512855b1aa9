# SPDX-License-Identifier: GPL-2.0-only
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ksplicd.bus.update import pack_hunks
from ksplicd.bus.wrapper import MAX_ANSWER
from ksplicd.cli.format import (
    format_event,
    format_hunk,
    format_hunks,
    format_line,
    format_update,
    from_manifest,
    to_event,
    to_hunk,
    to_hunks,
    to_job,
    to_update,
)
from ksplicd.model import Kernel, Ledger, Manifest, PatchedFunction, Target
from tests.support.bundles import samples

UPDATE: dict[str, Any] = {
    "Kid": "8c4o6ucj",
    "Stage": "failed",
    "AbortCause": "no_match",
    "Detail": "vmlinux: do_fcntl+0x1c",
    "Description": "fcntl: look at the inode's flags\n\nMore words.",
    "Targets": ["vmlinux", "ext4"],
    "Cves": ["CVE-2026-1", "CVE-2026-2"],
    "Kernel": "6.1.0-50-cloud-amd64",
    "Complete": True,
    "Hunks": 2,
}
EVENT: dict[str, Any] = {
    "Time": 1_767_225_600_001_000,
    "BootId": "0" * 32,
    "Kid": "8c4o6ucj",
    "Stage": "failed",
    "Cause": "no_match",
    "Detail": "do_fcntl+0x1c",
    "Uid": 0,
    "Pid": 4,
    "Unit": "ssh.service",
    "Via": "dbus",
}


def test_update_document() -> None:
    assert to_update(UPDATE) == {
        "kid": "8c4o6ucj",
        "stage": "failed",
        "abort_cause": "no_match",
        "detail": "vmlinux: do_fcntl+0x1c",
        "description": "fcntl: look at the inode's flags\n\nMore words.",
        "targets": ["vmlinux", "ext4"],
        "cves": ["CVE-2026-1", "CVE-2026-2"],
        "kernel": "6.1.0-50-cloud-amd64",
        "wanted": False,
        "complete": True,
        "hunks": 2,
        "soaked": False,
        "since": None,
        "since_monotonic": None,
    }


def test_job_document() -> None:
    job = to_job(
        {
            "Id": 3,
            "Type": "undo",
            "Update": "/org/ksplice/Ksplicd1/update/8c4o6ucj",
            "Progress": "transitioning",
        },
        [(17, "nginx", "do_fcntl < ksys_fcntl", "do_fcntl")],
    )
    assert job == {
        "id": 3,
        "type": "undo",
        "kid": "8c4o6ucj",
        "progress": "transitioning",
        "conflicts": [
            {
                "pid": 17,
                "command": "nginx",
                "stack": "do_fcntl < ksys_fcntl",
                "function": "do_fcntl",
            }
        ],
    }


def test_bundle_has_the_same_keys_as_an_update() -> None:
    manifest = Manifest(
        kid="8c4o6ucj",
        kernel=Kernel(release="6.1.0-50-cloud-amd64", build_id="00"),
        core_file="core.ko",
        targets=(Target(name="vmlinux", new_file="new.ko", old_file="old.ko"),),
    )
    document = from_manifest(manifest)
    assert document.keys() == to_update(UPDATE).keys()
    assert document["targets"] == ["vmlinux"]


def test_line_has_the_first_line_of_the_description() -> None:
    assert format_line(to_update(UPDATE)) == (
        "8c4o6ucj  failed  vmlinux,ext4  fcntl: look at the inode's flags  CVE-2026-1 CVE-2026-2"
    )


def test_update_in_full() -> None:
    text = format_update(to_update(UPDATE))
    assert "Cause:       no_match: vmlinux: do_fcntl+0x1c\n" in text
    assert "CVEs:        CVE-2026-1 CVE-2026-2\n" in text


def test_update_in_full_leaves_out_what_is_not_known() -> None:
    text = format_update({**to_update(UPDATE), "abort_cause": "", "detail": ""})
    assert "Cause" not in text


def test_event_document() -> None:
    assert to_event(EVENT) == {
        "time": "2026-01-01T00:00:00.001+00:00",
        "boot_id": "0" * 32,
        "kid": "8c4o6ucj",
        "stage": "failed",
        "cause": "no_match",
        "detail": "do_fcntl+0x1c",
        "uid": 0,
        "pid": 4,
        "unit": "ssh.service",
        "via": "dbus",
    }


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the local time zone."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def test_event_is_in_local_time(zone: Callable[[str], None]) -> None:
    zone("CET-1")
    assert format_event(to_event(EVENT)).startswith("2026-01-01 01:00:00.001+01:00  8c4o6ucj  ")
    assert to_event(EVENT)["time"] == "2026-01-01T00:00:00.001+00:00"


def test_event_line(zone: Callable[[str], None]) -> None:
    zone("UTC")
    assert format_event(to_event(EVENT)) == (
        "2026-01-01 00:00:00.001+00:00  8c4o6ucj  failed  uid 0 (ssh.service)  "
        "no_match: do_fcntl+0x1c"
    )


def test_event_of_no_update_and_no_unit() -> None:
    event = {
        **to_event(EVENT),
        "kid": "",
        "unit": "",
        "via": "drop",
        "cause": "",
        "detail": "",
    }
    assert format_event(event).endswith("  -  failed  uid 0 (drop)")


# --- ledgers ------------------------------------------------------------------------------------


def test_line_says_incomplete() -> None:
    assert "  failed (incomplete)  " in format_line({**to_update(UPDATE), "complete": False})
    without = {**to_update(UPDATE), "complete": False, "hunks": 0}
    assert "incomplete" not in format_line(without)
    assert "Complete:    not known: the bundle has no ledger" in format_update(without)


def test_service_from_before_there_were_ledgers() -> None:
    """It runs until it is restarted after its package was updated."""
    old = {key: value for key, value in UPDATE.items() if key not in ("Complete", "Hunks")}
    update = to_update(old)
    assert (update["complete"], update["hunks"]) == (False, 0)
    assert "Complete:    not known" in format_update(update)
    assert "incomplete" not in format_line(update)


def test_pages_are_cut_where_an_answer_is_full() -> None:
    """Whoever reads on from where a page ends has all."""
    functions = tuple(
        PatchedFunction(name=f"f{i}{'_' * 500}", sympos=0, unit="a.c") for i in range(64)
    )
    manifest = samples.manifest()
    hunk = replace(samples.LEDGER.hunks[1], by=tuple(range(64)))
    hunks = tuple(replace(hunk, after=(i, 1)) for i in range(800))
    manifest = replace(
        manifest,
        targets=(replace(manifest.targets[0], functions=functions),),
        ledger=Ledger(hunks=hunks),
    )
    found: list[int] = []
    sizes = []
    while len(found) < len(hunks):
        page = pack_hunks(manifest, len(found), 1000)
        sizes.append(page.get_size())
        found += [h["After"][0] for h in page.unpack()]
    assert found == list(range(800))
    assert len(sizes) > 1
    assert max(sizes) < 1.1 * MAX_ANSWER
    assert pack_hunks(manifest, (1 << 32) - 1, (1 << 32) - 1).unpack() == []


@pytest.mark.parametrize("limit", [0, 1000, 1001, (1 << 32) - 1])
def test_nobody_gets_more_than_a_page(limit: int) -> None:
    """However many are asked for: whoever may look must not keep the engine's thread busy."""
    ledger = Ledger(hunks=samples.LEDGER.hunks[:1] * 1200)
    manifest = replace(samples.manifest(), ledger=ledger)
    assert pack_hunks(manifest, 0, limit).n_children() == 1000
    assert pack_hunks(manifest, 1000, limit).n_children() == 200


def test_hunks_on_the_bus_and_in_a_file_are_the_same() -> None:
    manifest = replace(samples.manifest(), ledger=samples.INCOMPLETE)
    page = pack_hunks(manifest, 0, 0).unpack()
    assert [to_hunk(hunk) for hunk in page] == to_hunks(manifest.ledger, manifest.redirects)
    assert [h["File"] for h in pack_hunks(manifest, 1, 1).unpack()] == ["fs/fcntl.c"]
    assert pack_hunks(manifest, 3, 0).unpack() == []
    assert pack_hunks(samples.manifest(), 0, 0).unpack() == []


def test_hunks_for_people() -> None:
    """What is missing stands first."""
    hunks = to_hunks(samples.INCOMPLETE, samples.manifest().redirects)
    assert format_hunks(hunks).splitlines() == [
        "3 hunks: 1 comment, 1 in effect, 1 left out",
        "  include/vdso/math64.h:8-11  left out  the vDSO has it  accepted by its author",
        "  fs/fcntl.c:13-14  comment",
        "  fs/fcntl.c:52-55  in effect by vmlinux:do_fcntl by livepatch  fs/fcntl.c",
    ]
    assert format_hunks(hunks, shown=1).splitlines()[2] == "  and 2 more; --json has all"


def test_hunk_of_many_functions() -> None:
    (hunk,) = to_hunks(samples.LEDGER, samples.manifest().redirects)[1:]
    hunk |= {"by": [f"vmlinux:f{i} by livepatch" for i in range(6)], "more": 5}
    assert "vmlinux:f3 by livepatch, 2 more, 5 more" not in format_hunk(hunk)
    assert "vmlinux:f3 by livepatch, 7 more" in format_hunk(hunk)
