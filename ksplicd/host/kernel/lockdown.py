# SPDX-License-Identifier: GPL-2.0-only
"""Why a kernel with a policy refuses a module, and what is missing.

Under lockdown (security/lockdown) every refusal is EPERM, whether the module has no signature or
one by an unknown key (kernel/module/signing.c, module_sig_check), and dmesg says no more.  The
reason is derived from the module and from the policy that the kernel shows.

Other policies are about the file that a module comes from, and a live patch comes from memory: that
is on no file system of LoadPin's (EPERM; security/loadpin/loadpin.c, loadpin_check()), has no
security.ima for IMA to appraise (EACCES; security/integrity/ima/ima_appraise.c), and has a label of
SELinux's that may load no modules (EACCES; security/selinux/hooks.c,
selinux_kernel_module_from_file()).
"""

import errno
from pathlib import Path
from typing import Final

from ksplicd.errors import UnexpectedError
from ksplicd.host.kernel.sysfs import read_attribute

_MARK: Final = b"~Module signature appended~\n"  # <linux/module_signature.h>
_TRAILER_SIZE: Final = 12  # struct module_signature; its last four bytes are the length, big-endian
_COMMON_NAME: Final = b"\x06\x03\x55\x04\x03"  # OID 2.5.4.3 in DER (X.520)

_SIGN_IT: Final = "build the update with --module-sign-key"
_ENROL_IT: Final = (
    "enrol that key's certificate where this kernel looks for keys (`mokutil --import`, or the "
    "firmware's db), and reboot"
)
_PINNED: Final = (
    "LoadPin is in force: this kernel loads modules from one file system only, and those of a live "
    "patch come from memory; `sysctl kernel.loadpin.enforced=0` where the kernel lets one, or boot "
    "with loadpin.enforce=0"
)
_IMA: Final = (
    "IMA appraises modules (a rule with func=MODULE_CHECK), and those of a live patch come from "
    "memory, where no security.ima can be: the rule has to say appraise_type=imasig|modsig, and "
    "the key of the signature in the module has to be in the keyring .ima"
)
_SELINUX: Final = (
    "SELinux does not let ksplicd load modules from memory files (module_load; `ausearch -m avc`): "
    "allow that in its policy"
)


def signer_of(module: bytes) -> str | None:
    """Return the name in the signature of a .ko file, or None when there is no signature.

    The name is that of the certificate's issuer, which in a self-signed certificate is the signer.
    It is empty when the certificate has none.
    """
    if not module.endswith(_MARK):
        return None
    body = module[: -len(_MARK)]
    size = int.from_bytes(body[-4:], "big")
    signature = body[-_TRAILER_SIZE - size : -_TRAILER_SIZE]
    at = signature.find(_COMMON_NAME)
    if at < 0:
        return ""
    start = at + len(_COMMON_NAME) + 2  # after the string's tag and its length, which is below 128
    length = int.from_bytes(signature[start - 1 : start])
    return ascii(signature[start : start + length].decode(errors="replace"))[1:-1]


def modules_disabled(proc: Path) -> bool:
    """Tell whether no module can be loaded or unloaded until the next boot."""
    return _read(proc / "sys/kernel/modules_disabled") == "1"


def why_refused(module: bytes, error: int, sys: Path, proc: Path) -> str:
    """Return why finit_module failed with ``error``, and what is missing; empty when unknown.

    ``sys`` and ``proc`` are the mount points of sysfs and procfs.
    """
    if error == errno.EPERM and modules_disabled(proc):
        return "kernel.modules_disabled is 1: no module can be loaded until the machine reboots"
    if error == errno.EACCES:
        return _why_denied(module, sys)
    policy = read_policy(sys)
    if error == errno.EPERM and not policy and is_pinned(sys, proc):
        return _PINNED
    if error not in {errno.EPERM, errno.EKEYREJECTED, errno.ENOKEY} or not policy:
        return ""
    signer = signer_of(module)
    if signer is None:
        return (
            f"{policy} and loads only modules signed by a key that it trusts, but this one has no "
            f"signature: {_SIGN_IT}, and {_ENROL_IT}"
        )
    by = f"by “{signer}”" if signer else "by a key without a name"
    return f"{policy}, and the module is signed {by}, which it does not trust: {_ENROL_IT}"


def is_pinned(sys: Path, proc: Path) -> bool:
    """Tell whether LoadPin is in force; it shows its switch only where that can be turned."""
    is_there = "loadpin" in _read(sys / "kernel/security/lsm").split(",")
    return is_there and _read(proc / "sys/kernel/loadpin/enforced") != "0"


def _why_denied(module: bytes, sys: Path) -> str:
    """Return what may have refused a module from memory; empty when nothing of the kind is on."""
    found = []
    if _read(sys / "fs/selinux/enforce") == "1":
        found.append(_SELINUX)
    if (sys / "kernel/security/ima").is_dir():
        found.append(_IMA if signer_of(module) is not None else f"{_IMA}; {_SIGN_IT}")
    return ", or ".join(found)


def read_policy(sys: Path) -> str:
    """Return the policy of this kernel that requires signatures; empty when there is none."""
    words = _read(sys / "kernel/security/lockdown").split()
    mode = next((word.strip("[]") for word in words if word.startswith("[")), "none")
    if mode != "none":
        return f"this kernel is locked down (lockdown={mode})"
    if _read(sys / "module/module/parameters/sig_enforce") == "Y":
        return "this kernel enforces module signatures (module.sig_enforce)"
    return ""


def _read(path: Path) -> str:
    """Return the contents of ``path``, or empty text when it cannot be read."""
    try:
        return read_attribute(path) or ""
    except UnexpectedError:
        return ""
