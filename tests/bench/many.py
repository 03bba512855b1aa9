# SPDX-License-Identifier: GPL-2.0-only
"""What an update of many functions costs others on a machine with many tasks.

The updates list functions that stay as they are (``nop`` of struct klp_func): livepatch and ftrace
do for each what they do for any.  They are matched and applied, superseded by another one of the
same functions, and undone, while programs watch how long they have to wait:

interrupts off     a timer in hard interrupts on each processor: how late it is at most
real-time task     of the highest priority, on each processor: how late its nanosleep() ends
fork, module load  how long the longest call takes

The length of a step is that of everything: modules loaded, functions found, all tasks switched, or
all of it back and the modules unloaded.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.build.units import Unit
from ksplicd.create.modules.build import make_command, write_sources
from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.request import Request
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import VMLINUX, core_module, new_module, old_module
from ksplicd.run import run
from tests.bench import in_guest
from tests.bench.create import opened
from tests.bench.figures import Figure
from tests.bench.many_programs import OFF, SLEEPERS, TINY, WATCH
from tests.bench.plain import put_program
from tests.support.kernels.slice import config_folder, source_tree
from tests.support.kernels.stock import KERNELS

_TASKS: Final = int(os.environ.get("KSPLICE_TASKS", "10000"))
_FUNCTIONS: Final = tuple(
    int(n) for n in os.environ.get("KSPLICE_FUNCTIONS", "1 50 200 500").split()
)
_MEMORY: Final = 1536
_TIMEOUT: Final = 1500.0
_UNITS: Final = (
    "fs/namei.c", "fs/dcache.c", "fs/inode.c", "fs/buffer.c", "fs/ext4/inode.c", "fs/ext4/super.c",
    "fs/ext4/mballoc.c", "fs/proc/base.c", "kernel/sys.c", "mm/memory.c", "mm/shmem.c",
    "mm/swapfile.c", "net/core/dev.c", "net/core/skbuff.c", "net/ipv4/tcp_input.c",
    "net/ipv4/tcp_output.c", "net/ipv4/tcp.c", "net/core/sock.c", "block/blk-core.c",
)  # fmt: skip
"""Of functions in which nobody sleeps."""
_END_NOPS: Final = """\
static void end_nops(void)
{
	struct klp_func *func;

	for (func = funcs_0; func->old_name; func++)
		func->nop = false;
}
"""
_KIDS: Final = ("benchmn1", "benchmn2")
"""An update, and the one that supersedes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What updates of one kernel are made from."""

    config: ConfigDir
    old_code: dict[str, bytes]
    functions: Sequence[tuple[str, int]]
    """Functions that livepatch can redirect: name, and position among those of the name."""


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures of all kernels under test."""
    names = os.environ.get("KSPLICE_KERNELS", " ".join(KERNELS)).split()
    return [figure for name in names for figure in _measure(cache, KERNELS[name](cache), name)]


def _measure(cache: Cache, kernel: KernelPackages, name: str) -> list[Figure]:
    stock = read_stock(cache, kernel)
    to_stderr(f"many: {name}, {len(stock.functions)} functions, {_TASKS} tasks")
    image = build_image(kernel)
    accelerator = probe_accelerator(cache, image.kernel)
    snapshot = take_snapshot(cache, Machine(image=image, accelerator=accelerator, memory=_MEMORY))
    figures: list[Figure] = []
    for count in _FUNCTIONS:
        scratch = tempfile.TemporaryDirectory(prefix="ksplice-bench-")
        with scratch as folder, Guest(snapshot) as guest:
            put_watch(guest, Path(folder), kernel.install_headers())
            updates = [put_update(guest, stock, kid, count) for kid in _KIDS]
            fill(guest, _TASKS)
            figures += steps(guest, f"{name}, {count} functions", *updates)
    return figures


def read_stock(cache: Cache, kernel: KernelPackages) -> Stock:
    """Compile the units, and find them in the image."""
    request = Request(
        source=source_tree(cache, kernel), config=config_folder(cache, kernel), cache=cache.root,
        jobs=2,
    )  # fmt: skip
    with opened(request) as (config, _, kbuild):
        stock = StockKernel(config)
        made = kbuild.compile_plain([Unit(source) for source in _UNITS])
        sizes = kbuild.entry_sizes(next(iter(made)))
        for unit, path in made.items():
            obj = read_object(path.read_bytes(), unit.object)
            stock.add_unit(unit.source, ObjectIndex(obj, sizes), None)
    functions = [
        (f.name, unit.sympos(f.name))
        for unit in stock.units.values()
        for f in unit.match.functions
        if f.name in unit.traceable
    ]
    return Stock(
        config=config, old_code=old_code_of(stock.units.values()), functions=functions
    )  # fmt: skip


