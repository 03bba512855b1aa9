# SPDX-License-Identifier: GPL-2.0-only
"""What a crash of the kernel leaves behind: pstore, kdump, the last kernel log in the journal.

A power cut leaves none of it.  A trace proves a crash; that there is none proves nothing, as not
every machine has a place for it.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FOLDERS: Final = (
    ("sys/fs/pstore", re.compile(r"dmesg-.*")),
    ("var/lib/systemd/pstore", re.compile(r"dmesg.*")),
    ("var/crash", re.compile(r"(?:dmesg|vmcore|dump).*")),
)
"""Where they are, and what they are called: the kernel's pstore (its Documentation, ramoops),
systemd-pstore(8), kdump-tools and kexec-tools."""
_CRASH: Final = re.compile(
    r"Kernel panic|BUG: |kernel BUG at |Oops: |general protection fault|divide error: "
    r"|stack segment: |watchdog: Watchdog detected hard|NMI watchdog: Watchdog detected hard"
)
_MOST_FILES: Final = 10_000
"""Of a folder; what is beyond them is not looked at."""
_LAST_LINES: Final = 1000
_SLACK: Final = 60.0
"""Seconds by which two clocks may differ."""


class CrashTraces:
    """The traces on one machine."""

    def __init__(self, root: Path = Path("/"), *, has_journal: bool = True, owner: int = 0) -> None:
        """Only files of ``owner`` count: on some systems every user can write into /var/crash."""
        self._root = root
        self._owner = owner
        self._has_journal = has_journal

    def find(self, boot_id: str, since: float) -> str:
        """Return what shows that a boot crashed after ``since``, seconds since 1970; or nothing."""
        for path in self._files():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if status.st_uid == self._owner and status.st_mtime >= since - _SLACK:
                    return f"/{path.relative_to(self._root)} is from after it was applied"
        line = self._last_words(boot_id, since) if self._has_journal else ""
        return f"the kernel's last log has: {line}" if line else ""

    def _files(self) -> Iterator[Path]:
        for folder, pattern in _FOLDERS:
            with contextlib.suppress(OSError):
                for path in itertools.islice((self._root / folder).rglob("*"), _MOST_FILES):
                    if pattern.fullmatch(path.name):
                        yield path

    def _last_words(self, boot_id: str, since: float) -> str:
        """Return a line of the kernel's log of that boot that tells of a crash, or nothing."""
        from systemd import journal  # large, and seldom needed

        with contextlib.suppress(OSError, ValueError), journal.Reader() as reader:
            reader.add_match(_BOOT_ID=boot_id, _TRANSPORT="kernel")
            reader.seek_tail()
            for _ in range(_LAST_LINES):
                entry = reader.get_previous()
                if not entry:
                    break
                when = entry.get("__REALTIME_TIMESTAMP")
                if when is None or when.timestamp() < since - _SLACK:
                    break
                if _CRASH.search(text := str(entry.get("MESSAGE", ""))):
                    return text[:200]
        return ""
