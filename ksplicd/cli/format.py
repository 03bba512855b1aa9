# SPDX-License-Identifier: GPL-2.0-only
"""What the service reports, as our JSON documents and as lines for people.

``show.py`` lists the keys.  Nothing is printed here.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ksplicd.cli.times import to_local
from ksplicd.model import Account, Ledger, Manifest

Document = dict[str, Any]

_UPDATE_KEYS: Final = {
    "kid": "Kid",
    "stage": "Stage",
    "abort_cause": "AbortCause",
    "detail": "Detail",
    "description": "Description",
    "targets": "Targets",
    "cves": "Cves",
    "kernel": "Kernel",
    "wanted": "Wanted",
    "complete": "Complete",
    "hunks": "Hunks",
    "soaked": "Soaked",
}
_BEFORE: Final = {
    "Complete": False,
    "Hunks": 0,
    "Wanted": False,
    "Soaked": False,
    "Since": 0,
    "SinceMonotonic": 0,
}
"""What a service has not, that has run since before it was updated."""
_EVENT_KEYS: Final = {
    "time": "Time",
    "boot_id": "BootId",
    "kid": "Kid",
    "stage": "Stage",
    "cause": "Cause",
    "detail": "Detail",
    "uid": "Uid",
    "pid": "Pid",
    "unit": "Unit",
    "via": "Via",
}
_SHOWN_REDIRECTS: Final = 4
"""Redirects that a line names."""
_SHOWN_HUNKS: Final = 40
"""Hunks that are printed for people; JSON has all."""
_NOT_STAGED: Final = ""
"""``stage`` of a bundle that is looked at as a file."""


# --- documents ----------------------------------------------------------------------------------


def to_update(properties: Document) -> Document:
    """Return an Update object's properties under the keys of our JSON."""
    known = {**_BEFORE, **properties}
    return {
        **{key: known[name] for key, name in _UPDATE_KEYS.items()},
        "since": to_time(known["Since"]),
        "since_monotonic": to_seconds(known["SinceMonotonic"]),
    }


def to_time(microseconds: int) -> str | None:
    """Return a time of the bus in ISO 8601; None: it is not known."""
    if not microseconds:
        return None
    when = datetime.fromtimestamp(microseconds / 1_000_000, UTC)
    return when.isoformat(timespec="milliseconds")


def to_seconds(microseconds: int) -> float | None:
    """Return a monotonic time of the bus in seconds; None: it is not known."""
    return microseconds / 1_000_000 if microseconds else None


def to_job(properties: Document, conflicts: Sequence[tuple[int, str, str, str]] | None) -> Document:
    """Return a Job object's properties, and who holds it up, under the keys of our JSON."""
    return {
        "id": properties["Id"],
        "type": properties["Type"],
        "kid": str(properties["Update"]).rpartition("/")[2],
        "progress": properties["Progress"],
        "conflicts": conflicts
        and [
            {"pid": pid, "command": command, "stack": stack, "function": function}
            for pid, command, stack, function in conflicts
        ],
    }


def to_event(properties: Document) -> Document:
    """Return an entry of ListHistory under the keys of our JSON, its time in ISO 8601."""
    event = {key: properties[name] for key, name in _EVENT_KEYS.items()}
    seconds = event["time"] / 1_000_000
    when = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return {**event, "time": when}


def from_manifest(manifest: Manifest) -> Document:
    """Return a bundle as our JSON shows it."""
    return {
        "kid": manifest.kid,
        "stage": _NOT_STAGED,
        "abort_cause": "",
        "detail": "",
        "description": manifest.description,
        "targets": [target.name for target in manifest.targets],
        "cves": list(manifest.cves),
        "kernel": manifest.kernel.release,
        "wanted": False,
        "complete": manifest.is_complete,
        "hunks": len((manifest.ledger or Ledger()).hunks),
        "soaked": False,
        "since": None,
        "since_monotonic": None,
    }


def to_hunk(properties: Document) -> Document:
    """Return an entry of ListHunks under the keys of our JSON."""
    return {
        "file": properties["File"],
        "before": list(properties["Before"]),
        "after": list(properties["After"]),
        "account": properties["Account"],
        "by": properties["By"],
        "more": properties["More"],
        "note": properties["Note"],
        "accepted": properties["Accepted"],
    }


