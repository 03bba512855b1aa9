# SPDX-License-Identifier: GPL-2.0-only
"""Soak both updates in a guest with two processors, and print the figures.

python -m tests.soak [--cycles N] [vmlinux|module ...]
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from tests.soak.run import KINDS, Soak, make
from tests.support.kernels.stock import stock_kernel

ROUNDS: Final = 5


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--cycles", type=int, default=300)
    parser.add_argument("kinds", nargs="*", default=["vmlinux", "module"])
    arguments = parser.parse_args()
    cache = Cache(progress=to_stderr)
    kernel = stock_kernel(cache)
    image = build_image(kernel, "stress-ng")
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
    snapshot = take_snapshot(cache, machine)
    failures: list[str] = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder, Guest(snapshot) as guest:
            made = make(cache, kernel, Path(folder), has_module=kind == "module")
            report = Soak(guest, made, to_stderr, (*KINDS, "stress")).run(arguments.cycles, ROUNDS)
        print(f"{kind}: {report}", flush=True)
        failures += [f"{kind}: {line}" for line in report.grown()]
    print("\n".join(failures) or "nothing has grown")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
