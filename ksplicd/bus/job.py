# SPDX-License-Identifier: GPL-2.0-only
"""A transition that runs, as an object on the bus."""

from concurrent.futures import Future
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from ksplicd.bus import names
from ksplicd.bus.interface import BusObject, method, readable
from ksplicd.bus.names import Action
from ksplicd.host.stages import Conflict, Direction, Transition

if TYPE_CHECKING:
    from ksplicd.bus.runner import Runner
    from ksplicd.bus.wrapper import Call


class Progress(StrEnum):
    """How far a job is."""

    TRANSITIONING = auto()
    TURNING_BACK = "turning-back"
    FINISHING = auto()


DONE = "done"
"""The result of a job that reached its goal; any other result is an abort cause."""

ACTIONS = {Direction.APPLY: Action.APPLY, Direction.UNDO: Action.UNDO}


class Job(BusObject, interface=names.JOB):
    """One apply or undo, from the start of the transition to its end."""

    def __init__(self, runner: "Runner", number: int, transition: Transition) -> None:
        self._runner = runner
        self.number = number
        self.transition = transition
        self.blockers: list[Conflict] = []
        self.ended: Future[str] = Future()
        """Completed with the result."""
        self._progress = Progress.TRANSITIONING

    @property
    def path(self) -> str:
        """The object path."""
        return names.job_path(self.number)

    def set_progress(self, value: Progress) -> None:
        """Remember ``value`` and tell who listens."""
        if value is not self._progress:
            self._progress = value
            self.tell(["Progress"])

    async def refresh(self) -> None:
        """Look who holds the transition up now."""
        await self._runner.look_for_conflicts(self)

    @method()
    async def cancel(self, call: "Call") -> None:
        """Turn the transition around; the job ends with the result ``cancelled``."""
        kid = self.transition.kid
        await self._runner.polkit.check(call, ACTIONS[self.transition.direction], kid=kid)
        self._runner.cancel(self)

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
        """Return the path of the update that it works on."""
        return names.update_path(self.transition.kid)

    @readable("s")
    def progress(self) -> str:
        """Return a ``Progress``."""
        return self._progress.value

    @readable("a(uss)", emits="false")
    def conflicts(self) -> list[tuple[int, str, str]]:
        """Return (pid, command, stack) of each task that holds it up."""
        return [(c.pid, c.command, c.stack) for c in self.blockers]

    @readable("as", emits="false")
    def conflict_functions(self) -> list[str]:
        """Return the patched function that each of them is in; empty where none is to be seen."""
        return [c.function for c in self.blockers]
