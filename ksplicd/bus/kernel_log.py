# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log, read on the loop while it is watched.

Reading begins with the oldest record that the kernel still has.  Which update a complaint is about
is not known here.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gi.repository import GLib

from ksplicd.host.kernel.kmsg import Complaint, Reader

_log = logging.getLogger(__name__)

KMSG: Final = Path("/dev/kmsg")

_RECORD_SIZE: Final = 8192  # CONSOLE_EXT_LOG_MAX, kernel/printk/internal.h
_RECORDS_AT_ONCE: Final = 100
"""Records that are read in one go: a full log would hold the loop for too long."""


class KernelLog:
    """/dev/kmsg as a source of the loop."""

    def __init__(self, on_complaint: Callable[[Complaint], None], path: Path = KMSG) -> None:
        """Nothing is opened before ``watch``."""
        self._on_complaint = on_complaint
        self._path = path
        self._reader = Reader()
        self._fd = -1
        self._source = 0
        self._is_unreadable = False

    @property
    def is_watched(self) -> bool:
        """Whether complaints are reported now."""
        return bool(self._source)

    def watch(self) -> None:
        """Report complaints from now on, beginning with those already in the log."""
        if self._source or self._is_unreadable:
            return
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as e:
                self._give_up(e)
                return
        conditions = GLib.IOCondition.IN | GLib.IOCondition.HUP | GLib.IOCondition.ERR
        self._source = GLib.io_add_watch(self._fd, GLib.PRIORITY_LOW, conditions, self._on_log)

    def ignore(self) -> None:
        """Stop; ``watch`` continues at the same place."""
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0

    def close(self) -> None:
        """Stop, and close the file."""
        self.ignore()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _give_up(self, error: OSError) -> None:
        """Work on without the log, such as where the kernel was started with printk.devkmsg=off."""
        _log.warning("%s: %s: the kernel's warnings are not noticed", self._path, error.strerror)
        self._is_unreadable = True
        self._source = 0

    def _on_log(self, fd: int, _condition: int) -> bool:
        for _ in range(_RECORDS_AT_ONCE):
            try:
                data = os.read(fd, _RECORD_SIZE)
            except BlockingIOError:
                return True  # more will come
            except BrokenPipeError:
                continue  # the kernel has overwritten records that were not read
            except OSError as e:
                self._give_up(e)
                return False
            for complaint in self._reader.feed(data):
                self._on_complaint(complaint)
        return True
