# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice cache``: what the cache holds, and how to make it smaller.

JSON: ``{"schema": 1, "folder", "limit", "size", "kinds": [{"kind", "entries", "size", "last_used",
"what"}], "deleted": [{"kind", "name", "size"}], "in_use": []}``; sizes are bytes on disk,
``last_used`` seconds since the epoch.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Final

from ksplicd import pruning
from ksplicd.cache import Cache
from ksplicd.cli import output
from ksplicd.errors import KspliceError, UsageError
from ksplicd.pruning import GRACE, KINDS, Entry, Pruned

EPILOG: Final = f"""\
Whatever adds to the cache prunes it to its limit afterwards, {pruning.DEFAULT_LIMIT >> 30}G unless
the variable {pruning.LIMIT_VARIABLE} says otherwise. What is deleted is made or downloaded again
when it is needed.

examples: ksplice cache
          ksplice cache --prune --limit 5G
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--prune", action="store_true",
        help="delete what was used longest ago, until the cache is within its limit",
    )  # fmt: skip
    parser.add_argument(
        "--limit", metavar="SIZE", type=read_limit,
        help="prune to this size, such as 500M or 5G; 0: all that is not in use",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def read_limit(text: str) -> int:
    """Return a size in bytes."""
    try:
        return pruning.read_size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def run(args: argparse.Namespace) -> int:
    """Show the cache, or prune it; return the exit status.  Raises ``KspliceError``."""
    if args.limit is not None and not args.prune:
        raise UsageError("--limit: goes with --prune")
    cache = Cache()
    limit = args.limit if args.limit is not None else read_default()
    pruned = Pruned(deleted=(), busy=(), left=0)
    if args.prune:
        grace = GRACE if pruning.is_used(cache) else 0.0
        pruned = pruning.prune(cache, limit, grace=grace)
    there = pruning.entries(cache)
    if args.json:
        output.print_json(
            folder=str(cache.root),
            limit=limit,
            size=sum(e.size for e in there),
            kinds=[to_json(kind, of_kind(there, kind)) for kind in KINDS],
            deleted=[to_name(e) for e in pruned.deleted],
            in_use=[to_name(e) for e in pruned.busy],
        )
        return 0
    for entry in pruned.deleted:
        output.print_text(f"deleted {format_size(entry.size)}: {entry.kind}/{entry.path.name}")
    for entry in pruned.busy:
        output.print_text(f"in use, kept: {entry.kind}/{entry.path.name}")
    output.print_text("\n".join(to_table(there, time.time())))
    size = sum(e.size for e in there)
    output.print_text(f"{cache.root}: {format_size(size)} of {format_size(limit)}")
    return 0


def read_default() -> int:
    """Return the limit in force.  Raises ``KspliceError`` for a variable that is none."""
    try:
        return pruning.limit()
    except ValueError as e:
        raise KspliceError(str(e)) from e


def keep_bounded(cache: Cache) -> None:
    """Keep the cache within its limit, and say what went.  Raises ``KspliceError``."""
    try:
        pruned = pruning.bound(cache)
    except ValueError as e:
        raise KspliceError(str(e)) from e
    if pruned is not None and pruned.deleted:
        size = format_size(sum(e.size for e in pruned.deleted))
        cache.progress(
            f"deleted {size} of the cache, used longest ago: {len(pruned.deleted)} entries, of"
            f" {', '.join(dict.fromkeys(e.kind for e in pruned.deleted))}"
        )


def of_kind(there: Sequence[Entry], kind: str) -> list[Entry]:
    """Return the entries of a kind."""
    return [e for e in there if e.kind == kind]


def to_json(kind: str, there: Sequence[Entry]) -> dict[str, object]:
    """Return a kind as the JSON document has it."""
    return {
        "kind": kind,
        "entries": len(there),
        "size": sum(e.size for e in there),
        "last_used": max((int(e.used) for e in there), default=None),
        "what": KINDS[kind],
    }


def to_name(entry: Entry) -> dict[str, object]:
    """Return an entry as the JSON document has it."""
    return {"kind": entry.kind, "name": entry.path.name, "size": entry.size}


def to_table(there: Sequence[Entry], now: float) -> list[str]:
    """Return the lines of the table for people; kinds without entries are left out."""
    rows = [("KIND", "ENTRIES", "SIZE", "LAST USED", "WHAT")]
    for kind, what in KINDS.items():
        if found := of_kind(there, kind):
            size, used = sum(e.size for e in found), max(e.used for e in found)
            rows.append((kind, str(len(found)), format_size(size), format_age(now - used), what))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def format_size(size: int) -> str:
    """Return bytes for people: ``1.5 GB`` of 1024 MB each."""
    value, unit = float(size), "bytes"
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1024 or unit == "GB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"


def format_age(seconds: float) -> str:
    """Return how long ago, in the largest unit that fits."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
