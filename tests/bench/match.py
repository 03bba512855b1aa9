# SPDX-License-Identifier: GPL-2.0-only
"""Time of run-pre matching, and the memory that its old code takes meanwhile.

Most of the time is one walk over all symbols of the kernel.  The floor is a module that does
nothing but this walk, in turn with ours.
"""

import re
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.modules.build import build_modules
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import core_module, old_module
from ksplicd.run import run
from tests.bench.create import codes_of
from tests.bench.figures import Figure, median
from tests.support.kernels.slice import FCNTL, cut_patch, request_for

_ROUNDS: Final = 9
_MANY: Final = (
    "fs/namei.c", "kernel/sys.c", "net/core/dev.c", "net/ipv4/tcp_input.c", "mm/memory.c",
    "kernel/sched/core.c", "fs/ext4/inode.c",
)  # fmt: skip
_WALK: Final = """\
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>
#include <linux/module.h>
static int count(void *data, const char *name, struct module *mod, unsigned long addr)
{
	++*(unsigned long *)data;
	return 0;
}
static int __init walk_init(void)
{
	/* it is not exported; a kprobe tells where it is */
	struct kprobe probe = { .symbol_name = "kallsyms_on_each_symbol" };
	typeof(kallsyms_on_each_symbol) *walk;
	unsigned long symbols = 0;
	ktime_t begin;

	if (register_kprobe(&probe))
		return -ENOENT;
	walk = (void *)probe.addr;
	unregister_kprobe(&probe);
	begin = ktime_get();
	walk(count, &symbols);
	pr_info("walk: %lu symbols, %lld us\\n", symbols, ktime_us_delta(ktime_get(), begin));
	return -EAGAIN;
}
module_init(walk_init);
MODULE_LICENSE("GPL");
"""


class OldCode(NamedTuple):
    """Core and old-code module of an update that nobody applies."""

    core: str
    old: str
    tables: int
    """Bytes of old code and tables."""

    def match(self, guest: Guest) -> tuple[int, float, int]:
        """Return how many functions were matched, the milliseconds, and the module's bytes."""
        guest.run(f"insmod /root/{self.core}.ko && insmod /root/{self.old}.ko")
        line = guest.get(f"/sys/module/{self.core}/ksplice/matched").decode()
        _, functions, _, microseconds = line.split()
        (size,) = re.findall(rf"^{self.old} (\d+) ", guest.get("/proc/modules").decode(), re.M)
        guest.run(["rmmod", self.old, self.core])
        return int(functions), int(microseconds) / 1000, int(size)


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures."""
    image = build_image(kernel)
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
    snapshot = take_snapshot(cache, machine)
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as scratch, Guest(snapshot) as guest:
        guest.put("/root/walk.ko", build_walk(Path(scratch), kernel.install_headers()))
        few = put_old_code(cache, kernel, guest, "benchfew", ())
        many = put_old_code(cache, kernel, guest, "benchmny", _MANY)
        return compare(guest, few, many)


def build_walk(folder: Path, headers: Path) -> Path:
    """Build the module that walks."""
    (folder / "walk.c").write_text(_WALK)
    (folder / "Kbuild").write_text("obj-m := walk.o\n")
    run(["make", "-C", headers, f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
    return folder / "walk.ko"


def put_old_code(
    cache: Cache, kernel: KernelPackages, guest: Guest, kid: str, sources: tuple[str, ...]
) -> OldCode:
    """Put the modules for all functions of some source files, and of a fix, into the guest."""
    patch = cut_patch(cache, FCNTL.old, FCNTL.new, [FCNTL.file])
    request = request_for(cache, kernel, patch, kid=kid)
    old_code, new_code = codes_of(request, sources)
    config = read_config_dir(request.config)
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as folder:
        modules = build_modules(Path(folder), kid, config, old_code, new_code)
    made = OldCode(core_module(kid), old_module(kid, "vmlinux"), len(old_code["vmlinux"]))
    for name in (made.core, made.old):
        guest.put(f"/root/{name}.ko", modules.files[f"{name}.ko"])
    return made


def compare(guest: Guest, few: OldCode, many: OldCode) -> list[Figure]:
    """Let the walk, few functions and many functions take turns."""
    to_stderr(f"match: {_ROUNDS} rounds")
    walks: list[float] = []
    times: dict[OldCode, list[float]] = {few: [], many: []}
    functions, sizes = {}, {}
    for _ in range(_ROUNDS):
        guest.run("dmesg --clear; ! insmod /root/walk.ko 2>/dev/null")
        (walk,) = re.findall(r"walk: \d+ symbols, (\d+) us", guest.kernel_log())
        walks.append(int(walk) / 1000)
        for code, measured in times.items():
            functions[code], milliseconds, sizes[code] = code.match(guest)
            measured.append(milliseconds)
    walk_ms, few_ms, many_ms = median(walks, 1), median(times[few], 1), median(times[many], 1)
    each = (many_ms - few_ms) / (functions[many] - functions[few])
    return [
        Figure(
            name=f"match, {functions[few]} functions", value=few_ms, unit="ms", floor=walk_ms,
            about="a walk over the kernel's symbols alone",
        ),
        Figure(
            name=f"match, {functions[many]} functions", value=many_ms, unit="ms", floor=walk_ms,
            about="the same",
        ),
        Figure(
            name="match, 1,000 functions", value=round(few_ms + (1000 - functions[few]) * each, 1),
            unit="ms", floor=100, about=f"goal; from both, {1000 * each:.0f} us a function",
        ),
        Figure(
            name="match, memory of the old code", value=sizes[many] // 1024, unit="KiB",
            floor=round(1.3 * many.tables / 1024), about="goal: 1.3 of its code and tables",
        ),
    ]  # fmt: skip
