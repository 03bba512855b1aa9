# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice apply``, ``undo``, ``release`` and ``remove``: what changes this host.

``apply`` of what is applied already is a success, as with Ksplice.  Unlike Ksplice an update that
was undone can be applied again: its modules are loaded anew.  Ksplice's ``--partial`` (do not ask
for modules that are not loaded) is how it always is, but such a module is patched when it comes.

JSON: ``{"schema": 1, "kid": "8c4o6ucj", "result": "done", "job": 3}``; ``result`` is ``done``,
``already-applied``, ``released`` or ``removed``; ``job`` is null when there was none.  An error is
``{"schema": 1, "error": {"name", "abort_cause", "message"}}``.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksplicd.cli import output
from ksplicd.errors import AlreadyAppliedError, BadBundleError, KspliceError
from ksplicd.model import is_kid

if TYPE_CHECKING:
    from ksplicd.bundle import Bundle


def add_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs of this module."""
    apply = verbs.add_parser("apply", help="apply an update to the running kernel")
    apply.add_argument(
        "bundle",
        metavar="TARBALL|TREE|ID",
        help="a bundle (with its signature beside it, in TARBALL.minisig), an unpacked bundle "
        "(which has no signature: needs require-signature = no), or the id of a staged update",
    )
    apply.add_argument(
        "--partial",
        action="store_true",
        help="do not ask for modules that are not loaded, which are patched later; it is always so",
    )
    apply.set_defaults(run=run_apply)
    undo = verbs.add_parser("undo", help="take an update out of the running kernel")
    undo.add_argument("kid", metavar="ID", type=read_kid, help="8c4o6ucj or ksplice_8c4o6ucj")
    undo.set_defaults(run=run_undo)
    for verb in (apply, undo):
        verb.add_argument(
            "--debug", action="store_true", help="tell each stage that the update went through"
        )
        verb.add_argument(
            "--debugfile", metavar="FILE", type=Path, help="write that to FILE; implies --debug"
        )
        verb.add_argument(
            "--raw-errors",
            action="store_true",
            help="begin standard error with a line that is the abort cause, or OTHER",
        )
    release = verbs.add_parser(
        "release", help="let an update be applied that was new when the machine crashed"
    )
    release.add_argument("kid", metavar="ID", type=read_kid)
    release.set_defaults(run=run_release)
    remove = verbs.add_parser("remove", help="forget an update that is not applied")
    remove.add_argument("kid", metavar="ID", type=read_kid)
    remove.set_defaults(run=run_remove)
    for verb in (apply, undo, release, remove):
        verb.add_argument("--json", action="store_true", help="print the outcome as JSON")


def read_kid(text: str) -> str:
    """Return the kid in ``8c4o6ucj`` or ``ksplice_8c4o6ucj``; argparse reports the error."""
    kid = _strip_name(text)
    if not is_kid(kid):
        raise argparse.ArgumentTypeError(f"{text}: an id is eight of a-z and 0-9, like 8c4o6ucj")
    return kid


def _strip_name(text: str) -> str:
    return text.removeprefix("ksplice_").removeprefix("ksplice-")


def run_apply(args: argparse.Namespace) -> int:
    """Stage what is named, then apply it."""
    from ksplicd.cli.client import connect

    path = Path(args.bundle)
    named = _strip_name(args.bundle)
    if path.exists() or not is_kid(named):
        bundle, signature = read_tree(path) if path.is_dir() else read_tarball(path)
        client = connect()
        kid = client.stage(bundle, signature)
    else:
        client, kid = connect(), named
    try:
        job = client.apply(kid).job
    except AlreadyAppliedError:
        _report(args, kid, "already-applied", None, f"Update {kid} is applied already.")
        return 0
    finally:
        _tell_stages(args, client, kid)
    _report(args, kid, "done", job, f"Update {kid} is applied. Undo it with: ksplice undo {kid}")
    return 0


def run_undo(args: argparse.Namespace) -> int:
    """Undo an update."""
    from ksplicd.cli.client import connect

    client = connect()
    try:
        job = client.undo(args.kid).job
    finally:
        _tell_stages(args, client, args.kid)
    _report(args, args.kid, "done", job, f"Update {args.kid} is undone.")
    return 0


def run_release(args: argparse.Namespace) -> int:
    """Take an update out of quarantine."""
    from ksplicd.cli.client import connect

    connect().release(args.kid)
    text = f"Update {args.kid} is released. Apply it with: ksplice apply {args.kid}"
    _report(args, args.kid, "released", None, text)
    return 0


def run_remove(args: argparse.Namespace) -> int:
    """Have an update forgotten."""
    from ksplicd.cli.client import connect

    connect().remove(args.kid)
    _report(args, args.kid, "removed", None, f"Update {args.kid} is removed.")
    return 0


def read_tarball(path: Path) -> tuple[bytes, bytes | None]:
    """Return a bundle's bytes and its signature's, if it has one.  ``BadBundleError``."""
    signature = path.with_name(path.name + ".minisig")
    try:
        return path.read_bytes(), signature.read_bytes() if signature.exists() else None
    except OSError as e:
        raise BadBundleError(f"{e.filename}: {e.strerror}") from e


def read_bundle(path: Path) -> "Bundle":
    """Return what is in a bundle's file.  Raises ``BadBundleError``, which names the file."""
    from ksplicd.bundle import unpack

    data, _ = read_tarball(path)
    try:
        return unpack(data)
    except BadBundleError as e:
        raise BadBundleError(f"{path}: {e}") from e


def read_tree(path: Path) -> tuple[bytes, None]:
    """Return an unpacked bundle packed again: the same bytes as the original's, without signature.

    Raises ``BadBundleError`` when a file is missing or not the one that the manifest describes.
    """
    from ksplicd.bundle import pack, unpack
    from ksplicd.manifest import NAME, read_manifest

    try:
        files = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    except OSError as e:
        raise BadBundleError(f"{e.filename}: {e.strerror}: is {path} an unpacked bundle?") from e
    if NAME not in files:
        raise BadBundleError(f"{path}: has no {NAME}: is it an unpacked bundle?")
    manifest = read_manifest(files.pop(NAME))
    for name in ("contents", "description", "api-version", "timestamp", "utsname", "patch"):
        if name not in files:
            raise BadBundleError(f"{path}/{name}: is missing")
    bundle = pack(manifest, files)
    packed = unpack(bundle).manifest.files
    for name in sorted(packed.keys() | manifest.files.keys()):
        if packed.get(name) != manifest.files.get(name):
            raise BadBundleError(f"{path}/{name}: is not the file that {NAME} describes")
    return bundle, None


def _report(args: argparse.Namespace, kid: str, result: str, job: int | None, text: str) -> None:
    if args.json:
        output.say_json(kid=kid, result=result, job=job)
    else:
        output.say(text)


def _tell_stages(args: argparse.Namespace, client: Any, kid: str) -> None:
    """Tell the stages of ``kid`` where ``--debug`` and ``--debugfile`` want them."""
    if not args.debug and not args.debugfile:
        return
    try:
        events = [event for event in client.history(50) if event["Kid"] == kid]
    except KspliceError:
        return  # the error that is on its way says more
    from ksplicd.cli.show import format_event, to_event

    lines = [format_event(to_event(event)) for event in reversed(events)]
    if not args.debugfile:
        for line in lines:
            output.complain(line)
        return
    try:
        args.debugfile.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as e:  # what became of the update is told in any case
        output.complain(f"ksplice: {args.debugfile}: {e.strerror}")
