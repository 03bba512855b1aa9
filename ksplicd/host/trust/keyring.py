# SPDX-License-Identifier: GPL-2.0-only
"""The keys that this host trusts: ``*.pub`` in /etc/ksplicd/keys.d.

They are read anew for every verification, so that deleting a file withdraws the trust at once.  A
key whose comment ends in ``expires 2027-01-31`` is trusted through that day (UTC).  After it none
of its signatures hold, whatever their date: a stolen key can sign any date.

A file that is no key, or that somebody else could have written, is ignored and reported, and the
other keys hold: one slip in one file must not leave the host without a fix.  Hidden names are
skipped, as editors and configuration management leave them.  Of two different keys with one id
neither is trusted.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from ksplicd.config import KEYS_DIR
from ksplicd.errors import BadSignatureError, KeyFileError
from ksplicd.host.store.store import is_passing
from ksplicd.minisign import PublicKey, read_public_key

_log = logging.getLogger(__name__)

_MAX_SIZE: Final = 4096
_EXPIRES: Final = re.compile(r"\bexpires\b\s*(.*)")
_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The contents of the folder."""

    trusted: tuple[PublicKey, ...] = ()
    """By file name."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """File → why it is not trusted."""


class Keyring:
    """The keys of one folder; it and its files must belong to user ``owner``."""

    def __init__(self, folder: Path = KEYS_DIR, owner: int = 0) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._owner = owner
        self._ignored: Mapping[str, str] = {}
        """What the journal has been told."""

    def read(self) -> Keys:
        """Return the keys, none when there is no such folder, and report what is ignored anew.

        Raises ``KeyFileError`` when the folder cannot be read or somebody else could write into it,
        and when a file cannot be read for a reason that may pass.
        """
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found, ignored = self._read_files(folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            return Keys()
        except OSError as e:
            raise KeyFileError(f"{self._folder}: {e.strerror}") from e
        ignored.update(self._find_same_ids(found))
        self._report(ignored)
        trusted = tuple(key for name, key in found.items() if name not in ignored)
        return Keys(trusted=trusted, ignored=ignored)

    def _read_files(self, folder: int) -> tuple[dict[str, PublicKey], dict[str, str]]:
        """Return the keys of an open folder, and why a file is ignored, both by file name."""
        found: dict[str, PublicKey] = {}
        ignored: dict[str, str] = {}
        self._check_owner(folder, self._folder)
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".pub") or name.startswith("."):
                continue
            try:
                found[name] = self._read_key(folder, name)
            except KeyFileError as e:
                if is_passing(e.__cause__):
                    raise
                ignored[name] = str(e)
        return found, ignored

    def _find_same_ids(self, keys: Mapping[str, PublicKey]) -> Iterator[tuple[str, str]]:
        """Yield (file, why) of different keys with one id.

        Its owner chooses the id of a key, so that it may be another key's on purpose: the rules
        about that one would hold for it.
        """
        for name, key in keys.items():
            for other, its in keys.items():
                if its.key_id == key.key_id and its.key != key.key:
                    text = f"{self._folder / name}: another key has the id {key.name} too, {other}"
                    yield name, f"{text}: neither is trusted; remove the one that is not yours"

    def _report(self, ignored: Mapping[str, str]) -> None:
        for name, why in ignored.items():
            if self._ignored.get(name) != why:
                _log.error("%s; this file is ignored, and the other keys hold", why)
        self._ignored = ignored

    def _check_owner(self, fd: int, path: Path) -> None:
        status = os.fstat(fd)
        if status.st_uid != self._owner or status.st_mode & _OTHERS:
            raise KeyFileError(
                f"{path}: must belong to uid {self._owner} and be writable by nobody else"
            )

    def _read_key(self, folder: int, name: str) -> PublicKey:
        path = self._folder / name
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                self._check_owner(fd, path)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise KeyFileError(f"{path}: not a plain file")
                data = os.read(fd, _MAX_SIZE)
            finally:
                os.close(fd)
        except OSError as e:
            raise KeyFileError(f"{path}: {e.strerror}") from e
        try:
            key = read_public_key(data.decode(), str(path))
        except UnicodeDecodeError:
            raise KeyFileError(f"{path}: not a minisign key file") from None
        expiry_of(key, str(path))
        return key


def expiry_of(key: PublicKey, name: str = "public key") -> date | None:
    """Return the last day on which ``key`` is trusted, if there is one.

    Raises ``KeyFileError`` naming ``name``.
    """
    found = _EXPIRES.search(key.comment)
    if found is None:
        return None
    try:
        return date.fromisoformat(found[1])
    except ValueError:
        raise KeyFileError(
            f"{name}: its comment says expires {found[1]!a}; use a date such as 2027-01-31"
        ) from None


def check_not_expired(key: PublicKey, now: float) -> None:
    """Raise ``BadSignatureError`` when ``key`` has expired at ``now``, in seconds since 1970."""
    expires = expiry_of(key)
    today = datetime.fromtimestamp(now, UTC).date()
    if expires is not None and today > expires:
        raise BadSignatureError(
            f"signature: made by key {key.name}, which has expired on {expires}, and now it is "
            f"{today}; "
            "sign it with a newer key, and put that one's .pub file into /etc/ksplicd/keys.d"
        )
