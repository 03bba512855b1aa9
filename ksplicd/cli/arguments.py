# SPDX-License-Identifier: GPL-2.0-only
"""Arguments that several verbs take; argparse reports the ``ArgumentTypeError`` of a reader."""

import argparse
from typing import Final, TypeAlias

from ksplicd.model import is_kid

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
"""To which each module adds its verbs."""

_COUNT_LIMIT: Final = 1 << 32  # D-Bus's u
_MAX_SECONDS: Final = 86400


def read_kid(text: str) -> str:
    """Return the kid in ``8c4o6ucj`` or ``ksplice_8c4o6ucj``."""
    kid = strip_prefix(text)
    if not is_kid(kid):
        raise argparse.ArgumentTypeError(f"{text}: not an id: eight of a-z and 0-9, like 8c4o6ucj")
    return kid


def strip_prefix(text: str) -> str:
    """Return ``8c4o6ucj`` for ``ksplice_8c4o6ucj`` or ``ksplice-8c4o6ucj``; no check is made."""
    return text.removeprefix("ksplice_").removeprefix("ksplice-")


def read_count(text: str) -> int:
    """Return a number of events."""
    return _read_number(text, 0, _COUNT_LIMIT - 1)


def read_seconds(text: str) -> int:
    """Return a number of seconds."""
    return _read_number(text, 1, _MAX_SECONDS)


def _read_number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number from {least} to {most}")
    return int(text)
