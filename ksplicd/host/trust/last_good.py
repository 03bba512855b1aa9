# SPDX-License-Identifier: GPL-2.0-only
"""The configuration that holds when ksplicd.conf has a mistake: the last one that had none.

A slip in the file must not leave the host without its fixes, nor open it: of ``require-signature``
and ``[signers]``, what the file still says holds beside the last good configuration, and the
stricter of the two counts.
"""

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from ksplicd.config import KEY_ID, SECTION, SIGNED, Settings, SignerRule, parse_settings
from ksplicd.config import read_settings as read_whole
from ksplicd.errors import ConfigFileError, StoreError
from ksplicd.host.store.store import replace_file, store_errors

_log = logging.getLogger(__name__)

_HEADING: Final = re.compile(r"\s*\[(.*?)\]?\s*")
_LINE: Final = re.compile(r"\s*([^=\s]+)\s*=\s*(.*?)\s*")


def read_settings(path: Path, copy: Path, *, or_defaults: bool = False) -> tuple[Settings, str]:
    """Return the settings that hold, and what is wrong with the file; empty text when nothing is.

    ``copy`` is where the last good file is kept; ``or_defaults``: without one, the defaults count
    as good.  Raises ``ConfigFileError`` when neither is there.
    """
    try:
        settings = read_whole(path)
    except ConfigFileError as e:
        good = _read_copy(copy) or (Settings() if or_defaults else None)
        if good is None:
            raise
        text = _read_text(path)
        return strictest(good, text), f"{e}; until it is mended, the last good configuration holds"
    keep_copy(path, copy)
    return settings, ""


def keep_copy(path: Path, copy: Path) -> None:
    """Keep a file that has no mistake; a failure goes to the log, as the old copy still holds."""
    text = _read_text(path)
    try:
        with store_errors(copy):
            copy.parent.mkdir(mode=0o700, exist_ok=True)
            if not copy.exists() or copy.read_text(encoding="utf-8") != text:
                replace_file(copy, text.encode())
    except (StoreError, UnicodeDecodeError) as e:
        _log.error("the configuration cannot be kept for a boot with a bad one: %s", e)


def strictest(good: Settings, text: str) -> Settings:
    """Return the last good settings, with whatever ``text`` forbids beside them."""
    section, is_open, found = "", None, dict[str, set[str]]()
    for line in text.splitlines():
        if line.lstrip().startswith(("#", ";")):
            continue
        if line.lstrip().startswith("["):
            heading = _HEADING.fullmatch(line)
            section = heading[1] if heading is not None else ""
        elif (pair := _LINE.fullmatch(line)) is not None:
            key, value = pair[1], pair[2]
            if key == "require-signature":
                is_open = value == "no" and is_open is not False
            elif section != SECTION and SIGNED.fullmatch(key):
                keys = {k.lstrip("0") or "0" for k in value.upper().split() if KEY_ID.fullmatch(k)}
                found[key] = found.get(key, keys) & keys
    rules = tuple(SignerRule(what=what, keys=frozenset(keys)) for what, keys in found.items())
    more = () if rules == good.signers else tuple(replace(rule, is_also=True) for rule in rules)
    return replace(
        good,
        require_signature=good.require_signature or not is_open,
        signers=(*good.signers, *more),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_copy(copy: Path) -> Settings | None:
    try:
        return parse_settings(copy.read_text(encoding="utf-8"), str(copy))
    except (OSError, UnicodeDecodeError, ConfigFileError):
        return None
