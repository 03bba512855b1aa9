# SPDX-License-Identifier: GPL-2.0-only
"""At boot, before the network and without a bus: apply again what was applied before.

Updates are applied in their former order, and only on the same build of the kernel.  One that has
to wait is reported with the reason and does not hold up the others.  The transition limit holds as
it does for the daemon.  All of it together has a time (``BUDGET``), so that the machine comes up;
what it did not get to, and a transition that still runs then, is left to the daemon.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ksplicd.errors import CodeBusyError, InUseError, KspliceError, StoreError, UnexpectedError
from ksplicd.host.engine import Engine
from ksplicd.host.stages import BOOT, Transition
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

BUDGET: Final = 120.0
"""Seconds."""
_ARGUMENT: Final = "ksplicd.disable"
_PAUSE: Final = 0.01
"""Seconds between two polls of a transition; there are few tasks so early."""


def why_disabled(root: Path = Path("/")) -> str:
    """Return what turns automatic applies off on this machine; empty when nothing does.

    That is ``ksplicd.disable`` on the kernel's command line, or the file /etc/ksplicd/disable.
    Nothing is applied at boot or from the drop directory then; a caller can still apply.
    """
    try:
        words = (root / "proc/cmdline").read_text(errors="replace").split()
    except OSError:
        words = []
    if _ARGUMENT in words or f"{_ARGUMENT}=1" in words:
        return f"{_ARGUMENT} is on the kernel's command line"
    path = root / "etc/ksplicd/disable"
    return f"there is a file /{path.relative_to(root)}" if path.exists() else ""


def apply_again(
    engine: Engine,
    report_waiting: Callable[[str, str], None],
    disabled: str = "",
    sleep: Callable[[float], None] = time.sleep,
    budget: float = BUDGET,
) -> list[str]:
    """Apply the updates that were applied before the machine went down; returns those applied now.

    ``report_waiting`` is called with (kid, why) for each of the others, but for those that failed
    after they were loaded: the history has them.  ``disabled`` is a reason to apply nothing.
    ``budget``: seconds, after which nothing more is begun or waited for.  Raises ``StoreError``.
    """
    end = engine.doors.clock.monotonic() + budget
    found = engine.reconcile(BOOT)
    for transition in found.transitions:  # an earlier run in this boot was stopped
        try:
            _follow(engine, transition, sleep, end)
        except KspliceError as e:
            report_waiting(transition.kid, str(e))
    if not engine.doors.settings.apply_at_boot:
        disabled = disabled or "apply-at-boot = no in ksplicd.conf"
    for kid, why in found.waiting.items():
        report_waiting(kid, why)
    applied = []
    for kid in found.reapply:
        if disabled:
            report_waiting(kid, f"{disabled}; `ksplice apply {kid}` applies it by hand")
            continue
        if engine.doors.clock.monotonic() >= end:
            report_waiting(kid, f"the boot's {budget:g} s are over; the service applies it")
            continue
        try:
            if _follow(engine, engine.start_apply(kid, BOOT), sleep, end):
                applied.append(kid)
        except KspliceError as e:
            report_waiting(kid, str(e))
    return applied


def _follow(
    engine: Engine, transition: Transition, sleep: Callable[[float], None], end: float
) -> bool:
    """See a transition through until ``end``; returns whether its update is applied then."""
    engine.tidy(transition)
    while not _is_finished(engine, transition):
        if engine.doors.clock.monotonic() >= end:
            raise InUseError(f"{transition.kid}: still in transition; the service sees it through")
        age = engine.doors.clock.monotonic() - transition.started
        if age >= engine.doors.settings.transition_limit and not transition.cancelled:
            transition = engine.cancel(transition, CodeBusyError.abort_cause)
        sleep(_PAUSE)
    try:
        return engine.finish(transition).stage is Stage.APPLIED
    except StoreError as e:  # the work is done
        _log.error("%s: cannot be written down yet: %s", transition.kid, e)
        return engine.get_update(transition.kid).stage is Stage.APPLIED


def _is_finished(engine: Engine, transition: Transition) -> bool:
    """Ask the kernel; as long as it does not answer, the transition counts as running."""
    with contextlib.suppress(UnexpectedError):
        return engine.is_finished(transition)
    return False
