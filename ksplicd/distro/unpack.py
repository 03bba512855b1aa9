# SPDX-License-Identifier: GPL-2.0-only
"""Unpacking of packages into the cache."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ksplicd.cache import Cache
from ksplicd.errors import DistroError, NoSpaceError, ToolError
from ksplicd.run import run


def unpack_debs(cache: Cache, debs: Sequence[Path], folder: Path) -> None:
    """Unpack packages over each other into a folder.

    Raises ``NoSpaceError``, and ``DistroError`` for a damaged file, which is deleted.
    """
    for deb in debs:
        cache.progress(f"unpacking {deb.name}")
        with_cause(deb, partial(run, ["dpkg-deb", "-x", deb, folder]))


def with_cause(deb: Path, unpack: Callable[[], object]) -> None:
    """Run what unpacks a package; say what its failure means, and delete a damaged file."""
    try:
        unpack()
    except ToolError as e:
        words = str(e)
        if "No space left" in words or "Disk quota" in words:
            raise NoSpaceError(f"{deb}: the disk is full; see `ksplice cache`") from e
        deb.unlink(missing_ok=True)
        raise DistroError(
            f"{deb.name}: cannot be unpacked; it was deleted, and the next run downloads it"
            f" again\n{words}"
        ) from e
