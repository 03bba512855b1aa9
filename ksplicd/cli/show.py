# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice list``, ``view`` and ``history``: the updates of this host, and their documents.

JSON, all with ``"schema": 1``::

    list     {"updates": [UPDATE]}
    view     {"updates": [UPDATE]}; with --id or --file also {"ledger": [HUNK]}
    status   {"kernel": "6.1.0-50-cloud-amd64", "applied": 1, "cves": [], "updates": [UPDATE],
              "jobs": [JOB], "health": "ok" | "warning" | "critical", "reasons": [],
              "version": "0.1.0", "disabled": "", "missing": {KID: REASON}, "stale": [],
              "store": {PART: {"bytes", "limit"}}, "last_check", "last_check_monotonic"}
    history  {"events": [EVENT]}

    UPDATE   {"kid", "stage", "abort_cause", "detail", "description", "targets": [], "cves": [],
              "kernel", "wanted": true, "complete": true, "hunks": 3, "since",
              "since_monotonic", "soaked": true}
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

``since`` is when an update came to its stage, ``soaked`` whether it has run for its soak time in
this boot; ``last_check`` is when the service last compared its records with the kernel.  Each time
is in ISO 8601, in UTC, or null where it is not known; ``…_monotonic`` is the same on
CLOCK_MONOTONIC, in seconds, null also for a time in another boot.
"""

import argparse
from pathlib import Path
from typing import Final

from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs, read_count, read_kid
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
    to_update,
)
from ksplicd.cli.verbs import VERBS
from ksplicd.errors import NoSuchUpdateError

_IN_KERNEL: Final = ("applied", "transitioning", "reversing")


def add_parser(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    every = verbs.add_parser("list", description=VERBS["list"].help)
    every.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    every.set_defaults(run=run_list)
    view = verbs.add_parser("view", description=VERBS["view"].help)
    which = view.add_mutually_exclusive_group()
    which.add_argument("--id", metavar="ID", type=read_kid, help="show one update, in full")
    which.add_argument("--file", metavar="TARBALL", type=Path, help="show a bundle, in full")
    view.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    view.set_defaults(run=run_view)
    history = verbs.add_parser("history", description=VERBS["history"].help)
    history.add_argument(
        "-n", "--lines", metavar="N", type=read_count, default=0,
        help="at most N events (0: as many as the service gives at once)",
    )  # fmt: skip
    history.add_argument("--id", metavar="ID", type=read_kid, help="of one update")
    history.set_defaults(run=run_history)
    for verb in (every, view, history):
        verb.add_argument("--json", action="store_true", help="print JSON")


def run_list(args: argparse.Namespace) -> int:
    """List every update."""
    from ksplicd.cli.client import connect

    updates = [to_update(properties) for properties in connect().objects().updates]
    if args.json:
        output.print_json(updates=updates)
        return 0
    for update in updates:
        output.print_text(update["kid"] if args.quiet else format_line(update))
    return 0


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
