# SPDX-License-Identifier: GPL-2.0-only
"""The life of one update on one host, as data and a pure function.

::

    dropped ─verify▸ staged ─load▸ loading ─match▸ matched ─enable▸ transitioning ─finish▸ applied
       └▸ rejected      ▴             │               │                ▴   │                 │
                        │             ▾               ▾         cancel │   │ cancel          │
                        └──load── failed (all unloaded) ◂──fail─── reversing ◂─────undo──────┘
                        └──load── reversed ◂─────────────finish───────┘

    found after a crash ─▸ quarantined ─release▸ staged        (crash_guard)

``step()`` has no side effects; ``engine`` carries out what it allows.  The nouns that the engine,
the history and the bus share are here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto

from ksplicd.errors import UnexpectedError
from ksplicd.model import Manifest, Stage


class Via(StrEnum):
    """How an actor made a request."""

    DBUS = auto()
    DROP = auto()
    BOOT = auto()
    DAEMON = auto()


class Direction(StrEnum):
    """The direction in which a transition was started."""

    APPLY = auto()
    UNDO = auto()


class Arrow(StrEnum):
    """A step of an update; each is an arrow of the diagram above."""

    VERIFY = auto()
    REJECT = auto()
    LOAD = auto()
    MATCH = auto()
    ENABLE = auto()
    FINISH = auto()
    UNDO = auto()
    CANCEL = auto()
    RELEASE = auto()
    FAIL = auto()


class ForbiddenStepError(AssertionError):
    """The arrow does not leave this stage: a bug here, not a caller's error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who made a request."""

    uid: int
    pid: int = 0
    """0 when there was no process, such as for a dropped file."""
    unit: str = ""
    """systemd unit of the process, or empty."""
    via: Via = Via.DBUS


DAEMON = Actor(uid=0, via=Via.DAEMON)
"""The daemon itself, for what it finds at a start and does by policy."""

