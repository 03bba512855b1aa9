# SPDX-License-Identifier: GPL-2.0-only
"""What must hold before a bundle is kept, and again before it is loaded.

In this order, each step on what the one before has let through::

    owner and mode ─▸ a copy of our own ─▸ signature ─▸ archive ─▸ contents, manifest ─▸ signer
                   ─▸ kernel ─▸ /sys/module ─▸ what it depends on

Nothing of a bundle is parsed before its signature holds, and what is loaded is what was verified:
the bytes are read once, into memory that nobody else has, and the modules go from there into a
sealed memfd (kernel.load_module).  Questions to the kernel only; nothing is changed here.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import minisign
from ksplicd.bundle import MAX_BUNDLE_SIZE, Bundle, unpack
from ksplicd.config import Settings
from ksplicd.errors import (
    BadBundleError,
    BadSignatureError,
    ExcludedError,
    InUseError,
    MissingDependencyError,
    ModulePresentError,
    NoMatchError,
    StoreError,
    SupersededError,
    TargetNotLoadedError,
    WrongKernelError,
)
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.host.store.store import Stored, store_errors
from ksplicd.host.trust.keyring import Keyring, check_not_expired
from ksplicd.host.trust.signers import check_signer
from ksplicd.model import Manifest, core_module, new_module, old_module

MAX_SIGNATURE_SIZE: Final = 16384
_VMLINUX: Final = "vmlinux"
_NO_PLAIN_FILE: Final = frozenset(
    {errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM}
)
"""errno of open(2) for what is a link, a socket, a device, or not for us to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """A bundle whose signature holds and whose parts agree."""

    bundle: Bundle
    signer: str
    """Key id as minisign prints it; empty for an unsigned bundle that the policy lets through."""
    trusted_comment: str = ""


# --- owner and mode, a copy of our own ----------------------------------------------------------


def read_file(path: Path, limit: int = MAX_BUNDLE_SIZE, owner: int = 0) -> bytes:
    """Return the bytes of a dropped file that ``owner`` alone could write.

    Raises ``FileNotFoundError`` when it is gone again, ``BadBundleError`` naming the file, and
    ``StoreError`` when it is not the file's fault that it cannot be read.
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
        with contextlib.suppress(OSError):  # it was read
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
    """Return what a bundle holds once its signature does, ``now`` in seconds since 1970.

    A signature that is there must hold even where none is required.  Raises ``BadSignatureError``,
    ``SignerNotAllowedError``, ``BadBundleError``, ``KeyFileError``.
    """
    trusted = _check_whole(stored, keyring, settings, now)
    check_signer(trusted.bundle.manifest, trusted.signer, settings.signers)
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
    return Trusted(
        bundle=unpack(stored.bundle),
        signer=verified.key.name,
        trusted_comment=verified.trusted_comment,
    )


def check_signature(
    data: bytes, signature: bytes, keyring: Keyring, now: float
) -> minisign.Verified:
    """Return who signed ``data``.  Raises ``BadSignatureError``, ``KeyFileError``."""
    if len(signature) > MAX_SIGNATURE_SIZE:
        raise BadSignatureError(f"signature: over {MAX_SIGNATURE_SIZE} bytes")
    try:
        text = signature.decode()
    except UnicodeDecodeError:
        raise BadSignatureError("signature: not a .minisig file: not text") from None
    verified = minisign.verify(data, text, keyring.read())
    check_not_expired(verified.key, now)
    return verified


# --- kernel, /sys/module ------------------------------------------------------------------------


def check_kernel(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``WrongKernelError`` when the update is for another kernel than the running one."""
    wanted = manifest.kernel
    release = kernel.release()
    if wanted.release != release:
        raise WrongKernelError(
            f"{manifest.kid}: is for kernel {wanted.release}, but {release} runs here"
        )
    build_id = kernel.build_id()
    if wanted.build_id != build_id:
        raise WrongKernelError(
            f"{manifest.kid}: is for another build of {release}: build id {wanted.build_id}, "
            f"but {build_id} runs here; build it from this kernel's own package version"
        )


