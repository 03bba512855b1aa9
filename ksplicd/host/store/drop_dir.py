# SPDX-License-Identifier: GPL-2.0-only
"""The drop directory: which bundles are complete, with their signatures.

A bundle is any ``NAME.tar.gz``, its signature is ``NAME.tar.gz.minisig``, and either may come
first.  Hidden names and other endings are left alone: unfinished copies often have them.  The bus
watches the directory.  It calls ``consider`` for a file that was closed after writing or renamed
into place, and ``scan`` at a start and when it may have missed one.  Files are moved to
``rejected/`` and deleted here, but never read.
"""

import contextlib
import fcntl
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.errors import KspliceError
from ksplicd.host.store.store import SIGNATURE_SUFFIX, replace_file, store_errors, sync_folder

_BUNDLE_SUFFIX: Final = ".tar.gz"
_REASON_SUFFIX: Final = ".reason"
_TAKEN_SUFFIX: Final = ".taken"
_REJECTED_SUFFIX: Final = ".rejected"


Mark = tuple[int, int, int] | None
"""Inode, size and time of the last change, which identify a file; None: unknown."""


def mark(path: Path) -> Mark:
    """Return the mark of the file that has this path now."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A bundle to be verified."""

    bundle: Path
    signature: Path | None
    marks: tuple[Mark, Mark] = field(default=(None, None), compare=False)
    """Of bundle and signature, which other files may replace later."""


class DropDir:
    """The directory ``root``."""

    def __init__(self, root: Path, *, require_signature: bool) -> None:
        """With ``require_signature`` a bundle waits for its signature."""
        self.root = root
        self.require_signature = require_signature

    @property
    def rejected(self) -> Path:
        """The folder of refused files."""
        return self.root / "rejected"

    def scan(self) -> list[Drop]:
        """Return the complete drops, by name, after finishing what a kill left half moved."""
        with store_errors(self.root):
            for taken in self.root.glob(f".*{_BUNDLE_SUFFIX}{_TAKEN_SUFFIX}"):
                _forget(taken)
            for taken in self.root.glob(f".*{_BUNDLE_SUFFIX}{SIGNATURE_SUFFIX}{_TAKEN_SUFFIX}"):
                _forget_signature(taken)
            for moved in self.root.glob(f".*{_REJECTED_SUFFIX}"):
                self._finish_reject(moved)
            names = sorted(path.name for path in self.root.iterdir())
        drops = (self.consider(name) for name in names if is_bundle_name(name))
        return [drop for drop in drops if drop is not None]

    def waiting(self) -> list[str]:
        """Return the names of bundles that still lack their signature."""
        with store_errors(self.root):
            names = sorted(path.name for path in self.root.iterdir())
        if not self.require_signature:
            return []
        signed = {bundle_of(name) for name in names if not is_bundle_name(name)}
        return [name for name in names if is_bundle_name(name) and name not in signed]

    def consider(self, name: str) -> Drop | None:
        """Return the drop that file ``name`` belongs to, if it is complete."""
        bundle = self.root / bundle_of(name)
        if not bundle_of(name) or not _is_whole(bundle):
            return None
        signature = bundle.with_name(bundle.name + SIGNATURE_SUFFIX)
        if _is_whole(signature):
            return Drop(bundle=bundle, signature=signature)
        if self.require_signature or os.path.lexists(signature):
            return None
        return Drop(bundle=bundle, signature=None)

    def forget(self, drop: Drop) -> None:
        """Delete the files of a staged drop, but not newer files of the same names.

        Each is hidden first.  Nobody can open it by its name from then on, so that what it has once
        nobody writes to it any more is what it ends with, also where it was overwritten in place.
        """
        with store_errors(self.root):
            taken = drop.bundle.with_name(f".{drop.bundle.name}{_TAKEN_SUFFIX}")
            with contextlib.suppress(FileNotFoundError):
                drop.bundle.rename(taken)  # marks a signature that is left as its own
            if _put_back(taken, drop):
                return
            _forget(taken, drop.marks[1], keep_signature=_has_new_signature(drop))
            sync_folder(self.root)

    def reject(self, drop: Drop, reason: KspliceError) -> Path:
        """Move the files of a drop to ``rejected/``, with the reason beside them.

        Returns the bundle's new place.  Earlier rejects of the same name are kept.
        """
        with store_errors(self.rejected):
            self.rejected.mkdir(mode=0o700, exist_ok=True)
            place = self._free_place(drop.bundle.name)
            error = type(reason).__name__.removesuffix("Error")
            text = f"{error}: {reason}\n".encode(errors="replace")
            replace_file(place.with_name(place.name + _REASON_SUFFIX), text)
            moved = self.root / f".{place.name}{_REJECTED_SUFFIX}"
            with contextlib.suppress(FileNotFoundError):
                drop.bundle.rename(moved)  # marks a signature that is left as its own
            if not _put_back(moved, drop):
                self._finish_reject(moved, keep_signature=_has_new_signature(drop))
            sync_folder(self.rejected)
            sync_folder(self.root)
        return place

    def prune(self, limit: int) -> None:
        """Delete the oldest rejects until ``rejected/`` takes no more than ``limit`` bytes.

        The newest reject stays, whatever its size, and so do files of others.
        """
        with store_errors(self.rejected):
            if not self.rejected.exists():
                return
            sizes = {path: path.lstat().st_size for path in self.rejected.iterdir()}
            reasons = [path for path in sizes if path.name.endswith(_REASON_SUFFIX)]
            total = sum(sizes.values())
            for reason in sorted(reasons, key=lambda path: path.lstat().st_mtime_ns)[:-1]:
                if total <= limit:
                    return
                place = reason.with_name(reason.name.removesuffix(_REASON_SUFFIX))
                # the reason goes last, so that a crash leaves nothing that cannot be found
                for path in (place, place.with_name(place.name + SIGNATURE_SUFFIX), reason):
                    _delete(path)
                    total -= sizes.get(path, 0)

    def _finish_reject(self, moved: Path, *, keep_signature: bool = False) -> None:
        """Move the signature of a rejected bundle, unless it is kept, and then the bundle."""
        place = self.rejected / moved.name.removeprefix(".").removesuffix(_REJECTED_SUFFIX)
        is_first = place.name.endswith(_BUNDLE_SUFFIX)  # else: .tar.gz.1
        name = place.name if is_first else place.name.rpartition(".")[0]
        signature = self.root / (name + SIGNATURE_SUFFIX)
        for path, to in ((signature, f"{place}{SIGNATURE_SUFFIX}"), (moved, place)):
            if path == signature and keep_signature:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.rename(to)

    def _free_place(self, name: str) -> Path:
        """Return a free path in ``rejected/``: ``name``, ``name.1``, ``name.2``…"""
        number, place = 0, self.rejected / name
        while os.path.lexists(place):
            number += 1
            place = self.rejected / f"{name}.{number}"
        return place


