# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice create``, also installed as ``ksplice-create``: from a diff to a signed bundle."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from ksplicd import bundle, minisign
from ksplicd.cache import Cache, default_root
from ksplicd.cli import debug, kernel, output
from ksplicd.cli.arguments import read_kid
from ksplicd.cli.cache import keep_bounded, read_default
from ksplicd.cli.format import format_hunk, to_hunks
from ksplicd.cli.kernel import Inputs
from ksplicd.cli.keys import ask_password
from ksplicd.create.build.units import TargetFilter
from ksplicd.create.ledger.accepted import read_accepted
from ksplicd.create.modules.signature import ModuleKey
from ksplicd.create.pipeline import create, make_prebuilt
from ksplicd.create.prebuild import PrebuiltObjects
from ksplicd.create.request import MAX_FUNCTIONS, Created, Request
from ksplicd.create.work_folder import make_empty
from ksplicd.errors import CreateError, KeyFileError, PasswordNeededError, UsageError
from ksplicd.model import KID_LENGTH, is_kid, new_kid
from ksplicd.pruning import using

DESCRIPTION: Final = """\
Build an update for a running kernel from its source and a change of it.  The kernel is named by
its release, and its parts are fetched (--kernel), or it lies in folders (--config DIR SOURCE).
Only the files that the change touches are compiled, and those that a changed header changes.  The
source tree is left as it was found.
"""

_OTHERS: Final = {
    "depends": "has to be applied before this one",
    "replaces": "this one is instead of",
    "excludes": "must not be applied together with this one",
}

