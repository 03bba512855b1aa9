# SPDX-License-Identifier: GPL-2.0-only
"""The host at one glance."""

from typing import Any

import pytest

from ksplicd.cli.glance import Description, Machine, to_do, to_glance
from ksplicd.cli.terminal import Terminal, width_of

HERE = "6.12.107+deb13-cloud-amd64"
NEXT = "6.12.118+deb13-cloud-amd64"
DAY = 86400.0
MACHINE = Machine(
    release=HERE,
    version="#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-10-01)",
    up=41 * DAY,
    now=1_800_000_000.0,
    monotonic=41 * DAY,
)


def update(kid: str, stage: str, **more: Any) -> dict[str, Any]:
    return {
        "kid": kid, "stage": stage, "abort_cause": "", "detail": "", "description": "",
        "targets": ["vmlinux"], "cves": [], "kernel": HERE, "wanted": False, "complete": True,
        "hunks": 1, "soaked": False, "since": None, "since_monotonic": None, **more,
    }  # fmt: skip


def host(*updates: dict[str, Any], **more: Any) -> dict[str, Any]:
    applied = [u for u in updates if u["stage"] == "applied"]
    return {
        "kernel": HERE, "applied": len(applied), "updates": list(updates), "jobs": [],
        "cves": sorted({cve for u in applied for cve in u["cves"]}), "disabled": "",
        "missing": {}, "stale": [], "store": {"updates": {"bytes": 1 << 20, "limit": None}},
        "last_check": None, "last_check_monotonic": 41 * DAY - 180, **more,
    }  # fmt: skip


APPLIED = update(
    "8c4o6ucj", "applied", description="net/sched: cls_route\n\nMore.", soaked=True,
    cves=["CVE-2026-1", "CVE-2026-2", "CVE-2026-3"], since_monotonic=39 * DAY,
)  # fmt: skip
WAITING = update("k3x0q1aa", "staged", kernel=NEXT, detail="waits: it is for another kernel")
KNOWN = {"8c4o6ucj": Description(functions=2)}


def test_host_with_nothing_to_do() -> None:
    what = "net/sched: cls_route, 2 functions"
    text = to_glance(host(APPLIED, WAITING), KNOWN, MACHINE, Terminal(width=100))
    assert text == [
        f"Linux {HERE} (Debian 6.12.107-1), running since 41 days",
        "Fixed live: 1 update, 3 CVEs",
        f"  applied  8c4o6ucj  {what.ljust(48)}  3 CVEs  2 days ago, soak over",
        f"  waiting  k3x0q1aa  for kernel {NEXT} (installe…",
        "To do: nothing",
        "Last check: 3 minutes ago",
        "Store: updates 1.0 MiB",
    ]
    assert max(map(width_of, text)) <= 100


def test_without_a_terminal_all_is_named() -> None:
    text = "\n".join(to_glance(host(APPLIED, WAITING), KNOWN, MACHINE, Terminal()))
    assert "  CVE-2026-1 CVE-2026-2 CVE-2026-3  2 days ago, soak over\n" in text
    assert f"  waiting  k3x0q1aa  for kernel {NEXT} (installed, not running)" in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_any_width(width: int) -> None:
    lines = to_glance(host(APPLIED, WAITING), KNOWN, MACHINE, Terminal(width=width))
    assert len(lines) == 7


def test_nothing_is_applied() -> None:
    lines = to_glance(host(update("8c4o6ucj", "reversed")), {}, MACHINE, Terminal())
    assert lines[1:3] == ["Fixed live: nothing", "  reversed  8c4o6ucj"]


def test_another_machine_s_service() -> None:
    lines = to_glance({**host(), "kernel": "6.1.0-1"}, {}, MACHINE, Terminal())
    assert lines[0] == "Linux 6.1.0-1"


def test_times_without_the_monotonic_clock() -> None:
    """As of an update that failed in another boot."""
    failed = update("8c4o6ucj", "failed", since="2027-01-15T05:00:00.000+00:00")
    line = to_glance(host(failed), {}, MACHINE, Terminal())[2]
    assert line == "  failed  8c4o6ucj  3 hours ago"


def test_reasons_and_redirects_stand_below() -> None:
    failed = update("aaaaaaaa", "failed", abort_cause="no_match", detail="do_fcntl+0x1c\x1b[2K")
    known = {"8c4o6ucj": Description(redirects=("vmlinux:do_fcntl by kprobe",))}
    lines = to_glance(host(failed, APPLIED), known, MACHINE, Terminal())
    assert lines[3] == "    no_match: do_fcntl+0x1c\\x1b[2K"
    assert lines[5] == "    vmlinux:do_fcntl by kprobe, not by livepatch"


@pytest.mark.parametrize(
    ("updates", "more", "expected"),
    [
        ([APPLIED, WAITING], {}, []),
        ([update("a", "reversed")], {}, []),
        ([update("a", "failed", kernel=NEXT)], {}, []),
        ([update("a", "staged")], {}, ["a is staged: `ksplice apply a`"]),
        (
            [update("a", "quarantined")],
            {},
            ["a is quarantined: find out why, then `ksplice release a`"],
        ),
        (
            [update("a", "failed")],
            {},
            ["a failed: see `ksplice history --id a`, then `ksplice apply a`"],
        ),
        (
            [update("a", "rejected")],
            {},
            ["a does not verify: stage it anew, or `ksplice remove a`"],
        ),
        (
            [update("a", "applied", abort_cause="kernel_warning")],
            {},
            ["the kernel complained of a: `ksplice undo a`, and report it"],
        ),
        (
            [update("a", "applied", abort_cause="code_busy")],
            {},
            ["a stays applied (code_busy); `ksplice undo a` tries again"],
        ),
        (
            [update("a", "failed")],
            {"missing": {"a": "no_match"}},
            ["a is wanted and not applied: no_match"],
        ),
        ([], {"disabled": "off"}, ["Nothing is applied automatically: off"]),
        (
            [],
            {"stale": ["a", "b"]},
            ["Stale: a b: for kernels that are not installed any more; `ksplice remove --stale`"],
        ),
    ],
)
def test_what_a_person_must_do(
    updates: list[dict[str, Any]], more: dict[str, Any], expected: list[str]
) -> None:
    assert list(to_do(host(*updates, **more))) == expected


def test_update_for_a_kernel_that_is_gone() -> None:
    lines = to_glance(host(WAITING, stale=["k3x0q1aa"]), {}, MACHINE, Terminal())
    assert lines[2] == f"  waiting  k3x0q1aa  for kernel {NEXT} (not installed)"


def test_colours() -> None:
    lines = to_glance(host(APPLIED), KNOWN, MACHINE, Terminal(width=80, has_colours=True))
    assert "\x1b[32mapplied\x1b[0m" in lines[2]