def is_bundle_name(name: str) -> bool:
    """Return whether this is the name of a bundle, such as ``ksplice-8c4o6ucj.tar.gz``."""
    return name.endswith(_BUNDLE_SUFFIX) and not name.startswith(".") and "/" not in name


def bundle_of(name: str) -> str:
    """Return the bundle's name for that of a bundle or signature; empty for other files."""
    bundle = name.removesuffix(SIGNATURE_SUFFIX)
    return bundle if is_bundle_name(bundle) else ""


def _forget(taken: Path, seen: Mark = None, *, keep_signature: bool = False) -> None:
    """Delete a staged bundle, and before it its signature, ``seen`` once, unless that is kept."""
    name = taken.name.removeprefix(".").removesuffix(_TAKEN_SUFFIX)
    is_newer = os.path.lexists(taken.with_name(name))
    if not keep_signature and not is_newer:
        signature = taken.with_name(name + SIGNATURE_SUFFIX)
        hidden = signature.with_name(f".{signature.name}{_TAKEN_SUFFIX}")
        with contextlib.suppress(FileNotFoundError):
            signature.rename(hidden)
        if not _give_back(hidden, signature, seen):
            hidden.unlink(missing_ok=True)
    taken.unlink(missing_ok=True)


def _forget_signature(taken: Path) -> None:
    """Finish to delete a signature: it is one of a newer bundle, if there is one."""
    name = taken.name.removeprefix(".").removesuffix(_TAKEN_SUFFIX)
    signature = taken.with_name(name)
    if os.path.lexists(taken.with_name(bundle_of(name))) and not os.path.lexists(signature):
        taken.rename(signature)
    else:
        taken.unlink(missing_ok=True)


def _is_another(path: Path, seen: Mark) -> bool:
    """Return whether the path has a file other than the one that was ``seen``."""
    now = mark(path)
    return seen is not None and now is not None and now != seen


def _has_new_signature(drop: Drop) -> bool:
    """Return whether the signature is that of a newer bundle, which is still to come."""
    return drop.signature is not None and _is_another(drop.signature, drop.marks[1])


def _put_back(hidden: Path, drop: Drop) -> bool:
    """Give a newer bundle its name back, which was hidden in place of the one in ``drop``."""
    return _give_back(hidden, drop.bundle, drop.marks[0])


def _give_back(hidden: Path, path: Path, seen: Mark) -> bool:
    """Give a hidden file its name back, if it is not the one that was ``seen``, or becomes another.

    In that order: it is looked at once nobody can change it any more.
    """
    if not os.path.lexists(hidden) or (_is_whole(hidden) and not _is_another(hidden, seen)):
        return False
    if not os.path.lexists(path):  # else there is a still newer one
        hidden.rename(path)
    return True


def _delete(path: Path) -> None:
    """Delete a file, or a folder: somebody may have dropped one with a bundle's name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_whole(path: Path) -> bool:
    """Return whether ``path`` exists and nobody is writing to it.

    The kernel grants a read lease only on a file that nobody has open for writing (fcntl(2)).  If
    somebody opens the file while we hold the lease, we get SIGURG, which is ignored by default.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # a link, say, which staging will refuse
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    except OSError:
        return True  # not a plain file, not ours, or a file system without leases
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    return True
