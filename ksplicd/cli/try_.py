# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice try``: an update in a throwaway guest, before it goes to a host.

JSON: ``{"schema": 1, "kid", "kernel", "functions", "apply_seconds", "undo_seconds",
"code_stays": false, "checks": [{"status", "output"}], "faults": [], "notes": []}``; the checks are
those before, with and after the update; notes say what could not be tried.
"""

import argparse
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, silent, to_stderr
from ksplicd.cli import output
from ksplicd.cli.bundle_files import read_bundle
from ksplicd.errors import LabError
from ksplicd.lab.trial import Trial, try_updates

_WHEN: Final = ("before", "with the update", "after undo")

EPILOG: Final = """\
The guest is Debian 12 with the kernel that the update is for, made on first use from the sources
that apt is configured with; that needs root (or sudo), QEMU and mmdebstrap. Signatures are not
checked.

example: ksplice try --check ./reproducer ksplice-8c4o6ucj.tar.gz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "bundles", metavar="TARBALL", type=Path, nargs="+",
        help="the update, after those that it goes on top of",
    )  # fmt: skip
    parser.add_argument(
        "--check", metavar="FILE", type=Path,
        help="a program, run in the guest as root before the update, with it, and after undo;"
        " with the update it has to end with exit status 0",
    )  # fmt: skip
    parser.add_argument(
        "--cpu", metavar="MODEL", default="qemu64", help="QEMU's processor model (default: qemu64)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the outcome")


def run(args: argparse.Namespace) -> int:
    """Try it; return the exit status.  Raises ``KspliceError``."""
    bundles = [read_bundle(path) for path in args.bundles]
    seen: set[str] = set()
    for made in bundles:
        if missing := set(made.manifest.depends) - seen:
            below = ", ".join(sorted(missing))
            raise LabError(f"{made.manifest.kid} goes on top of {below}: name that bundle first")
        seen.add(made.manifest.kid)
    if args.check is not None and not args.check.is_file():
        raise LabError(f"{args.check}: no such file, or not a program")
    cache = Cache(progress=silent if args.quiet else to_stderr)
    trial = try_updates(cache, bundles, check=args.check, cpu=args.cpu)
    manifest = bundles[-1].manifest
    if args.json:
        output.print_json(
            kid=manifest.kid,
            kernel=manifest.kernel.release,
            functions=trial.functions,
            apply_seconds=round(trial.apply_seconds, 3),
            undo_seconds=round(trial.undo_seconds, 3),
            code_stays=trial.stays,
            checks=[{"status": c.status, "output": c.out + c.err} for c in trial.checks],
            faults=trial.faults(),
            notes=list(trial.notes),
        )
    else:
        show(trial, manifest.kid, manifest.kernel.release)
    return 1 if trial.faults() else 0


def show(trial: Trial, kid: str, release: str) -> None:
    """Print the outcome for people."""
    output.print_text(f"{kid} on {release}, in a guest:")
    output.print_text(
        f"  applied in {trial.apply_seconds:.1f} s, {trial.functions} functions matched"
    )
    stays = "; its code stays loaded until the next boot" if trial.stays else ""
    output.print_text(f"  undone in {trial.undo_seconds:.1f} s{stays}")
    for when, check in zip(_WHEN, trial.checks, strict=False):
        last = (check.out + check.err).strip().rpartition("\n")[2]
        output.print_text(
            f"  check {when}: exit status {check.status}" + (f": {last}" if last else "")
        )
    for note in trial.notes:
        output.print_text(f"  note: {note}")
    for fault in trial.faults():
        output.print_error(f"ksplice: {fault}")
