# SPDX-License-Identifier: GPL-2.0-only
"""What is wanted and not there: which updates, why, and which of them may be applied now.

Only what is wanted for the running kernel can be missing.  Nothing is applied here.
"""

from ksplicd.host.stages import BOOT, Actor, Via, is_at_work
from ksplicd.host.store.wanted import Want
from ksplicd.host.updates.doors import Doors
from ksplicd.host.updates.records import Records
from ksplicd.model import Stage

NOT_YET = "it has not been applied since the machine came up"
NOT_HERE = "its bundle is not stored here"


def missing(doors: Doors, records: Records) -> dict[str, str]:
    """Return the updates that are wanted for this kernel and not applied, each with the reason."""
    found = {}
    for want in records.wants:
        if is_for_here(want, doors) and not is_at_work(records.info(want.kid).stage):
            found[want.kid] = _why(want.kid, doors, records)
    return found


def due(doors: Doors, records: Records) -> list[tuple[str, Actor]]:
    """Return the updates that are missing and may be applied now, in order, and on whose word.

    That is what policy or a boot says: a person's apply of this boot is in the kernel, or has told
    the person that it failed.
    """
    here, boot_id, found = list(missing(doors, records)), doors.kernel.boot_id(), []
    for want in records.wants:
        if want.kid in here and not why_not_now(want.kid, records):
            last = records.last(want.kid)
            is_dropped = last is not None and last.boot_id == boot_id
            is_dropped = is_dropped and want.actor.via is Via.DROP and not want.is_applied
            found.append((want.kid, want.actor if is_dropped else BOOT))
    return found


def is_for_here(want: Want, doors: Doors) -> bool:
    """Return whether an update is for the running kernel, as far as that is known."""
    return want.kernel.build_id in {"", doors.kernel.build_id()}


def why_not_now(kid: str, records: Records) -> str:
    """Return why a wanted update cannot be applied now; empty when it can be tried."""
    if records.trusted(kid) is None:
        detail = records.info(kid).detail if records.has(kid) else ""
        return detail or NOT_HERE
    if records.damage:
        return (
            f"it may have been undone: part of the history cannot be read ({records.damage}); "
            f"`ksplice apply {kid}` applies it by hand, and without that file no update has to wait"
        )
    return records.why_other_kernel(kid)


def _why(kid: str, doors: Doors, records: Records) -> str:
    if why := why_not_now(kid, records):
        return why
    last = records.last(kid)
    if last is None or last.boot_id != doors.kernel.boot_id() or last.stage is not Stage.FAILED:
        return NOT_YET
    return ": ".join(text for text in (last.cause, last.detail) if text)
