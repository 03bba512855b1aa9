# SPDX-License-Identifier: GPL-2.0-only
"""A stock kernel that is locked down: updates with and without the kernel's own signature.

The certificate of the key is in the firmware's ``db``, from where the kernel takes it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache, digest_of
from ksplicd.create.modules.signature import ModuleKey, sign_module
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.lab.guest import Guest
from ksplicd.lab.qemu import Machine
from ksplicd.lab.snapshot import Snapshot, take_snapshot
from ksplicd.run import run
from tests.support.guest.commands import with_commands
from tests.support.guest.firmware import firmware_with_key
from tests.support.guest.hand import has_complaint, is_clean, write_patch
from tests.support.guest.host import Host
from tests.support.guest.install import package_layer
from tests.support.guest.maker import FIRST, Maker
from tests.support.kernels import slice as sample

KID = "lockdown"
MARK = b"~Module signature appended~\n"
TRUSTED, UNKNOWN = "ksplice test key", "a key of nobody"


def module_key(cache: Cache, name: str) -> ModuleKey:
    """A key for modules, the same one in each run: the snapshot is for its certificate."""

    def make(folder: Path) -> None:
        files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
        new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500"]
        run(["openssl", *new, "-subj", f"/CN={name}/", *files])

    folder = cache.entry("module-key", digest_of(name), make)
    return ModuleKey(key=folder / "key.pem", certificate=folder / "cert.pem")


@pytest.fixture(scope="module")
def locked_snapshot(
    lab_cache: Cache, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    certificate = module_key(lab_cache, TRUSTED).certificate
    der = run(["openssl", "x509", "-in", certificate, "-outform", "DER"])
    firmware = firmware_with_key(lab_cache, der)
    trusting = replace(machine, firmware=firmware)
    layer = with_commands(package_layer(tmp_path_factory.mktemp("install")))
    return take_snapshot(lab_cache, trusting, layer)


@pytest.fixture
def locked_guest(locked_snapshot: Snapshot) -> Iterator[Guest]:
    with Guest(locked_snapshot) as running:
        yield running


class Updates:
    """One update, as create makes it for such a host, and with its modules signed otherwise."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        key = module_key(maker.cache, TRUSTED)
        patch = write_patch(maker.tree, maker.folder / "update.patch", FIRST)
        request = sample.request_for(maker.cache, maker.kernel, patch, kid=KID)
        self._config = read_config_dir(request.config)
        created = sample.create_alone(
            maker.cache, replace(request, module_key=key), maker.cache.progress
        )
        self._bundle = bundle.unpack(created.data)
        self.signed = maker.sign(KID, created.data, self._folder("signed"))

    def unsigned(self) -> Path:
        return self._with("unsigned", strip)

    def by(self, name: str) -> Path:
        key = module_key(self._maker.cache, name)
        return self._with("by", lambda ko: sign_module(strip(ko), key, self._config))

    def _with(self, name: str, change: Callable[[bytes], bytes]) -> Path:
        """Return the bundle with every module changed."""
        files = self._bundle.files
        changed = {n: change(data) for n, data in files.items() if n.endswith(".ko")}
        kept = {n: files[n] for n in ("patch", "timestamp", "utsname")}
        data = bundle.pack(self._bundle.manifest, {**kept, **changed})
        return self._maker.sign(KID, data, self._folder(name))

    def _folder(self, name: str) -> Path:
        folder = self._maker.folder / name
        folder.mkdir()
        return folder


def strip(ko: bytes) -> bytes:
    """Return a module without its signature."""
    assert ko.endswith(MARK)
    body = ko[: -len(MARK)]
    return body[: -12 - int.from_bytes(body[-4:], "big")]


@pytest.fixture(scope="module")
def updates(maker: Maker) -> Updates:
    return Updates(maker)


def test_locked_down_kernel(locked_guest: Guest, maker: Maker, updates: Updates) -> None:
    guest, host = locked_guest, Host(locked_guest, maker.key.public)
    keys = guest.run("cat /proc/keys").out
    assert TRUSTED in keys, guest.kernel_log()

    guest.run("echo integrity > /sys/kernel/security/lockdown")
    name, message = host.apply(updates.unsigned())
    assert name == "module_refused"
    assert "this kernel is locked down (lockdown=integrity)" in message
    assert "this one has no signature: build the update with --module-sign-key" in message
    host.ksplice(f"remove {KID}")
    name, message = host.apply(updates.by(UNKNOWN))
    assert name == "module_refused"
    assert f"the module is signed by “{UNKNOWN}”, which it does not trust: enrol" in message
    host.ksplice(f"remove {KID}")
    assert is_clean(guest)

    assert host.apply(updates.signed) == ("", "")
    assert host.bits() == 16
    assert host.undo(KID) == ("", "")
    assert host.bits() == 0
    assert is_clean(guest)
    assert "[integrity]" in guest.run("cat /sys/kernel/security/lockdown").out
    assert not has_complaint(guest.kernel_log())
