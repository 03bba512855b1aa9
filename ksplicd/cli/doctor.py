# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice doctor``: whether and why this machine can or cannot be patched, and what to do.

JSON: ``{"schema": 1, "kernel", "can_be_patched": true, "checks": [{"name", "verdict": "ok" |
"note" | "bad" | "unknown", "what", "do"}]}``.  The exit status is 0 if the machine can be patched,
else 1.  Nothing is changed, and no update is looked at: ``ksplice status`` does that.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ksplicd.cli import output
from ksplicd.cli.doctor_host import check_around
from ksplicd.cli.doctor_kernel import check_running
from ksplicd.cli.finding import Finding, Verdict
from ksplicd.cli.terminal import Cell, Colour, Terminal, find_terminal, to_lines

_SECONDS: Final = 10
"""For an answer of the service."""
_COLOURS: Final = {
    Verdict.OK: Colour.GOOD,
    Verdict.NOTE: Colour.BUSY,
    Verdict.BAD: Colour.BAD,
    Verdict.UNKNOWN: Colour.BUSY,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing that is ok")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Look at all; return the exit status."""
    machine, root = os.uname(), Path("/")
    found = [*check_running(root, machine), *check_around(root, time.time(), _ask_version)]
    can = not any(finding.verdict is Verdict.BAD for finding in found)
    if args.json:
        checks = [
            {"name": f.name, "verdict": f.verdict.value, "what": f.what, "do": f.do} for f in found
        ]
        output.print_json(kernel=machine.release, can_be_patched=can, checks=checks)
    else:
        shown = [f for f in found if not args.quiet or f.verdict is not Verdict.OK]
        for line in to_report(shown, find_terminal()):
            output.print_painted(line)
        output.print_text(to_summary(found))
    return 0 if can else 1


def to_report(found: Sequence[Finding], terminal: Terminal) -> list[str]:
    """Return a line for each finding, and one below it with what to do."""
    endless = Terminal(has_colours=terminal.has_colours)  # what was found is never cut
    rows = [[Cell(f.verdict, _COLOURS[f.verdict]), Cell(f.name), Cell(f.what)] for f in found]
    lines = to_lines(rows, endless, indent=0, flexible=2)
    report = []
    for finding, line in zip(found, lines, strict=True):
        report.append(line)
        if finding.do:
            report.append(terminal.paint(f"    to do: {finding.do}", Colour.STRONG))
    return report


def to_summary(found: Sequence[Finding]) -> str:
    """Return the last line."""
    names = [f.name for f in found if f.verdict is Verdict.BAD]
    if names:
        return f"This machine cannot be patched now: {', '.join(names)}."
    left = [f.name for f in found if f.verdict is Verdict.UNKNOWN]
    hint = f" Not looked at: {', '.join(left)}." if left else ""
    return f"This machine can be patched.{hint}"


def _ask_version() -> str:
    """Return the version of the service.  Raises ``KspliceError``."""
    from ksplicd.cli.client import connect

    return str(connect(_SECONDS).service()["Version"])
