# SPDX-License-Identifier: GPL-2.0-only
"""A host where ksplicd is installed, with one signed bundle for its kernel."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.running_guest import Result
from tests.support.kernels import slice as sample

KID: Final = "8c4o6ucj"
BUS: Final = "org.ksplice.Ksplicd1"
MANAGER: Final = f"{BUS} /org/ksplice/Ksplicd1 {BUS}.Manager"
UPDATE: Final = f"{BUS} /org/ksplice/Ksplicd1/update/{KID} {BUS}.Update"
NAME: Final = bundle.file_name(KID)
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A bundle for the stock kernel."""

    file: Path
    public_key: Path


def signed_fix(cache: Cache, kernel: KernelPackages, fix: sample.Fix, folder: Path) -> Signed:
    """Make the update of a fix in ``folder``, signed by a key of its own."""
    key = sample.throwaway_key(folder)
    patch = sample.cut_patch(cache, fix.old, fix.new, [fix.file])
    file = sample.make_update(cache, kernel, patch, key.secret, out=folder, kid=KID)
    return Signed(file=file, public_key=key.public)


class Host:
    """The guest, with our key and the bundle."""

    def __init__(self, guest: Guest, signed: Signed) -> None:
        self.guest = guest
        guest.put("/etc/ksplicd/keys.d/test.pub", signed.public_key, mode=0o644)
        guest.put(f"/root/{NAME}", signed.file)
        guest.put(f"/root/{NAME}.minisig", sample.signature_of(signed.file))

    def run(self, command: str, *, check: bool = True) -> Result:
        return self.guest.run(command, check=check)

    def out(self, command: str) -> str:
        return self.run(command).out.strip()

    def configure(self, *lines: str) -> None:
        self.guest.put("/etc/ksplicd/ksplicd.conf", "\n".join(["[ksplicd]", *lines, ""]).encode())
        self.run("systemctl reload ksplicd")

    def stage(self) -> str:
        found = self.run(f"busctl get-property {UPDATE} Stage", check=False).out
        return found.removeprefix("s ").strip('"\n')

    def pid(self) -> int:
        return int(self.out("systemctl show --value -p MainPID ksplicd"))

    def wait_for(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, self.out("journalctl -u ksplicd --no-pager | tail -30")
            time.sleep(0.2)

    def is_clean(self) -> bool:
        """Tell whether nothing of the update is left in the kernel."""
        return not self.run("ls -d /sys/module/ksplice_* /sys/kernel/livepatch/*", check=False).out
