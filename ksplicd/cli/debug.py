# SPDX-License-Identifier: GPL-2.0-only
"""``--debug=PHASE``: the log of some phases of create, on standard error."""

import argparse
import contextlib
import functools
import logging
import sys
from collections.abc import Collection, Iterator
from typing import Final

from ksplicd.create.debug import PHASES, phase
from ksplicd.text import printable

_SHOWN: Final = {
    "affected": "why a unit is in or out",
    "twins": "why a symbol has its twin",
    "cut": "what is cut, and by which names it links",
}
assert tuple(_SHOWN) == PHASES


def add_debug_argument(parser: argparse.ArgumentParser, phases: Collection[str] = PHASES) -> None:
    """Add ``--debug`` for those of the phases that a verb has."""
    shown = "; ".join(f"{name}: {_SHOWN[name]}" for name in phases)
    parser.add_argument(
        "--debug", metavar="PHASE[,PHASE]", default=(),
        type=functools.partial(read_phases, known=tuple(phases)),
        help=f"print to standard error what a phase decides, and why ({shown})",
    )  # fmt: skip


def read_phases(text: str, known: Collection[str] = PHASES) -> tuple[str, ...]:
    """Return the phases in ``twins,cut``; argparse reports the error."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name or '(empty)'}: not one of {', '.join(known)}")
    return names


class _Formatter(logging.Formatter):
    """``ksplice: twins: ...``, with nothing in it that a terminal obeys."""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.rpartition(".")[2]
        return f"ksplice: {name}: {printable(record.getMessage())}"


@contextlib.contextmanager
def shown(phases: Collection[str]) -> Iterator[None]:
    """Print what ``phases`` log while the context lasts."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    loggers = [phase(name) for name in phases]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
