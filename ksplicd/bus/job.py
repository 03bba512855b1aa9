# SPDX-License-Identifier: GPL-2.0-only
"""A transition that runs, as an object on the bus.

Everybody may see that it runs; who holds it up are other users' tasks and the kernel's functions
that they are in, and is told to administrators.
"""

from concurrent.futures import Future
from enum import StrEnum, auto
from typing import Protocol

from ksplicd.bus import names
from ksplicd.bus.errors import refuse_unknown_flags
from ksplicd.bus.interface import BusObject, method, readable
from ksplicd.bus.names import Action
from ksplicd.bus.polkit import Polkit
from ksplicd.bus.wrapper import Call
from ksplicd.host.stages import Conflict, Direction, Transition


class Progress(StrEnum):
    """What a job is doing."""

    TRANSITIONING = auto()
    TURNING_BACK = "turning-back"
    FINISHING = auto()


ACTIONS = {Direction.APPLY: Action.APPLY, Direction.UNDO: Action.UNDO}


class Control(Protocol):
    """Follows the job's transition (``running_job``)."""

    async def find_conflicts(self) -> list[Conflict]:
        """Return the tasks that hold the transition up now."""

    def cancel(self) -> None:
        """Have the transition turned around; one that has ended stays as it is."""


class Job(BusObject, interface=names.JOB):
    """One apply or undo, from the start of the transition to its end."""

    def __init__(
        self, control: Control, polkit: Polkit, number: int, transition: Transition
    ) -> None:
        self._control = control
        self._polkit = polkit
        self.number = number
        self.transition = transition
        self.ended: Future[str] = Future()
        """Completed with the result."""
        self._progress = Progress.TRANSITIONING

    @property
    def path(self) -> str:
        """The object path."""
        return names.job_path(self.number)

    def set_progress(self, value: Progress) -> None:
        """Change the property, and send PropertiesChanged if it is another value."""
        if value is not self._progress:
            self._progress = value
            self.send_changes(["Progress"])

    @method()
    async def cancel(self, call: Call) -> None:
        """Turn the transition around; the job ends with the result ``cancelled``."""
        kid = self.transition.kid
        await self._polkit.check(call, ACTIONS[self.transition.direction], kid=kid)
        self._control.cancel()

    @method("t flags", "a(usss) conflicts")
    async def list_conflicts(self, call: Call, flags: int) -> list[tuple[int, str, str, str]]:
        """Return each task that holds the transition up now: pid, command, stack, function.

        The function is the one of its stack that the update replaces; empty where none is seen.
        """
        refuse_unknown_flags(flags)
        await self._polkit.check(call, Action.CONFLICTS, kid=self.transition.kid)
        found = await self._control.find_conflicts()
        return [(c.pid, c.command, c.stack, c.function) for c in found]

    @readable("t", emits="const")
    def id(self) -> int:
        """Return the job's number; numbers begin at 1 when the daemon starts."""
        return self.number

    @readable("s", emits="const")
    def type(self) -> str:
        """Return ``apply`` or ``undo``."""
        return self.transition.direction.value

    @readable("o", emits="const")
    def update(self) -> str:
        """Return the path of the update that is applied or undone."""
        return names.update_path(self.transition.kid)

    @readable("s")
    def progress(self) -> str:
        """Return a ``Progress``."""
        return self._progress.value
