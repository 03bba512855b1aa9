# SPDX-License-Identifier: GPL-2.0-only
"""The life of one update on one host, as data and a pure function.

::

    dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─finish▸ applied
       └▸ rejected      ▴             │               │                ▴   │                 │
                        │             ▾               ▾         cancel │   │ cancel          │
                        └──load── failed (all unloaded) ◂──fail─── reversing ◂─────undo──────┘
                        └──load── reversed ◂─────────────finish───────┘

``step()`` neither reads nor writes anything: ``engine`` performs what it allows.  The nouns that
the engine, the history and the bus share are here too.
"""

from dataclasses import dataclass
from enum import StrEnum, auto

from ksplicd.model import Manifest, Stage


class Via(StrEnum):
    """The way by which an actor reached us."""

    DBUS = auto()
    DROP = auto()
    BOOT = auto()
    DAEMON = auto()


class Direction(StrEnum):
    """Which way a transition was started."""

    APPLY = auto()
    UNDO = auto()


class Arrow(StrEnum):
    """What can happen to an update; each is an arrow of the diagram above."""

    VERIFY = auto()
    REJECT = auto()
    LOAD = auto()
    MATCH = auto()
    ENABLE = auto()
    FINISH = auto()
    UNDO = auto()
    CANCEL = auto()
    FAIL = auto()


class ForbiddenStepError(AssertionError):
    """The arrow does not leave this stage: a fault of ours, not of a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asked for it."""

    uid: int
    pid: int = 0
    """0 when no process asked, such as for a dropped file."""
    unit: str = ""
    """systemd unit of the process, or empty."""
    via: Via = Via.DBUS


DAEMON = Actor(uid=0, via=Via.DAEMON)
"""Ourselves, for what is found at start and what nobody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A stage that an update reached: one line of the history, one entry of the journal."""

    time: float
    """Seconds since 1970, UTC."""
    boot_id: str
    kid: str
    """Empty when a rejected file has no name of a bundle; nothing of it was parsed then."""
    stage: Stage
    cause: str = ""
    """Abort cause (``errors``), or empty."""
    detail: str = ""
    """For people, one line."""
    actor: Actor = DAEMON


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInfo:
    """An update as it is now."""

    kid: str
    stage: Stage
    abort_cause: str
    detail: str
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A livepatch transition that runs in the kernel."""

    kid: str
    direction: Direction
    started: float
    """On the monotonic clock, seconds."""
    actor: Actor = DAEMON
    cancelled: str = ""
    """Why it was turned around (``code_busy`` or ``cancelled``); empty while it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A task that holds a transition up."""

    pid: int
    command: str
    stack: str
    """Kernel functions of its stack, innermost first, joined by `` < ``; empty when unreadable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What was found when the daemon started."""

    transitions: tuple[Transition, ...] = ()
    """Still running; to be watched as if we had just started them."""
    reapply: tuple[str, ...] = ()
    """Kids that were applied when the machine went down, for this very kernel; oldest first."""


_NEXT = {
    (Stage.DROPPED, Arrow.VERIFY): Stage.STAGED,
    (Stage.DROPPED, Arrow.REJECT): Stage.REJECTED,
    (Stage.STAGED, Arrow.LOAD): Stage.LOADING,
    (Stage.FAILED, Arrow.LOAD): Stage.LOADING,
    (Stage.REVERSED, Arrow.LOAD): Stage.LOADING,
    (Stage.REJECTED, Arrow.LOAD): Stage.LOADING,
    (Stage.LOADING, Arrow.MATCH): Stage.MATCHED,
    (Stage.LOADING, Arrow.FAIL): Stage.FAILED,
    (Stage.MATCHED, Arrow.ENABLE): Stage.TRANSITIONING,
    (Stage.MATCHED, Arrow.FAIL): Stage.FAILED,
    (Stage.TRANSITIONING, Arrow.FINISH): Stage.APPLIED,
    (Stage.TRANSITIONING, Arrow.CANCEL): Stage.REVERSING,
    (Stage.APPLIED, Arrow.UNDO): Stage.REVERSING,
    (Stage.REVERSING, Arrow.FINISH): Stage.REVERSED,
    (Stage.REVERSING, Arrow.CANCEL): Stage.TRANSITIONING,
    (Stage.REVERSING, Arrow.FAIL): Stage.FAILED,
}


def step(stage: Stage, arrow: Arrow) -> Stage:
    """Return the stage that ``arrow`` leads to, or raise ``ForbiddenStepError``."""
    try:
        return _NEXT[stage, arrow]
    except KeyError:
        raise ForbiddenStepError(f"{arrow} in stage {stage}") from None


def is_moving(stage: Stage) -> bool:
    """Tell whether the update is on its way, so that no other work on it may start."""
    return stage in {Stage.LOADING, Stage.MATCHED, Stage.TRANSITIONING, Stage.REVERSING}
