# SPDX-License-Identifier: GPL-2.0-only
"""A few cycles of apply and undo under load, while a module comes and goes; ``make soak``: 300."""

import sys
from pathlib import Path

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.soak.run import Soak, make

CYCLES, ROUNDS = 6, 3


def test_nothing_grows(
    guest: Guest, lab_cache: Cache, kernel: KernelPackages, tmp_path: Path
) -> None:
    made = make(lab_cache, kernel, tmp_path, has_module=True)
    report = Soak(guest, made, lab_cache.progress).run(CYCLES, ROUNDS)
    sys.stdout.write(f"{report}\n")
    assert not report.grown()
    assert all(report.work.values()), "there was no load"
