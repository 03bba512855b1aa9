# SPDX-License-Identifier: GPL-2.0-only
"""At a start: bring the records into line with the kernel, and finish what a kill interrupted.

The kernel wins.  A transition that still runs is picked up, a half-loaded update is unloaded, an
update that was applied before the machine went down is listed, and one that may have brought it
down is quarantined.  Nothing is applied here.
"""

from ksplicd.errors import CancelledError, QuarantinedError
from ksplicd.host.kernel.door import KernelDoor, LivepatchState
from ksplicd.host.stages import (
    DAEMON,
    Actor,
    Direction,
    Event,
    Reconciliation,
    Transition,
    is_at_work,
    settle,
)
from ksplicd.host.updates import load
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.missing import why_not_now
from ksplicd.host.updates.records import Records
from ksplicd.host.updates.soak import Soak
from ksplicd.model import Stage, new_module


def reconcile(doors: Doors, records: Records, soak: Soak, actor: Actor = DAEMON) -> Reconciliation:
    """Return the transitions to watch and the updates to apply again, or why they cannot be.

    ``soak`` says which update may have crashed the machine, and ``actor`` who reconciles.  Raises
    ``StoreError``.
    """
    kernel, known = doors.kernel, soak.begin()
    boot_id = kernel.boot_id()
    kids = set(records.kids())
    before = {kid: records.last(kid) for kid in records.in_order() if kid in kids}
    before.update(dict.fromkeys(sorted(kids - before.keys())))
    transitions = []
    for kid, last in before.items():
        livepatch = kernel.livepatch(new_module(kid))
        is_old = last is not None and last.boot_id != boot_id
        if livepatch is not None and livepatch.transition:
            transitions.append(_find_transition(records, kid, livepatch, doors.clock.monotonic()))
        elif (
            livepatch is None
            and last is not None
            and is_old
            and (why := soak.why_quarantined(last, known))
        ):
            cause = QuarantinedError.abort_cause
            records.record_if_possible(kid, Stage.QUARANTINED, actor, cause=cause, detail=why)
        else:
            is_enabled = livepatch is not None and livepatch.enabled
            _settle(records, kernel, kid, is_enabled=is_enabled, actor=actor)
    reapply, waiting = [], {}
    for want in records.wants:
        if is_at_work(records.info(want.kid).stage):
            continue
        if why := why_not_now(want.kid, records):
            waiting[want.kid] = why
        else:
            reapply.append(want.kid)
    return Reconciliation(transitions=tuple(transitions), reapply=tuple(reapply), waiting=waiting)


def _find_transition(
    records: Records, kid: str, livepatch: LivepatchState, started: float
) -> Transition:
    """Return the running transition, with the direction and actor that the history has."""
    last = records.last(kid)
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
        records.record_if_possible(
            kid, stage, DAEMON, cause=cancelled, detail="found in transition"
        )
    return Transition(
        kid=kid,
        direction=direction,
        started=started,
        actor=last.actor if last is not None else DAEMON,
        cancelled=cancelled,
    )


def _settle(
    records: Records, kernel: KernelDoor, kid: str, *, is_enabled: bool, actor: Actor
) -> None:
    """Unload leftover modules, and record where the update is when that is news."""
    last = records.last(kid)
    boot_id = kernel.boot_id()
    standing = settle(last, boot_id, is_enabled=is_enabled)
    is_this_boot = last is not None and last.boot_id == boot_id
    # Modules that the engine did not load in this boot are left alone, whatever their names; if the
    # history has lost who loaded them, they are unloaded.
    is_ours = bool(records.damage) if last is None else is_this_boot and is_at_work(last.stage)
    left = ""
    if is_enabled:
        left = load.unload(kernel, load.old_modules_of(kernel, kid))
    elif is_ours or records.is_in_kernel(kid):
        left = load.unload(kernel, load.modules_of(kernel, kid))
    if _is_news(last, standing.stage, is_this_boot=is_this_boot, is_enabled=is_enabled):
        actor = last.actor if last is not None and is_this_boot else actor
        detail = "; ".join(text for text in (standing.detail, left) if text)
        records.record_if_possible(kid, standing.stage, actor, cause=standing.cause, detail=detail)


def _is_news(last: Event | None, stage: Stage, *, is_this_boot: bool, is_enabled: bool) -> bool:
    if is_enabled:
        return last is None or not is_this_boot or last.stage is not stage
    # APPLIED of another boot stays the last event until the update is applied again.  Should this
    # run of the daemon not get to it, the next one still knows what to apply.
    was_applied = last is not None and last.stage is Stage.APPLIED and not is_this_boot
    return last is None or (last.stage is not stage and not was_applied)
