# SPDX-License-Identifier: GPL-2.0-only
"""The entries of the journal: one MESSAGE_ID per outcome.

``units/ksplicd.catalog`` explains each of them and what to do (``journalctl -x``).  Fields:
``KSPLICE_KID``, ``KSPLICE_STAGE``, ``KSPLICE_CAUSE``, ``KSPLICE_UID`` (the caller).  For a
mismatch: ``KSPLICE_TARGET``, ``KSPLICE_FUNCTION`` or ``KSPLICE_SYMBOL``, ``KSPLICE_OFFSET``,
``KSPLICE_EXPECTED``, ``KSPLICE_FOUND``.  For a module that is loaded after an update that patches
it: ``KSPLICE_TARGET``, ``KSPLICE_TARGET_STATE``.  For a tripwire (docs/tripwires.md):
``KSPLICE_CVE``, ``KSPLICE_PLACE``, and of the task that hit it ``KSPLICE_PID``, ``KSPLICE_TGID``,
``KSPLICE_UID``, ``KSPLICE_COMMAND``, ``KSPLICE_CONTEXT``, ``KSPLICE_TIME``.
"""

import logging
import os
import syslog
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ksplicd.errors import CodeBusyError, KernelWarningError, NoMatchError
from ksplicd.host.kernel.door import CoreState
from ksplicd.host.kernel.tripwire import Hit
from ksplicd.host.report.sentences import describe_conflict, explain, read_mismatch
from ksplicd.host.stages import Conflict, Event
from ksplicd.model import Stage
from ksplicd.text import printable


class Outcome(StrEnum):
    """The MESSAGE_ID of each outcome; an id is never used for another outcome later."""

    STARTED = "5bfffad47c714a48881ca8c737097e35"
    STAGED = "eb407aeaa93d47939c98560ba487dd34"
    REJECTED = "4b892d90788048e0abd4be83d1f9ed44"
    LOADING = "ed3ec9dfc0134568bdd33b382e120f91"
    MATCHED = "deadf5af34924d888b81f655e9289400"
    TRANSITIONING = "1956bad62d1a4d7184bd9d8375f08be4"
    APPLIED = "cbf8f9d9af4846ab8545f8e0da82ddb9"
    REVERSING = "f7a9793bc32e4514b4df1a94847eb149"
    REVERSED = "fc01e77262ae44d39c59901d35e8d287"
    HELD_UP = "050807e62f5f4d3481351c7b9963d065"
    NO_MATCH = "1ab7658b4b364effaa932e569edc2599"
    CODE_BUSY = "a6176fb2435c44ab993a9afe2642dd16"
    FAILED = "36f21a83ef234951be24671bb34734be"
    KEPT = "27b332f9d95e49d1bdff0c555f4e9247"
    QUARANTINED = "470f26a51cc047ae838c582b8ce03241"
    WAITING = "ab2feafa223c47a7bb02851abb178d11"
    HELD_BACK = "fe68c2eafc3f4d18977569a856ff76c9"
    KERNEL_WARNING = "b36bad4883a2447dab0bd655828ecc96"
    MISSING = "7f8b1c0f2d6e4a5b9c3d1e0a4b6c8d2f"
    TARGET = "bbd53dc5ae944eb2b192e27b214856c8"
    TRIPWIRE = "7de8105153c14b45977a4287a43d8da0"
    TRIPWIRE_OVERRUN = "33e94fe2b50c41df8bb3c80f2305adb6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the journal."""

    message_id: Outcome
    priority: int
    message: str
    fields: Mapping[str, str]


class Journal(Protocol):
    """A destination of entries."""

    def write(self, entry: Entry) -> None:
        """Write one entry; called from any thread."""


class SystemJournal:
    """systemd's journal; without one, entries are dropped, as by sd_journal_send(3)."""

    def write(self, entry: Entry) -> None:
        """Write one entry."""
        from systemd import _journal  # the public module takes half a megabyte

        _journal.sendv(*(f"{name}={value}" for name, value in fields_of(entry).items()))


def fields_of(entry: Entry) -> dict[str, str]:
    """Return all fields of an entry.

    Unprintable characters are escaped: journalctl(1) shows such a message as "blob data".
    """
    return {
        "MESSAGE": "\n".join(map(printable, entry.message.split("\n"))),
        "MESSAGE_ID": entry.message_id.value,
        "PRIORITY": str(entry.priority),
        "SYSLOG_IDENTIFIER": "ksplicd",
        **entry.fields,
    }


_LEVELS: Final = {
    logging.CRITICAL: syslog.LOG_CRIT,
    logging.ERROR: syslog.LOG_ERR,
    logging.WARNING: syslog.LOG_WARNING,
}


