# SPDX-License-Identifier: GPL-2.0-only
"""What ``ksplice`` and ``ksplice status`` show people: the host at one glance.

It is made from the document that ``--json`` prints, so that both say the same.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ksplicd.cli.format import Document, is_incomplete
from ksplicd.cli.health import count, is_for_other
from ksplicd.cli.terminal import Cell, Colour, Terminal, to_lines
from ksplicd.cli.times import format_ago, format_span
from ksplicd.errors import KernelWarningError
from ksplicd.text import printable

_COLOURS: Final = {
    "applied": Colour.GOOD,
    "reversed": Colour.FAINT,
    "failed": Colour.BAD,
    "rejected": Colour.BAD,
    "quarantined": Colour.BAD,
}
_WAITING: Final = "waiting"
"""The word for an update that is staged for another kernel."""
_SHOWN_CVES: Final = 2
"""CVEs that a line of a terminal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that the command runs on, now."""

    release: str
    version: str
    up: float
    """Seconds since it booted."""
    now: float
    """Seconds since 1970."""
    monotonic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is shown of an applied update beside its document."""

    functions: int = 0
    redirects: tuple[str, ...] = ()
    """What livepatch does not redirect."""


def read_machine() -> Machine:
    """Return the machine."""
    known = os.uname()
    return Machine(
        release=known.release,
        version=known.version,
        up=time.clock_gettime(time.CLOCK_BOOTTIME),
        now=time.time(),
        monotonic=time.monotonic(),
    )


def age_of(wall: str | None, monotonic: float | None, machine: Machine) -> float | None:
    """Return seconds since a time; the clock that nobody turns is asked first."""
    if monotonic:
        return max(0.0, machine.monotonic - monotonic)
    if wall:
        return max(0.0, machine.now - datetime.fromisoformat(wall).timestamp())
    return None


def to_glance(
    document: Document, known: Mapping[str, Description], machine: Machine, terminal: Terminal
) -> list[str]:
    """Return the lines, which may be written as they are."""
    age = age_of(document["last_check"], document["last_check_monotonic"], machine)
    return [
        terminal.paint(_kernel(document["kernel"], machine), Colour.STRONG),
        f"Fixed live: {_fixed(document)}",
        *_updates(document, known, machine, terminal),
        *(terminal.paint(line, Colour.BUSY) for line in _jobs(document["jobs"])),
        *_to_do(document, terminal),
        *([f"Last check: {format_ago(age)}"] if age is not None else []),
        terminal.paint(f"Store: {_store(document['store'])}", Colour.FAINT),
    ]


def _kernel(release: str, machine: Machine) -> str:
    if machine.release != release:  # the service is that of another machine
        return f"Linux {release}"
    packaged = re.search(r"\bDebian (\S+)", machine.version)
    name = f" (Debian {packaged[1]})" if packaged else ""
    return f"Linux {release}{name}, running since {format_span(machine.up)}"


def _fixed(document: Document) -> str:
    if not document["applied"]:
        return "nothing"
    return f"{count(document['applied'], 'update')}, {count(len(document['cves']), 'CVE')}"


def _updates(
    document: Document, known: Mapping[str, Description], machine: Machine, terminal: Terminal
) -> Iterator[str]:
    """Yield a line for each update, and further ones below it."""
    kernel, updates = document["kernel"], document["updates"]
    rows = [_row(u, document, known, machine, terminal) for u in updates]
    lines = to_lines(rows, terminal, indent=2, flexible=2)
    for update, line in zip(updates, lines, strict=True):
        yield line
        if reason := _reason(update, kernel):
            yield terminal.paint(f"    {reason}", _COLOURS.get(update["stage"], Colour.PLAIN))
        for redirect in known.get(update["kid"], Description()).redirects:
            yield printable(f"    {redirect}, not by livepatch")


def _reason(update: Document, kernel: str) -> str:
    """Return why an update is where it is; empty where its line says so."""
    if update["stage"] == "staged" and is_for_other(update, kernel):
        return ""
    if update["stage"] == "applied" and not update["abort_cause"]:
        return ""
    return ": ".join(text for text in (update["abort_cause"], update["detail"]) if text)


