# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log of updates during a test, compared with a golden log.

``logs/FILE/TEST.log`` has the lines of livepatch and of the updates' modules; what differs from run
to run is ``N``.  ``KSPLICE_LOGS=write`` writes the golden log: read the difference.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Final

from ksplicd.lab.loading import has_complaint
from ksplicd.lab.running_guest import RunningGuest

LOGS: Final = Path(__file__).parents[2] / "vm/logs"
_OURS: Final = re.compile(r"(ksplice_\w+|livepatch): ")
_OF_THE_MOMENT: Final = re.compile(r"taint|signaling remaining tasks$")
"""What is only said once in a boot, or after 15 seconds."""
_READ: Final = "dd if=/dev/kmsg iflag=nonblock bs=8192 2>/dev/null; true"
_RECORD: Final = re.compile(r"^[^ ;\n]*;(.*\n)", re.MULTILINE)
"""A message and what it begins with (Documentation/ABI/testing/dev-kmsg of the kernel)."""
_MARK: Final = "---- a test begins ----"


def told(log: str) -> str:
    """Return what livepatch and the updates said, without what differs from run to run."""
    lines = [x for x in log.splitlines() if _OURS.match(x) and not _OF_THE_MOMENT.search(x)]
    text = "".join(f"{line}\n" for line in lines)
    text = re.sub(r"\b0x[0-9a-f]+\b", "N", text)
    return re.sub(r"\b\d+\b", "N", text)


def begin_log(guest: RunningGuest) -> None:
    """Forget, for ``check_log`` and ``kernel_log``, what the kernel has said so far."""
    guest.run(f"echo '{_MARK}' >/dev/kmsg; dmesg --clear")


def check_log(guest: RunningGuest, file: str, test: str) -> None:
    """Compare the whole log of a test, also what ``dmesg --clear`` hides."""
    log = "".join(_RECORD.findall(guest.run(_READ).out)).rpartition(f"{_MARK}\n")[2]
    assert not has_complaint(log), log
    golden = LOGS / file / f"{re.sub(r'[^-+.,=A-Za-z0-9_]', '_', test)}.log"
    if os.environ.get("KSPLICE_LOGS") == "write":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(told(log))
    known, said = golden.read_text().splitlines(), told(log).splitlines()
    difference = "\n".join(difflib.unified_diff(known, said, "golden", "told", lineterm=""))
    assert not difference, difference