def to_hunks(ledger: Ledger | None, redirects: Sequence[str]) -> list[Document]:
    """Return a ledger as our JSON shows it; ``redirects``: what its hunks number."""
    return [
        {
            "file": h.file,
            "before": list(h.before),
            "after": list(h.after),
            "account": h.account.value,
            "by": [redirects[i] for i in h.by],
            "more": h.more,
            "note": h.note,
            "accepted": h.is_accepted,
        }
        for h in (ledger or Ledger()).hunks
    ]


# --- text ---------------------------------------------------------------------------------------


def format_line(update: Document) -> str:
    """Return ``8c4o6ucj  applied  vmlinux  fcntl: check for immutable inodes  CVE-…``."""
    first_line = str(update["description"]).partition("\n")[0]
    stage = f"{update['stage']} (incomplete)" if is_incomplete(update) else update["stage"]
    parts = [update["kid"], stage, ",".join(update["targets"]), first_line]
    return "  ".join(part for part in (*parts, " ".join(update["cves"])) if part)


def format_update(update: Document) -> str:
    """Return an update in full, a line for each thing known."""
    rows = (
        ("Id", update["kid"]),
        ("Stage", update["stage"]),
        ("Cause", ": ".join(t for t in (update["abort_cause"], update["detail"]) if t)),
        ("Kernel", update["kernel"]),
        ("Targets", " ".join(update["targets"])),
        ("CVEs", " ".join(update["cves"])),
        ("Description", update["description"]),
        ("Complete", _completeness(update)),
    )
    return "\n".join(f"{name + ':':12} {value}" for name, value in rows if value)


def is_incomplete(update: Document) -> bool:
    """Tell whether a part of an update's patch is known to be missing."""
    return bool(update["hunks"]) and not update["complete"]


def _completeness(update: Document) -> str:
    if not update["hunks"]:
        return "not known: the bundle has no ledger"
    return "yes" if update["complete"] else "no: a part is not in effect, on its author's word"


def format_hunks(hunks: Sequence[Document], shown: int = _SHOWN_HUNKS) -> str:
    """Return how many hunks have which account, and a line for each."""
    counts = Counter(h["account"] for h in hunks)
    text = ", ".join(f"{n} {_words_of(account)}" for account, n in counts.most_common())
    # What is missing comes first, so that it is among those that are shown.
    ranked = sorted(hunks, key=lambda h: not h["accepted"])[:shown]
    lines = [f"  {format_hunk(h)}" for h in ranked]
    if len(hunks) > shown:
        lines.append(f"  and {len(hunks) - shown} more; --json has all")
    return "\n".join([f"{len(hunks)} hunks: {text}", *lines])


def format_hunk(hunk: Document) -> str:
    """Return ``fs/fcntl.c:55-58  in effect by vmlinux:do_fcntl by livepatch``."""
    first, count = hunk["after"]
    place = f"{hunk['file']}:{first}" + (f"-{first + count - 1}" if count > 1 else "")
    shown = hunk["by"][:_SHOWN_REDIRECTS]
    left = len(hunk["by"]) - len(shown) + hunk["more"]
    by = ", ".join([*shown, *([f"{left} more"] if left else [])])
    in_part = "" if hunk["account"] == Account.IN_EFFECT else ", else in effect"
    words = _words_of(hunk["account"]) + (f"{in_part} by {by}" if by else "")
    accepted = "accepted by its author" if hunk["accepted"] else ""
    return "  ".join(t for t in (place, words, hunk["note"], accepted) if t)


def _words_of(account: str) -> str:
    return account.replace("_", " ")


def format_event(event: Document) -> str:
    """Return one line for an event of the history, its time in local time."""
    who = event["unit"] or event["via"]
    reason = ": ".join(text for text in (event["cause"], event["detail"]) if text)
    parts = [to_local(event["time"]), event["kid"] or "-", event["stage"]]
    return "  ".join([*parts, f"uid {event['uid']} ({who})", *([reason] if reason else [])])
