# SPDX-License-Identifier: GPL-2.0-only
"""Others who rewrite the kernel's code all the time: a live patch, and tracepoints."""

import contextlib
from collections.abc import Iterator

from ksplicd.lab.running_guest import RunningGuest
from tests.support.guest.foreign import ADD_FOREIGN, REMOVE_FOREIGN

_TRACED = "task", "tcp", "block"
"""Folders of tracepoints of ``old_code.UNITS``; not those that are hit all the time."""
_LOOP = """\
while [ -e /run/rewriting ]; do
    {}
    echo >>/run/rewritten-{}
done
"""


def _switch(value: int) -> str:
    paths = " ".join(f"/sys/kernel/tracing/events/{name}/enable" for name in _TRACED)
    return f"for f in {paths}; do [ ! -e $f ] || echo {value} >$f; done"


@contextlib.contextmanager
def rewriting(guest: RunningGuest) -> Iterator[None]:
    """Have a foreign live patch, ``/root/foreign.ko``, and tracepoints come and go meanwhile."""
    patches = _LOOP.format(f"{ADD_FOREIGN}; {REMOVE_FOREIGN}", "patches")
    events = _LOOP.format(f"{_switch(1)}; {_switch(0)}", "tracepoints")
    guest.run("rm -f /run/rewritten-*; touch /run/rewriting")
    for name, script in (("patches", patches), ("tracepoints", events)):
        guest.put(f"/root/{name}.sh", script.encode())
        guest.run(
            f"setsid sh /root/{name}.sh >/dev/null 2>&1 </dev/null & echo $! >/run/{name}.pid"
        )
    try:
        yield
    finally:
        pids = "/proc/$(cat /run/patches.pid) /proc/$(cat /run/tracepoints.pid)"
        guest.run(
            "rm /run/rewriting;"
            f" for p in {pids}; do while [ -e $p ]; do sleep 0.2; done; done;"
            " echo >/sys/kernel/tracing/trace"
        )


def rewritten(guest: RunningGuest) -> tuple[int, int]:
    """Return how often the live patch and the tracepoints have come and gone so far."""
    found = guest.run(
        "cat /run/rewritten-patches 2>/dev/null | wc -l;"
        " cat /run/rewritten-tracepoints 2>/dev/null | wc -l"
    )
    patches, events = found.out.split()
    return int(patches), int(events)
