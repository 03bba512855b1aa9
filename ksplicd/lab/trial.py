# SPDX-License-Identifier: GPL-2.0-only
"""Try an update: apply it to its kernel in a throwaway guest, check it, and undo it.

```
stock kernel ─check▸ ─apply▸ updated ─check▸ ─undo▸ stock again ─check▸
```

The modules are loaded by hand, as they are; the guest has no ksplicd and asks for no signature.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.bundle import Bundle
from ksplicd.errors import GuestPanicError, LabError
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
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
        return found


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
    kernel = bundles[-1].manifest.kernel
    image = build_image(packages_of(cache, kernel))
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel), cpu=cpu)
    checks: list[Result] = []
    with Guest(take_snapshot(cache, machine)) as guest:
        for target in (t.name for made in bundles for t in made.manifest.targets):
            if target != VMLINUX:
                guest.run(["modprobe", target])
        below = [Update(guest, made) for made in bundles]
        update = below.pop()

        def do_check() -> None:
            if check is not None:
                guest.put(_CHECK, check.read_bytes(), mode=0o755)
                checks.append(guest.run([_CHECK], check=False, timeout=_CHECK_SECONDS))

        for other in below:
            _apply(other)
        do_check()
        apply_seconds = _apply(update)
        matched = [line.split()[1] for line in update.state("matched").splitlines()]
        do_check()
        stays, begin = update.keeps_code(), time.monotonic()
        update.undo()
        undo_seconds = time.monotonic() - begin
        do_check()
        for other in reversed(below):
            stays |= other.keeps_code()
            other.undo()
        log = guest.kernel_log()
        if not stays and not is_clean(guest):
            raise LabError("after undo something of the update is left in the kernel")
    return Trial(
        functions=sum(map(int, matched)),
        apply_seconds=apply_seconds,
        undo_seconds=undo_seconds,
        stays=stays,
        checks=tuple(checks),
        complaints=log if has_complaint(log) else "",
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
