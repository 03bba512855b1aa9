# SPDX-License-Identifier: GPL-2.0-only
"""The keys that this host trusts: ``*.pub`` in /etc/ksplicd/keys.d.

They are read anew for every verification, so that deleting a file withdraws the trust at once.  A
key whose comment ends in ``expires 2027-01-31`` is trusted through that day (UTC).  After it none
of its signatures hold, whatever their date: a stolen key can sign any date.
"""

import re
import stat
from datetime import UTC, date, datetime
from pathlib import Path

from ksplicd.config import KEYS_DIR
from ksplicd.errors import BadSignatureError, KeyFileError
from ksplicd.minisign import PublicKey, read_public_key

_MAX_SIZE = 4096
_EXPIRES = re.compile(r"\bexpires\b\s*(.*)")


class Keyring:
    """The keys of one folder, whose files must belong to user ``owner``."""

    def __init__(self, folder: Path = KEYS_DIR, owner: int = 0) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._owner = owner

    def read(self) -> tuple[PublicKey, ...]:
        """Return the keys, by file name; none when there is no such folder.

        Raises ``KeyFileError`` for a file that is no key, or that somebody else could have written:
        with one doubtful file, the host trusts no key at all.
        """
        try:
            paths = sorted(self._folder.glob("*.pub"))
            return tuple(self._read_key(path) for path in paths)
        except OSError as e:
            raise KeyFileError(f"{e.filename or self._folder}: {e.strerror}") from e

    def _read_key(self, path: Path) -> PublicKey:
        status = path.stat()
        if status.st_uid != self._owner or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeyFileError(
                f"{path}: must belong to uid {self._owner} and be writable by nobody else"
            )
        with path.open("rb") as f:
            data = f.read(_MAX_SIZE)
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
    if expires is not None and datetime.fromtimestamp(now, UTC).date() > expires:
        raise BadSignatureError(
            f"signature: made by key {key.name}, which has expired on {expires}; "
            "sign it with a newer key, and put that one's .pub file into /etc/ksplicd/keys.d"
        )
