# SPDX-License-Identifier: GPL-2.0-only
"""A guest to be used: restored from a snapshot, reset to it, rebooted, thrown away.

```python
with Guest(snapshot) as guest:
    guest.put("/root/x.ko", Path("x.ko"))
    guest.run("insmod /root/x.ko")
    assert "x" in guest.run(["lsmod"]).out
    guest.reset()
```

What can be done in it is in ``running_guest.py``.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ksplicd.errors import LabError
from ksplicd.lab.guest_memory import GuestMemory, mapped
from ksplicd.lab.qemu import Machine, Qemu, make_overlay
from ksplicd.lab.running_guest import BOOT_TIMEOUT, RunningGuest
from ksplicd.lab.snapshot import Snapshot
from ksplicd.run import run

_CRASH: Final = "echo {} > /proc/sysrq-trigger"
"""Neither syncs nor unmounts (Documentation/admin-guide/sysrq.rst)."""


class Guest(RunningGuest):
    """A guest restored from a snapshot, for use as a context; everything in it is forgotten."""

    def __init__(self, snapshot: Snapshot, *, is_readable: bool = False) -> None:
        """Take a snapshot; ``is_readable``: the memory can be read from outside.

        Such a guest has a copy of the snapshot's memory, some 200 MB, in its own file.
        """
        self._snapshot: Final = snapshot
        self._is_readable: Final = is_readable
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        assert self._scratch is None, "a guest is entered once"
        self._scratch = tempfile.TemporaryDirectory(prefix="ksplice-disk-")
        try:
            self._restore()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the guest."""
        if qemu := getattr(self, "_qemu", None):
            qemu.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def reset(self) -> None:
        """Go back to the snapshot, also after a panic."""
        self._qemu.close()
        self._restore()

    def reboot(
        self, *, crash: bool = False, panic: bool = False, arguments: Sequence[str] = ()
    ) -> None:
        """Boot the guest again with its disk as it is now.

        ``crash``: as if the power had failed; ``panic``: because the kernel panicked.  The kernel
        log then starts at boot.  ``arguments`` are added to the kernel's command line for this
        boot.
        """
        # QEMU is not killed: the disk's own metadata would be lost with it (cache=unsafe)
        end = "systemctl --no-block reboot"
        try:
            self.run(_CRASH.format("c" if panic else "b") if crash or panic else end)
        except LabError as e:
            if not isinstance(e.__cause__, ConnectionError):  # it is gone before it has answered
                raise
        self._qemu.wait(BOOT_TIMEOUT)
        self._qemu.close()
        machine = replace(self.machine, arguments=(*self.machine.arguments, *arguments))
        ram = self._ram if self._is_readable else None
        super().__init__(Qemu(machine, disk=self._disk, ram=ram, share=self._is_readable))
        self.wait_booted()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[GuestMemory]:
        """Stop a readable guest for as long as the context lasts, and map its memory."""
        assert self._is_readable, "its memory is in no file that it writes to"
        self._qemu.qmp.command("stop")
        try:
            with mapped(self._ram) as memory:
                yield memory
        finally:
            self._qemu.qmp.command("cont")

    @property
    def machine(self) -> Machine:
        """The machine that runs this guest."""
        return self._snapshot.machine

    @property
    def _disk(self) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name) / "disk.qcow2"

    @property
    def _ram(self) -> Path:
        assert self._scratch is not None
        return Path(self._scratch.name) / "ram" if self._is_readable else self._snapshot.ram

    def _restore(self) -> None:
        snapshot = self._snapshot
        self._disk.unlink(missing_ok=True)
        make_overlay(self._disk, snapshot.disk, "qcow2")
        if self._is_readable:
            run(["cp", "--sparse=always", "--reflink=auto", snapshot.ram, self._ram])
        super().__init__(
            Qemu(
                snapshot.machine,
                disk=self._disk,
                ram=self._ram,
                share=self._is_readable,
                state=snapshot.state,
            )
        )
        self.greet()
