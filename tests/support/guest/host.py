# SPDX-License-Identifier: GPL-2.0-only
"""A guest as a host: ksplicd is installed there, trusts a key, and is asked for updates."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ksplicd.bus import names
from ksplicd.lab.guest import Guest
from ksplicd.lab.loading import is_clean
from ksplicd.lab.running_guest import Result
from ksplicd.model import Stage
from tests.support.guest.commands import run_ksplice
from tests.support.guest.hand import TAKE_BACK
from tests.support.guest.programs import compiled
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

_CONFIG: Final = "/etc/ksplicd/ksplicd.conf"
_MANAGER: Final = f"{names.BUS_NAME} {names.ROOT_PATH} {names.MANAGER}"

ASK: Final = "python3 -I -S -c 'import fcntl; print(fcntl.fcntl(0, fcntl.F_GETFD) & ~1)'"
GETFD: Final = "/root/getfd"
"""A program that prints the same; ``Host`` puts it there."""


class Host:
    """The guest and what is asked of it; ``files`` are bundles for its ``/root``."""

    def __init__(self, guest: Guest, public_key: Path, *files: Path) -> None:
        self.guest = guest
        guest.put("/etc/ksplicd/keys.d/test.pub", public_key, mode=0o644)
        guest.put(GETFD, compiled("getfd"), mode=0o755)
        for file in files:
            self.put(file)

    def put(self, file: Path) -> str:
        """Copy a bundle and its signature; return where it is."""
        self.guest.put(f"/root/{file.name}", file)
        self.guest.put(f"/root/{file.name}.minisig", sample.signature_of(file))
        return f"/root/{file.name}"

    def run(self, command: str, *, check: bool = True) -> Result:
        return self.guest.run(command, check=check)

    def out(self, command: str) -> str:
        return self.run(command).out.strip()

    def configure(self, *lines: str) -> None:
        self.guest.put(_CONFIG, "\n".join(["[ksplicd]", *lines, ""]).encode())
        self.run("systemctl reload ksplicd")

    def ksplice(self, command: str, *, check: bool = True) -> Result:
        """Run a ksplice command."""
        return run_ksplice(self.guest, command, check=check)

    def try_(self, command: str) -> tuple[str, str]:
        """Run a ksplice command; return the error's name on the first line, and the message."""
        done = self.ksplice(command, check=False)
        first, _, rest = done.err.partition("\n")
        return (first, rest) if done.status else ("", "")

    def apply(self, file: Path) -> tuple[str, str]:
        return self.try_(f"apply --raw-errors {self.put(file)}")

    def undo(self, kid: str) -> tuple[str, str]:
        return self.try_(f"undo --raw-errors {kid}")

    def bits(self) -> int:
        """Return what the updates add to F_GETFD's answer."""
        return int(self.out(GETFD))

    def stage(self, kid: str) -> str:
        """Return the stage of an update; empty when the daemon does not know it."""
        place = f"{names.BUS_NAME} {names.update_path(kid)} {names.UPDATE}"
        found = self.run(f"busctl get-property {place} Stage", check=False).out
        return found.removeprefix("s ").strip('"\n')

    def pid(self) -> int:
        return int(self.out("systemctl show --value -p MainPID ksplicd"))

    def wait_for(self, what: Callable[[], bool]) -> None:
        wait_in_guest(what, lambda: self.out("journalctl -u ksplicd --no-pager | tail -30"))

    def livepatches(self) -> list[str]:
        """Return the names of the kernel's live patches."""
        return self.out("ls /sys/kernel/livepatch").split()

    def is_clean(self) -> bool:
        """Tell whether nothing of an update is left in the kernel."""
        return is_clean(self.guest)


def forget_updates(guest: Guest) -> None:
    """Take back what a test has started and set, and undo and remove all updates."""
    listed = guest.run(
        f"{TAKE_BACK}if grep -q '^[a-z]' {_CONFIG}; then"
        f" echo '[ksplicd]' >{_CONFIG}; systemctl reload ksplicd; fi;"
        f" busctl call {_MANAGER} ListUpdates t 0"  # cheaper than Python in a guest
    ).out
    stages = dict(re.findall(r'"([a-z0-9]{8})" "([a-z]+)" "/', listed))
    applied = [kid for kid, stage in stages.items() if stage == Stage.APPLIED]
    while applied:  # one that another one depends on goes in a later round
        left = [kid for kid in applied if run_ksplice(guest, f"undo {kid}", check=False).status]
        assert left != applied, f"cannot be undone: {left}"
        applied = left
    if stages:
        guest.run(" && ".join(f"busctl call {_MANAGER} Remove st {kid} 0" for kid in stages))
