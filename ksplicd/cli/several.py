# SPDX-License-Identifier: GPL-2.0-only
"""``apply --all`` and ``undo --all``: several updates, one after another.

What is applied is what is staged for the running kernel, and what is wanted and not applied; what a
person has undone, and what is quarantined, is left alone.  An error ends nothing but its own
update, and the first one is the exit status.

JSON: ``{"schema": 1, "kids": [], "result": "done", "failed": {KID: {"name", "abort_cause",
"message"}}}``; ``kids`` are those that were applied or undone.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ksplicd.cli import output
from ksplicd.errors import AlreadyAppliedError, AlreadyReversedError, KspliceError

if TYPE_CHECKING:
    from ksplicd.cli.client import Client, Properties


def apply_all(args: argparse.Namespace, client: "Client") -> int:
    """Apply what waits here; return the exit status."""
    service, updates = client.service(), client.objects().updates
    missing = service.get("WantedMissing", {})
    kids = [
        str(u["Kid"])
        for u in updates
        if u["Kernel"] == service["Kernel"] and (u["Stage"] == "staged" or u["Kid"] in missing)
        if u["Stage"] not in {"quarantined", "rejected"}
    ]
    order = in_order({kid: client.describe(kid) for kid in kids})
    return _run(args, order, client.apply, ("applied", "Nothing waits to be applied."))


def undo_all(args: argparse.Namespace, client: "Client") -> int:
    """Undo what is applied, the newest first; return the exit status."""
    found = [u for u in client.objects().updates if u["Stage"] == "applied"]
    order = in_order({str(u["Kid"]): client.describe(str(u["Kid"])) for u in found})
    return _run(args, order[::-1], client.undo, ("undone", "Nothing is applied."))


def in_order(known: Mapping[str, "Properties"]) -> list[str]:
    """Return updates after those that they depend on, without those that another one replaces.

    ``known`` has the answers of Describe, by kid.
    """
    replaced = {kid for about in known.values() for kid in about["Replaces"]}
    order: list[str] = []
    left = [kid for kid in known if kid not in replaced]
    while left:
        free = [k for k in left if not set(known[k]["Depends"]) & set(left) - {k}]
        order += (now := free or left[:1])  # in a circle none can be applied, and the error says so
        left = [kid for kid in left if kid not in now]
    return order


def _run(
    args: argparse.Namespace,
    kids: Sequence[str],
    change: Callable[[str], object],
    words: tuple[str, str],
) -> int:
    """Change each update; ``words``: what it is afterwards, and what is said if there is none."""
    done, failed = [], dict[str, KspliceError]()
    for kid in kids:
        try:
            change(kid)
        except (AlreadyAppliedError, AlreadyReversedError):
            continue  # by somebody else meanwhile
        except KspliceError as e:
            failed[kid] = e
            if not args.json:
                output.print_error(f"ksplice: {e}")
        else:
            done.append(kid)
            if not args.json:
                output.print_text(f"Update {kid} is {words[0]}.")
    if args.json:
        errors = {kid: output.to_error(e) for kid, e in failed.items()}
        output.print_json(kids=done, result="done" if not failed else "failed", failed=errors)
    elif not kids:
        output.print_text(words[1])
    return next((e.exit_status for e in failed.values()), 0)
