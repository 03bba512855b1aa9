# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

import pytest

from ksplicd.cli import health
from ksplicd.cli.health import Health
from ksplicd.model import Stage

HERE = "6.1.0-50-cloud-amd64"


def host_of(*stages: str) -> list[dict[str, Any]]:
    return [
        {"kid": f"aaaaaaa{i}", "stage": s, "abort_cause": "", "detail": "why"}
        for i, s in enumerate(stages)
    ]


def test_health() -> None:
    assert health.judge([]) == (Health.OK, [])
    assert health.judge(host_of("applied", "reversed")) == (Health.OK, [])
    assert health.judge(host_of("applied", "staged")) == (
        Health.WARNING,
        ["aaaaaaa1 is staged: why"],
    )
    assert health.judge(host_of("staged", "applied", "failed")) == (
        Health.CRITICAL,
        ["aaaaaaa2 is failed: why", "aaaaaaa0 is staged: why"],
    )


@pytest.mark.parametrize(
    ("cause", "expected"),
    [("kernel_warning", Health.CRITICAL), ("code_busy", Health.WARNING)],
)
def test_health_of_an_applied_update_with_a_fault(cause: str, expected: Health) -> None:
    (update,) = host_of("applied")
    reasons = ["aaaaaaa0 is applied: why"]
    assert health.judge([{**update, "abort_cause": cause}]) == (expected, reasons)


def test_every_stage_has_a_health() -> None:
    well = set(Stage) - {Stage(stage) for stage in health.HEALTH_BY_STAGE}
    assert well == {Stage.APPLIED, Stage.REVERSED, Stage.DROPPED, Stage.REMOVED}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("staged", Health.OK),
        ("failed", Health.OK),
        ("quarantined", Health.WARNING),
        ("rejected", Health.WARNING),
    ],
)
def test_idle_update_of_another_kernel(stage: str, expected: Health) -> None:
    (update,) = host_of(stage)
    assert health.judge([{**update, "kernel": "6.12.9"}], {}, HERE)[0] is expected
    assert health.judge([{**update, "kernel": HERE}], {}, HERE)[0] is health.HEALTH_BY_STAGE[stage]


def test_missing_update_is_named_once_and_first() -> None:
    found = health.judge(host_of("failed", "quarantined"), {"aaaaaaa0": "no_match"})
    assert found == (
        Health.CRITICAL,
        ["aaaaaaa0 is wanted and not applied: no_match", "aaaaaaa1 is quarantined: why"],
    )


def test_required_cves() -> None:
    updates = [
        {"kid": "aaaaaaa0", "stage": "applied", "cves": ["CVE-2026-1000"]},
        {"kid": "aaaaaaa1", "stage": "staged", "cves": ["CVE-2026-1000", "CVE-2026-2000"]},
    ]
    required = ["CVE-2026-1000", "CVE-2026-2000", "CVE-2026-3000", "CVE-2026-3000"]
    assert health.check_cves(required, updates) == [
        (Health.CRITICAL, "CVE-2026-2000 is not fixed live: aaaaaaa1 is staged"),
        (Health.CRITICAL, "CVE-2026-3000 is not fixed live: no update here names it"),
    ]


def test_age_of_the_last_check() -> None:
    assert health.check_age(None, 0) == health.check_age(100, 100) == []
    late = "the last check was 2 minutes ago; at most 100 s are allowed"
    assert health.check_age(125, 100) == [(Health.WARNING, late)]
    unknown = "the last check is not known; at most 100 s are allowed"
    assert health.check_age(None, 100) == [(Health.WARNING, unknown)]


def test_first_line_of_a_plugin() -> None:
    document = {"applied": 1, "cves": ["a", "b"], "missing": {}, "health": "ok", "reasons": []}
    assert health.format_check(document, 12.4) == (
        "OK - 1 update applied, 2 CVEs fixed | applied=1;;;0 cves=2;;;0 missing=0;;0;0 "
        "check_age=12s;;;0"
    )
    bad = {**document, "health": "critical", "reasons": ["a | b\nc", "d"], "missing": {"x": "y"}}
    assert health.format_check(bad, None) == (
        r"CRITICAL - a / b\nc; d | applied=1;;;0 cves=2;;;0 missing=1;;0;0"
    )
