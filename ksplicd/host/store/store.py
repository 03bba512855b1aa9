# SPDX-License-Identifier: GPL-2.0-only
"""The store in /var/lib/ksplice: bundles, and how files get there and stay.

::

    /var/lib/ksplice/          the drop directory (drop_dir)
        updates/KID/           ksplice-KID.tar.gz and, when it has one, its .minisig
        rejected/              refused files, each with a .reason (drop_dir)
        history.jsonl          and the full ones, history.jsonl.000001.gz (history)
        guard.json             (crash_guard)
        wanted.json            (wanted)
        reserve                room for the records on a full disk
        ksplicd.conf.good      the last ksplicd.conf without a mistake (trust.last_good)
        metrics-file           a link to where the metrics went last (report.metrics)

A file appears whole or not at all, even when the power fails.  Stored bundles are trusted no more
than dropped ones: they are verified again whenever they are used.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.errors import NoSuchUpdateError, StoreError
from ksplicd.model import is_kid

STORE_DIR: Final = Path("/var/lib/ksplice")
SIGNATURE_SUFFIX: Final = ".minisig"
_GONE: Final = ".gone"

_RESERVE_SIZE: Final = 256 << 10
"""Bytes: a hundred applies and undos, and the small files beside the history."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""errno of failures that may pass and say nothing about the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A bundle's bytes and its signature's, as they were verified when they came."""

    bundle: bytes
    signature: bytes | None


class Reserve:
    """Room on the disk for the records: an undo must be written down also where the disk is full.

    The file ``path`` is deleted when a record does not fit, and made again once there is room.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self) -> None:
        """Make the file, if there is none and there is room for it."""
        try:
            if self.path.exists() and self.path.stat().st_size >= _RESERVE_SIZE:
                return
            self.path.unlink(missing_ok=True)  # a kill came before it had its size
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_SIZE)
            finally:
                os.close(fd)
        except OSError:  # it is only a help
            with contextlib.suppress(OSError):
                self.path.unlink()

    def write(self, write: Callable[[], None]) -> None:
        """Call ``write``, and where the disk is full once more with the reserve's room."""
        try:
            write()
        except StoreError as e:
            if not is_full(e.__cause__) or not self._spend():
                raise
            write()

    def _spend(self) -> bool:
        try:
            self.path.unlink()
        except OSError:
            return False
        return True


