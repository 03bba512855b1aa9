# SPDX-License-Identifier: GPL-2.0-only
"""The metrics for Prometheus: a file for node_exporter's textfile collector.

Text exposition format 0.0.4 (prometheus.io, "Exposition formats").  The file is replaced in one
step when something changes; node_exporter itself reports its age (``node_textfile_mtime_seconds``).
All metrics are gauges.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.host.stages import Event, UpdateInfo, is_at_work
from ksplicd.host.store.store import store_errors, sync_folder
from ksplicd.model import Kernel, Stage

_ENDS: Final = {
    Stage.TRANSITIONING: {Stage.APPLIED: "apply"},
    Stage.REVERSING: {Stage.REVERSED: "undo"},
}
_ERRORS: Final = (Stage.FAILED, Stage.QUARANTINED, Stage.REJECTED)
_HELP: Final = {
    "ksplice_kernel_info": "The running kernel, the updates applied to it, and what they fix.",
    "ksplice_updates": "Updates by stage.",
    "ksplice_update_info": "Each update on this host, with its stage; whether it is complete.",
    "ksplice_cve_fixed": "CVEs that an applied update fixes in the running kernel.",
    "ksplice_update_wanted": "Whether an update is wanted for the running kernel.",
    "ksplice_update_applied": "Whether an update is applied.",
    "ksplice_wanted_missing": "Updates that are wanted for the running kernel and not applied.",
    "ksplice_wanted_missing_info": "Each of them.",
    "ksplice_incomplete_updates": "Applied updates of which a part is known not to be in effect.",
    "ksplice_transition_seconds": "Duration of the last transition, by update and direction.",
    "ksplice_last_error_timestamp_seconds": "Time of the last failure, and its cause; 0: none.",
    "ksplice_heartbeat_timestamp_seconds": "When the updates were last checked; 0: never.",
    "ksplice_store_bytes": "Disk space under /var/lib/ksplice.",
    "ksplice_store_limit_bytes": "Limits of that space, by part.",
}

Labels = Mapping[str, str]


class Meter:
    """The figures that follow from the events alone."""

    def __init__(self) -> None:
        self.transition_seconds: dict[tuple[str, str], float] = {}
        """(kid, ``apply`` or ``undo``) → seconds of the last one."""
        self.last_error: Event | None = None
        self._started: dict[str, Event] = {}

    def note(self, event: Event) -> None:
        """Count an event; they come in the order of the history."""
        begun = self._started.pop(event.kid, None)
        if event.stage in _ENDS:
            self._started[event.kid] = event
        elif begun is not None and begun.boot_id == event.boot_id:
            direction = _ENDS[begun.stage].get(event.stage)
            if direction is not None:
                self.transition_seconds[event.kid, direction] = max(0.0, event.time - begun.time)
        if event.stage in _ERRORS or (event.stage is Stage.APPLIED and event.cause):
            self.last_error = event


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the metrics show."""

    kernel: Kernel
    updates: tuple[UpdateInfo, ...]
    missing: Mapping[str, str]
    """Kid → why an update that is wanted is not applied."""
    transition_seconds: Mapping[tuple[str, str], float]
    """As in ``Meter``; also of updates that are gone."""
    last_error: Event | None
    sizes: Mapping[str, int]
    """Bytes by part of the store (``Store.sizes``)."""
    last_check: float = 0.0
    """When records and kernel were last compared, in seconds since 1970."""
    limits: Mapping[str, int]
    """Bytes that a part may have (``Settings.limits``)."""


