# SPDX-License-Identifier: GPL-2.0-only
"""An update's modules, loaded by hand: what the kernel part does without the daemon."""

import contextlib
import difflib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ksplicd import bundle
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import RunningGuest
from ksplicd.lab.qemu import Machine, Qemu, make_overlay
from ksplicd.model import core_module, new_module, old_module
from tests import slice as sample

PATIENCE = 60.0


class Edit(NamedTuple):
    """The first ``old`` in a file of the kernel's source becomes ``new``."""

    path: str
    old: str
    new: str


def write_patch(tree: Path, patch: Path, *edits: Edit, on: Sequence[Edit] = ()) -> Path:
    """Write the patch that makes ``edits``, on top of those of ``on``; return its path."""
    lines: list[str] = []
    for path in dict.fromkeys(edit.path for edit in edits):
        before = make_edits(sample.read_source(tree, path), [e for e in on if e.path == path])
        after = make_edits(before, [e for e in edits if e.path == path])
        lines += difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True),
            f"a/{path}", f"b/{path}",
        )  # fmt: skip
    patch.write_text("".join(lines))
    return patch


def make_edits(text: str, edits: Sequence[Edit]) -> str:
    """Return ``text`` with ``edits`` made."""
    for edit in edits:
        assert edit.old in text, f"{edit.path} has no {edit.old!r}"
        text = text.replace(edit.old, edit.new, 1)
    return text


def make_bundle(
    cache: Cache, kernel: KernelPackages, kid: str, patches: Sequence[Path]
) -> bundle.Bundle:
    """Build the update ``kid`` from patches."""
    request = sample.request_for(cache, kernel, patches[0], kid=kid)
    made = sample.create_alone(cache, replace(request, patches=tuple(patches)), cache.progress)
    return bundle.unpack(made.data)


class Update:
    """An update in a guest."""

    def __init__(self, guest: RunningGuest, made: bundle.Bundle) -> None:
        """Copy its modules into the guest."""
        self.guest, self.bundle = guest, made
        self.kid = made.manifest.kid
        self.core, self.new = core_module(self.kid), new_module(self.kid)
        for name, data in made.files.items():
            if name.endswith(".ko"):
                guest.put(f"/root/{name}", data)

    def insmod(self, module: str, parameters: str = "", *, check: bool = True) -> int:
        """Load one of its modules; return the exit status."""
        return self.guest.run(f"insmod /root/{module}.ko {parameters}", check=check).status

    def rmmod(self, module: str) -> None:
        """Unload one of its modules."""
        self.guest.run(["rmmod", module])

    def match(self, *, late: bool = False, policy: str = "") -> None:
        """Load the core, then match every target."""
        self.insmod(self.core, policy)
        olds = [(t.name, old_module(self.kid, t.name)) for t in self.bundle.manifest.targets]
        for target, old in olds:
            self.insmod(old, "late=1" if late and target != "vmlinux" else "")
        for _, old in olds:
            self.rmmod(old)

    def apply(self, *, late: bool = False, policy: str = "") -> None:
        """Match, load the new code, and wait for the transition's end."""
        self.match(late=late, policy=policy)
        self.insmod(self.new)
        self.wait()
        assert self.state("stage") == "applied"

    def undo(self) -> None:
        """Go back to the old code and unload everything."""
        self.guest.run(f"echo 0 >{self._livepatch}/enabled")
        self.wait()
        assert self.state("stage") == "reversed"
        self.unload(self.new)
        self.rmmod(self.core)

    def unload(self, module: str) -> None:
        """Unload a module that the kernel may hold a moment longer."""
        end = time.monotonic() + PATIENCE
        while self.guest.run(["rmmod", module], check=False).status:
            assert time.monotonic() < end, f"{module} stays"
            time.sleep(0.1)

    def wait(self) -> None:
        """Wait until no transition runs."""
        end = time.monotonic() + PATIENCE
        command = f"cat {self._livepatch}/transition || echo 0"
        while self.guest.run(command).out.strip() != "0":
            assert time.monotonic() < end, self.guest.kernel_log()
            time.sleep(0.1)

    def state(self, name: str) -> str:
        """Return what the core says."""
        return self.guest.run(["cat", f"/sys/module/{self.core}/ksplice/{name}"]).out.strip()

    def targets(self) -> dict[str, str]:
        """Return the state of each target."""
        return dict(line.split() for line in self.state("targets").splitlines())

    def mismatch(self) -> dict[str, str]:
        """Return the keys and values of the last mismatch."""
        return dict(word.split("=", 1) for word in self.state("mismatch").split())

    @property
    def _livepatch(self) -> str:
        return f"/sys/kernel/livepatch/{self.new}"


@contextlib.contextmanager
def booted(machine: Machine, folder: Path) -> Iterator[RunningGuest]:
    """Boot a machine that no snapshot is kept of."""
    disk = folder / "disk.qcow2"
    make_overlay(disk, machine.image.disk, "raw")
    qemu = Qemu(machine, disk=disk, ram=folder / "ram", share=True)
    try:
        guest = RunningGuest(qemu)
        guest.wait_booted()
        yield guest
    finally:
        qemu.close()


def is_clean(guest: RunningGuest) -> bool:
    """Tell whether nothing of any update is left in the kernel."""
    return not guest.run("ls -d /sys/module/ksplice_* /sys/kernel/livepatch/*", check=False).out


def has_complaint(log: str) -> bool:
    """Tell whether the kernel found a fault with itself."""
    return any(word in log for word in ("WARNING:", "BUG:", "Call Trace", "Oops"))
