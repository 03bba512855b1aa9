# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice objdiff``: what differs between two objects of a kernel, and the new code."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ksplicd.cli import debug, output
from ksplicd.create.objdiff import PairResult, compare_objects
from ksplicd.elf.write import write_object
from ksplicd.errors import CreateError

DESCRIPTION: Final = """\
Compare two x86-64 kernel objects that were compiled with -ffunction-sections -fdata-sections, and
cut the new code out of the second.  No kernel tree is needed.  What the new code has from the
kernel stays undefined under its plain name, also static functions and data of PRE.o; new functions
and data that POST.o has for other objects are global.
"""

EPILOG: Final = """\
exit status: 0 something changed; 66 nothing did; 1 something that cannot be changed in a running
kernel did, or an object cannot be read.

example: ksplice objdiff before/fcntl.o after/fcntl.o -o new.o --json
"""

NOTHING_CHANGED: Final = 66


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pre", metavar="PRE.o", type=Path, help="the object before the change")
    parser.add_argument("post", metavar="POST.o", type=Path, help="the object after it")
    parser.add_argument(
        "-o", "--output", metavar="NEW.o", type=Path, help="where to write the new code"
    )
    parser.add_argument(
        "--source", metavar="DIR", type=Path,
        help="read the entry sizes of special sections from this kernel's headers or prepared tree"
        " (default: infer them from the objects)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-layout", metavar="TYPE", action="append", default=[],
        help="accept that the layout or the meaning of this structure, enumeration or variable"
        " changes; may be given several times",
    )  # fmt: skip
    debug.add_debug_argument(parser, ("twins", "cut"))
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare, print and return the exit status.  Raises ``KspliceError``."""
    try:
        with debug.shown(args.debug):
            result = compare_objects(args.pre, args.post, args.source, args.allow_layout)
        if args.output and result.obj is not None:
            output.write_whole(args.output, write_object(result.obj))
    except OSError as e:
        raise CreateError(f"{e.filename}: {e.strerror}") from e
    for note in result.notes:
        output.print_error(f"ksplice: note: {note}")
    if args.json:
        print(json.dumps(as_json(result), indent=2, ensure_ascii=False))
    else:
        report(result)
    if result.refused:
        return CreateError.exit_status
    return 0 if result.obj is not None else NOTHING_CHANGED


def as_json(result: PairResult) -> dict[str, object]:
    """Return the result as scripts read it."""
    return {
        "functions": result.functions,
        "changed": result.changed,
        "new": result.new,
        "removed": result.removed,
        "data": result.data,
        "refused": [asdict(r) for r in result.refused],
    }


def report(result: PairResult) -> None:
    """Print the result for people, one line for each symbol."""
    for name, why in result.reasons.items():
        output.print_text(f"changed {name}: {why}")
    for word, names in (("new", result.new), ("removed", result.removed), ("data", result.data)):
        for name in names:
            output.print_text(f"{word} {name}")
    for refusal in result.refused:
        output.print_text(f"refused {refusal}")
    if not result.refused and result.obj is None:
        output.print_text("nothing changed that a running kernel uses")
