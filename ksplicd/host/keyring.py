# SPDX-License-Identifier: GPL-2.0-only
"""The keys that this host trusts: ``*.pub`` in /etc/ksplicd/keys.d.

They are read anew for every verification, so that deleting a file withdraws the trust at once.
"""

import stat
from pathlib import Path

from ksplicd.config import KEYS_DIR
from ksplicd.errors import KeyFileError
from ksplicd.minisign import PublicKey, read_public_key

_MAX_SIZE = 4096


class Keyring:
    """The keys of one folder, whose files must belong to user ``owner``."""

    def __init__(self, folder: Path = KEYS_DIR, owner: int = 0) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._owner = owner

    def read(self) -> tuple[PublicKey, ...]:
        """Return the keys, by file name; none when there is no such folder.

        Raises ``KeyFileError`` for a file that is no key, or that somebody else could have written:
        a host with a doubtful key trusts none until that is cleared up.
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
            return read_public_key(data.decode(), str(path))
        except UnicodeDecodeError:
            raise KeyFileError(f"{path}: not a minisign key file") from None
