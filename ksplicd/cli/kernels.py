# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice kernels``: the kernels that can be patched here.

JSON: ``{"schema": 1, "kernels": [{"release", "version", "suite", "newer_source": null, "compiler",
"cached": true, "running": false}], "notes": []}``, oldest version first; notes say which suites
could not be asked.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Final

from ksplicd.cache import Cache, silent, to_stderr
from ksplicd.cli import output
from ksplicd.distro.archive import FRESH, Archive
from ksplicd.distro.debian import Debian
from ksplicd.distro.model import Kernel

EPILOG: Final = """\
Listed is what the mirror that apt is configured with has of Debian's suites, where image, headers
and source are all there. Nothing is installed, and no root is needed.

examples: ksplice kernels
          ksplice kernels 6.12 --suite bookworm-security --suite trixie
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "words", metavar="WORD", nargs="*",
        help="list only releases that have all these words, such as 6.12 or cloud",
    )  # fmt: skip
    parser.add_argument(
        "--suite", metavar="SUITE", action="append", default=[],
        help="list only kernels of this suite, such as trixie-backports; may be given several"
        " times",
    )  # fmt: skip
    parser.add_argument(
        "--update", action="store_true",
        help="ask the mirror now (otherwise: when the lists are a day old)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress")


def run(args: argparse.Namespace) -> int:
    """List the kernels; return the exit status.  Raises ``KspliceError``."""
    cache = Cache(progress=silent if args.quiet else to_stderr)
    archive = Archive(cache)
    archive.index = archive.read_index(args.suite, fresh=0 if args.update else FRESH)
    kernels = select(Debian(cache, archive).kernels(), args.words, args.suite)
    notes = archive.index.notes
    running = os.uname().release
    if args.json:
        rows = [to_json(kernel, running) for kernel in kernels]
        output.print_json(kernels=rows, notes=list(notes))
        return 0
    if kernels:
        output.print_text("\n".join(to_table(kernels, running)))
    else:
        output.print_error("ksplice: no kernel that is asked for can be patched")
    for note in notes:
        output.print_error(f"ksplice: note: {note}")
    return 0


def select(kernels: Sequence[Kernel], words: Sequence[str], suites: Sequence[str]) -> list[Kernel]:
    """Return the kernels that have all words in their release, and one of the suites, if any."""
    return [
        k for k in kernels
        if all(word in k.release for word in words) and (not suites or k.suite in suites)
    ]  # fmt: skip


def to_json(kernel: Kernel, running: str) -> dict[str, object]:
    """Return a kernel as the JSON document has it."""
    return {
        "release": kernel.release,
        "version": kernel.version,
        "suite": kernel.suite,
        "newer_source": kernel.newer,
        "compiler": kernel.compiler,
        "cached": kernel.cached,
        "running": kernel.release == running,
    }


def to_table(kernels: Sequence[Kernel], running: str) -> list[str]:
    """Return the lines of the table for people."""
    rows = [("RELEASE", "VERSION", "SUITE", "NEWER SOURCE", "COMPILER", "")]
    for k in kernels:
        marks = [word for word, is_so in (("running", k.release == running), ("cached", k.cached))
                 if is_so]  # fmt: skip
        rows.append((k.release, k.version, k.suite, k.newer or "-", k.compiler, ", ".join(marks)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
