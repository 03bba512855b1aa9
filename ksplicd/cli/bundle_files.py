# SPDX-License-Identifier: GPL-2.0-only
"""Bundles as files and folders, read whole.

No signature is checked here: that is the daemon's part.
"""

from pathlib import Path

from ksplicd.bundle import Bundle, pack, unpack
from ksplicd.errors import BadBundleError
from ksplicd.manifest import NAME, read_manifest


def read_tarball(path: Path) -> tuple[bytes, bytes | None]:
    """Return a bundle's bytes and its signature's, if it has one.  ``BadBundleError``."""
    signature = path.with_name(path.name + ".minisig")
    try:
        return path.read_bytes(), signature.read_bytes() if signature.exists() else None
    except OSError as e:
        raise BadBundleError(f"{e.filename}: {e.strerror}") from e


def read_bundle(path: Path) -> Bundle:
    """Return what is in a bundle's file.  Raises ``BadBundleError``, which names the file."""
    data, _ = read_tarball(path)
    try:
        return unpack(data)
    except BadBundleError as e:
        raise BadBundleError(f"{path}: {e}") from e


def read_tree(path: Path) -> tuple[bytes, None]:
    """Return an unpacked bundle packed again: the same bytes as the original's, without signature.

    Raises ``BadBundleError`` when a file is missing or not the one that the manifest describes.
    """
    try:
        files = {entry.name: entry.read_bytes() for entry in path.iterdir()}
    except OSError as e:
        raise BadBundleError(f"{e.filename}: {e.strerror}: is {path} an unpacked bundle?") from e
    if NAME not in files:
        raise BadBundleError(f"{path}: has no {NAME}: is it an unpacked bundle?")
    manifest = read_manifest(files.pop(NAME))
    for name in ("contents", "description", "api-version", "timestamp", "utsname", "patch"):
        if name not in files:
            raise BadBundleError(f"{path}/{name}: is missing")
    bundle = pack(manifest, files)
    packed = unpack(bundle).manifest.files
    for name in sorted(packed.keys() | manifest.files.keys()):
        if packed.get(name) != manifest.files.get(name):
            raise BadBundleError(f"{path}/{name}: is not the file that {NAME} describes")
    return bundle, None
