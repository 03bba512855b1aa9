# SPDX-License-Identifier: GPL-2.0-only
"""How large the cache is, and what of it goes first: what was used longest ago.

Only kinds that can be made again are counted and deleted; what else is in the folder (the
project's virtual environment, apt's lists, locks, what tests keep) is left alone.  An entry that
another process works in stays: it holds a lock on the folder, or has used it within the hour.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache

KINDS: Final[Mapping[str, str]] = {
    "dl": "packages as downloaded",
    "kernel": "images and modules, unpacked",
    "headers": "headers, unpacked",
    "toolchain": "compilers of other suites",
    "source": "source trees, unpacked",
    "source-files": "single files of source packages",
    "kernel-config": "symbols and configurations",
    "kbuild": "build trees, prepared, with compiled units",
    "root": "root file systems of guests",
    "image": "disks of guests",
    "snapshot": "booted guests",
    "snapshot-layered": "booted guests with ksplicd",
}
"""What is counted and pruned, by the name of its folder."""

DEFAULT_LIMIT: Final = 20 << 30
"""Bytes that the cache may have after a command has added to it."""
LIMIT_VARIABLE: Final = "KSPLICE_CACHE_LIMIT"

GRACE: Final = 3600.0
"""Seconds for which what was used is taken to be in use."""

_LOCKED: Final = frozenset({"kbuild", "source"})
"""Whoever works in a folder of these kinds has locked it."""
_GROWING: Final = frozenset({"kbuild"})
"""What is in a folder of these kinds may change; the others are as they were made."""
_SIZES: Final = "sizes.json"
_STAMP: Final = "bounded"
_BLOCK: Final = 512
_DAY: Final = 86400.0
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A folder or a file of the cache."""

    kind: str
    path: Path
    size: int
    """Bytes on disk."""
    used: float
    """When it was used last, seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a pruning came to."""

    deleted: tuple[Entry, ...]
    busy: tuple[Entry, ...]
    """What would have been deleted, and is in use."""
    left: int
    """Bytes that are left."""


def read_size(text: str) -> int:
    """Return the bytes in ``500M`` or ``20G``.  Raises ``ValueError``."""
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdigit():
        number, unit = text, ""
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise ValueError(f"{text}: not a size, such as 500M or 20G")
    return int(number) * _UNITS[unit]


def limit() -> int:
    """Return the bytes that the cache may have.  Raises ``ValueError`` for a bad variable."""
    text = os.environ.get(LIMIT_VARIABLE)
    try:
        return read_size(text) if text else DEFAULT_LIMIT
    except ValueError as e:
        raise ValueError(f"{LIMIT_VARIABLE}={e}") from e


def entries(cache: Cache) -> list[Entry]:
    """Return all that is counted, what was used longest ago first."""
    known = _read_sizes(cache)
    found = []
    for kind in KINDS:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in sorted((cache.root / kind).iterdir()):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    found.append(_entry(kind, path, known))
    _write_sizes(cache, {f"{e.kind}/{e.path.name}": e.size for e in found})
    return sorted(found, key=lambda e: e.used)


def prune(cache: Cache, most: int, *, grace: float = 0.0) -> Pruned:
    """Delete what was used longest ago until ``most`` bytes are left.

    ``grace``: seconds for which nothing that was used is deleted, unless a lock tells.
    """
    with cache.lock("prune"):
        there = entries(cache)
        left, deleted, busy = sum(e.size for e in there), [], []
        for entry in there:
            if left <= most:
                break
            is_young = entry.kind not in _LOCKED and time.time() - entry.used < grace
            if is_young or not _delete(entry):
                busy.append(entry)
                continue
            deleted.append(entry)
            left -= entry.size
    return Pruned(deleted=tuple(deleted), busy=tuple(busy), left=left)


def bound(cache: Cache) -> Pruned | None:
    """Keep the cache within its limit, if anything was added since the last time.

    Return what that came to, None when nothing was added.  Raises ``ValueError`` as ``limit``.
    """
    most = limit()
    stamp = cache.root / _STAMP
    with contextlib.suppress(FileNotFoundError):
        made = stamp.stat().st_mtime
        folders = [cache.root / kind for kind in KINDS]
        newest = max((f.stat().st_mtime for f in folders if f.exists()), default=0.0)
        if newest < made and time.time() - made < _DAY:
            return None
    pruned = prune(cache, most, grace=GRACE)
    stamp.touch()
    return pruned


@contextlib.contextmanager
def using(cache: Cache) -> Iterator[None]:
    """Tell those who prune that entries are in use while the context lasts."""
    fd = _open_lock(cache)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def is_used(cache: Cache) -> bool:
    """Tell whether another process is in ``using()``."""
    fd = _open_lock(cache)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _open_lock(cache: Cache) -> int:
    folder = cache.root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _entry(kind: str, path: Path, known: Mapping[str, int]) -> Entry:
    size = known.get(f"{kind}/{path.name}")
    if size is None or kind in _GROWING or path.name.startswith("."):
        size = size_of(path)
    return Entry(kind=kind, path=path, size=size, used=path.lstat().st_mtime)


def size_of(path: Path) -> int:
    """Return the bytes on disk of a file, or of all below a folder; each hard link counts."""
    stat = path.lstat()
    size = stat.st_blocks * _BLOCK
    if path.is_dir() and not path.is_symlink():
        folders = [str(path)]
        while folders:
            with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as found:
                for item in found:
                    size += item.stat(follow_symlinks=False).st_blocks * _BLOCK
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
    return size


def _delete(entry: Entry) -> bool:
    """Delete an entry unless it is locked; return whether it is gone."""
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if entry.kind in _LOCKED:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if entry.path.is_dir():
            gone = entry.path.with_name(f".{entry.path.name}-gone")
            entry.path.rename(gone)  # complete or absent
            shutil.rmtree(gone, ignore_errors=True)
        else:
            entry.path.unlink()
    except OSError:  # locked, or not ours
        return False
    finally:
        os.close(fd)
    return True


def _read_sizes(cache: Cache) -> dict[str, int]:
    try:
        data = json.loads((cache.root / _SIZES).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write_sizes(cache: Cache, sizes: Mapping[str, int]) -> None:
    with contextlib.suppress(OSError):  # it is only faster with it
        temporary = cache.root / f"{_SIZES}.{os.getpid()}"
        temporary.write_text(json.dumps(sizes))
        temporary.replace(cache.root / _SIZES)
