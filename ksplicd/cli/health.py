# SPDX-License-Identifier: GPL-2.0-only
"""How well a host is: for ``status``, and as a monitoring plugin.

The exit status and the first line are those of monitoring-plugins.org ("Plugin Return Codes",
"Plugin Output", "Performance data").
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum, auto
from typing import Final

from ksplicd.cli.format import Document
from ksplicd.cli.times import format_span
from ksplicd.errors import KernelWarningError
from ksplicd.text import printable


class Health(StrEnum):
    """How well a host is; the position is the exit status of ``status --check``."""

    OK = auto()
    WARNING = auto()
    CRITICAL = auto()


UNKNOWN: Final = 3
"""The exit status where the service does not answer."""
HEALTH_BY_STAGE: Final = {
    "staged": Health.WARNING,
    "loading": Health.WARNING,
    "matched": Health.WARNING,
    "transitioning": Health.WARNING,
    "reversing": Health.WARNING,
    "failed": Health.CRITICAL,
    "quarantined": Health.CRITICAL,
    "rejected": Health.CRITICAL,
}
"""By stage; a stage that is not here is ok."""
_ELSEWHERE: Final = {"quarantined": Health.WARNING, "rejected": Health.WARNING}
"""The same of an update for another kernel: somebody has to look before that one boots."""

Judgement = tuple[Health, str]


def judge(
    updates: Sequence[Document], missing: Mapping[str, str] | None = None, kernel: str = ""
) -> tuple[Health, list[str]]:
    """Return the host's health, and a sentence for each update that is not ok, the worst first.

    ``missing``: what is wanted and not applied, and why; nothing is worse.  An update that was
    undone is ok: a person wanted that.  So is one that waits for another kernel than ``kernel``.
    """
    wanted = missing or {}
    found = [
        (Health.CRITICAL, f"{kid} is wanted and not applied: {why}") for kid, why in wanted.items()
    ]
    found += [
        (
            _health_of(u, kernel),
            f"{u['kid']} is {u['stage']}" + (f": {u['detail']}" if u["detail"] else ""),
        )
        for u in updates
        if u["kid"] not in wanted
    ]
    return combine(found)


def combine(found: Sequence[Judgement]) -> tuple[Health, list[str]]:
    """Return the worst health, and the sentences of all that are not ok, the worst first."""
    ranked = sorted(found, key=lambda pair: _rank(pair[0]), reverse=True)
    return (
        ranked[0][0] if ranked else Health.OK,
        [sentence for health, sentence in ranked if health is not Health.OK],
    )


def _rank(health: Health) -> int:
    return list(Health).index(health)


def _health_of(update: Document, kernel: str) -> Health:
    """Return an update's health.

    An applied update has an abort cause when it could not be undone, its bundle no longer verifies,
    or the kernel complained.
    """
    if update["stage"] == "applied" and update["abort_cause"]:
        is_complaint = update["abort_cause"] == KernelWarningError.abort_cause
        return Health.CRITICAL if is_complaint else Health.WARNING
    if is_for_other(update, kernel):
        return _ELSEWHERE.get(update["stage"], Health.OK)
    return HEALTH_BY_STAGE.get(update["stage"], Health.OK)


def is_for_other(update: Document, kernel: str) -> bool:
    """Return whether an update at rest is known to be for another release than ``kernel``."""
    is_idle = update["stage"] in {"staged", "failed", "reversed", "quarantined", "rejected"}
    return bool(is_idle and kernel and update.get("kernel") and update["kernel"] != kernel)


def check_cves(required: Sequence[str], updates: Sequence[Document]) -> list[Judgement]:
    """Return a sentence for each required CVE that no applied update fixes."""
    found = []
    for cve in dict.fromkeys(required):
        naming = [u for u in updates if cve in u["cves"]]
        if any(u["stage"] == "applied" for u in naming):
            continue
        why = ", ".join(f"{u['kid']} is {u['stage']}" for u in naming) or "no update here names it"
        found.append((Health.CRITICAL, f"{cve} is not fixed live: {why}"))
    return found


def check_age(age: float | None, most: float) -> list[Judgement]:
    """Return a sentence if the service has last looked more than ``most`` seconds ago; 0: any."""
    if not most or (age is not None and age <= most):
        return []
    seen = "is not known" if age is None else f"was {format_span(age)} ago"
    return [(Health.WARNING, f"the last check {seen}; at most {most:.0f} s are allowed")]


def format_check(document: Document, age: float | None) -> str:
    """Return ``OK - 1 update applied, 2 CVEs fixed | applied=1;;;0 …``, one line."""
    applied, cves = document["applied"], len(document["cves"])
    well = f"{count(applied, 'update')} applied, {count(cves, 'CVE')} fixed"
    reason = "; ".join(document["reasons"]) or well
    figures = {
        "applied": f"{applied};;;0",
        "cves": f"{cves};;;0",
        "missing": f"{len(document['missing'])};;0;0",
        **({} if age is None else {"check_age": f"{age:.0f}s;;;0"}),
    }
    data = " ".join(f"{name}={value}" for name, value in figures.items())
    return f"{format_first(document['health'], reason)} | {data}"


def format_first(health: str, reason: str) -> str:
    """Return a plugin's first line without its data, which ``|`` would begin."""
    return f"{health.upper()} - {printable(reason).replace('|', '/')}"


def count(number: int, noun: str) -> str:
    """Return ``1 update`` or ``2 updates``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