def put_watch(guest: Guest, folder: Path, headers: Path) -> None:
    """Put what sleeps and what watches into the guest."""
    for name, text in (("sleepers", SLEEPERS), ("watch", WATCH)):
        put_program(guest, folder, name, text)
    (folder / "Kbuild").write_text("obj-m := bench_tiny.o bench_off.o\n")
    (folder / "bench_tiny.c").write_text(TINY)
    (folder / "bench_off.c").write_text(OFF)
    run(["make", "-C", headers, f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
    for name in ("bench_tiny.ko", "bench_off.ko"):
        guest.put(f"/root/{name}", folder / name)
    guest.put("/root/in_guest.py", Path(in_guest.__file__))
    guest.run("insmod /root/bench_off.ko")


def put_update(guest: Guest, stock: Stock, kid: str, count: int) -> list[str]:
    """Build the modules of an update of so many functions; return their names in the guest."""
    assert count <= len(stock.functions)
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as scratch:
        folder = Path(scratch)
        (folder / "empty.c").write_text("")
        run(["gcc-12", "-c", "-o", folder / "empty", folder / "empty.c"])
        empty = read_object((folder / "empty").read_bytes(), "empty.o")
        new_code = [NewCode(unit="empty.c", target=VMLINUX, obj=empty)]
        build = folder / "build"
        build.mkdir()
        write_sources(build, stock.old_code, new_code)
        header = with_functions((build / "update.h").read_text(), stock.functions[:count])
        (build / "update.h").write_text(header)
        run(make_command(build, kid, stock.config, stock.old_code, new_code))
        names = [core_module(kid), old_module(kid, VMLINUX), new_module(kid)]
        for name in names:
            data = (build / f"{name}.ko").read_bytes()
            guest.put(f"/root/{name}.ko", write_livepatch_module(data, f"{name}.ko"))
    return [f"/root/{name}.ko" for name in names]


def with_functions(header: str, functions: Sequence[tuple[str, int]]) -> str:
    """Return update.h with functions that stay as they are.

    livepatch would free what is marked so, which is static here.
    """
    rows = "".join(
        f'\t{{ .old_name = "{name}", .old_sympos = {position}, .nop = true }},\n'
        for name, position in functions
    )
    for head, added in (
        ("static struct klp_func funcs_0[] = {\n", rows),
        ("static const struct hook hooks_0[] = {\n", "\t{ HOOK_reverse, .act = end_nops },\n"),
    ):
        assert head in header
        header = header.replace(head, head + added)
    return f"static void end_nops(void);\n{header}{_END_NOPS}"


def fill(guest: Guest, tasks: int) -> None:
    """Have so many tasks sleep in the guest."""
    guest.run(
        "cd /proc/sys; echo 60000 >kernel/threads-max; echo 60000 >kernel/pid_max;"
        " echo 200000 >vm/max_map_count; echo -1 >kernel/sched_rt_runtime_us;"
        f" /root/sleepers {tasks} >/run/asleep 2>&1 & "
        "while ! grep -q asleep /run/asleep; do sleep 1; done",
        timeout=_TIMEOUT,
    )


def steps(guest: Guest, what: str, first: list[str], second: list[str]) -> list[Figure]:
    """Apply the first update, then the second and undo the first below it, undo the second."""
    return [
        *step(guest, f"{what}: apply", "plain", first),
        *step(guest, f"{what}: apply successor", "plain", second),
        *step(guest, f"{what}: undo superseded", "take-out", first),
        *step(guest, f"{what}: undo", "take-out", second),
    ]


def step(guest: Guest, what: str, action: str, files: Sequence[str]) -> list[Figure]:
    """Return the figures of one step."""
    argv = ["/usr/bin/python3", "-I", "-S", "/root/in_guest.py", "watched", action, *files]
    guest.run(["dmesg", "--clear"])
    seen = json.loads(guest.run(argv, timeout=_TIMEOUT).out)
    to_stderr(f"{what}: {seen}")
    to_stderr(guest.run("dmesg | cut -c 1-200 | tail -n 12").out)
    return [
        Figure(name=f"{what}, interrupts off", value=round(seen["off"] * 1000, 1), unit="ms"),
        Figure(name=f"{what}, real-time", value=round(seen["real_time"] * 1000, 1), unit="ms"),
        Figure(name=f"{what}, fork", value=round(seen["fork"], 3), unit="s"),
        Figure(name=f"{what}, module load", value=round(seen["load"], 3), unit="s"),
        Figure(name=f"{what}, whole", value=round(seen["done"] - seen["begin"], 2), unit="s"),
    ]
