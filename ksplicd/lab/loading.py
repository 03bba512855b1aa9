# SPDX-License-Identifier: GPL-2.0-only
"""An update's modules in a guest, loaded by hand, without the daemon."""

import time
from typing import Final

from ksplicd.bundle import Bundle
from ksplicd.errors import LabError
from ksplicd.lab.running_guest import RunningGuest
from ksplicd.model import VMLINUX, core_module, new_module, old_module

_LEFT: Final = (
    "for x in /sys/module/ksplice_* /sys/kernel/livepatch/*; do [ ! -e $x ] || echo $x; done"
)
"""Names what is left; the shell alone is quicker than ``ls``."""
PATIENCE: Final = 60.0
"""Seconds for a transition, and for the kernel to let go of a module."""


class Update:
    """An update in a guest.  Every method raises ``LabError``."""

    def __init__(self, guest: RunningGuest, made: Bundle) -> None:
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
        olds = {t.name: old_module(self.kid, t.name) for t in self.bundle.manifest.targets}
        commands = [
            f"insmod /root/{old}.ko {'late=1' if late and target != VMLINUX else ''}"
            for target, old in olds.items()
        ]
        self.guest.run(" && ".join([*commands, f"rmmod {' '.join(olds.values())}"]))

    def apply(self, *, late: bool = False, policy: str = "") -> None:
        """Match, load the new code, and wait for the transition's end."""
        self.match(late=late, policy=policy)
        self.insmod(self.new)
        self._wait_for("applied")

    def undo(self) -> None:
        """Go back to the old code and unload everything, unless the new code has to stay."""
        self.guest.put(f"{self._livepatch}/enabled", b"0\n")
        self._wait_for("reversed")
        if self.keeps_code():
            return
        self.unload(self.new)
        self.rmmod(self.core)

    def keeps_code(self) -> bool:
        """Tell whether the new code stays loaded until the next boot."""
        path = f"/sys/module/{self.new}/parameters/keeps_code"
        return self.guest.read(path, if_there=True) == "Y"

    def unload(self, module: str) -> None:
        """Unload a module that the kernel may hold a moment longer."""
        end = time.monotonic() + PATIENCE
        while self.guest.run(["rmmod", module], check=False).status:
            if time.monotonic() > end:
                raise LabError(f"{module} cannot be unloaded after {PATIENCE:g} s")
            time.sleep(0.1)

    def wait(self) -> None:
        """Wait until no transition runs."""
        end = time.monotonic() + PATIENCE
        while self.guest.read(f"{self._livepatch}/transition", if_there=True) not in {"", "0"}:
            if time.monotonic() > end:
                held_up = self.state("conflicts")
                raise LabError(f"no end of the transition after {PATIENCE:g} s:\n{held_up}")
            time.sleep(0.1)

    def state(self, name: str) -> str:
        """Return an attribute of the core in sysfs, such as ``stage``."""
        return self.guest.read(f"/sys/module/{self.core}/ksplice/{name}")

    def targets(self) -> dict[str, str]:
        """Return the state of each target."""
        return dict(line.split() for line in self.state("targets").splitlines())

    def mismatch(self) -> dict[str, str]:
        """Return the keys and values of the last mismatch."""
        return dict(word.split("=", 1) for word in self.state("mismatch").split())

    def _wait_for(self, stage: str) -> None:
        self.wait()
        if (found := self.state("stage")) != stage:
            raise LabError(f"the update is {found}, not {stage}\n{self.guest.kernel_log()}")

    @property
    def _livepatch(self) -> str:
        return f"/sys/kernel/livepatch/{self.new}"


def is_clean(guest: RunningGuest) -> bool:
    """Tell whether nothing of any update is left in the kernel."""
    return not guest.run(_LEFT).out


def has_complaint(log: str) -> bool:
    """Tell whether the kernel found a fault with itself."""
    return any(word in log for word in ("WARNING:", "BUG:", "Call Trace", "Oops"))
