# SPDX-License-Identifier: GPL-2.0-only
"""At start: bring the records into line with the kernel, and tidy up after a killed apply.

The kernel wins.  What still moves there is found again, what is half loaded is unloaded, what was
applied before the machine went down is named, and what may have brought it down is quarantined.
"""

from collections.abc import Callable

from ksplicd.errors import CancelledError, QuarantinedError
from ksplicd.host.clock import Clock
from ksplicd.host.kernel.door import KernelDoor, LivepatchState
from ksplicd.host.stages import (
    DAEMON,
    PASSING,
    Actor,
    Direction,
    Event,
    Reconciliation,
    Transition,
    Via,
    is_at_work,
    settle,
)
from ksplicd.host.updates import load
from ksplicd.host.updates.records import Book
from ksplicd.model import Stage, new_module


def reconcile(
    book: Book,
    kernel: KernelDoor,
    clock: Clock,
    quarantine: Callable[[Event], str] = lambda last: "",
    actor: Actor = DAEMON,
) -> Reconciliation:
    """Return what has to be watched, what was applied before, and what of that waits.

    ``quarantine`` tells why an update with this last event, of an earlier boot, must wait for a
    person (``guard``); ``actor`` is who looks.  Raises ``StoreError``.
    """
    boot_id = kernel.boot_id()
    kids = set(book.kids())
    before = {kid: book.last(kid) for kid in book.in_order() if kid in kids}
    before.update(dict.fromkeys(sorted(kids - before.keys())))
    transitions, reapply, waiting = [], [], {}
    for kid, last in before.items():
        livepatch = kernel.livepatch(new_module(kid))
        is_old = last is not None and last.boot_id != boot_id
        if livepatch is not None and livepatch.transition:
            transitions.append(_find_transition(book, kid, livepatch, clock.monotonic()))
        elif livepatch is None and last is not None and is_old and (why := quarantine(last)):
            book.record(
                kid, Stage.QUARANTINED, actor, cause=QuarantinedError.abort_cause, detail=why
            )
        else:
            is_enabled = livepatch is not None and livepatch.enabled
            _settle(book, kernel, kid, is_enabled=is_enabled, actor=actor)
            if last is not None and is_old and livepatch is None and _comes_back(last):
                if why := _why_waiting(book, kid):
                    waiting[kid] = why
                else:
                    reapply.append(kid)
    return Reconciliation(transitions=tuple(transitions), reapply=tuple(reapply), waiting=waiting)


def _comes_back(last: Event) -> bool:
    """Tell whether an update whose last event is of an earlier boot is to be applied at this one.

    It was applied, or was to be at that boot and could not be then.
    """
    is_put_off = last.actor.via is Via.BOOT and last.cause in PASSING
    return last.stage is Stage.APPLIED or (last.stage is Stage.FAILED and is_put_off)


def _find_transition(book: Book, kid: str, livepatch: LivepatchState, started: float) -> Transition:
    """Return the transition that runs, with what the history knows of it."""
    last = book.last(kid)
    stage = Stage.TRANSITIONING if livepatch.enabled else Stage.REVERSING
    was = last.stage if last is not None else None
    cause = last.cause if last is not None else ""
    if livepatch.enabled:
        is_way_back = was is Stage.REVERSING or (was is Stage.TRANSITIONING and bool(cause))
        direction = Direction.UNDO if is_way_back else Direction.APPLY
    else:
        is_way_back = was is Stage.TRANSITIONING or (was is Stage.REVERSING and bool(cause))
        direction = Direction.APPLY if is_way_back else Direction.UNDO
    cancelled = (cause or CancelledError.abort_cause) if is_way_back else ""
    if was is not stage:
        book.record(kid, stage, DAEMON, cause=cancelled, detail="found on its way in the kernel")
    return Transition(
        kid=kid,
        direction=direction,
        started=started,
        actor=last.actor if last is not None else DAEMON,
        cancelled=cancelled,
    )


def _settle(book: Book, kernel: KernelDoor, kid: str, *, is_enabled: bool, actor: Actor) -> None:
    """Unload what is left over, and record where the update is when that is news."""
    last = book.last(kid)
    boot_id = kernel.boot_id()
    stage, cause, detail = settle(last, boot_id, is_enabled=is_enabled)
    is_this_boot = last is not None and last.boot_id == boot_id
    # What we were not at work on in this boot is not ours to unload, whatever its name; where the
    # history has lost who was, it is.
    is_ours = bool(book.damage) if last is None else is_this_boot and is_at_work(last.stage)
    left = ""
    if is_enabled:
        left = load.unload(kernel, load.old_modules_of(kernel, kid))
    elif is_ours or book.is_in_kernel(kid):
        left = load.unload(kernel, load.modules_of(kernel, kid))
    if _is_news(last, stage, is_this_boot=is_this_boot, is_enabled=is_enabled):
        actor = last.actor if last is not None and is_this_boot else actor
        detail = "; ".join(text for text in (detail, left) if text)
        book.record(kid, stage, actor, cause=cause, detail=detail)


def _is_news(last: Event | None, stage: Stage, *, is_this_boot: bool, is_enabled: bool) -> bool:
    if is_enabled:
        return last is None or not is_this_boot or last.stage is not stage
    # APPLIED of another boot stays the last word until it is applied again: that is how the next
    # start of the daemon knows what to apply, should this one not get to it.
    was_applied = last is not None and last.stage is Stage.APPLIED and not is_this_boot
    return last is None or (last.stage is not stage and not was_applied)


def _why_waiting(book: Book, kid: str) -> str:
    """Tell why an update of an earlier boot cannot be applied again; empty when it can."""
    if book.trusted(kid) is None:
        return book.info(kid).detail or "its bundle is not stored here"
    if book.damage:
        return (
            f"it may have been undone, for not all of the history can be read ({book.damage}): "
            f"`ksplice apply {kid}` applies it by hand; without that file none has to wait"
        )
    return book.why_other_kernel(kid)
