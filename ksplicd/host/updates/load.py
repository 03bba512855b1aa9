# SPDX-License-Identifier: GPL-2.0-only
"""The modules of an update: into the kernel, and out of it.

::

    load_core ─▸ match (loads the old code) ─▸ enable (loads the new code) ─▸ unload the old code

Each step raises the error that says why the kernel refused, and leaves it to the caller to
``unload``.  Stages and records are the engine's.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

from ksplicd.bundle import Bundle
from ksplicd.errors import (
    InUseError,
    KspliceError,
    UnexpectedError,
    by_abort_cause,
)
from ksplicd.host.kernel.door import CoreState, KernelDoor
from ksplicd.host.kernel.probes import Probe, probe_at
from ksplicd.host.report.sentences import describe_probe, explain, read_mismatch
from ksplicd.model import core_module, new_module

_OK: Final = "ok"


def load_core(kernel: KernelDoor, bundle: Bundle, *, leave_unmatched: bool = False) -> None:
    """Load the core.  Raises what ``KernelDoor.load_module`` raises.

    ``leave_unmatched``: a target that is loaded later and does not match then is left unpatched,
    rather than refused.
    """
    policy = "leave_unmatched=1" if leave_unmatched else ""
    kernel.load_module(bundle.files[bundle.core.file], bundle.core.module, policy)


def match(kernel: KernelDoor, bundle: Bundle) -> CoreState:
    """Load the old code, which matches every target, and return what the core reports.

    The old code stays loaded: unloading takes as long as loading, and can be done while the kernel
    switches.  A target that may be loaded later need not be loaded now.  Raises the ``ApplyError``
    for the core's abort cause, or what ``KernelDoor.load_module`` raises.
    """
    kid = bundle.manifest.kid
    late = {target.name for target in bundle.manifest.targets if target.late}
    for change in bundle.changes:
        when = "late=1" if change.target in late else ""
        try:
            kernel.load_module(bundle.files[change.old_file], change.old_module, when)
        except KspliceError as e:
            raise _explain(kernel, kid, e) from e
    core = kernel.core(kid)
    wanted = {change.target.replace("-", "_") for change in bundle.changes}
    known = {target.replace("-", "_") for target in core.targets} if core is not None else set()
    missing = wanted - known
    if core is None or missing:
        raise UnexpectedError(
            f"{kid}: the kernel part does not report on {', '.join(sorted(missing))}; see dmesg"
        )
    return core


def enable(
    kernel: KernelDoor, bundle: Bundle, *, ask_early: bool = True, signal_after: int = 0
) -> None:
    """Load the new code, which starts the transition.

    ``ask_early``: whether it has livepatch look early whether the transition is over.
    ``signal_after``: seconds until it signals the tasks that hold the transition up; 0: never.
    Raises as ``match`` does, and ``InUseError`` when another transition runs.
    """
    change = bundle.changes[0]  # the same for every target
    try:
        parameters = [] if ask_early else ["ask_early=0"]
        parameters += [f"signal_after={signal_after}"] if signal_after else []
        kernel.load_module(bundle.files[change.new_file], change.new_module, " ".join(parameters))
    except KspliceError as e:
        raise _explain(kernel, bundle.manifest.kid, e) from e


def modules_of(kernel: KernelDoor, kid: str) -> list[str]:
    """Return the loaded modules of an update, in the order of unloading them."""
    new, core = new_module(kid), core_module(kid)
    loaded = kernel.modules()
    return [name for name in (new, *old_modules_of(kernel, kid), core) if name in loaded]


def old_modules_of(kernel: KernelDoor, kid: str) -> list[str]:
    """Return the loaded old-code modules of an update."""
    begin = f"{core_module(kid)}_"
    return sorted(n for n in kernel.modules() if n.startswith(begin) and n.endswith("_old"))


def unload(kernel: KernelDoor, names: Iterable[str]) -> str:
    """Unload as many of ``names`` as possible, in this order.

    Returns which modules stay loaded and why; empty text when none does.
    """
    failures = []
    for name in names:
        try:
            kernel.unload_module(name)
        except KspliceError as e:
            failures.append(str(e))
    return "; ".join(failures)


def read_core_mismatch(kernel: KernelDoor, kid: str) -> dict[str, str]:
    """Return the core's mismatch, empty when there is none; call this before ``unload``."""
    try:
        core = kernel.core(kid)
    except KspliceError:
        return {}  # not readable, or not in our format
    return {} if core is None else read_mismatch(core.mismatch)


def _explain(kernel: KernelDoor, kid: str, error: KspliceError) -> KspliceError:
    """Return the error for the core's abort cause, or ``error`` when the core has none."""
    core = kernel.core(kid)
    if core is None or core.abort_cause == _OK:
        return _name_transition(kernel, error)
    cls, mismatch = by_abort_cause(core.abort_cause), read_mismatch(core.mismatch)
    text = f"{kid}: {explain(core.abort_cause, mismatch)}"
    probe = _probe_in_the_way(kernel, mismatch)
    return cls(f"{text}; {describe_probe(probe)}" if probe is not None else text)


def _name_transition(kernel: KernelDoor, error: KspliceError) -> KspliceError:
    """Return ``error``; if it is that a transition runs, add the live patch in transition."""
    if isinstance(error, InUseError):
        with contextlib.suppress(KspliceError):  # the name is only a hint
            for name in sorted(kernel.livepatches()):
                state = kernel.livepatch(name)
                if state is not None and state.transition:
                    return InUseError(f"{error} (that of {name})")
    return error


def _probe_in_the_way(kernel: KernelDoor, mismatch: Mapping[str, str]) -> Probe | None:
    """Return the kprobe at the place where the running code differs, if there is one."""
    if "function" not in mismatch:
        return None
    try:
        probes = kernel.probes()
    except KspliceError:
        return None  # the name is only a hint
    return probe_at(probes, mismatch["function"], int(mismatch["offset"], 16))
