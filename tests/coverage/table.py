# SPDX-License-Identifier: GPL-2.0-only
"""The table of outcomes by reason, and the line that sums it up."""

from collections import Counter
from collections.abc import Iterable

from tests.coverage.outcome import FileResults, Outcome, Result

_SHOWN: int = 4
"""How many files are named for a reason."""


def rate(results: Iterable[Result]) -> tuple[int, int]:
    """Return (built, eligible)."""
    outcomes = [r.outcome for r in results]
    return outcomes.count(Outcome.BUILT), sum(o.is_eligible for o in outcomes)


def single_changes(files: Iterable[FileResults]) -> list[Result]:
    """Return one result for each independent change of the files whose changes were tried."""
    return [r for f in files for r in f.changes]


def percent(built: int, eligible: int) -> str:
    """Return ``BUILT/ELIGIBLE PERCENT %``."""
    return f"{built}/{eligible} {100 * built / eligible if eligible else 0:.1f} %"


def lines(files: dict[str, FileResults]) -> list[str]:
    """Return the table: one row an outcome, below it its reasons; the rate comes last."""
    out = [f"{len(files):5} files"]
    out += _rows({name: f.whole for name, f in files.items()})
    without = sum(f.whole.outcome == Outcome.BUILT and not f.whole.has_modules
                  for f in files.values())  # fmt: skip
    if without:
        out.append(f"      {without} of those built without the modules for the old code")
    if singles := single_changes(files.values()):
        tried_files = sum(bool(f.changes) for f in files.values())
        out += ["", f"{len(singles):5} single changes of {tried_files} files"]
        out += _rows({f"#{i}": r for i, r in enumerate(singles)}, with_names=False)
        out.append(f"      {percent(*rate(singles))} of the single changes")
    tried = Counter(f.guest.partition(":")[0] for f in files.values() if f.guest)
    if tried:
        said = ", ".join(f"{n} {word}" for word, n in sorted(tried.items()))
        modules = sum(f.guest == "ok" and f.whole.target != "vmlinux" for f in files.values())
        out += ["", f"in the guest: {said} ({modules} of the ok ones are modules)"]
        out += [
            f"      {name}: {f.guest}"
            for name, f in files.items()
            if f.guest and f.guest != "ok" and not f.guest.startswith("skipped")
        ]
    return [*out, "", f"coverage: {percent(*rate(f.whole for f in files.values()))}"]


def _rows(results: dict[str, Result], *, with_names: bool = True) -> list[str]:
    out = []
    for outcome in Outcome:
        of_outcome = {n: r for n, r in results.items() if r.outcome == outcome}
        mark = "*" if outcome.is_eligible else " "
        out.append(f"{len(of_outcome):5} {mark} {outcome}")
        by_reason: dict[str, list[str]] = {}
        for name, r in of_outcome.items():
            for reason in r.reason.split(" + ") if r.reason else []:
                by_reason.setdefault(reason, []).append(name)
        for reason, names in sorted(by_reason.items(), key=lambda x: (-len(x[1]), x[0])):
            alone = sum(of_outcome[n].reason == reason for n in names)
            also = "" if alone == len(names) else f" (alone in {alone})"
            out.append(f"            {len(names):4} {reason}{also}")
            if with_names and outcome != Outcome.BUILT:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                out.append(f"                 {', '.join(names[:_SHOWN])}{more}")
    out.append("      * eligible: compiles, and changes object code that the running kernel has")
    return out