def update_modules(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the update's modules in the order in which they are loaded."""
    kid = manifest.kid
    olds = (old_module(kid, target.name) for target in manifest.targets)
    return core_module(kid), *olds, new_module(kid)


def check_modules(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``ModulePresentError`` when a module of one of the update's names is loaded."""
    loaded = kernel.modules()
    for name in update_modules(manifest):
        if name in loaded and kernel.is_kept(name):
            raise ModulePresentError(
                f"/sys/module/{name}: is there since the update was undone, because the kernel may"
                " hold pointers to its functions; this update can be applied again after the next"
                " boot, and one made anew of the same patch now"
            )
        if name in loaded:
            raise ModulePresentError(
                f"/sys/module/{name}: is there, but was not loaded by ksplicd; `rmmod {name}` first"
            )


def check_targets(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``TargetNotLoadedError`` when a module is not loaded that must be."""
    loaded = kernel.modules() | {_VMLINUX}
    for target in manifest.targets:
        if not target.late and target.name.replace("-", "_") not in loaded:
            raise TargetNotLoadedError(
                f"{manifest.kid}: patches module {target.name}, which is not loaded; "
                f"`modprobe {target.name}` first"
            )


# --- what it depends on -------------------------------------------------------------------------


def check_below(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``NoMatchError`` when what it was built on top of is not what is applied.

    Ids are chosen by whoever builds; the build id of the module in the kernel tells what was built.
    """
    for kid, build_id in manifest.built_on.items():
        if (found := kernel.module_build_id(new_module(kid))) != build_id:
            raise NoMatchError(
                f"{manifest.kid}: was built on top of update {kid} with build id {build_id};"
                f" what is applied has {found or 'none'}: build it again, on top of that one"
            )


def check_replaced(manifest: Manifest, kernel: KernelDoor) -> None:
    """Raise ``NoMatchError`` when another live patch replaces a function that this one does.

    What runs then is not what the update was built from, unless it depends on that one, or is
    instead of it: then it goes on top, and the other one is taken out below.
    """
    ours = {
        (target.name.replace("-", "_"), f.name, f.sympos or 1)
        for target in manifest.targets
        for f in target.functions
    }
    allowed = {new_module(kid) for kid in (*manifest.depends, *manifest.replaces)}
    for patch, functions in sorted(kernel.replaced().items()):
        if patch in allowed:
            continue
        for target, name, _ in sorted(ours & functions):
            raise NoMatchError(
                f"{manifest.kid}: {target}: {name} is replaced by the live patch {patch}; undo that"
                " one first, or build this one on top of it (`ksplice create --series`)"
            )


def can_be_below(manifest: Manifest) -> bool:
    """Tell whether an update leaves the old code as it is, so that one instead of it matches.

    livepatch does; a kprobe writes into it, and a pointer that was exchanged is another one.
    """
    return all(
        not target.pointers and all(f.how == "livepatch" for f in target.functions)
        for target in manifest.targets
    )


def check_dependencies(manifest: Manifest, applied: Iterable[Manifest]) -> None:
    """Raise ``MissingDependencyError``, ``InUseError``, ``SupersededError`` or ``ExcludedError``.

    That is when one of the ``applied`` updates stands in the way, or one is not there.
    """
    kid = manifest.kid
    others = {other.kid: other for other in applied}
    for needed in manifest.depends:
        if needed not in others:
            raise MissingDependencyError(
                f"{kid}: depends on update {needed}, which is not applied; apply it first"
            )
    for old in manifest.replaces:
        if old in others and not can_be_below(others[old]):
            raise InUseError(
                f"{kid}: replaces update {old}, which is applied and has a kprobe or a pointer"
                " where this one looks for the old code; undo that one first"
            )
    for other in others.values():
        if kid in other.replaces:
            raise SupersededError(
                f"{kid}: is replaced by update {other.kid}, which is applied; "
                f"`ksplice undo {other.kid}` first if the older one is really wanted"
            )
        if other.kid in manifest.excludes or kid in other.excludes:
            who = kid if other.kid in manifest.excludes else other.kid
            raise ExcludedError(
                f"{kid}: must not be applied together with update {other.kid}, which is applied "
                f"(so says the manifest of {who}); undo that one first"
            )