def _row(
    update: Document,
    document: Document,
    known: Mapping[str, Description],
    machine: Machine,
    terminal: Terminal,
) -> list[Cell]:
    stage, cves = update["stage"], update["cves"]
    what = str(update["description"]).partition("\n")[0]
    if functions := known.get(update["kid"], Description()).functions:
        what += f", {count(functions, 'function')}"
    word, colour = stage, _COLOURS.get(stage, Colour.BUSY)
    if is_for_other(update, document["kernel"]) and stage in {"staged", "reversed"}:
        where = "not installed" if update["kid"] in document["stale"] else "installed, not running"
        what = f"for kernel {update['kernel']} ({where})  {what}"
        word = _WAITING if stage == "staged" else stage
    shown = cves if not terminal.width or len(cves) <= _SHOWN_CVES else [count(len(cves), "CVE")]
    age = age_of(update["since"], update["since_monotonic"], machine)
    soak = ("soak over" if update["soaked"] else "soaking") if stage == "applied" else ""
    return [
        Cell(f"{word} (incomplete)" if is_incomplete(update) else word, colour),
        Cell(update["kid"]),
        Cell(what),
        Cell(" ".join(shown)),
        Cell(
            ", ".join(t for t in ("" if age is None else format_ago(age), soak) if t), Colour.FAINT
        ),
    ]


def _jobs(jobs: Sequence[Document]) -> Iterator[str]:
    for job in jobs:
        yield f"Job {job['id']}: {job['type']} of {job['kid']}: {job['progress']}"
        if job["conflicts"] is None:
            yield "  administrators see which tasks hold it up: sudo ksplice status"
        for conflict in job["conflicts"] or ():
            yield f"  {format_conflict(conflict)}"


def format_conflict(conflict: Document) -> str:
    """Return who holds a job up."""
    task = printable(conflict["command"])
    return "held up by {}[{pid}] in {stack}".format(task, **conflict)


def _to_do(document: Document, terminal: Terminal) -> list[str]:
    found = list(to_do(document))
    if not found:
        return [f"To do: {terminal.paint('nothing', Colour.GOOD)}"]
    return ["To do:", *(terminal.paint(f"  {text}", Colour.BUSY) for text in found)]


def to_do(document: Document) -> Iterator[str]:
    """Yield what a person has to do, or at least to know."""
    if document["disabled"]:
        yield f"Nothing is applied automatically: {document['disabled']}"
    for kid, why in document["missing"].items():
        yield f"{kid} is wanted and not applied: {why}"
    for update in document["updates"]:
        if update["kid"] not in document["missing"] and (text := _advice(update, document)):
            yield text
    if stale := document["stale"]:
        hint = "for kernels that are not installed any more; `ksplice remove --stale`"
        yield f"Stale: {' '.join(stale)}: {hint}"


def _advice(update: Document, document: Document) -> str:
    """Return what to do about one update; empty: nothing."""
    kid, is_idle = update["kid"], is_for_other(update, document["kernel"])
    match update["stage"]:
        case "quarantined":
            return f"{kid} is quarantined: find out why, then `ksplice release {kid}`"
        case "rejected":
            return f"{kid} does not verify: stage it anew, or `ksplice remove {kid}`"
        case "applied" if update["abort_cause"] == KernelWarningError.abort_cause:
            return f"the kernel complained of {kid}: `ksplice undo {kid}`, and report it"
        case "applied" if update["abort_cause"]:
            return (
                f"{kid} stays applied ({update['abort_cause']}); `ksplice undo {kid}` tries again"
            )
        case "failed" if not is_idle:
            return f"{kid} failed: see `ksplice history --id {kid}`, then `ksplice apply {kid}`"
        case "staged" if not is_idle:
            return f"{kid} is staged: `ksplice apply {kid}`"
    return ""


def _store(store: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{part} {of['bytes'] / (1 << 20):.1f} MiB" for part, of in store.items())
