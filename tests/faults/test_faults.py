# SPDX-License-Identifier: GPL-2.0-only
"""A sample of the faults; `make faults` tries them all."""

import subprocess
import sys

from tests.faults.story import VERBS
from tests.support.needs import needs

_EVERY = 97
"""One fault in so many; a prime, so that each run of a verb's system calls gives some."""


@needs("strace")
def test_faults() -> None:
    argv = [sys.executable, "-m", "tests.faults", "--every", str(_EVERY)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(VERBS) + 1
    assert lines[-1].endswith(" 0 broken rules")
