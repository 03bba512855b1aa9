# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice view``, ``status`` and ``history``: the updates of this host.

JSON, all with ``"schema": 1``::

    view     {"updates": [UPDATE]}; with --id or --file also {"ledger": [HUNK]}
    status   {"kernel": "6.1.0-50-cloud-amd64", "applied": 1, "cves": [], "updates": [UPDATE],
              "jobs": [JOB], "health": "ok" | "warning" | "critical", "reasons": [],
              "version": "0.1.0", "disabled": "", "missing": {KID: REASON}, "stale": [],
              "store": {PART: {"bytes", "limit"}}}
    history  {"events": [EVENT]}

    UPDATE   {"kid", "stage", "abort_cause", "detail", "description", "targets": [], "cves": [],
              "kernel", "wanted": true, "complete": true, "hunks": 3}
    HUNK     {"file", "before": [LINE, LINES], "after": [LINE, LINES], "account", "by": [],
              "more": 0, "note", "accepted": false}
    JOB      {"id", "type": "apply" | "undo", "kid", "progress",
              "conflicts": [{"pid", "command", "stack", "function"}] | null}
    EVENT    {"time": "2026-01-31T12:00:00.000+00:00", "boot_id", "kid", "stage", "cause",
              "detail", "uid", "pid", "unit", "via"}

