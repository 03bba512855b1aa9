# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots: a booted guest, saved to disk, restored in under a second.

```
machine ─boot, warm up▸ snapshot ─restore, lay over files, run commands▸ snapshot with a layer
```

A snapshot is the guest's memory as a file, which restored guests map privately, the state of the
devices, and what was written to the disk.  It is named by the image, QEMU's version and command
line, and by its layers; it is made on first use.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, digest_of_tree
from ksplicd.lab.qemu import Machine, Qemu, make_overlay
from ksplicd.lab.running_guest import RunningGuest
from ksplicd.run import run

_VERSION: Final = 2
"""Raised when this module makes something else of the same parts."""

_KEPT: Final = {"snapshot": 8, "snapshot-layered": 8}
"""How many of each are not deleted, 200 MB each; those used last."""

# What every use of the guest needs is in its page cache then, and systemd is at rest.
_IMPORTS: Final = (
    *("gi", "pydbus", "pyudev", "systemd.journal", "systemd.daemon", "elftools.elf.elffile"),
    *("pyroute2.netlink.generic", "gi.repository.GLib", "gi.repository.Gio"),
)
_WARM_UP: Final = (
    f"python3 -c 'import {', '.join(_IMPORTS)}'",
    "busctl list >/dev/null; journalctl -n 1 >/dev/null; lsmod >/dev/null",
    # polkitd starts when it is first asked, and stays
    "pkaction >/dev/null",
    "insmod --version >/dev/null; rmmod --version >/dev/null; tar --version >/dev/null",
)
_SETTLE: Final = ("sync", "dmesg --clear")
_SETTLE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Something laid over a booted guest, as installing a package does it."""

    tree: Path | None = None
    """A folder, whose files are copied over ``/``, owned by root."""
    commands: tuple[str, ...] = ()
    """Lines for the guest's shell, run afterwards."""

    def digest(self) -> str:
        """Return what names the layer."""
        return digest_of(self.tree and digest_of_tree(self.tree), self.commands)


PACKAGE_COMMANDS: Final = (
    "systemd-sysusers && systemd-tmpfiles --create",
    "systemctl daemon-reload",
    "journalctl --update-catalog",
    "busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig",
)
"""What dpkg's triggers do for files in the folders of systemd, the journal and the bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A saved guest."""

    machine: Machine
    folder: Path

    @property
    def disk(self) -> Path:
        """What was written to the disk, qcow2 on top of the image."""
        return self.folder / "disk.qcow2"

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        """The devices' state."""
        return self.folder / "state"


def take_snapshot(cache: Cache, machine: Machine, *layers: Layer) -> Snapshot:
    """Return the snapshot of ``machine`` with ``layers``, made on first use (15 s; a layer 4 s)."""
    digest = digest_of(_VERSION, machine.digest(), _WARM_UP, _SETTLE, [x.digest() for x in layers])

    def make(new: Path) -> None:
        if layers:
            _lay_over(cache, take_snapshot(cache, machine, *layers[:-1]), layers[-1], new)
        else:
            _boot(cache, machine, new)

    kind = "snapshot-layered" if layers else "snapshot"
    folder = cache.entry(kind, digest, make)
    cache.prune(kind, keep=_KEPT[kind])
    return Snapshot(machine=machine, folder=folder)


def _boot(cache: Cache, machine: Machine, new: Path) -> None:
    cache.progress(f"booting the guest ({machine.accelerator.split(',')[0]})")
    target = Snapshot(machine=machine, folder=new)
    make_overlay(target.disk, machine.image.disk, "raw")
    qemu = Qemu(machine, disk=target.disk, ram=target.ram, share=True)
    try:
        guest = RunningGuest(qemu)
        guest.wait_booted()
        _finish(guest, qemu, _WARM_UP, target)
    finally:
        qemu.close()


def _lay_over(cache: Cache, base: Snapshot, layer: Layer, new: Path) -> None:
    cache.progress("installing into the guest")
    target = Snapshot(machine=base.machine, folder=new)
    # A copy, not a chain: deleting the base must not harm what was made from it.
    shutil.copyfile(base.disk, target.disk)
    run(["cp", "--sparse=always", "--reflink=auto", base.ram, target.ram])
    qemu = Qemu(base.machine, disk=target.disk, ram=target.ram, share=True, state=base.state)
    try:
        guest = RunningGuest(qemu)
        guest.greet()
        if layer.tree is not None:
            guest.put_tree(layer.tree)
        _finish(guest, qemu, layer.commands, target)
    finally:
        qemu.close()


def _finish(guest: RunningGuest, qemu: Qemu, commands: tuple[str, ...], target: Snapshot) -> None:
    for command in (*commands, *_SETTLE):
        guest.run(command)
    time.sleep(_SETTLE_SECONDS)
    qemu.save(target.state)
