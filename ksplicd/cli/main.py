# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice`` and its verbs, also under the names that Ksplice gave them.

Only the module of the verb that is asked for is imported.  Errors become a message and an exit
status here, and nowhere else.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Final

from ksplicd import __version__
from ksplicd.cli import output
from ksplicd.cli.arguments import Verbs
from ksplicd.cli.health import UNKNOWN, format_first
from ksplicd.cli.parser import Parser, why_no_verb
from ksplicd.cli.verbs import VERBS, Verb, format_groups
from ksplicd.errors import KspliceError, UsageError

_PLUGIN: Final = {"--check", "--require", "--max-age"}
"""Options of ``status`` that make it a monitoring plugin."""
EPILOG: Final = """\
Exit status: 0 done, 1 failed, 2 bad bundle, 3 bad signature, 4 other kernel, 5 refused by the
kernel, 6 code busy, 7 cancelled, 8 quarantined, 64 wrong usage, 66 nothing to build, 70 a fault of
ours. `ksplice help VERB` says more about a verb.
"""


def main(argv: Sequence[str] | None = None, prog: str = "ksplice") -> int:
    """Run ``ksplice`` with ``argv`` and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(json="--json" in words, raw_errors="--raw-errors" in words)
    try:
        args = read_arguments(words, prog)
        return _run(args)
    except UsageError as e:
        return _report_usage(e, args, words)
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
    parser: argparse.ArgumentParser = Parser(
        prog=prog,
        usage=f"{prog} [VERB [ARGUMENT]...]",
        description="Build, apply and undo updates of the running Linux kernel.\n\n"
        + format_groups(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ksplice {__version__}")
    verbs = parser.add_subparsers(prog=prog, metavar="VERB", required=True, help=argparse.SUPPRESS)
    verb = next((word for word in words if word in VERBS), "")
    for name in [verb] if verb else VERBS:
        _add_verb(verbs, VERBS[name])
    for added in verbs.choices.values():
        added.set_defaults(parser=added)
    return parser


def _add_verb(verbs: Verbs, verb: Verb) -> None:
    """Add ``verb``, and the verbs that share its module, unless it is there or not installed."""
    if verb.name in verbs.choices or not verb.is_installed():
        return
    module = importlib.import_module(verb.path)
    if hasattr(module, "add_parser"):
        module.add_parser(verbs)
    else:
        parser = verbs.add_parser(verb.name, description=verb.help)
        module.add_arguments(parser)
        parser.set_defaults(run=module.run)


def _run(args: argparse.Namespace) -> int:
    """Run the verb; what it says about its arguments is told with the right form."""
    try:
        return int(args.run(args))
    except UsageError as e:
        parser: Parser = args.parser
        parser.error(str(e))


def read_arguments(words: Sequence[str], prog: str = "ksplice") -> argparse.Namespace:
    """Return the arguments; ``run`` is the function of the verb.  Raises ``UsageError``."""
    words = _read_words(words, prog)
    args, unknown = build_parser(words, prog).parse_known_args(words)
    if unknown:
        args.parser.error(f"unknown: {' '.join(unknown)}")
    return args


def _read_words(words: Sequence[str], prog: str) -> list[str]:
    """Return the words as the parser takes them. Raises ``UsageError``."""
    if not words or words[0] == "--json":
        return ["status", *words]
    if words[0] == "help":
        words = [*words[1:2], "--help"]
    if not words[0].startswith("-") and words[0] not in VERBS:
        Parser(prog=prog).error(why_no_verb(words[0]))
    return [*words]


def _report_usage(error: UsageError, args: argparse.Namespace, words: Sequence[str]) -> int:
    """Print what is wrong with the words; return the exit status, for monitoring that of a plugin.

    monitoring-plugins.org, "Plugin Return Codes": invalid arguments are UNKNOWN.
    """
    _report_error(error, args)
    is_plugin = words[:1] == ["status"] and any(word.partition("=")[0] in _PLUGIN for word in words)
    if is_plugin and not args.json:
        output.print_text(format_first("unknown", str(error).partition("\n")[0]))
    return UNKNOWN if is_plugin else error.exit_status


def _report_error(error: KspliceError, args: argparse.Namespace) -> None:
    """Print the error, in the way that was asked for."""
    if getattr(args, "json", False):
        output.print_json_error(error)
    if getattr(args, "raw_errors", False):
        output.print_error(error.abort_cause or "OTHER")
        output.print_error(str(error))
    else:
        output.print_error(f"ksplice: {error}")