class Store:
    """The folder ``root``; every ``OSError`` in it is a ``StoreError``."""

    def __init__(self, root: Path = STORE_DIR) -> None:
        """Nothing is read or created before ``prepare``."""
        self.root = root
        self.updates = root / "updates"
        self.reserve = Reserve(root / "reserve")

    @property
    def history_file(self) -> Path:
        """The history (``history``)."""
        return self.root / "history.jsonl"

    @property
    def guard_file(self) -> Path:
        """The file of the crash guard (``crash_guard``)."""
        return self.root / "guard.json"

    @property
    def wanted_file(self) -> Path:
        """What is wanted (``wanted``)."""
        return self.root / "wanted.json"

    @property
    def config_copy(self) -> Path:
        """The last ksplicd.conf without a mistake (``trust.last_good``)."""
        return self.root / "ksplicd.conf.good"

    @property
    def metrics_link(self) -> Path:
        """The link to where the metrics went last (``report.metrics``)."""
        return self.root / "metrics-file"

    def prepare(self) -> None:
        """Create missing folders, and delete bundles that a killed daemon left half written.

        Half-deleted ones are left to ``sweep``.
        """
        with store_errors(self.root):
            for folder in (self.root, self.updates):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.reserve.keep()
            for left in self.updates.iterdir():
                if left.match(".*.new"):
                    shutil.rmtree(left)

    def sizes(self) -> dict[str, int]:
        """Return the bytes that each part takes: ``updates``, ``rejected``, ``history``, …"""
        sizes = {"updates": 0, "rejected": 0, "history": 0, "dropped": 0}
        small = (
            self.guard_file,
            self.wanted_file,
            self.config_copy,
            self.metrics_link,
            self.reserve.path,
        )
        ours = {path.name for path in small}
        with store_errors(self.root):
            for folder, _, files in os.walk(self.root, onerror=_raise_unless_gone):
                path = Path(folder).relative_to(self.root)
                for name in files:
                    part = path.parts[0] if path.parts else "dropped"
                    if part == "dropped" and name in ours:
                        continue
                    if part == "dropped" and name.startswith(self.history_file.name):
                        part = "history"
                    with contextlib.suppress(FileNotFoundError):  # it is gone by now
                        size = (Path(folder) / name).lstat().st_size
                        sizes[part] = sizes.get(part, 0) + size
        return sizes

    def kids(self) -> list[str]:
        """Return the ids of the stored updates, sorted."""
        with store_errors(self.updates):
            return sorted(path.name for path in self.updates.iterdir() if is_kid(path.name))

    def has(self, kid: str) -> bool:
        """Return whether update ``kid`` is stored."""
        if not is_kid(kid):
            return False
        with store_errors(self._folder(kid)):
            return self._folder(kid).is_dir()

    def read(self, kid: str) -> Stored:
        """Return the stored bytes.  Raises ``NoSuchUpdateError``."""
        if not self.has(kid):
            raise NoSuchUpdateError(f"{kid}: no update of this id is stored here")
        path = self._bundle(kid)
        with store_errors(path):
            data = path.read_bytes()
            signature = None
            with contextlib.suppress(FileNotFoundError):
                signature = _signature_of(path).read_bytes()
        return Stored(bundle=data, signature=signature)

    def add(self, kid: str, stored: Stored) -> None:
        """Store an update that is not stored yet."""
        temporary = self.updates / f".{kid}.new"
        with store_errors(self._folder(kid)):
            _clear(temporary)
            temporary.mkdir(mode=0o700)
            write_file(temporary / bundle.file_name(kid), stored.bundle)
            if stored.signature is not None:
                name = bundle.file_name(kid) + SIGNATURE_SUFFIX
                write_file(temporary / name, stored.signature)
            sync_folder(temporary)
            temporary.rename(self._folder(kid))
            sync_folder(self.updates)

    def set_signature(self, kid: str, signature: bytes) -> None:
        """Replace the signature of a stored update."""
        path = _signature_of(self._bundle(kid))
        with store_errors(path):
            replace_file(path, signature)

    def take_out(self, kid: str) -> None:
        """Take an update out, for ``sweep`` to delete; a missing one is no error."""
        if not self.has(kid):
            return
        gone = self.updates / f".{kid}{_GONE}"
        with store_errors(self._folder(kid)):
            _clear(gone)
            self._folder(kid).rename(gone)
            sync_folder(self.updates)

    def taken_out(self) -> list[str]:
        """Return the updates that were taken out but not deleted yet."""
        with store_errors(self.updates):
            names = sorted(path.name for path in self.updates.iterdir())
        return [name[1:].removesuffix(_GONE) for name in names if name.endswith(_GONE)]

    def sweep(self) -> None:
        """Delete the updates that were taken out."""
        with store_errors(self.updates):
            for kid in self.taken_out():
                shutil.rmtree(self.updates / f".{kid}{_GONE}")

    def _folder(self, kid: str) -> Path:
        assert is_kid(kid)
        return self.updates / kid

    def _bundle(self, kid: str) -> Path:
        return self._folder(kid) / bundle.file_name(kid)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _clear(folder: Path) -> None:
    """Delete what an earlier attempt left."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _signature_of(path: Path) -> Path:
    return path.with_name(path.name + SIGNATURE_SUFFIX)


# --- files that stay ----------------------------------------------------------------------------


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``StoreError`` that names the file at fault, or ``path``."""
    try:
        yield
    except OSError as e:
        where = e.filename if isinstance(e.filename, str | Path) else path  # not a descriptor
        raise StoreError(f"{where}: {e.strerror}") from e


def is_passing(error: BaseException | None) -> bool:
    """Return whether ``error`` says nothing about the file, and another try may succeed."""
    return isinstance(error, OSError) and error.errno in _PASSING


def is_full(error: BaseException | None) -> bool:
    """Return whether ``error`` is that the disk is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    write_file(temporary, data)
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
