# SPDX-License-Identifier: GPL-2.0-only
"""What a Prometheus server is told: a file for node_exporter's textfile collector.

Text exposition format 0.0.4 (prometheus.io, "Exposition formats").  The file is replaced in one
step when something changes; its age is node_exporter's own ``node_textfile_mtime_seconds``.
Everything in it is a gauge.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ksplicd.host.stages import Event, UpdateInfo
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
    "ksplice_update_info": "Each update that is known here.",
    "ksplice_transition_seconds": "How long the last switch took, by update and direction.",
    "ksplice_last_error_timestamp_seconds": "When something failed last, and what; 0: never.",
    "ksplice_store_bytes": "Disk space under /var/lib/ksplice.",
    "ksplice_store_limit_bytes": "What the parts of it may have.",
}

Labels = Mapping[str, str]


class Meter:
    """What is remembered of the events, for the metrics."""

    def __init__(self) -> None:
        self.transitions: dict[tuple[str, str], float] = {}
        """(kid, ``apply`` or ``undo``) → seconds."""
        self.last_error: Event | None = None
        self._started: dict[str, Event] = {}

    def note(self, event: Event) -> None:
        """Take an event, in the order of the history."""
        begun = self._started.pop(event.kid, None)
        if event.stage in _ENDS:
            self._started[event.kid] = event
        elif begun is not None and begun.boot_id == event.boot_id:
            direction = _ENDS[begun.stage].get(event.stage)
            if direction is not None:
                self.transitions[event.kid, direction] = max(0.0, event.time - begun.time)
        if event.stage in _ERRORS or (event.stage is Stage.APPLIED and event.cause):
            self.last_error = event


def format_metrics(
    kernel: Kernel,
    infos: Sequence[UpdateInfo],
    meter: Meter,
    sizes: Mapping[str, int],
    limits: Mapping[str, int],
) -> str:
    """Return the file; ``sizes`` and ``limits`` are bytes by part of the store."""
    applied = [info for info in infos if info.stage is Stage.APPLIED]
    about = {
        "release": kernel.release,
        "version": kernel.version,
        "build_id": kernel.build_id,
        "applied": " ".join(info.kid for info in applied),
        "cves": " ".join(sorted({cve for info in applied for cve in info.manifest.cves})),
    }
    counts = {stage: sum(info.stage is stage for info in infos) for stage in Stage}
    updates = [{"kid": i.kid, "stage": i.stage.value, "cause": i.abort_cause} for i in infos]
    kids = {info.kid for info in infos}
    error = meter.last_error
    failed = {"kid": error.kid, "cause": error.cause or error.stage} if error else {}
    return "".join(
        [
            _family("ksplice_kernel_info", [(about, 1)]),
            _family("ksplice_updates", [({"stage": s}, n) for s, n in counts.items()]),
            _family("ksplice_update_info", [(labels, 1) for labels in updates]),
            _family(
                "ksplice_transition_seconds",
                [
                    ({"kid": kid, "direction": direction}, round(seconds, 3))
                    for (kid, direction), seconds in meter.transitions.items()
                    if kid in kids
                ],
            ),
            _family("ksplice_last_error_timestamp_seconds", [(failed, error.time if error else 0)]),
            _family("ksplice_store_bytes", [({"part": part}, n) for part, n in sizes.items()]),
            _family(
                "ksplice_store_limit_bytes", [({"part": part}, n) for part, n in limits.items()]
            ),
        ]
    )


def move_metrics(link: Path, path: Path | None) -> None:
    """Note where the metrics go, None for nowhere, and delete the file where they went before.

    The symbolic ``link`` remembers that, also for a daemon that starts with another configuration.
    Raises ``StoreError``.
    """
    with store_errors(link):
        old = link.readlink() if link.is_symlink() else None
        if old == path:
            return
        try:
            if old is not None:
                old.unlink(missing_ok=True)
        finally:  # what we may not delete is told of once
            if old is not None:
                link.unlink()
            if path is not None:
                link.symlink_to(path)
            sync_folder(link.parent)


def write_metrics(path: Path, text: str) -> None:
    """Put ``text`` in the place of ``path``, readable to all, in one step.  ``StoreError``."""
    temporary = path.with_name(f".{path.name}.new")  # the collector takes *.prom only
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
    r"""Return a label's value: ``\``, ``"`` and line feed are escaped."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
