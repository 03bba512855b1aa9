# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice apply``, ``undo``, ``release`` and ``remove``: what changes this host.

As with Ksplice, ``apply`` of an applied update succeeds.  Unlike Ksplice, an update that was undone
can be applied again: its modules are loaded anew.  Ksplice's ``--partial`` (do not require modules
that are not loaded) is always on, and such a module is patched when it is loaded.

JSON: ``{"schema": 1, "kid": "8c4o6ucj", "result": "done", "job": 3}``; ``result`` is ``done``,
``already-applied``, ``released`` or ``removed``; ``job`` is null when there was none.  ``release
--all`` prints ``{"schema": 1, "kids": [], "result": "released"}``, ``remove --stale`` likewise.  An
error is
``{"schema": 1, "error": {"name", "abort_cause", "message"}}``.
"""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs, read_kid, strip_prefix
from ksplicd.cli.format import format_event, to_event
from ksplicd.cli.several import apply_all, undo_all
from ksplicd.cli.verbs import VERBS
from ksplicd.errors import AlreadyAppliedError, KspliceError
from ksplicd.model import is_kid

if TYPE_CHECKING:
    from ksplicd.cli.client import Client


def add_parser(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    apply = verbs.add_parser("apply", description=VERBS["apply"].help)
    first = apply.add_mutually_exclusive_group(required=True)
    first.add_argument(
        "bundle",
        nargs="?",
        metavar="TARBALL|TREE|ID",
        help="a bundle (with its signature beside it, in TARBALL.minisig), an unpacked bundle "
        "(which has no signature: needs require-signature = no), or the id of a staged update",
    )
    first.add_argument(
        "--all", action="store_true", help="all that wait for the running kernel, in their order"
    )
    apply.add_argument(
        "--partial",
        action="store_true",
        help="modules that are not loaded are no error, but patched when they load; always on",
    )
    apply.set_defaults(run=run_apply)
    undo = verbs.add_parser("undo", description=VERBS["undo"].help)
    whose = undo.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "kid", metavar="ID", type=read_kid, nargs="?", help="8c4o6ucj or ksplice_8c4o6ucj"
    )
    whose.add_argument("--all", action="store_true", help="all that are applied, newest first")
    undo.set_defaults(run=run_undo)
    for verb in (apply, undo):
        verb.add_argument(
            "--debug", action="store_true", help="print each stage that the update went through"
        )
        verb.add_argument(
            "--debugfile", metavar="FILE", type=Path, help="write that to FILE; implies --debug"
        )
        verb.add_argument(
            "--raw-errors",
            action="store_true",
            help="begin standard error with a line that is the abort cause, or OTHER",
        )
    release = verbs.add_parser("release", description=VERBS["release"].help)
    which = release.add_mutually_exclusive_group(required=True)
    which.add_argument("kid", metavar="ID", type=read_kid, nargs="?")
    which.add_argument("--all", action="store_true", help="all that are quarantined")
    release.set_defaults(run=run_release)
    remove = verbs.add_parser("remove", description=VERBS["remove"].help)
    what = remove.add_mutually_exclusive_group(required=True)
    what.add_argument("kid", metavar="ID", type=read_kid, nargs="?")
    what.add_argument(
        "--stale", action="store_true", help="all whose kernels are not installed any more"
    )
    remove.set_defaults(run=run_remove)
    for verb in (apply, undo, release, remove):
        verb.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run_apply(args: argparse.Namespace) -> int:
    """Stage the bundle, if it is one, and apply the update."""
    from ksplicd.cli.client import connect

    if args.all:
        return apply_all(args, connect())
    path = Path(args.bundle)
    named = strip_prefix(args.bundle)
    if path.exists() or not is_kid(named):
        from ksplicd.cli.bundle_files import read_tarball, read_tree

        bundle, signature = read_tree(path) if path.is_dir() else read_tarball(path)
        client = connect()
        kid = client.stage(bundle, signature)
    else:
        client, kid = connect(), named
    try:
        job = client.apply(kid).job
    except AlreadyAppliedError:
        _report(args, kid, "already-applied", None, f"Update {kid} is already applied.")
        return 0
    finally:
        _report_stages(args, client, kid)
    text = f"Update {kid} is applied. Undo it with: ksplice undo {kid}"
    _report(args, kid, "done", job, f"{text}{_missing_from(client, kid)}")
    return 0


def _missing_from(client: "Client", kid: str) -> str:
    """Return a further line where an update is incomplete; nothing if it was removed meanwhile."""
    with contextlib.suppress(KspliceError):
        ledger = str(client.describe(kid).get("Ledger", ""))
        return f"\nIt is {ledger}" if ledger.startswith("incomplete") else ""
    return ""


def run_undo(args: argparse.Namespace) -> int:
    """Undo an update."""
    from ksplicd.cli.client import connect

    client = connect()
    if args.all:
        return undo_all(args, client)
    try:
        job = client.undo(args.kid).job
    finally:
        _report_stages(args, client, args.kid)
    _report(args, args.kid, "done", job, f"Update {args.kid} is undone.")
    return 0


def run_release(args: argparse.Namespace) -> int:
    """Release an update from quarantine, or all of them."""
    from ksplicd.cli.client import connect

    if args.all:
        return _release_all(args, connect())
    connect().release(args.kid)
    text = f"Update {args.kid} is released. Apply it with: ksplice apply {args.kid}"
    _report(args, args.kid, "released", None, text)
    return 0


def _release_all(args: argparse.Namespace, client: "Client") -> int:
    found = [str(u["Kid"]) for u in client.objects().updates if u["Stage"] == "quarantined"]
    for kid in found:
        client.release(kid)
    if args.json:
        output.print_json(kids=found, result="released")
    elif found:
        output.print_text(f"Released: {' '.join(found)}. Apply each with: ksplice apply ID")
    else:
        output.print_text("Nothing is quarantined.")
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Delete an update's stored bundle, or those that no kernel here is for."""
    from ksplicd.cli.client import connect

    if args.stale:
        return _remove_stale(args, connect())
    connect().remove(args.kid)
    _report(args, args.kid, "removed", None, f"Update {args.kid} is removed.")
    return 0


def _remove_stale(args: argparse.Namespace, client: "Client") -> int:
    found = [str(kid) for kid in client.service().get("Stale", [])]
    for kid in found:
        client.remove(kid)
    if args.json:
        output.print_json(kids=found, result="removed")
    else:
        output.print_text(f"Removed: {' '.join(found)}." if found else "Nothing is stale.")
    return 0


def _report(args: argparse.Namespace, kid: str, result: str, job: int | None, text: str) -> None:
    if args.json:
        output.print_json(kid=kid, result=result, job=job)
    else:
        output.print_text(text)


def _report_stages(args: argparse.Namespace, client: "Client", kid: str) -> None:
    """Report the stages of ``kid`` where ``--debug`` and ``--debugfile`` want them."""
    if not args.debug and not args.debugfile:
        return
    try:
        events = [event for event in client.history(50) if event["Kid"] == kid]
    except KspliceError:
        return  # the error that ends the command matters more
    lines = [format_event(to_event(event)) for event in reversed(events)]
    if not args.debugfile:
        for line in lines:
            output.print_error(line)
        return
    try:
        args.debugfile.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as e:  # the outcome is printed in any case
        output.print_error(f"ksplice: {args.debugfile}: {e.strerror}")
