# SPDX-License-Identifier: GPL-2.0-only
"""The error that a locked-down kernel's refusal becomes."""

import errno
from pathlib import Path

import pytest

from ksplicd.host.kernel.lockdown import signer_of, why_refused

MARK = b"~Module signature appended~\n"
NAME = b"\x06\x03\x55\x04\x03\x0c\x08Test Key"


def signed(signature: bytes) -> bytes:
    return b"\x7fELF" + signature + bytes(8) + len(signature).to_bytes(4, "big") + MARK


UNSIGNED = b"\x7fELF"
SIGNED = signed(b"\x30\x82" + NAME + b"more")


@pytest.mark.parametrize(
    ("module", "signer"),
    [
        (UNSIGNED, None),
        (SIGNED, "Test Key"),
        (signed(b"nameless"), ""),
        (signed(b"\x06\x03\x55\x04\x03\x0c\x08A\x1b[2J\n\xff!"), "A\\x1b[2J\\n\\ufffd!"),
        (signed(b"\x06\x03\x55\x04\x03"), ""),
        (MARK, ""),
    ],
)
def test_signer(module: bytes, signer: str | None) -> None:
    assert signer_of(module) == signer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("sys/kernel/security", "sys/module/module/parameters", "proc/sys/kernel"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/modules_disabled").write_text("0\n")
    (tmp_path / "sys/kernel/security/lockdown").write_text("none [integrity] confidentiality\n")
    (tmp_path / "sys/module/module/parameters/sig_enforce").write_text("N\n")
    return tmp_path


def why(root: Path, module: bytes, error: int = errno.EPERM) -> str:
    return why_refused(module, error, root / "sys", root / "proc")


def test_unsigned_module(root: Path) -> None:
    assert why(root, UNSIGNED) == (
        "this kernel is locked down (lockdown=integrity) and loads only modules signed by a key "
        "that it trusts, but this one has no signature: build the update with --module-sign-key, "
        "and enrol that key's certificate where this kernel looks for keys (`mokutil --import`, or "
        "the firmware's db), and reboot"
    )


def test_unknown_key(root: Path) -> None:
    assert "the module is signed by “Test Key”, which it does not trust: enrol" in why(root, SIGNED)
    assert "signed by a key without a name" in why(root, signed(b""))


def test_enforced_signatures(root: Path) -> None:
    (root / "sys/kernel/security/lockdown").write_text("[none] integrity confidentiality\n")
    assert why(root, UNSIGNED) == ""
    (root / "sys/module/module/parameters/sig_enforce").write_text("Y\n")
    said = why(root, UNSIGNED, errno.EKEYREJECTED)
    assert said.startswith(
        "this kernel enforces module signatures (module.sig_enforce) and loads only"
    )


def test_loadpin(root: Path) -> None:
    """It shows its switch only where that can be turned; a locked-down kernel comes first."""
    (root / "sys/kernel/security/lsm").write_text("capability,loadpin,apparmor\n")
    assert why(root, SIGNED).startswith("this kernel is locked down")
    (root / "sys/kernel/security/lockdown").unlink()
    assert why(root, SIGNED).startswith("LoadPin is in force: this kernel loads modules from one")
    switch = root / "proc/sys/kernel/loadpin/enforced"
    switch.parent.mkdir()
    switch.write_text("0\n")
    assert why(root, SIGNED) == ""
    switch.write_text("1\n")
    assert why(root, SIGNED).startswith("LoadPin is in force")
    assert why(root, SIGNED, errno.EACCES) == ""


def test_ima_appraises_modules(root: Path) -> None:
    (root / "sys/kernel/security/ima").mkdir()
    said = why(root, UNSIGNED, errno.EACCES)
    assert said.startswith("IMA appraises modules (a rule with func=MODULE_CHECK)")
    assert "imasig|modsig" in said
    assert said.endswith("build the update with --module-sign-key")
    assert "--module-sign-key" not in why(root, SIGNED, errno.EACCES)


def test_selinux_lets_no_module_be_loaded(root: Path) -> None:
    (root / "sys/fs/selinux").mkdir(parents=True)
    (root / "sys/fs/selinux/enforce").write_text("1")
    assert why(root, SIGNED, errno.EACCES).startswith("SELinux does not let ksplicd load modules")
    (root / "sys/fs/selinux/enforce").write_text("0")
    assert why(root, SIGNED, errno.EACCES) == ""


def test_no_modules_any_more(root: Path) -> None:
    (root / "proc/sys/kernel/modules_disabled").write_text("1\n")
    assert why(root, SIGNED).startswith("kernel.modules_disabled is 1")
    assert why(root, UNSIGNED, errno.ENOEXEC) == ""


def test_kernel_without_lockdown(tmp_path: Path) -> None:
    assert why(tmp_path, UNSIGNED) == ""
