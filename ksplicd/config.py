# SPDX-License-Identifier: GPL-2.0-only
"""The settings in ksplicd.conf.

It has the sections ``[ksplicd]`` and ``[signers]`` (who may sign what), of lines ``key = value``;
``#`` or ``;`` begins a comment.  An unknown key is refused, so that a misspelt
``require-signature`` does not go unnoticed.
"""

import configparser
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, Final

from ksplicd.errors import ConfigFileError

CONFIG_FILE: Final = Path("/etc/ksplicd/ksplicd.conf")
KEYS_DIR: Final = Path("/etc/ksplicd/keys.d")

SECTION = "ksplicd"
_SIGNERS = "signers"
_MAX_LIMIT = 24 * 60 * 60
_MAX_MEBIBYTES = 1 << 20
_MAX_RETRIES = 100

SIGNED = re.compile(r"\*|no-CVE|CVE-\*|CVE-[0-9]{4}-(?:\*|[0-9]{4,19})|(?!CVE-)[A-Za-z0-9_-]{1,55}")
KEY_ID = re.compile(r"[0-9A-F]{1,16}|SHA256:[0-9A-F]{64}")


class OnDrop(StrEnum):
    """What to do with a bundle that was dropped and verified."""

    STAGE = auto()
    APPLY = auto()


class LateMismatch(StrEnum):
    """What to do with a module that is loaded after an update and does not match."""

    REFUSE = auto()
    """Its load is refused."""
    LEAVE = auto()
    """It is loaded, and runs without the update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerRule:
    """A line of ``[signers]``: only these keys may sign its subject."""

    what: str
    """``vmlinux``, a module, ``*`` (every target without a line of its own), a CVE id that may end
    in ``*``, or ``no-CVE`` (an update that names none)."""
    keys: frozenset[str]
    """Key ids as minisign prints them, or fingerprints (``PublicKey.fingerprint``)."""
    is_also: bool = False
    """Whether it holds beside the rules that are not, rather than among them: it is of a file with
    mistakes, and those are of the last good one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:  # over 12 fields: one for each key of the file
    """The whole of ksplicd.conf; the defaults hold when there is no file."""

    on_drop: OnDrop = OnDrop.STAGE
    require_signature: bool = True
    signers: tuple[SignerRule, ...] = ()
    """Who may sign what; without a rule, every trusted key may."""
    transition_limit: int = 60
    """Seconds after which a transition that does not end is turned around."""
    ask_early: bool = True
    """Whether an update has livepatch look early whether a transition is over."""
    signal_after: int = 0
    """Seconds after which the tasks that hold it up are signalled, and between later signals; 0:
    livepatch alone does it, each fifteenth time that it looks."""
    retries: int = 3
    """How often an apply or undo without a caller is tried again when the code was busy."""
    retry_delay: int = 300
    """Seconds before each of these."""
    apply_at_boot: bool = True
    late_mismatch: LateMismatch = LateMismatch.REFUSE
    soak_time: int = 600
    """Seconds after which a crash no longer quarantines an applied update; 0: none ever does."""
    undo_on_warning: bool = False
    """Whether to undo an update that the kernel complains of in its soak time."""
    store_limit: int = 1024
    """MiB of bundles; one more may push unused ones out, or is refused."""
    keep_rejected: int = 256
    """MiB of rejected files."""
    keep_history: int = 64
    """MiB of full history files, compressed; the oldest are condensed."""
    metrics_file: Path | None = None
    """The metrics for Prometheus' node_exporter; None: they are not written."""

    def limits(self) -> dict[str, int]:
        """Return the bytes that each part of the store may take (``Store.sizes``)."""
        return {
            "updates": self.store_limit << 20,
            "rejected": self.keep_rejected << 20,
            "history": self.keep_history << 20,
        }


def read_settings(path: Path = CONFIG_FILE) -> Settings:
    """Read ``path``; without such a file, the defaults.

    Raises ``ConfigFileError`` with file, line and reason.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigFileError(f"{path}: cannot be read: {e}") from e
    return parse_settings(text, str(path))


def parse_settings(text: str, name: str = "ksplicd.conf") -> Settings:
    """Return the settings in ``text``; ``name`` is the file's name in messages."""
    values: dict[str, Any] = {}
    sections = _read_sections(text, name)
    for key, value in sections.get(SECTION, {}).items():
        if key not in _READERS:
            known = ", ".join(_READERS)
            raise _error(text, name, key, f"unknown key {key!r}; the known ones are {known}")
        try:
            values[key.replace("-", "_")] = _READERS[key](value)
        except ValueError as e:
            raise _error(text, name, key, f"{key} = {value!r}: {e}") from None
    return Settings(**values, signers=tuple(_read_signers(text, name, sections)))


