# SPDX-License-Identifier: GPL-2.0-only
"""At boot, before the network and without a bus: apply again what was applied before.

In the order in which it was applied, for the same build of the kernel only; what has to wait is
told with its reason, and keeps nothing else from being applied.  Each is given the transition limit
and then turned around, as always.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ksplicd.errors import CodeBusyError, KspliceError, UnexpectedError
from ksplicd.host.engine import Engine
from ksplicd.host.stages import Actor, Transition, Via
from ksplicd.model import Stage

BOOT: Final = Actor(uid=0, via=Via.BOOT)

_ARGUMENT: Final = "ksplicd.disable"
_PAUSE: Final = 0.01
"""Seconds between two looks at a transition; there are few tasks so early."""


def why_disabled(root: Path = Path("/")) -> str:
    """Tell what turns the service off on this machine; empty when nothing does.

    ``ksplicd.disable`` on the kernel's command line, or the file /etc/ksplicd/disable.  Nothing is
    applied by itself then, neither at boot nor from the drop directory; who asks for it still can.
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
    tell_waiting: Callable[[str, str], None],
    disabled: str = "",
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Apply what was applied before the machine went down; returns what is applied again now.

    ``tell_waiting`` hears (kid, why) of each update that is not; of one whose transition did not
    end the history tells.  ``disabled`` is a reason to apply nothing.  Raises ``StoreError``.
    """
    found = engine.reconcile(BOOT)
    for transition in found.transitions:  # we were stopped before
        try:
            _follow(engine, transition, sleep)
        except KspliceError as e:
            tell_waiting(transition.kid, str(e))
    if not engine.settings.apply_at_boot:
        disabled = disabled or "apply-at-boot = no in ksplicd.conf"
    for kid, why in found.waiting.items():
        tell_waiting(kid, why)
    applied = []
    for kid in found.reapply:
        if disabled:
            tell_waiting(kid, f"{disabled}; `ksplice apply {kid}` applies it by hand")
            continue
        try:
            if _follow(engine, engine.start_apply(kid, BOOT), sleep):
                applied.append(kid)
        except KspliceError as e:
            tell_waiting(kid, str(e))
    return applied


def _follow(engine: Engine, transition: Transition, sleep: Callable[[float], None]) -> bool:
    """See a transition through; tells whether its update is applied then."""
    engine.tidy(transition)
    while not _is_finished(engine, transition):
        age = engine.clock.monotonic() - transition.started
        if age >= engine.settings.transition_limit and not transition.cancelled:
            transition = engine.cancel(transition, CodeBusyError.abort_cause)
        sleep(_PAUSE)
    return engine.finish(transition).stage is Stage.APPLIED


def _is_finished(engine: Engine, transition: Transition) -> bool:
    """Ask the kernel; no answer now is none for good: it is asked until the limit."""
    with contextlib.suppress(UnexpectedError):
        return engine.is_finished(transition)
    return False