BOOT = Actor(uid=0, via=Via.BOOT)
"""A boot, for what was applied when the machine went down and is applied again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A stage that an update reached: one line of the history, one entry of the journal."""

    time: float
    """Seconds since 1970, UTC, as the clock said; it may have been wrong."""
    boot_id: str
    kid: str
    """Empty when a rejected file is not named like a bundle; its contents were not parsed."""
    stage: Stage
    cause: str = ""
    """Abort cause (``errors``), or empty."""
    detail: str = ""
    """For people, one line."""
    actor: Actor = DAEMON
    mismatch: Mapping[str, str] = field(default_factory=dict)
    """The core's mismatch: target, function, offset, kind, expected, found, …"""
    up: float | None = None
    """Seconds that this boot had lasted, on the monotonic clock; None in a history of before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an update is, and why."""

    stage: Stage
    cause: str = ""
    """Abort cause (``errors``), or empty."""
    detail: str = ""
    """For people, one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInfo:
    """An update as it is now."""

    kid: str
    stage: Stage
    abort_cause: str
    detail: str
    manifest: Manifest
    is_wanted: bool = False
    """Whether it is to be applied, whatever happened to it (``updates.wants``)."""
    since: float = 0.0
    """When it came to its stage, in seconds since 1970 as the clock said; 0: it is not known."""
    since_up: float = 0.0
    """The same on the monotonic clock; 0: in another boot, or it is not known."""
    is_soaked: bool = False
    """Whether it has run for its soak time in this boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A livepatch transition that runs in the kernel."""

    kid: str
    direction: Direction
    started: float
    """On the monotonic clock, seconds."""
    actor: Actor = DAEMON
    cancelled: str = ""
    """Why it was turned around (``code_busy`` or ``cancelled``); empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A task that holds a transition up."""

    pid: int
    command: str
    stack: str
    """Kernel functions of its stack, innermost first, joined by `` < ``; empty when unreadable."""
    function: str = ""
    """The innermost of them that the update replaces; empty when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """What the daemon found when it compared its records with the kernel."""

    transitions: tuple[Transition, ...] = ()
    """Still running; to be watched as if they had just been started."""
    reapply: tuple[str, ...] = ()
    """Kids that are wanted, fit this kernel and are not in it, in the order in which they were
    applied."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """Kid → why an update that is wanted cannot be applied now."""


_NEXT = {
    (Stage.DROPPED, Arrow.VERIFY): Stage.STAGED,
    (Stage.DROPPED, Arrow.REJECT): Stage.REJECTED,
    (Stage.STAGED, Arrow.LOAD): Stage.LOADING,
    (Stage.FAILED, Arrow.LOAD): Stage.LOADING,
    (Stage.REVERSED, Arrow.LOAD): Stage.LOADING,
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
    (Stage.QUARANTINED, Arrow.RELEASE): Stage.STAGED,
}

_SOMEBODY = "turned around by somebody else"


def step(stage: Stage, arrow: Arrow) -> Stage:
    """Return the stage that ``arrow`` leads to, or raise ``ForbiddenStepError``."""
    try:
        return _NEXT[stage, arrow]
    except KeyError:
        raise ForbiddenStepError(f"{arrow} in stage {stage}") from None


def is_moving(stage: Stage) -> bool:
    """Return whether the update moves, so that nothing else may be done with it."""
    return stage in {Stage.LOADING, Stage.MATCHED, Stage.TRANSITIONING, Stage.REVERSING}


def is_at_work(stage: Stage) -> bool:
    """Return whether code of an update in this stage may run."""
    return stage is Stage.APPLIED or is_moving(stage)


def settle(last: Event | None, boot_id: str, *, is_enabled: bool) -> Standing:
    """Return where an update is that neither a transition nor the engine moves.

    ``last`` is its last event in the history, ``is_enabled`` the state of its livepatch.  The
    kernel wins over the history.
    """
    if is_enabled:
        if last is not None and last.stage is Stage.APPLIED and last.boot_id == boot_id:
            return Standing(stage=last.stage, cause=last.cause, detail=last.detail)
        return Standing(stage=Stage.APPLIED, detail="found applied in the kernel")
    if last is None or last.stage in {Stage.REMOVED, Stage.REJECTED, Stage.DROPPED}:
        return Standing(stage=Stage.STAGED, detail="found in the store")
    is_same_boot = last.boot_id == boot_id
    match last.stage:
        case Stage.LOADING | Stage.MATCHED | Stage.TRANSITIONING:
            who = "ksplicd was stopped" if is_same_boot else "the machine went down"
            detail = f"{who} while it was being applied"
            return Standing(stage=Stage.FAILED, cause=UnexpectedError.abort_cause, detail=detail)
        case Stage.REVERSING if last.cause:
            return Standing(stage=Stage.FAILED, cause=last.cause, detail=last.detail)
        case Stage.REVERSING:
            return Standing(stage=Stage.REVERSED)
        case Stage.APPLIED if is_same_boot:
            return Standing(stage=Stage.REVERSED, detail="undone by somebody else")
        case Stage.APPLIED:
            return Standing(stage=Stage.STAGED, detail="applied until the machine went down")
        case _:
            return Standing(stage=last.stage, cause=last.cause, detail=last.detail)


def outcome(transition: Transition, *, is_enabled: bool) -> Standing:
    """Return where an update is at the end of a transition, whoever steered it."""
    match transition.direction, is_enabled:
        case Direction.APPLY, True:
            return Standing(stage=Stage.APPLIED)
        case Direction.APPLY, False if transition.cancelled:
            return Standing(stage=Stage.FAILED, cause=transition.cancelled)
        case Direction.UNDO, True:
            detail = "" if transition.cancelled else _SOMEBODY
            return Standing(stage=Stage.APPLIED, cause=transition.cancelled, detail=detail)
        case Direction.UNDO, False:
            return Standing(stage=Stage.REVERSED)
        case _:
            return Standing(stage=Stage.REVERSED, detail=_SOMEBODY)