def _read_signers(
    text: str, name: str, sections: Mapping[str, Mapping[str, str]]
) -> Iterator[SignerRule]:
    seen: dict[str, str] = {}
    for what, value in sections.get(_SIGNERS, {}).items():
        if (other := seen.setdefault(what.replace("-", "_"), what)) != what:
            reason = f"[{_SIGNERS}] {what} is the same module as {other}: list all keys on one line"
            raise _error(text, name, what, reason, _SIGNERS)
        if not SIGNED.fullmatch(what):
            known = "vmlinux, a module, *, CVE-… (its end may be *) or no-CVE"
            raise _error(text, name, what, f"[{_SIGNERS}] {what!r} is not {known}", _SIGNERS)
        keys = value.upper().split()
        if not keys or not all(KEY_ID.fullmatch(key) for key in keys):
            known = "key ids or fingerprints, as `ksplice keygen` prints them"
            reason = f"{what} = {value!r}: must be {known}"
            raise _error(text, name, what, reason, _SIGNERS)
        # minisign prints a key id without leading zeros
        yield SignerRule(what=what, keys=frozenset(key.lstrip("0") or "0" for key in keys))


def _read_yes_no(value: str) -> bool:
    if value not in {"yes", "no"}:
        raise ValueError("must be yes or no")
    return value == "yes"


def _read_on_drop(value: str) -> OnDrop:
    if value not in set(OnDrop):
        raise ValueError(f"must be {' or '.join(OnDrop)}")
    return OnDrop(value)


def _read_late_mismatch(value: str) -> LateMismatch:
    if value not in set(LateMismatch):
        raise ValueError(f"must be {' or '.join(LateMismatch)}")
    return LateMismatch(value)


def _read_retries(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", value) or int(value) > _MAX_RETRIES:
        raise ValueError(f"must be a whole number from 0 to {_MAX_RETRIES}")
    return int(value)


def _read_limit(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= _MAX_LIMIT:
        raise ValueError(f"must be a whole number of seconds from 1 to {_MAX_LIMIT}")
    return int(value)


def _read_seconds(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > _MAX_LIMIT:
        raise ValueError(f"must be a whole number of seconds from 0 to {_MAX_LIMIT}")
    return int(value)


def _read_mebibytes(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", value) or not 1 <= int(value) <= _MAX_MEBIBYTES:
        raise ValueError(f"must be a whole number of MiB from 1 to {_MAX_MEBIBYTES}")
    return int(value)


def _read_metrics_file(value: str) -> Path | None:
    if value == "none":
        return None
    if not value.startswith("/") or not value.endswith(".prom") or not value.isprintable():
        raise ValueError("must be none, or an absolute path that ends in .prom")
    return Path(value)


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "on-drop": _read_on_drop,
    "require-signature": _read_yes_no,
    "transition-limit": _read_limit,
    "ask-early": _read_yes_no,
    "signal-after": _read_seconds,
    "retries": _read_retries,
    "retry-delay": _read_limit,
    "apply-at-boot": _read_yes_no,
    "late-mismatch": _read_late_mismatch,
    "soak-time": _read_seconds,
    "undo-on-warning": _read_yes_no,
    "store-limit": _read_mebibytes,
    "keep-rejected": _read_mebibytes,
    "keep-history": _read_mebibytes,
    "metrics-file": _read_metrics_file,
}


def _read_sections(text: str, name: str) -> dict[str, dict[str, str]]:
    """Return the keys and values by section."""
    parser = configparser.ConfigParser(
        strict=True,
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        default_section="",  # no section may lend its keys to ours
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # modules may be XT_LOUD
    try:
        parser.read_string(text, name)
    except configparser.DuplicateOptionError as e:
        raise ConfigFileError(f"{name}:{e.lineno}: {e.option} is set twice") from None
    except configparser.DuplicateSectionError as e:
        raise ConfigFileError(f"{name}:{e.lineno}: a second section [{e.section}]") from None
    except configparser.MissingSectionHeaderError as e:
        raise ConfigFileError(f"{name}:{e.lineno}: begin with the line [{SECTION}]") from None
    except configparser.ParsingError as e:
        line, _ = e.errors[0]  # the line itself is quoted by some versions of Python only
        what = text.split("\n")[line - 1].strip()
        raise ConfigFileError(f"{name}:{line}: {what!r} is not a line `key = value`") from None
    for section in parser.sections():
        if section not in {SECTION, _SIGNERS}:
            line = _find_line(text, rf"\[{re.escape(section)}\]")
            raise ConfigFileError(
                f"{name}:{line}: unknown section [{section}], not [{SECTION}] or [{_SIGNERS}]"
            )
    return {section: dict(parser[section]) for section in parser.sections()}


def _error(text: str, name: str, key: str, reason: str, section: str = SECTION) -> ConfigFileError:
    start = _find_line(text, rf"\[{section}\]")
    line = _find_line(text, rf"{re.escape(key)}\s*=", start)
    return ConfigFileError(f"{name}:{line}: {reason}")


def _find_line(text: str, pattern: str, start: int = 1) -> int:
    """Return the number of the first line from ``start`` that begins with ``pattern``."""
    for number, line in enumerate(text.splitlines(), start=1):
        if number >= start and re.match(rf"\s*{pattern}", line):
            return number
    return start
