# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice`` and its verbs, also under the names that Ksplice gave them.

Only the module of the verb that is asked for is imported.  Errors become a message and an exit
status here, and nowhere else.
"""

import argparse
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from ksplicd import __version__
from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs
from ksplicd.errors import KspliceError

_CHANGE, _SHOW, _KEYS = "ksplicd.cli.change", "ksplicd.cli.show", "ksplicd.cli.keys"
_MODULES: Final = {
    "create": "ksplicd.cli.create",
    "config": "ksplicd.cli.config",
    "kernels": "ksplicd.cli.kernels",
    "cache": "ksplicd.cli.cache",
    "objdiff": "ksplicd.cli.objdiff",
    "try": "ksplicd.cli.try_",
    "apply": _CHANGE,
    "undo": _CHANGE,
    "release": _CHANGE,
    "remove": _CHANGE,
    "view": _SHOW,
    "status": "ksplicd.cli.status",
    "history": _SHOW,
    "keygen": _KEYS,
    "sign": _KEYS,
    "verify": _KEYS,
}
"""Verb → the module that has it; one that is not installed is left out (create, on a host)."""
_HELP: Final = {
    "create": "build an update from a kernel's source and a patch",
    "config": "fill the folder that create needs for --config",
    "cache": "show what the cache holds, and prune it",
    "kernels": "list the kernels that can be patched here",
    "objdiff": "compare two objects and cut out the new code",
    "status": "show the host at one glance, and what a person must do",
    "try": "apply an update in a throwaway guest, check it, and undo it",
}
"""For modules of one verb, which have ``add_arguments(parser)`` and ``run(args)``; the modules of
several have ``add_parser(verbs)``."""


def main(argv: Sequence[str] | None = None, prog: str = "ksplice") -> int:
    """Run ``ksplice`` with ``argv`` and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] == "--json":
        words = ["status", *words]
    args = build_parser(words, prog).parse_args(words)
    try:
        return int(args.run(args))
    except KspliceError as e:
        _report_error(e, args)
        return e.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 141
    except OSError as e:
        # What nobody below has a better word for: a name too long, a folder that may not be read.
        where = f"{os.fsdecode(e.filename)}: " if isinstance(e.filename, str | bytes) else ""
        _report_error(KspliceError(f"{where}{e.strerror or e}"), args)
        return KspliceError.exit_status


def main_create() -> int:
    """Run ``ksplice-create``."""
    return main(["create", *sys.argv[1:]])


def main_apply() -> int:
    """Run ``ksplice-apply``."""
    return main(["apply", *sys.argv[1:]])


def main_undo() -> int:
    """Run ``ksplice-undo``."""
    return main(["undo", *sys.argv[1:]])


def main_view() -> int:
    """Run ``ksplice-view``."""
    return main(["view", *sys.argv[1:]])


def build_parser(words: Sequence[str], prog: str) -> argparse.ArgumentParser:
    """Return a parser that knows the verb in ``words``, or all verbs when there is none."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Build, apply and undo updates of the running Linux kernel.",
        epilog="Exit status: 0 done, 1 failed, 2 bad bundle, 3 bad signature, 4 other kernel, "
        "5 refused by the kernel, 6 code busy, 7 cancelled, 8 quarantined, 66 nothing to build, "
        "70 a fault of ours.",
    )
    parser.add_argument("--version", action="version", version=f"ksplice {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    verb = next((word for word in words if word in _MODULES), "")
    for name in [verb] if verb else _MODULES:
        _add_verb(verbs, name)
    return parser


def _add_verb(verbs: Verbs, verb: str) -> None:
    """Add ``verb``, and the verbs that share its module, unless it is there or not installed."""
    name = _MODULES[verb]
    if verb in verbs.choices or importlib.util.find_spec(name) is None:
        return
    module = importlib.import_module(name)
    if verb in _HELP:
        parser = verbs.add_parser(verb, help=_HELP[verb])
        module.add_arguments(parser)
        parser.set_defaults(run=module.run)
    else:
        module.add_parser(verbs)


def _report_error(error: KspliceError, args: argparse.Namespace) -> None:
    """Print the error, in the way that was asked for."""
    if getattr(args, "json", False):
        output.print_json_error(error)
    if getattr(args, "raw_errors", False):
        output.print_error(error.abort_cause or "OTHER")
        output.print_error(str(error))
    else:
        output.print_error(f"ksplice: {error}")
