# SPDX-License-Identifier: GPL-2.0-only
"""Runs alone in the guest: cycles of apply and undo, and what the kernel holds.

cycle KID COUNT TARGET...   apply and undo; prints seconds of each as JSON
figures                     prints what the kernel holds as JSON

With the target ``romfs``, that module is loaded before the update or while it is applied, and is
unloaded and loaded again, in turn.
"""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

INIT_MODULE, DELETE_MODULE = 175, 176
PATIENCE = 120.0
LIBC = ctypes.CDLL(None, use_errno=True)


def load(name: str, parameters: str = "") -> None:
    data = Path(f"/root/{name}.ko").read_bytes()
    if LIBC.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), parameters.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def unload(name: str) -> None:
    """Unload a module that the kernel may hold a moment longer."""
    end = time.monotonic() + PATIENCE
    while LIBC.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK):
        if time.monotonic() > end:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
        time.sleep(0.02)


def read(path: str) -> str:
    return Path(path).read_text().strip()


def wait_for(kid: str, stage: str) -> None:
    end = time.monotonic() + PATIENCE
    while read(f"/sys/module/ksplice_{kid}/ksplice/stage") != stage:
        assert time.monotonic() < end, f"not {stage}"
        time.sleep(0.02)
    with contextlib.suppress(OSError):  # the folder goes when the transition back has ended
        while read(f"/sys/kernel/livepatch/ksplice_{kid}_new/transition") != "0":
            time.sleep(0.02)


def say(kid: str, state: str) -> None:
    found = read(f"/sys/module/ksplice_{kid}/ksplice/targets")
    assert f"romfs {state}" in found.splitlines(), found


def probe(name: str) -> None:
    subprocess.run(["modprobe", name], check=True)


def cycle(kid: str, targets: list[str], number: int) -> tuple[float, float]:
    """Apply and undo once; return how long each took."""
    core, has_module = f"ksplice_{kid}", "romfs" in targets
    if has_module and number % 2:
        probe("romfs")
    begin = time.monotonic()
    load(core)
    for target in targets:
        load(f"{core}_{target}_old", "" if target == "vmlinux" else "late=1")
        unload(f"{core}_{target}_old")
    load(f"{core}_new")
    wait_for(kid, "applied")
    applied = time.monotonic()
    if has_module:
        say(kid, "matched" if number % 2 else "waiting")
        for _ in range(2):
            probe("romfs")
            say(kid, "matched")
            unload("romfs")
            say(kid, "waiting")
        if number % 3:
            probe("romfs")
    middle = time.monotonic()
    Path(f"/sys/kernel/livepatch/{core}_new/enabled").write_text("0")
    wait_for(kid, "reversed")
    unload(f"{core}_new")
    unload(core)
    end = time.monotonic()
    if has_module and number % 3:
        unload("romfs")
    return applied - begin, end - middle


def figures() -> dict[str, int]:
    """Return what the kernel holds, once caches are as small as they get."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    for cache in Path("/sys/kernel/slab").glob("*/shrink"):
        with contextlib.suppress(OSError):
            cache.write_text("1")
    time.sleep(1)
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    areas = Path("/proc/vmallocinfo").read_text().splitlines()
    sizes = [int(line.split()[1]) for line in areas if "module" in line or "kvmalloc" in line]
    slabs = Path("/proc/slabinfo").read_text().splitlines()[2:]
    found = {key: int(info[key].split()[0]) for key in ("SUnreclaim", "Percpu", "VmallocUsed")}
    found["kmalloc objects"] = sum(int(s.split()[1]) for s in slabs if s.startswith("kmalloc-"))
    found["module areas"] = sum(sizes) // 1024
    found["sysfs entries"] = sum(
        len(folders) + len(files)
        for top in (
            "/sys/module",
            "/sys/kernel/livepatch",
            "/sys/kernel/slab",
            "/sys/devices/virtual",
        )
        for _, folders, files in os.walk(top)
    )
    return found


if __name__ == "__main__":
    if sys.argv[1] == "figures":
        print(json.dumps(figures()))
    else:
        KID, FIRST, COUNT, *TARGETS = sys.argv[2:]
        for i in range(int(FIRST), int(FIRST) + int(COUNT)):
            print(json.dumps(cycle(KID, TARGETS, i)), flush=True)
