# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's complaints: warnings, oopses and stalls in its log.

A record of /dev/kmsg is one line, ``PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`` (the kernel's
Documentation/ABI/testing/dev-kmsg).  A complaint is many: a headline (kernel/panic.c, lib/bug.c,
arch/x86/kernel/dumpstack.c, kernel/watchdog.c), then lines of which some name a function of the
stack, such as `` do_fcntl+0x1c/0x560 [ksplice_8c4o6ucj_new]``.

Users can write to the log, so not every line is trusted: a record from user space has a facility
other than 0, and of the kernel's own records only lines with the exact form of a stack entry count.
The list of loaded modules is in every complaint and proves nothing; nor does a stack entry that the
unwinder marks with ``?``, which it found on the stack but did not follow.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ksplicd.host.stages import UpdateInfo
from ksplicd.model import VMLINUX

_SYMBOL: Final = r"(?P<function>[A-Za-z_][\w.$]*)\+0x[0-9a-f]+/0x[0-9a-f]+"
_MODULE: Final = r"(?: \[(?P<module>\w+)(?: [0-9a-f]+)?\])?"
_RECORD: Final = re.compile(
    r"(?P<priority>[0-9]{1,4}),[0-9]+,(?P<time>[0-9]{1,20}),[^;]*;(?P<text>.*)"
)
_FRAME: Final = re.compile(rf"(?:RIP: [0-9a-f]{{4}}:| ){_SYMBOL}{_MODULE} ?")
_AT: Final = re.compile(rf"WARNING: CPU: [0-9]+ PID: [0-9]+ at \S+ {_SYMBOL}{_MODULE} ?")
_HEADLINE: Final = re.compile(
    r"WARNING: |BUG: |UBSAN: |kernel BUG at |Oops: |general protection fault|divide error: "
    r"|invalid opcode: |stack segment: |watchdog: BUG: soft lockup|watchdog: Watchdog detected hard"
    r"|NMI watchdog: Watchdog detected hard|rcu: INFO: rcu_\w+ .*stall|INFO: task .* blocked for "
)
_STALL: Final = re.compile(r"rcu: INFO: rcu_\w+ .*stall|INFO: task .* blocked for ")
"""Headlines that a user can bring about: a task that waits for a file system of his own, or that
keeps a processor busy in a guest or at real-time priority."""
_MORE: Final = re.compile(r"Oops: |invalid opcode: ")
"""Headlines that may follow another headline within one complaint."""
_END: Final = re.compile(r"---\[ end ")
_UPDATE_MODULE: Final = re.compile(r"ksplice_([a-z0-9]{8})(?:_\w+)?")
_MAX_LINES: Final = 500
_MAX_GAP: Final = 5.0
"""Seconds between two lines of a complaint; printing one to a serial line takes milliseconds."""
_KERNEL: Final = 0
"""The facility of the kernel's own records; user space cannot write with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """A function that a warning, an oops or a stall names."""

    time: float
    """Seconds since boot, on printk's clock."""
    headline: str
    function: str
    module: str
    """The module that the function is in, or empty for vmlinux."""

    @property
    def is_stall(self) -> bool:
        """Whether a user can bring it about, so that no update must be undone for it."""
        return _STALL.match(self.headline) is not None


class Reader:
    """Finds complaints in records, and reports each function of a complaint once."""

    def __init__(self) -> None:
        """No complaint is open."""
        self._headline = ""
        self._last = 0.0
        self._lines = 0
        self._seen: set[tuple[str, str]] = set()

    def feed(self, data: bytes) -> Iterator[Complaint]:
        """Take the whole lines of one or more reads, and yield the complaints in them."""
        for line in data.decode("ascii", "replace").splitlines():
            if record := _RECORD.fullmatch(line):  # else: a continuation of the record before it
                priority, time = int(record["priority"]), int(record["time"]) / 1_000_000
                if priority >> 3 == _KERNEL:
                    yield from self._read(time, record["text"])

    def _read(self, time: float, text: str) -> Iterator[Complaint]:
        is_more = self._is_open(time) and (_MORE.match(text) or not _HEADLINE.match(text))
        if not is_more:
            if not _HEADLINE.match(text):
                return
            self._headline, self._lines, self._seen = text, 0, set()
        elif _END.match(text):
            self._headline = ""
            return
        self._last, self._lines = time, self._lines + 1
        found = _FRAME.fullmatch(text) or _AT.fullmatch(text)
        if found and (place := (found["function"], found["module"] or "")) not in self._seen:
            self._seen.add(place)
            yield Complaint(time=time, headline=self._headline, function=place[0], module=place[1])

    def _is_open(self, time: float) -> bool:
        """Return whether a line of this time belongs to the last complaint."""
        is_near = time - self._last <= _MAX_GAP and self._lines < _MAX_LINES
        return bool(self._headline) and is_near


class Watchlist:
    """The modules and functions by which a complaint is about an update."""

    def __init__(self, infos: Iterable[UpdateInfo] = ()) -> None:
        """Take the updates that are in the kernel."""
        self._kids: set[str] = set()
        self._functions: dict[tuple[str, str], set[str]] = {}
        for info in infos:
            self._kids.add(info.kid)
            for target in info.manifest.targets:
                module = "" if target.name == VMLINUX else target.name.replace("-", "_")
                for function in target.functions:
                    self._functions.setdefault((function.name, module), set()).add(info.kid)

    def find(self, complaint: Complaint) -> set[str]:
        """Return the updates whose modules or functions ``complaint`` names.

        A plain function name stands for the old code, since the new code is in the update's module.
        """
        if of_update := _UPDATE_MODULE.fullmatch(complaint.module):
            return self._kids & {of_update[1]}
        return self._functions.get((complaint.function, complaint.module), set())
