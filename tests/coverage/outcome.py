# SPDX-License-Identifier: GPL-2.0-only
"""The outcome of one attempt, and the file that keeps all outcomes.

``coverage.json``: ``{"schema": 1, "old", "new", "flavour", "release", "tool", "files": {PATH:
{"outcome", "reason", "message", "functions", "target", "seconds", "modules", "tool", "changes":
[…], "guest"}}}``.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from ksplicd.errors import LabError

SCHEMA: Final = 1


class Outcome(StrEnum):
    """How an attempt ended; the value is what the table says."""

    UNCHANGED = "object code unchanged"
    NOT_ALONE = "does not compile alone"
    BOOT_ONLY = "only code that ran at boot"
    REFUSED = "refused"
    MISMATCH = "old code does not match"
    CONTRADICTED = "contradicted by the referee"
    FAILED = "failed"
    BUILT = "built"

    @property
    def is_eligible(self) -> bool:
        """Tell whether the change compiles and is to code that the running kernel still has."""
        return self not in (Outcome.UNCHANGED, Outcome.NOT_ALONE, Outcome.BOOT_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attempt."""

    outcome: Outcome
    reason: str = ""
    """Phrases joined by `` + ``, the same for all attempts that ended for the same reasons; of what
    was built, what is not livepatch's doing in it.
    """
    message: str = ""
    """The whole error, for a failure with its traceback."""
    target: str = ""
    functions: tuple[str, ...] = ()
    """The functions that the update replaces."""
    seconds: float = 0.0
    has_modules: bool = False
    """Whether all of the update's modules were built, not only that of the new code."""


@dataclass(slots=True, kw_only=True)
class FileResults:
    """All attempts with one file: its whole change, and each independent part of it."""

    whole: Result
    changes: list[Result] = field(default_factory=list)
    """Of each independent change, the whole one when it is one; empty when none was tried."""
    tool: str = ""
    """Digest of the code that was tried."""
    guest: str = ""
    """What the guest said: empty when not tried, ``ok``, ``skipped: …`` or the fault."""


@dataclass(slots=True, kw_only=True)
class Book:
    """All results so far."""

    old: str
    new: str
    flavour: str
    release: str
    files: dict[str, FileResults] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, old: str, new: str, flavour: str, release: str) -> Self:
        """Return the book in ``path``, an empty one when there is none.

        Raises ``LabError`` when it is about another pair of versions.
        """
        empty = cls(old=old, new=new, flavour=flavour, release=release)
        if not path.exists():
            return empty
        data = json.loads(path.read_text())
        about = [data.get(k) for k in ("schema", "old", "new", "flavour")]
        if about != [SCHEMA, old, new, flavour]:
            raise LabError(
                f"{path}: holds the results of {' '.join(map(str, about[1:]))}; move it away"
            )
        empty.files = {name: _read_file(entry) for name, entry in data["files"].items()}
        return empty

    def write(self, path: Path) -> None:
        """Replace ``path``."""
        data = {
            "schema": SCHEMA, "old": self.old, "new": self.new, "flavour": self.flavour,
            "release": self.release,
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
        }  # fmt: skip
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(data, indent=1) + "\n")
        temporary.replace(path)


def _read_file(entry: dict[str, Any]) -> FileResults:
    return FileResults(
        whole=_read_result(entry["whole"]),
        changes=[_read_result(c) for c in entry["changes"]],
        tool=entry["tool"],
        guest=entry["guest"],
    )


def _read_result(entry: dict[str, Any]) -> Result:
    return Result(
        **{
            **entry,
            "outcome": Outcome(entry["outcome"]),
            "functions": tuple(entry["functions"]),
        }
    )
