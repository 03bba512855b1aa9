# SPDX-License-Identifier: GPL-2.0-only
"""Makes bad bundles from a good one, which is taken apart and put together again.

A fault is a function that returns the bytes of a bad bundle.  All but the fault is right: the
archive is whole and the manifest has the digests of its files.
"""

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

from tests.support.bundles import samples
from tests.support.bundles.samples import KID

FOLDER: Final = f"ksplice-{KID}"
CORE: Final = f"ksplice_{KID}.ko"
NEW: Final = f"ksplice_{KID}_new.ko"
OLD: Final = f"ksplice_{KID}_vmlinux_old.ko"
TAR: Final = gzip.decompress(samples.bundle())

FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {}


def fault(message: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Note a bad bundle and what is to be said of it."""

    def note(make: Callable[[], bytes]) -> Callable[[], bytes]:
        assert make.__name__ not in FAULTS
        FAULTS[make.__name__] = (make, message)
        return make

    return note


def good_files() -> dict[str, bytes]:
    """Return all files of a good bundle, the manifest too."""
    with tarfile.open(fileobj=BytesIO(TAR)) as tar:
        files = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            files[member.name.removeprefix(f"{FOLDER}/")] = content.read()
        return files


def member(name: str, data: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a compressed tar file."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


def bundle_of(files: Mapping[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of ``files`` as they are, and ``more``."""
    return tar_of(*(member(f"{FOLDER}/{name}", data) for name, data in files.items()), *more)


def with_files(change: Mapping[str, bytes | None]) -> bytes:
    """Return a good bundle with files changed or (None) taken out, also in the manifest."""
    files = good_files()
    manifest = json.loads(files["manifest.json"])
    for name, data in change.items():
        if data is None:
            del files[name], manifest["files"][name]
        else:
            files[name] = data
            digest = hashlib.sha256(data).hexdigest()
            manifest["files"][name] = {"size": len(data), "sha256": digest}
    return bundle_of({**files, "manifest.json": json.dumps(manifest).encode()})


def with_manifest(edit: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a good bundle with its manifest edited."""
    files = good_files()
    manifest = json.loads(files["manifest.json"])
    edit(manifest)
    return bundle_of({**files, "manifest.json": json.dumps(manifest).encode()})


def with_text(text: bytes) -> bytes:
    """Return a good bundle with another manifest.json."""
    return bundle_of({**good_files(), "manifest.json": text})
