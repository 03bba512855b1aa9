# SPDX-License-Identifier: GPL-2.0-only
"""What ``ksplice doctor`` finds, and how it reads the machine."""

import contextlib
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path


class Verdict(StrEnum):
    """What a finding means for live patching."""

    OK = auto()
    NOTE = auto()
    """It works, with a limit, or for some."""
    BAD = auto()
    """Nothing can be applied here until that changes."""
    UNKNOWN = auto()
    """It could not be found out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    what: str
    """What was found."""
    do: str = ""
    """What to do about it; empty when nothing is to be done."""


def ok(name: str, what: str) -> Finding:
    """Return a finding that is well."""
    return Finding(name, Verdict.OK, what)


def note(name: str, what: str, do: str) -> Finding:
    """Return a finding of a limit."""
    return Finding(name, Verdict.NOTE, what, do)


def bad(name: str, what: str, do: str) -> Finding:
    """Return a finding that forbids live patching."""
    return Finding(name, Verdict.BAD, what, do)


def unknown(name: str, what: str, do: str = "run `sudo ksplice doctor`") -> Finding:
    """Return a finding that could not be made."""
    return Finding(name, Verdict.UNKNOWN, what, do)


def read_text(path: Path) -> str | None:
    """Return the contents of a file; None when it is not there or may not be read."""
    with contextlib.suppress(OSError):
        return path.read_bytes().decode(errors="replace").strip()
    return None


def may_look(path: Path) -> bool:
    """Return whether a file or folder is there and can be read."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
        return True
    return False
