# SPDX-License-Identifier: GPL-2.0-only
"""What the service reports, as our JSON documents and as lines for people.

``show.py`` lists the keys.  Nothing is printed here.
"""

from datetime import UTC, datetime
from typing import Any, Final

from ksplicd.model import Manifest

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
}
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
_NOT_STAGED: Final = ""
"""``stage`` of a bundle that is looked at as a file."""


# --- documents ----------------------------------------------------------------------------------


def to_update(properties: Document) -> Document:
    """Return an Update object's properties under the keys of our JSON."""
    return {key: properties[name] for key, name in _UPDATE_KEYS.items()}


def to_job(properties: Document) -> Document:
    """Return a Job object's properties under the keys of our JSON."""
    return {
        "id": properties["Id"],
        "type": properties["Type"],
        "kid": str(properties["Update"]).rpartition("/")[2],
        "progress": properties["Progress"],
        "conflicts": [
            {"pid": pid, "command": command, "stack": stack, "function": function}
            for (pid, command, stack), function in zip(
                properties["Conflicts"], properties["ConflictFunctions"], strict=True
            )
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
    }


# --- text ---------------------------------------------------------------------------------------


def format_line(update: Document) -> str:
    """Return ``8c4o6ucj  applied  vmlinux  fcntl: check for immutable inodes  CVE-…``."""
    first_line = str(update["description"]).partition("\n")[0]
    parts = [update["kid"], update["stage"], ",".join(update["targets"]), first_line]
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
    )
    return "\n".join(f"{name + ':':12} {value}" for name, value in rows if value)


def format_event(event: Document) -> str:
    """Return one line for an event of the history."""
    who = event["unit"] or event["via"]
    reason = ": ".join(text for text in (event["cause"], event["detail"]) if text)
    parts = [event["time"], event["kid"] or "-", event["stage"]]
    return "  ".join([*parts, f"uid {event['uid']} ({who})", *([reason] if reason else [])])
