# SPDX-License-Identifier: GPL-2.0-only
"""Run the matrix and print a table, with each machine's line as soon as it is done.

python -m tests.matrix [--all] [--fresh] [WORD ...]
"""

import argparse
import itertools
import sys
import time

from ksplicd.cache import Cache, to_stderr
from ksplicd.errors import KspliceError
from tests.matrix.check import Kernel, Outcome
from tests.matrix.machines import Place, all_places, enough_places, select

_ROW = "{:<12} {:<14} {:<15} {:>4}  {:<6} {:>6} {:>6} {:>9} {:>8}"
_HEADINGS = _ROW.format(
    "kernel", "processor", "arguments", "cpus", "result", "boot", "check", "functions", "warnings"
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="test-matrix")
    parser.add_argument("--all", action="store_true", help="all machines, not only enough of them")
    parser.add_argument("--fresh", action="store_true", help="also those that passed before")
    parser.add_argument("words", nargs="*", help="only machines with these words")
    arguments = parser.parse_args()
    places = select(all_places() if arguments.all else enough_places(), arguments.words)
    if not places:
        to_stderr("test-matrix: no such machine is among the chosen; --all knows more")
        return 2
    begin = time.monotonic()
    cache = Cache(progress=to_stderr)
    failures: list[str] = []
    warnings: list[str] = []
    print(_HEADINGS, flush=True)
    for name, group in itertools.groupby(places, lambda place: place.kernel):
        kernel = Kernel(cache, name)
        try:
            for place in group:
                try:
                    outcome = kernel.check(place, fresh=arguments.fresh)
                except (KspliceError, AssertionError) as e:
                    failures.append(f"{place}: {e}")
                    print_row(place, None)
                else:
                    print_row(place, outcome)
                    warnings += (f"{place}: {line}" for line in outcome.warnings)
        finally:
            kernel.close()
    for text in [*warnings, *failures]:
        print(text)
    total = len(all_places())
    how = f"all {total}" if arguments.all else f"{len(enough_places())} with every pair, of {total}"
    passed = len(places) - len(failures)
    print(f"{passed} of {len(places)} machines passed (chosen: {how}); KASLR on all of them")
    print(f"seconds are those of the run that passed; {time.monotonic() - begin:.0f} s now")
    return 1 if failures else 0


def print_row(place: Place, outcome: Outcome | None) -> None:
    """Print a machine's line."""
    seen = ["FAILED", "", "", "", ""]
    if outcome is not None:
        seen = [
            "passed", f"{outcome.boot:.1f}", f"{outcome.check:.1f}",
            str(outcome.functions), str(len(outcome.warnings)),
        ]  # fmt: skip
    words = (place.kernel, place.cpu, place.arguments or "-", place.smp)
    print(_ROW.format(*words, *seen), flush=True)


if __name__ == "__main__":
    sys.exit(main())