``stage`` is a ``ksplicd.model.Stage``, ``account`` a ``ksplicd.model.Account``; ``complete`` says
whether the update's ledger accounts for its whole patch, ``hunks`` how many the ledger has (0: the
bundle is from before there were ledgers), ``more`` how many redirects ``by`` does not name; of
status ``cves`` are those that the applied updates fix; ``reasons`` are sentences, one for each
update that keeps the health from being ``ok``; ``wanted`` says whether an update is to be applied
whatever happened to it, ``missing`` which of these are wanted for this kernel and not applied,
``stale`` which updates are for kernels that are not installed any more;
``conflicts`` is null for who may not see them (polkit's org.ksplice.ksplicd1.conflicts);
``disabled`` is why nothing is applied automatically, or empty; the parts of the store are updates,
rejected, history and dropped, and the ``limit`` of a part without one is null.

``status --check`` has the exit status of a monitoring plugin (monitoring-plugins.org, "Plugin
Return Codes"): 0 ok, 1 warning, 2 critical, 3 unknown: no answer, or not in time.
"""

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs, read_count, read_kid, read_seconds
from ksplicd.cli.format import (
    Document,
    format_event,
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
from ksplicd.errors import KernelWarningError, KspliceError, NoSuchUpdateError
from ksplicd.text import printable

if TYPE_CHECKING:
    from ksplicd.cli.client import Client

_IN_KERNEL: Final = ("applied", "transitioning", "reversing")


class Health(StrEnum):
    """How well a host is; the position is the exit status of ``status --check``."""

    OK = auto()
    WARNING = auto()
    CRITICAL = auto()


_UNKNOWN: Final = 3
_CHECK_SECONDS: Final = 10
"""Monitoring systems wait at least this long for their plugins."""
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


def add_parser(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    view = verbs.add_parser("view", help="list the updates in the running kernel")
    which = view.add_mutually_exclusive_group()
    which.add_argument("--id", metavar="ID", type=read_kid, help="show one update, in full")
    which.add_argument("--file", metavar="TARBALL", type=Path, help="show a bundle, in full")
    view.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    view.set_defaults(run=run_view)
    status = verbs.add_parser("status", help="show every update, and what holds up a job")
    status.add_argument(
        "--check",
        action="store_true",
        help="exit with 1 when an update waits or is on its way, 2 when one that is wanted is not "
        "applied, failed, is quarantined or does not verify, 3 when the service does not answer",
    )
    status.add_argument(
        "-t", "--timeout", metavar="SECONDS", type=read_seconds, default=0,
        help=f"how long to wait for an answer (default with --check: {_CHECK_SECONDS}, else no "
        "limit)",
    )  # fmt: skip
    status.set_defaults(run=run_status)
    history = verbs.add_parser("history", help="show what happened, newest first")
    history.add_argument(
        "-n", "--lines", metavar="N", type=read_count, default=0,
        help="at most N events (0: as many as the service gives at once)",
    )  # fmt: skip
    history.add_argument("--id", metavar="ID", type=read_kid, help="of one update")
    history.set_defaults(run=run_history)
    for verb in (view, status, history):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run_view(args: argparse.Namespace) -> int:
    """List what is in the kernel, or show one update or bundle."""
    ledger: list[Document] = []
    if args.file:
        from ksplicd.cli.bundle_files import read_bundle

        manifest = read_bundle(args.file).manifest
        updates = [from_manifest(manifest)]
        ledger = to_hunks(manifest.ledger, manifest.redirects)
    else:
        from ksplicd.cli.client import connect

        client = connect()
        found = [to_update(properties) for properties in client.objects().updates]
        updates = [
            u for u in found if (u["kid"] == args.id if args.id else u["stage"] in _IN_KERNEL)
        ]
        if args.id and not updates:
            raise NoSuchUpdateError(f"{args.id}: no such update; `ksplice status` lists them")
        if args.id and (args.json or not args.quiet):
            ledger = [to_hunk(h) for h in client.hunks(args.id, updates[0]["hunks"])]
    if args.json:
        output.print_json(updates=updates, **({"ledger": ledger} if args.id or args.file else {}))
    elif args.quiet:
        for update in updates:
            output.print_text(update["kid"])
    elif args.id or args.file:
        output.print_text(format_update(updates[0]))
        if ledger:
            output.print_text(format_hunks(ledger))
    else:
        for update in updates:
            output.print_text(format_line(update))
    return 0


def run_status(args: argparse.Namespace) -> int:
    """Show the whole host."""
    try:
        return _show_status(args)
    except KspliceError as e:
        if not args.check:
            raise
        if args.json:
            output.print_json_error(e)
        output.print_error(f"ksplice: {e}")
        return _UNKNOWN


def _show_status(args: argparse.Namespace) -> int:
    from ksplicd.cli.client import connect

    client = connect(args.timeout or (_CHECK_SECONDS if args.check else 0))
    service, now = client.service(), client.objects()
    updates, jobs = [to_update(u) for u in now.updates], _jobs(client, now.jobs)
    in_use = [update for update in updates if update["stage"] == "applied"]
    applied, cves = len(in_use), sorted({cve for update in in_use for cve in update["cves"]})
    store = {
        part: {"bytes": size, "limit": service["StoreLimit"].get(part)}
        for part, size in service["StoreSize"].items()
    }
    missing = service.get("WantedMissing", {})
    health, reasons = judge(updates, missing)
    status = list(Health).index(health) if args.check else 0
    if args.json:
        output.print_json(
            kernel=service["Kernel"], applied=applied, cves=cves, updates=updates, jobs=jobs,
            health=health.value, reasons=reasons, version=service["Version"],
            disabled=service["Disabled"], missing=missing, stale=service.get("Stale", []),
            store=store,
        )  # fmt: skip
        return status
    output.print_text(f"Kernel {service['Kernel']}: {applied} of {len(updates)} updates applied")
    if service["Disabled"]:
        output.print_text(f"Nothing is applied automatically: {service['Disabled']}")
    for kid, why in missing.items():
        output.print_text(f"{kid} is wanted and not applied: {why}")
    for update in updates:
        output.print_text(format_line(update))
        reason = ": ".join(text for text in (update["abort_cause"], update["detail"]) if text)
        if reason and (update["abort_cause"] or update["stage"] != "applied"):
            output.print_text(f"  {reason}")
        if update in in_use:
            for redirect in _redirects(client, update["kid"]):
                output.print_text(f"  {redirect}, not by livepatch")
    for job in jobs:
        output.print_text(f"Job {job['id']}: {job['type']} of {job['kid']}: {job['progress']}")
        if job["conflicts"] is None:
            output.print_text("  administrators see which tasks hold it up: sudo ksplice status")
        for conflict in job["conflicts"] or ():
            task = printable(conflict["command"])
            output.print_text("  held up by {}[{pid}] in {stack}".format(task, **conflict))
    if stale := service.get("Stale"):
        hint = "for kernels that are not installed any more; `ksplice remove --stale`"
        output.print_text(f"Stale: {' '.join(stale)}: {hint}")
    parts = ", ".join(f"{part} {_in_mebibytes(of['bytes'])}" for part, of in store.items())
    output.print_text(f"Store: {parts}")
    return status


def _jobs(client: "Client", jobs: Sequence[Document]) -> list[Document]:
    return [to_job(job, client.conflicts(job["Id"])) for job in jobs]


def _redirects(client: "Client", kid: str) -> list[str]:
    """Return what an update redirects without livepatch; nothing if it was removed meanwhile."""
    with contextlib.suppress(KspliceError):
        redirects: list[str] = client.describe(kid)["Redirects"]
        return redirects
    return []


def _in_mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def judge(
    updates: Sequence[Document], missing: Mapping[str, str] | None = None
) -> tuple[Health, list[str]]:
    """Return the host's health, and a sentence for each update that is not ok, the worst first.

    ``missing``: what is wanted and not applied, and why; nothing is worse.  An update that was
    undone is ok: a person wanted that.
    """
    wanted = missing or {}
    lost = [f"{kid} is wanted and not applied: {why}" for kid, why in wanted.items()]
    updates = [update for update in updates if update["kid"] not in wanted]
    found = [(_health_of(update), update) for update in updates]
    ranked = sorted(found, key=lambda pair: list(Health).index(pair[0]), reverse=True)
    reasons = [
        f"{u['kid']} is {u['stage']}" + (f": {u['detail']}" if u["detail"] else "")
        for health, u in ranked
        if health is not Health.OK
    ]
    worst = ranked[0][0] if ranked else Health.OK
    return (Health.CRITICAL if lost else worst), [*lost, *reasons]


def _health_of(update: Document) -> Health:
    """Return an update's health.

    An applied update has an abort cause when it could not be undone, its bundle no longer verifies,
    or the kernel complained.
    """
    if update["stage"] == "applied" and update["abort_cause"]:
        is_complaint = update["abort_cause"] == KernelWarningError.abort_cause
        return Health.CRITICAL if is_complaint else Health.WARNING
    return HEALTH_BY_STAGE.get(update["stage"], Health.OK)


def run_history(args: argparse.Namespace) -> int:
    """Show the history."""
    from ksplicd.cli.client import connect

    events = [to_event(event) for event in connect().history(0 if args.id else args.lines)]
    if args.id:
        events = [event for event in events if event["kid"] == args.id]
    if args.lines:
        events = events[: args.lines]
    if args.json:
        output.print_json(events=events)
        return 0
    for event in events:
        output.print_text(format_event(event))
    return 0
