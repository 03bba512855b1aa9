# SPDX-License-Identifier: GPL-2.0-only
"""Matching while others rewrite the code that is compared.

Each transition of a live patch rewrites every ``cond_resched`` on 6.12, and each tracepoint that is
switched its static calls and jump labels, site by site: valid old calls are seen meanwhile.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.foreign import FOREIGN, build_module
from tests.support.guest.matching import load_core, state
from tests.support.guest.old_code import CORE, OLD, make_old_code
from tests.support.guest.rewriting import rewriting, rewritten

MATCHES: Final = int(os.environ.get("KSPLICE_MATCHES", "10"))
KERNELS: Final = ("6.1", "6.12") if "KSPLICE_MATCHES" in os.environ else ("6.12",)
AT_ONCE: Final = 5
MATCH: Final = f"""\
for i in $(seq {AT_ONCE}); do
    insmod /root/old.ko || exit 1
    cut -d ' ' -f 4 /sys/module/{CORE}/ksplice/matched
    rmmod {OLD}
done
"""


@pytest.mark.kernels(*KERNELS)
def test_matches_while_code_is_rewritten(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tmp_path: Path
) -> None:
    """Others come and go at least once in five matches."""
    old_code = make_old_code(lab_cache, kernel)
    guest.put("/root/foreign.ko", build_module(kernel, tmp_path, "foreign", FOREIGN))
    guest.put("/root/old.ko", old_code.old)
    load_core(guest, old_code)
    took: list[int] = []
    begin = time.monotonic()
    with rewriting(guest):
        while len(took) < MATCHES:
            done = guest.run(MATCH, check=False, timeout=300)
            took += map(int, done.out.split())
            assert done.status == 0, f"{len(took)}: {state(guest, 'mismatch')}"
        patches, events = rewritten(guest)
    took.sort()
    sys.stdout.write(
        f"{len(took)} matches in {time.monotonic() - begin:.0f} s, half of them within"
        f" {took[len(took) // 2] / 1000:.0f} ms, all within {took[-1] / 1000:.0f} ms;"
        f" a live patch came and went {patches} times, tracepoints {events} times\n"
    )
    assert patches >= MATCHES // AT_ONCE
    assert events >= MATCHES // AT_ONCE
    assert "Call Trace" not in guest.kernel_log()
