# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

import pytest

from ksplicd.cli import show
from ksplicd.cli.format import (
    format_event,
    format_line,
    format_update,
    from_manifest,
    to_event,
    to_job,
    to_update,
)
from ksplicd.model import Kernel, Manifest, Stage, Target

UPDATE: dict[str, Any] = {
    "Kid": "8c4o6ucj",
    "Stage": "failed",
    "AbortCause": "no_match",
    "Detail": "vmlinux: do_fcntl+0x1c",
    "Description": "fcntl: look at the inode's flags\n\nMore words.",
    "Targets": ["vmlinux", "ext4"],
    "Cves": ["CVE-2026-1", "CVE-2026-2"],
    "Kernel": "6.1.0-50-cloud-amd64",
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
    }


def test_job_document() -> None:
    job = to_job(
        {
            "Id": 3,
            "Type": "undo",
            "Update": "/org/ksplice/Ksplicd1/update/8c4o6ucj",
            "Progress": "transitioning",
            "Conflicts": [(17, "nginx", "do_fcntl < ksys_fcntl")],
            "ConflictFunctions": ["do_fcntl"],
        }
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


def test_event_line() -> None:
    assert format_event(to_event(EVENT)) == (
        "2026-01-01T00:00:00.001+00:00  8c4o6ucj  failed  uid 0 (ssh.service)  "
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


def host_of(*stages: str) -> list[dict[str, Any]]:
    return [
        {"kid": f"aaaaaaa{i}", "stage": s, "abort_cause": "", "detail": "why"}
        for i, s in enumerate(stages)
    ]


def test_health() -> None:
    assert show.judge([]) == (show.Health.OK, [])
    assert show.judge(host_of("applied", "reversed")) == (show.Health.OK, [])
    assert show.judge(host_of("applied", "staged")) == (
        show.Health.WARNING,
        ["aaaaaaa1 is staged: why"],
    )
    assert show.judge(host_of("staged", "applied", "failed")) == (
        show.Health.CRITICAL,
        ["aaaaaaa2 is failed: why", "aaaaaaa0 is staged: why"],
    )


@pytest.mark.parametrize(
    ("cause", "health"),
    [("kernel_warning", show.Health.CRITICAL), ("code_busy", show.Health.WARNING)],
)
def test_health_of_an_applied_update_with_a_fault(cause: str, health: show.Health) -> None:
    (update,) = host_of("applied")
    reasons = ["aaaaaaa0 is applied: why"]
    assert show.judge([{**update, "abort_cause": cause}]) == (health, reasons)


def test_every_stage_has_a_health() -> None:
    well = set(Stage) - {Stage(stage) for stage in show.HEALTH_BY_STAGE}
    assert well == {Stage.APPLIED, Stage.REVERSED, Stage.DROPPED, Stage.REMOVED}
