# SPDX-License-Identifier: GPL-2.0-only
"""Kprobes, as debugfs and tracefs show them: who else writes into a function.

A kprobe at a function's start goes through ftrace and does not disturb the match.  A kprobe further
inside writes a breakpoint or a jump, which run-pre matching finds as a difference; this module
names its owner (Documentation/trace/kprobes.rst and kprobetrace.rst).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.host.kernel.sysfs import NOT_SHOWN, read_attribute

# ffffffff9df61c60  k  do_fcntl+0x20    [OPTIMIZED]
_LISTED: Final = re.compile(r"[0-9a-f]+ +\w+ +(?P<function>\S+)\+0x(?P<offset>[0-9a-f]+) ")
# p:kprobes/x do_fcntl+32 fd=%di
_EVENT: Final = re.compile(r"[pr]\d*:(?P<event>\S+) (?P<function>[^\s+]+)(?:\+(?P<offset>\d+))?")

_JUMP_SIZE: Final = 5
"""Bytes that an optimised kprobe writes, x86's JMP32_INSN_SIZE."""
_NOBODY: Final = "a kprobe of perf, BPF or a module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A kprobe in the kernel's text."""

    function: str
    offset: int
    user: str
    """``the kprobe event kprobes/x``, or ``a kprobe of perf, BPF or a module``."""


def read_probes(sys: Path) -> tuple[Probe, ...]:
    """Return the kprobes that ``sys``/kernel shows to this process.

    Raises ``UnexpectedError`` as ``read_attribute`` does.
    """
    events: dict[tuple[str, int], str] = {}
    for line in _lines(sys / "kernel/tracing/dynamic_events"):
        if (m := _EVENT.match(line)) is not None:
            events[m["function"], int(m["offset"] or 0)] = f"the kprobe event {m['event']}"
    listed = filter(None, map(_LISTED.match, _lines(sys / "kernel/debug/kprobes/list")))
    places = dict.fromkeys((m["function"], int(m["offset"], 16)) for m in listed)
    return tuple(
        Probe(function=function, offset=offset, user=events.get((function, offset), _NOBODY))
        for function, offset in {**places, **events}
    )


def probe_at(probes: tuple[Probe, ...], function: str, offset: int) -> Probe | None:
    """Return the probe in ``function`` whose bytes may cover ``offset``."""
    for probe in probes:
        if probe.function == function and 0 <= offset - probe.offset < _JUMP_SIZE:
            return probe
    return None


def _lines(path: Path) -> list[str]:
    return (read_attribute(path, NOT_SHOWN) or "").splitlines()
