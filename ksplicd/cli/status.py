# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice status``, which is also what ``ksplice`` alone does: the whole host.

The JSON document is described in ``show``.  ``status --check`` is a monitoring plugin (``health``).
"""

import argparse
import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ksplicd.cli import output
from ksplicd.cli.arguments import read_seconds
from ksplicd.cli.format import Document, to_job, to_seconds, to_time, to_update
from ksplicd.cli.glance import Description, age_of, read_machine, to_glance
from ksplicd.cli.health import (
    UNKNOWN,
    Health,
    check_age,
    check_cves,
    combine,
    format_check,
    format_first,
    judge,
)
from ksplicd.cli.terminal import find_terminal
from ksplicd.errors import KspliceError

if TYPE_CHECKING:
    from ksplicd.cli.client import Client, Properties

_CHECK_SECONDS: Final = 10
"""Monitoring systems wait at least this long for their plugins."""
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_CVE: Final = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="be a monitoring plugin: exit with 1 when an update for this kernel waits or is on "
        "its way, 2 when one that is wanted is not applied, failed, is quarantined or does not "
        "verify, 3 when the service does not answer",
    )
    parser.add_argument(
        "--require", metavar="CVE", type=read_cve, action="append", default=[],
        help="--check, and exit with 2 unless an applied update fixes it; may be given several "
        "times",
    )  # fmt: skip
    parser.add_argument(
        "--max-age", metavar="TIME", type=read_age, default=0,
        help="--check, and exit with 1 when the service last looked longer ago: 30m, 2h, 1d",
    )  # fmt: skip
    parser.add_argument(
        "-t", "--timeout", metavar="SECONDS", type=read_seconds, default=0,
        help=f"how long to wait for an answer (default with --check: {_CHECK_SECONDS}, else no "
        "limit)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def read_cve(text: str) -> str:
    """Return a CVE id."""
    if not _CVE.fullmatch(text.upper()):
        raise argparse.ArgumentTypeError(f"{text}: not a CVE id, like CVE-2026-12345")
    return text.upper()


def read_age(text: str) -> int:
    """Return seconds for ``30m``, ``2h``, ``1d`` or a number of seconds."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text}: not a time, like 90, 30m, 2h or 1d")
    return int(found[1]) * _SECONDS[found[2]]


def run(args: argparse.Namespace) -> int:
    """Show the whole host; return the exit status."""
    is_check = bool(args.check or args.require or args.max_age)
    try:
        return _show(args, is_check=is_check)
    except KspliceError as e:
        if not is_check:
            raise
        if args.json:
            output.print_json_error(e)
        else:
            output.print_text(format_first("unknown", str(e)))
        output.print_error(f"ksplice: {e}")
        return UNKNOWN


def _show(args: argparse.Namespace, *, is_check: bool) -> int:
    from ksplicd.cli.client import connect

    client = connect(args.timeout or (_CHECK_SECONDS if is_check else 0))
    service, now, machine = client.service(), client.objects(), read_machine()
    updates = [to_update(u) for u in now.updates]
    jobs = [to_job(job, client.conflicts(job["Id"])) for job in now.jobs]
    document = to_document(service, updates, jobs)
    age = age_of(document["last_check"], document["last_check_monotonic"], machine)
    asked = [*check_cves(args.require, updates), *check_age(age, args.max_age)]
    judged = [(Health(document["health"]), reason) for reason in document["reasons"]]
    if asked:
        health, document["reasons"] = combine([*judged, *asked])
        document["health"] = health.value
    if args.json:
        output.print_json(**document)
    else:
        if is_check:
            output.print_text(format_check(document, age))
        known = {u["kid"]: _describe(client, u["kid"]) for u in updates if u["stage"] == "applied"}
        for line in to_glance(document, known, machine, find_terminal()):
            output.print_painted(line)
    return list(Health).index(Health(document["health"])) if is_check else 0


def to_document(
    service: "Properties", updates: Sequence[Document], jobs: Sequence[Document]
) -> dict[str, Any]:
    """Return the document of the host."""
    applied = [update for update in updates if update["stage"] == "applied"]
    missing = service.get("WantedMissing", {})
    health, reasons = judge(updates, missing, service["Kernel"])
    return {
        "kernel": service["Kernel"],
        "applied": len(applied),
        "cves": sorted({cve for update in applied for cve in update["cves"]}),
        "updates": list(updates),
        "jobs": list(jobs),
        "health": health.value,
        "reasons": reasons,
        "version": service["Version"],
        "disabled": service["Disabled"],
        "missing": missing,
        "stale": service.get("Stale", []),
        "store": {
            part: {"bytes": size, "limit": service["StoreLimit"].get(part)}
            for part, size in service["StoreSize"].items()
        },
        "last_check": to_time(service.get("LastCheck", 0)),
        "last_check_monotonic": to_seconds(service.get("LastCheckMonotonic", 0)),
    }


def _describe(client: "Client", kid: str) -> Description:
    """Return what an update changes; nothing if it was removed meanwhile."""
    with contextlib.suppress(KspliceError):
        known = client.describe(kid)
        functions, redirects = known["Functions"], tuple(known["Redirects"])
        return Description(functions=len(functions), redirects=redirects)
    return Description()