class LogFormatter(logging.Formatter):
    """Formats log messages without MESSAGE_ID for standard error.

    If that is the journal, each line begins with its priority, which systemd strips (sd-daemon(3)).
    """

    def __init__(self, environment: Mapping[str, str], fd: int = 2) -> None:
        """``JOURNAL_STREAM`` in the environment identifies the journal (systemd.exec(5))."""
        super().__init__("%(levelname)s: %(message)s")
        status = os.fstat(fd)
        stream = f"{status.st_dev}:{status.st_ino}"
        self._is_journal = environment.get("JOURNAL_STREAM") == stream

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a message."""
        text = super().format(record)
        if not self._is_journal:
            return text
        priority = _LEVELS.get(record.levelno, syslog.LOG_INFO)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


_BY_STAGE: Mapping[Stage, tuple[Outcome, int, str]] = {
    Stage.STAGED: (Outcome.STAGED, syslog.LOG_NOTICE, "is staged"),
    Stage.REJECTED: (Outcome.REJECTED, syslog.LOG_ERR, "is rejected"),
    Stage.LOADING: (Outcome.LOADING, syslog.LOG_INFO, "is being loaded"),
    Stage.MATCHED: (Outcome.MATCHED, syslog.LOG_INFO, "matches the running kernel"),
    Stage.TRANSITIONING: (Outcome.TRANSITIONING, syslog.LOG_INFO, "is being switched to"),
    Stage.APPLIED: (Outcome.APPLIED, syslog.LOG_NOTICE, "is applied"),
    Stage.REVERSING: (Outcome.REVERSING, syslog.LOG_INFO, "is being taken back"),
    Stage.REVERSED: (Outcome.REVERSED, syslog.LOG_NOTICE, "is reversed"),
    Stage.QUARANTINED: (
        Outcome.QUARANTINED,
        syslog.LOG_CRIT,
        "is quarantined and will not be applied until it is released",
    ),
    Stage.FAILED: (Outcome.FAILED, syslog.LOG_ERR, "could not be applied"),
}
_FAILURES: Mapping[str, Outcome] = {
    NoMatchError.abort_cause: Outcome.NO_MATCH,
    CodeBusyError.abort_cause: Outcome.CODE_BUSY,
}


_MISMATCH: Mapping[str, str] = {
    "target": "KSPLICE_TARGET",
    "function": "KSPLICE_FUNCTION",
    "symbol": "KSPLICE_SYMBOL",
    "offset": "KSPLICE_OFFSET",
    "expected": "KSPLICE_EXPECTED",
    "found": "KSPLICE_FOUND",
}


def about_event(event: Event) -> Entry | None:
    """Return the entry for a stage that an update reached; None for a stage without one."""
    if event.stage not in _BY_STAGE:
        return None
    outcome, priority, words = _BY_STAGE[event.stage]
    if event.stage is Stage.FAILED:
        outcome = _FAILURES.get(event.cause, outcome)
    if event.stage is Stage.APPLIED and event.cause:
        outcome, priority, words = (
            Outcome.KEPT,
            syslog.LOG_ERR,
            "could not be undone and stays applied",
        )
        if event.cause == KernelWarningError.abort_cause:
            outcome, words = Outcome.KERNEL_WARNING, "is applied, but the kernel complains of it"
    subject = f"Update {event.kid}" if event.kid else "A dropped file"
    reason = ": ".join(text for text in (event.cause, event.detail) if text)
    return Entry(
        message_id=outcome,
        priority=priority,
        message=f"{subject} {words}" + (f": {reason}" if reason else ""),
        fields={
            "KSPLICE_KID": event.kid,
            "KSPLICE_STAGE": event.stage.value,
            "KSPLICE_CAUSE": event.cause,
            "KSPLICE_UID": str(event.actor.uid),
            **_mismatch_fields(event.mismatch),
        },
    )


def about_conflicts(kid: str, stage: Stage, conflicts: Sequence[Conflict]) -> Entry:
    """Return the entry that names the tasks holding a transition up."""
    blockers = "; ".join(map(describe_conflict, conflicts))
    return Entry(
        message_id=Outcome.HELD_UP,
        priority=syslog.LOG_WARNING,
        message=f"Update {kid} is held up by {blockers or 'no visible task'}",
        fields={
            "KSPLICE_KID": kid,
            "KSPLICE_STAGE": stage.value,
            "KSPLICE_CAUSE": CodeBusyError.abort_cause,
            "KSPLICE_PIDS": " ".join(str(c.pid) for c in conflicts),
            "KSPLICE_FUNCTION": " ".join(
                dict.fromkeys(c.function for c in conflicts if c.function)
            ),
        },
    )


def about_waiting(kid: str, why: str) -> Entry:
    """Return the entry for an update that is wanted and has to wait."""
    return Entry(
        message_id=Outcome.WAITING,
        priority=syslog.LOG_WARNING,
        message=f"Update {kid} was applied before the machine went down and now waits: {why}",
        fields={"KSPLICE_KID": kid, "KSPLICE_STAGE": Stage.STAGED.value},
    )


def about_held_back(kid: str, why: str, cause: str = "", stage: Stage = Stage.STAGED) -> Entry:
    """Return the entry for an update that policy would apply, but that was not even loaded."""
    return Entry(
        message_id=Outcome.HELD_BACK,
        priority=syslog.LOG_WARNING,
        message=f"Update {kid} is not applied automatically: {why}",
        fields={"KSPLICE_KID": kid, "KSPLICE_STAGE": stage.value, "KSPLICE_CAUSE": cause},
    )


def about_missing(kid: str, why: str, cause: str, pause: float) -> Entry:
    """Return the entry for an update that is wanted, is not applied, and is tried again."""
    text = why.removeprefix(f"{kid}: ")
    return Entry(
        message_id=Outcome.MISSING,
        priority=syslog.LOG_ERR,
        message=f"Update {kid} is wanted and not applied: {text}; it is tried again in {pause:g} s",
        fields={"KSPLICE_KID": kid, "KSPLICE_CAUSE": cause},
    )


_TARGET_STATES: Mapping[str, tuple[int, str]] = {
    "matched": (syslog.LOG_NOTICE, "was loaded and is patched"),
    "waiting": (syslog.LOG_INFO, "was unloaded; it will be patched when it is loaded again"),
    "refused": (syslog.LOG_ERR, "does not match; its load is refused"),
    "unpatched": (syslog.LOG_ERR, "does not match; it is loaded without the update"),
}


def about_target(kid: str, target: str, state: str, core: CoreState | None) -> Entry:
    """Return the entry for a module that was loaded or unloaded while an update is applied.

    ``state`` is from the core's uevent (kmodsrc/targets.c), ``core`` what the core shows now.
    """
    priority, words = _TARGET_STATES.get(state, (syslog.LOG_WARNING, f"is {state}"))
    cause, mismatch = "", {}
    if core is not None and priority == syslog.LOG_ERR:
        cause, mismatch = core.abort_cause, read_mismatch(core.mismatch)
        words += f": {explain(cause, mismatch)}"
    return Entry(
        message_id=Outcome.TARGET,
        priority=priority,
        message=f"Update {kid}: module {target} {words}",
        fields={
            "KSPLICE_KID": kid,
            "KSPLICE_STAGE": Stage.APPLIED.value,
            "KSPLICE_CAUSE": cause,
            **_mismatch_fields(mismatch),
            "KSPLICE_TARGET": target,
            "KSPLICE_TARGET_STATE": state,
        },
    )


_FRESH: Final = 1.0
"""Seconds for which a process id is taken to mean the same process."""


def about_hit(kid: str, cve: str, hit: Hit, now: float) -> Entry:
    """Return the entry for an attempt that an update stopped.

    ``now`` is in seconds since 1970.  systemd's journal adds the fields of the process in
    ``OBJECT_PID`` and shows the entry with its unit (systemd.journal-fields(7)).  The field is left
    out for a task that was only interrupted, and for an old hit.
    """
    what = f"{cve or 'what update ' + kid + ' fixes'} was tried and stopped ({hit.place})"
    fields = {"KSPLICE_KID": kid, "KSPLICE_CVE": cve, "KSPLICE_PLACE": hit.place}
    who = hit.who
    if who is None:
        what += f", {hit.suppressed} more times"
        fields["KSPLICE_SUPPRESSED"] = str(hit.suppressed)
    else:
        how = "by" if who.in_task else "in an interrupt of"
        what += f" {how} {who.command}[{who.tgid}], user {who.uid}"
        fields |= {
            "KSPLICE_PID": str(who.pid),
            "KSPLICE_TGID": str(who.tgid),
            "KSPLICE_UID": str(who.uid),
            "KSPLICE_COMMAND": who.command,
            "KSPLICE_CONTEXT": who.context,
            "KSPLICE_TIME": str(who.time // 1000),
        }
        if who.in_task and abs(now - who.time / 1e9) < _FRESH:
            fields["OBJECT_PID"] = str(who.tgid)
    return Entry(message_id=Outcome.TRIPWIRE, priority=syslog.LOG_CRIT, message=what, fields=fields)


def about_overrun(kid: str) -> Entry:
    """Return the entry for hits that were lost because they were not read in time."""
    return Entry(
        message_id=Outcome.TRIPWIRE_OVERRUN,
        priority=syslog.LOG_WARNING,
        message=f"Update {kid}: tripwire hits came faster than they were read; some may be missing",
        fields={"KSPLICE_KID": kid},
    )


def _mismatch_fields(mismatch: Mapping[str, str]) -> dict[str, str]:
    return {_MISMATCH[key]: text for key, text in mismatch.items() if key in _MISMATCH}


def about_start(release: str, applied: Sequence[str]) -> Entry:
    """Return the entry for the start of the daemon."""
    count = f"updates applied: {' '.join(applied)}" if applied else "no update is applied"
    return Entry(
        message_id=Outcome.STARTED,
        priority=syslog.LOG_INFO,
        message=f"ksplicd runs on {release}; {count}",
        fields={"KSPLICE_KID": " ".join(applied)},
    )
