# SPDX-License-Identifier: GPL-2.0-only
"""What must hold before a bundle is kept, and again before it is loaded.

Each step sees only what the step before it let through::

    owner and mode ─▸ private copy ─▸ signature, of a bundle ─▸ archive ─▸ contents, manifest
        ─▸ the very bundle ─▸ signer

Nothing of a bundle is parsed before its signature holds.  The verified bytes are the loaded bytes:
they are read once, into private memory, and each module goes from there into a sealed memfd
(``KernelDoor.load_module``).  Whether the update fits the kernel and the other updates is not
checked here (``updates.fit``, ``updates.order``).
"""

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import minisign
from ksplicd.bundle import MAX_BUNDLE_SIZE, Bundle, file_name, unpack
from ksplicd.config import Settings
from ksplicd.errors import (
    BadBundleError,
    BadSignatureError,
    KeyFileError,
    StoreError,
)
from ksplicd.host.store.store import Stored, store_errors
from ksplicd.host.trust.keyring import Keyring, check_not_expired
from ksplicd.host.trust.signers import check_signer

MAX_SIGNATURE_SIZE: Final = 16384
_FILE: Final = re.compile(r"(?:^|(?<=\s))(?:file:)?(ksplice-[a-z0-9]+\.tar\.gz)(?=\s|$)")
"""In a trusted comment such as minisign's ``timestamp:… file:NAME hashed``."""
_NO_PLAIN_FILE: Final = frozenset(
    {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM}
)
"""errno of open(2) for a link, a socket, a device, or a file without permission."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A bundle whose signature holds and whose parts agree."""

    bundle: Bundle
    signer: str
    """Key id as minisign prints it; empty for an unsigned bundle that the policy allows."""
    fingerprint: str = ""
    """Of that key."""
    trusted_comment: str = ""


# --- owner and mode, private copy ---------------------------------------------------------------


def read_file(path: Path, limit: int = MAX_BUNDLE_SIZE, owner: int = 0) -> bytes:
    """Return the bytes of a dropped file that only ``owner`` can write.

    Raises ``FileNotFoundError`` when it is gone, ``BadBundleError`` naming the file, and
    ``StoreError`` when it cannot be read through no fault of its own.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as e:
        kind = BadBundleError if e.errno in _NO_PLAIN_FILE else StoreError
        raise kind(f"{path}: cannot be opened as a plain file: {e.strerror}") from None
    try:
        with store_errors(path):
            _check_status(path, os.fstat(fd), limit, owner)
            with os.fdopen(fd, "rb", closefd=False) as f:
                data = f.read(limit + 1)
    finally:
        with contextlib.suppress(OSError):  # its bytes are read
            os.close(fd)
    if len(data) > limit:
        raise BadBundleError(f"{path}: over {limit} bytes")
    return data


def _check_status(path: Path, status: os.stat_result, limit: int, owner: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadBundleError(f"{path}: not a plain file")
    if status.st_nlink != 1:
        raise BadBundleError(f"{path}: has {status.st_nlink} names (hard links); copy it instead")
    if status.st_uid != owner:
        raise BadBundleError(f"{path}: belongs to uid {status.st_uid}, not to {owner}; chown it")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise BadBundleError(f"{path}: mode {mode:04o} lets others write; chmod it to 0644")
    if status.st_size > limit:
        raise BadBundleError(f"{path}: over {limit} bytes")


# --- signature, archive, contents, manifest -----------------------------------------------------


def check_bundle(stored: Stored, keyring: Keyring, settings: Settings, now: float) -> Trusted:
    """Return the contents of a bundle whose signature holds at ``now``, in seconds since 1970.

    A signature must hold even where none is required.  Raises ``BadSignatureError``,
    ``SignerNotAllowedError``, ``BadBundleError``, ``KeyFileError``.
    """
    trusted = _check_whole(stored, keyring, settings, now)
    check_signer(trusted.bundle.manifest, trusted.signer, settings.signers, trusted.fingerprint)
    return trusted


def _check_whole(stored: Stored, keyring: Keyring, settings: Settings, now: float) -> Trusted:
    if stored.signature is None:
        if settings.require_signature:
            raise BadSignatureError(
                "signature: missing; put the bundle's .minisig file beside it, "
                "or set require-signature = no in ksplicd.conf"
            )
        return Trusted(bundle=unpack(stored.bundle), signer="")
    verified = check_signature(stored.bundle, stored.signature, keyring, now)
    names = _named_by(verified.trusted_comment)
    bundle = unpack(stored.bundle)
    if (name := file_name(bundle.manifest.kid)) not in names:
        raise BadSignatureError(
            f"signature: its signed comment names {', '.join(sorted(names))}, and this is {name}"
        )
    return Trusted(
        bundle=bundle,
        signer=verified.key.name,
        fingerprint=verified.key.fingerprint,
        trusted_comment=verified.trusted_comment,
    )


def _named_by(comment: str) -> frozenset[str]:
    """Return the bundles that a trusted comment names.

    A key may have signed other things than bundles.  ``ksplice create`` and ``ksplice sign`` name
    the file, and minisign does unless it is given another comment.
    """
    names = frozenset(_FILE.findall(comment))
    if not names:
        raise BadSignatureError(
            f"signature: its signed comment names no bundle, but says {comment!a}; sign the file "
            "ksplice-KID.tar.gz under that name, as `ksplice sign` and minisign do"
        )
    return names


def check_signature(
    data: bytes, signature: bytes, keyring: Keyring, now: float
) -> minisign.Verified:
    """Return who signed ``data``.

    Raises ``BadSignatureError``, and ``KeyFileError`` when a key file that is ignored may be the
    one of the signature: the bundle is not at fault then.
    """
    if len(signature) > MAX_SIGNATURE_SIZE:
        raise BadSignatureError(f"signature: over {MAX_SIGNATURE_SIZE} bytes")
    try:
        text = signature.decode()
    except UnicodeDecodeError:
        raise BadSignatureError("signature: not a .minisig file: not text") from None
    keys = keyring.read()
    if keys.ignored and minisign.read_key_id(text) not in {key.key_id for key in keys.trusted}:
        bad = "; ".join(keys.ignored.values())
        raise KeyFileError(f"signature: made by none of the keys that can be used; {bad}")
    verified = minisign.verify(data, text, keys.trusted)
    check_not_expired(verified.key, now)
    return verified