EPILOG: Final = """\
exit status: 0 the bundle was written; 66 the patch changes nothing that a running kernel uses;
70 the update contradicts the patch, a fault of ours; 1 refused or failed, with the reason on
standard error.

examples: ksplice create --kernel 6.1.0-50-cloud-amd64 --patch fix.patch --sign-key updates.key
          ksplice-create --patch fix.patch --config ./config --sign-key updates.key \\
                         linux-source-6.1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kernel.add_arguments(parser)
    kernel.add_toolchain(parser)
    _add_input(parser.add_argument_group("the change, exactly one of"))
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=Path(),
        help="where to put the bundle and its signature (default: here)",
    )  # fmt: skip
    _add_update(parser)
    _add_keys(parser)
    parser.add_argument(
        "-j", "--jobs", metavar="N", type=int, default=os.cpu_count() or 1,
        help="compilers to run at a time (default: one a processor)",
    )  # fmt: skip
    parser.add_argument(
        "-v", "--verbose", action="store_true",
        help="say why each function is in, and what became of each file",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    debug.add_debug_argument(parser)
    parser.add_argument(
        "--keep", metavar="DIR", type=Path,
        help="leave the temporary objects in this folder, which is empty or does not exist: of each"
        " unit, the new code, the modules; also when the change is refused",
    )  # fmt: skip


def _add_update(parser: argparse.ArgumentParser) -> None:
    """Add what the update is to be."""
    parser.add_argument(
        "--series", metavar="BUNDLE", type=Path, action="append", default=[],
        help="bundle of an earlier update that this one goes on top of, and depends on; may be"
        " given several times, in their order",
    )  # fmt: skip
    parser.add_argument(
        "--only-targets", metavar="LIST", action="append", default=[],
        help="change only these targets, vmlinux or modules' names; %% stands for any text",
    )  # fmt: skip
    parser.add_argument(
        "--build-modules", action="store_true",
        help="put the whole .ko of each changed module into the bundle, for the next boot",
    )  # fmt: skip
    parser.add_argument(
        "--allow-layout", metavar="TYPE", action="append", default=[],
        help="accept that the layout or the meaning of this structure, enumeration or variable"
        " changes; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--accept", metavar="FILE[:LINE]", action="append", default=[],
        help="accept that the change at this line of the new file, or a whole file that an update"
        " cannot change, is missing from the running kernel; the update is incomplete then",
    )  # fmt: skip
    parser.add_argument(
        "--max-functions", metavar="N", type=int, default=MAX_FUNCTIONS,
        help="how many functions livepatch may have to look for on the stack of each task"
        f" (default: {MAX_FUNCTIONS})",
    )  # fmt: skip
    parser.add_argument("--id", metavar="KID", help=f"the update's id, {KID_LENGTH} of a-z0-9")
    parser.add_argument("--description", metavar="TEXT", default="", help="what the update is for")
    parser.add_argument(
        "--cve", metavar="CVE", action="append", default=[],
        help="a vulnerability that the update fixes; may be given several times",
    )  # fmt: skip
    for option, words in _OTHERS.items():
        parser.add_argument(
            f"--{option}", metavar="KID", type=read_kid, action="append", default=[],
            help=f"an update that {words}; may be given several times",
        )  # fmt: skip


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Add the keys."""
    parser.add_argument(
        "--sign-key", metavar="FILE", type=Path,
        help="minisign secret key; without it the bundle is not signed",
    )  # fmt: skip
    parser.add_argument(
        "--module-sign-key", metavar="FILE", type=Path,
        help="private key in PEM for the kernel's own signature on each module",
    )  # fmt: skip
    parser.add_argument(
        "--module-sign-cert", metavar="FILE", type=Path,
        help="certificate of that key (default: in the key's file)",
    )  # fmt: skip


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--patch", metavar="FILE", type=Path, action="append", default=[],
        help="unified diff against SOURCE; may be given several times, applied in order",
    )  # fmt: skip
    group.add_argument(
        "--patch-opt", metavar="OPT", action="append", default=[],
        help="option for patch(1): -pN, -R, -l, -E, --binary, or --fuzz=N, without which each hunk"
        " must fit whole",
    )  # fmt: skip
    group.add_argument(
        "--diffext", metavar="EXT",
        help="take edited copies beside the originals: fcntl.c.new for fcntl.c with --diffext .new",
    )  # fmt: skip
    group.add_argument(
        "--git", metavar="REV",
        help="take what a commit, or a range A..B, changes; SOURCE is a git work tree that has"
        " checked out what the running kernel was built from",
    )  # fmt: skip
    group.add_argument(
        "--prebuild", action="store_true",
        help="make no update; compile ahead what later updates compare with: all enabled units, or"
        " those of --only-targets (hours and 6 GB for a whole kernel; goes on where it was)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Build the bundle; return the exit status.  Raises ``KspliceError``."""
    kernel.check_arguments(args)
    check_input(args)
    kid = args.id or new_kid()
    if not is_kid(kid):
        raise CreateError(f"--id {kid}: an update's id is {KID_LENGTH} of a-z0-9")
    key = read_key(args.sign_key) if args.sign_key else None
    module_key = read_module_key(args.module_sign_key, args.module_sign_cert)
    if not args.prebuild:
        check_output(args.output)
    if args.keep is not None:
        make_empty(args.keep)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    started = time.monotonic()

    def progress(line: str) -> None:
        if not args.quiet:
            print(f"ksplice: [{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr)

    cache = Cache(default_root(), progress=progress)
    read_default()  # raises before an hour is spent on compiling
    with using(cache):
        inputs = kernel.inputs_of(args, cache)
        request = read_request(args, inputs, kid, module_key)
        if args.prebuild:
            return report_prebuilt(make_prebuilt(request, progress), args)
        with debug.shown(args.debug), naming_kept(args):
            created = create(request, progress)
    path = write(created, args.output, key)
    if args.verbose:
        for name, why in created.files.items():
            progress(f"{name}: {why}")
        for name, why in created.reasons.items():
            progress(f"replaces {name}: {why}")
        for hunk in to_hunks(created.ledger, created.manifest.redirects):
            progress(format_hunk(hunk))
    if not created.ledger.is_complete:
        progress("note: the update is incomplete: hosts show what is missing from it")
    for note in created.notes:
        progress(f"note: {note}")
    report(created, path, args, inputs)
    keep_bounded(cache)
    return 0


@contextmanager
def naming_kept(args: argparse.Namespace) -> Iterator[None]:
    """Say where the temporary objects are, whatever ends the context."""
    try:
        yield
    finally:
        if args.keep is not None and not args.quiet and any(args.keep.glob("*")):
            output.print_error(f"ksplice: the temporary objects are in {args.keep}")


def read_request(
    args: argparse.Namespace, inputs: Inputs, kid: str, module_key: ModuleKey | None
) -> Request:
    """Return what was asked for."""
    return Request(
        source=inputs.source,
        config=inputs.config,
        toolchain=inputs.toolchain,
        cache=default_root(),
        patches=tuple(args.patch),
        patch_options=tuple(args.patch_opt),
        extension=args.diffext,
        revision=args.git,
        series=tuple(args.series),
        targets=TargetFilter.parse(args.only_targets),
        whole_modules=args.build_modules,
        module_key=module_key,
        allowed_layouts=tuple(args.allow_layout),
        accepted=read_accepted(args.accept),
        max_functions=args.max_functions,
        kid=kid,
        description=args.description,
        cves=tuple(args.cve),
        depends=tuple(args.depends),
        replaces=tuple(args.replaces),
        excludes=tuple(args.excludes),
        jobs=max(1, args.jobs),
        keep=args.keep,
    )


def check_input(args: argparse.Namespace) -> None:
    """Raise ``UsageError`` unless exactly one kind of change is given."""
    given = {
        "--patch": bool(args.patch),
        "--diffext": args.diffext is not None,
        "--git": args.git is not None,
        "--prebuild": args.prebuild,
    }
    named = [option for option, is_given in given.items() if is_given]
    if len(named) != 1:
        raise UsageError(
            f"{' and '.join(named) or 'no change given'}: give exactly one of {', '.join(given)}"
        )
    if args.patch_opt and not args.patch:
        raise UsageError(f"--patch-opt: goes with --patch, not with {named[0]}")
    if args.prebuild and (args.keep is not None or args.debug):
        option = "--debug" if args.keep is None else "--keep"
        raise UsageError(f"{option}: goes with a change, not with --prebuild")
    for patch in args.patch:
        if not patch.is_file():
            raise CreateError(f"--patch {patch}: no such file")


def read_module_key(key: Path | None, certificate: Path | None) -> ModuleKey | None:
    """Return the key for the modules, None without one.  Raises ``UsageError``, ``CreateError``."""
    if key is None:
        if certificate is not None:
            raise UsageError("--module-sign-cert: goes with --module-sign-key")
        return None
    module_key = ModuleKey(key=key.absolute(), certificate=(certificate or key).absolute())
    module_key.check()
    return module_key


def report_prebuilt(prebuilt: PrebuiltObjects, args: argparse.Namespace) -> int:
    """Print what a prebuild came to; return the exit status."""
    if args.json:
        out = {"schema": 1, "units": prebuilt.units, "failed": prebuilt.failed}
        print(json.dumps(out, indent=2))
    elif not args.quiet:
        for source, words in prebuilt.failed.items():
            print(
                f"{source}: cannot be made here: {words}" if args.verbose else f"{source}: failed"
            )
        print(f"{prebuilt.units} units are there, {len(prebuilt.failed)} cannot be made here")
    return 0


def _stop(number: int, _frame: object) -> NoReturn:
    """Leave by an exception, so that the source tree is given back."""
    raise SystemExit(128 + number)


def read_key(path: Path) -> minisign.SecretKey:
    """Read the signing key, asking for its password where it has one."""
    try:
        text = path.read_text()
    except OSError as e:
        raise KeyFileError(f"{path}: {e.strerror}; make one with `ksplice keygen`") from e
    except UnicodeDecodeError as e:
        raise KeyFileError(f"{path}: not a minisign key file: {e}") from e
    try:
        return minisign.read_secret_key(text, name=str(path))
    except PasswordNeededError:
        return minisign.read_secret_key(text, ask_password(f"Password of {path}: "), str(path))


def check_output(folder: Path) -> None:
    """Raise ``CreateError`` when the bundle could not be written, before anything is built."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise CreateError(f"--output {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CreateError(f"--output {folder}: {there} cannot be written to; give another folder")


def write(created: Created, folder: Path, key: minisign.SecretKey | None) -> Path:
    """Write the bundle, the signature first, so that a watcher never sees it unsigned.

    Raises ``CreateError``.
    """
    path = folder / bundle.file_name(created.manifest.kid)
    outputs = [(path, created.data)]
    if key is not None:
        signature = minisign.sign(created.data, key, trusted_comment=path.name)
        outputs.insert(0, (Path(f"{path}.minisig"), signature.encode()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, data in outputs:
            output.write_whole(target, data)
    except OSError as e:
        raise CreateError(f"{e.filename}: {e.strerror}") from e
    return path


def report(created: Created, path: Path, args: argparse.Namespace, inputs: Inputs) -> None:
    """Print what came out."""
    m = created.manifest
    signed = args.sign_key is not None
    if args.json:
        out = {
            "schema": 1,
            "kid": m.kid,
            "bundle": str(path),
            "signed": signed,
            "notes": list(created.notes),
            "files": created.files,
            "complete": m.is_complete,
            "ledger": to_hunks(created.ledger, m.redirects),
            "depends": list(m.depends),
            "replaces": list(m.replaces),
            "excludes": list(m.excludes),
            "kernel": {"release": m.kernel.release, "build_id": m.kernel.build_id},
            "parts": dict(inputs.origins),
            "targets": [
                {
                    "name": t.name,
                    "module": t.module_file or None,
                    "functions": [
                        {
                            "name": f.name,
                            "sympos": f.sympos,
                            "unit": f.unit,
                            "reason": created.reasons[f.name],
                        }
                        for f in t.functions
                    ],
                }
                for t in m.targets
            ],
        }
        print(json.dumps(out, indent=2))
    elif not args.quiet:
        names = ", ".join(dict.fromkeys(f.name for t in m.targets for f in t.functions))
        print(f"{path}: {names} for {m.kernel.release}{'' if signed else ' (not signed)'}")
