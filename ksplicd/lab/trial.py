# SPDX-License-Identifier: GPL-2.0-only
"""Try an update: apply it to its kernel in a throwaway guest, check it, and undo it.

```
stock kernel ─check▸ ─apply▸ updated ─check, look▸ ─undo▸ stock again ─check, look▸
```

What is looked for are copies of the tables that the update exchanges (``copy_watch.py``).

The modules are loaded by hand, as they are; the guest has no ksplicd and asks for no signature.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ksplicd.bundle import Bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import GuestPanicError, LabError
from ksplicd.lab.copy_watch import CopyWatch, When, tables_of
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.linked_data import LinkedData
from ksplicd.lab.loading import Update, has_complaint, is_clean
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.running_guest import Result
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import VMLINUX, Kernel

_DEBIAN: Final = re.compile(r"\bDebian (\S+) \(")
"""In ``uname -v``: ``#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-06-30)``."""
_CHECK: Final = "/root/check"
_CHECK_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The outcome for an update that could be applied and undone."""

    functions: int
    """How many were matched."""
    apply_seconds: float
    """From the first module until every task ran the new code; under TCG, far from a real one's."""
    undo_seconds: float
    stays: bool
    """New code stays loaded until the next boot."""
    checks: tuple[Result, ...]
    """Of the check before, with and after the update; none when there is no check."""
    complaints: str
    """The kernel's log, when it found a fault with itself."""
    copies: tuple[str, ...] = ()
    """Where the kernel has copies of tables that the update exchanges, a sentence for each."""
    notes: tuple[str, ...] = ()
    """What could not be tried, a sentence for each."""

    def faults(self) -> list[str]:
        """Return what is wrong with the update, a sentence for each fault."""
        found = []
        if self.complaints:
            found.append(f"the kernel complains:\n{self.complaints}")
        if self.checks:
            before, applied, after = (check.status for check in self.checks)
            if applied:
                found.append(f"with the update the check ends with exit status {applied}, not 0")
            if after != before:
                found.append(
                    f"after undo the check ends with exit status {after}, before it was {before}"
                )
        return [*found, *self.copies]


def packages_of(cache: Cache, kernel: Kernel) -> KernelPackages:
    """Return the packages of the kernel that an update is for.  Raises ``LabError``."""
    version = _DEBIAN.search(kernel.version)
    if version is None:
        raise LabError(
            f"{kernel.release}: {kernel.version or 'no version'}: not one of Debian's kernels;"
            " only those can be had for a guest"
        )
    return KernelPackages(cache=cache, release=kernel.release, version=version[1])


def try_updates(cache: Cache, bundles: Sequence[Bundle], *, check: Path | None, cpu: str) -> Trial:
    """Try the last of ``bundles`` on top of the others; ``cpu`` is QEMU's ``-cpu``.

    ``check`` is a program for the guest, run as root.  Raises ``LabError`` when the update cannot
    be applied or undone, and ``GuestPanicError`` when the kernel does not survive.
    """
    manifest = bundles[-1].manifest
    packages = packages_of(cache, manifest.kernel)
    image = build_image(packages)
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel), cpu=cpu)
    snapshot = take_snapshot(cache, machine)
    with Guest(snapshot, is_readable=bool(tables_of(manifest))) as guest:
        for target in (t.name for made in bundles for t in made.manifest.targets):
            if target != VMLINUX:
                guest.run(["modprobe", target])
        *below, update = [Update(guest, made) for made in bundles]
        for other in below:
            _apply(other)
        stock = LinkedData(packages.vmlinuz(), packages.modules())
        trial = _try(guest, update, CopyWatch(guest, update, manifest, stock), check)
        for other in reversed(below):
            trial = replace(trial, stays=trial.stays or other.keeps_code())
            other.undo()
        log = guest.kernel_log()
        if not trial.stays and not is_clean(guest):
            raise LabError("after undo something of the update is left in the kernel")
    return replace(trial, complaints=log if has_complaint(log) else "")


def _try(guest: Guest, update: Update, watch: CopyWatch, check: Path | None) -> Trial:
    """Apply the update and undo it, and look what becomes of the kernel."""
    checks: list[Result] = []

    def do_check() -> None:
        if check is not None:
            guest.put(_CHECK, check.read_bytes(), mode=0o755)
            checks.append(guest.run([_CHECK], check=False, timeout=_CHECK_SECONDS))

    do_check()
    apply_seconds = _apply(update)
    matched = [line.split()[1] for line in update.state("matched").splitlines()]
    do_check()
    watch.look(When.APPLIED)
    stays, begin = update.keeps_code(), time.monotonic()
    update.undo()
    undo_seconds = time.monotonic() - begin
    do_check()
    watch.look(When.UNDONE)
    return Trial(
        functions=sum(map(int, matched)),
        apply_seconds=apply_seconds,
        undo_seconds=undo_seconds,
        stays=stays,
        checks=tuple(checks),
        complaints="",
        copies=tuple(watch.faults),
        notes=tuple(watch.notes),
    )


def _apply(update: Update) -> float:
    """Apply it and return the seconds; an error has the core's abort cause and mismatch."""
    begin = time.monotonic()
    try:
        update.apply()
    except GuestPanicError:
        raise
    except LabError as e:
        cause, where = update.state("abort_cause"), update.state("mismatch")
        raise LabError(f"{update.kid} cannot be applied: {cause}: {where or e}") from e
    return time.monotonic() - begin