def format_metrics(figures: Figures) -> str:
    """Return the text of the file."""
    infos = figures.updates
    applied = [info for info in infos if info.stage is Stage.APPLIED]
    cves = sorted({cve for info in applied for cve in info.manifest.cves})
    about = {
        "release": figures.kernel.release,
        "version": figures.kernel.version,
        "build_id": figures.kernel.build_id,
        "applied": " ".join(info.kid for info in applied),
        "cves": " ".join(cves),
    }
    counts = {stage: sum(info.stage is stage for info in infos) for stage in Stage}
    updates = [
        {
            "kid": i.kid,
            "stage": i.stage.value,
            "cause": i.abort_cause,
            "complete": _completeness(i),
        }
        for i in infos
    ]
    incomplete = sum(_completeness(info) == "no" for info in applied)
    kids = {info.kid for info in infos}
    error = figures.last_error
    failed = {"kid": error.kid, "cause": error.cause or error.stage} if error else {}
    return "".join(
        [
            _family("ksplice_kernel_info", [(about, 1)]),
            _family("ksplice_updates", [({"stage": s}, n) for s, n in counts.items()]),
            _family("ksplice_update_info", [(labels, 1) for labels in updates]),
            _family("ksplice_cve_fixed", [({"cve": cve}, 1) for cve in cves]),
            *_wanted_and_applied(figures),
            _family("ksplice_wanted_missing", [({}, len(figures.missing))]),
            _family(
                "ksplice_wanted_missing_info",
                [({"kid": kid}, 1) for kid in figures.missing],
            ),
            _family("ksplice_incomplete_updates", [({}, incomplete)]),
            _family(
                "ksplice_transition_seconds",
                [
                    ({"kid": kid, "direction": direction}, round(seconds, 3))
                    for (kid, direction), seconds in figures.transition_seconds.items()
                    if kid in kids
                ],
            ),
            _family("ksplice_last_error_timestamp_seconds", [(failed, error.time if error else 0)]),
            _family("ksplice_heartbeat_timestamp_seconds", [({}, round(figures.last_check, 3))]),
            _family("ksplice_store_bytes", [({"part": p}, n) for p, n in figures.sizes.items()]),
            _family(
                "ksplice_store_limit_bytes",
                [({"part": part}, n) for part, n in figures.limits.items()],
            ),
        ]
    )


def _wanted_and_applied(figures: Figures) -> Iterator[str]:
    """Yield both families, each with a series for every update, so that they can be compared."""
    infos = {info.kid: info for info in figures.updates}
    wanted = {kid for kid, info in infos.items() if info.is_wanted and is_at_work(info.stage)}
    wanted |= figures.missing.keys()
    applied = {kid for kid, info in infos.items() if info.stage is Stage.APPLIED}
    kids = sorted(infos.keys() | wanted)
    for name, those in ("ksplice_update_wanted", wanted), ("ksplice_update_applied", applied):
        yield _family(name, [({"kid": kid}, int(kid in those)) for kid in kids])


def _completeness(info: UpdateInfo) -> str:
    """Return whether the whole patch is accounted for; a bundle may have no ledger."""
    if info.manifest.ledger is None:
        return "unknown"
    return "yes" if info.manifest.is_complete else "no"


def move_metrics(link: Path, path: Path | None) -> None:
    """Note that the metrics go to ``path`` now (None: nowhere), and delete the file before it.

    The symbolic ``link`` holds the path, so a daemon that starts with another configuration finds
    it.  Raises ``StoreError``.
    """
    with store_errors(link):
        old = link.readlink() if link.is_symlink() else None
        if old == path:
            return
        try:
            if old is not None:
                old.unlink(missing_ok=True)
        finally:  # a file that cannot be deleted is reported once
            if old is not None:
                link.unlink()
            if path is not None:
                link.symlink_to(path)
            sync_folder(link.parent)


def write_metrics(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, readable to all, in one step.  Raises ``StoreError``."""
    temporary = path.with_name(f".{path.name}.new")  # the collector reads *.prom only
    with store_errors(path):
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as f:
            os.fchmod(fd, 0o644)  # whatever the umask
            f.write(text.encode("utf-8", "replace"))
        temporary.rename(path)


def _family(name: str, samples: Iterable[tuple[Labels, float]]) -> str:
    lines = [f"# HELP {name} {_HELP[name]}\n", f"# TYPE {name} gauge\n"]
    for labels, value in samples:
        pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{pairs}}} {value}\n" if pairs else f"{name} {value}\n")
    return "".join(lines)


def _escape(text: str) -> str:
    r"""Return a label's value with ``\``, ``"`` and line feed escaped."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
