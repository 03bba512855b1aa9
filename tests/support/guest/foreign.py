# SPDX-License-Identifier: GPL-2.0-only
"""Modules that are not of an update: a live patch, a kprobe, and one that copies a table."""

import shutil
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.cache import digest_of
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.distro.packages import KernelPackages
from ksplicd.run import run
from tests.support.kernels.slice import config_folder
from tests.support.kernels.store import tools

_KEPT: Final = 32
"""How many modules are not deleted, those used last."""

FOREIGN = """\
#include <linux/livepatch.h>
#include <linux/module.h>
static int other_getfd(void) { return 0; }
static struct klp_func funcs[] = { { .old_name = "prctl_set_auxv", .new_func = other_getfd }, { } };
static struct klp_object objs[] = { { .funcs = funcs }, { } };
static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
module_param_named(replace, patch.replace, bool, 0);
static int __init foreign_init(void) { return klp_enable_patch(&patch); }
static void __exit foreign_exit(void) { }
module_init(foreign_init);
module_exit(foreign_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
"""

ADD_FOREIGN = (
    "insmod /root/foreign.ko;"
    " while [ $(cat /sys/kernel/livepatch/foreign/transition) != 0 ]; do sleep 0.2; done"
)
REMOVE_FOREIGN = (
    "echo 0 >/sys/kernel/livepatch/foreign/enabled;"
    " until rmmod foreign 2>/dev/null; do sleep 0.2; done"
)

# "flags" of 2, KPROBE_FLAG_DISABLED: it is registered, and not hit before it is switched on.
PROBE = """\
#include <linux/kprobes.h>
#include <linux/module.h>
static int hits;
module_param(hits, int, 0444);
static int hit(struct kprobe *p, struct pt_regs *regs) { hits++; return 0; }
static struct kprobe probe = { .symbol_name = "kstrtobool", .pre_handler = hit };
module_param_named(flags, probe.flags, uint, 0);
static int set_on(const char *value, const struct kernel_param *unused)
{
	return *value == '1' ? enable_kprobe(&probe) : disable_kprobe(&probe);
}
static const struct kernel_param_ops switch_ops = { .set = set_on };
module_param_cb(on, &switch_ops, NULL, 0200);
static int __init probe_init(void) { return register_kprobe(&probe); }
static void __exit probe_exit(void) { unregister_kprobe(&probe); }
module_init(probe_init);
module_exit(probe_exit);
MODULE_LICENSE("GPL");
"""

# Copies of a table in each kind of memory, and in memory that is free again: 32 pages go back to
# the buddy allocator at once (PAGE_ALLOC_COSTLY_ORDER), one stays with the processor.
COPIER = """\
#include <linux/gfp.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
enum { SIZE = 256, ORDER = 5 };
static ulong table;
module_param(table, ulong, 0);
char copied[SIZE] __aligned(8);
static void *in_slab, *in_area;
static noinline void *get_area(void)
{
	void *area = vmalloc(SIZE);
	barrier(); /* no tail call: the kernel notes who has called */
	return area;
}
static int __init copier_init(void)
{
	void *gone = (void *)__get_free_pages(GFP_KERNEL, ORDER);
	void *gone_too = (void *)__get_free_page(GFP_KERNEL);
	in_slab = kmemdup((void *)table, SIZE, GFP_KERNEL);
	in_area = get_area();
	if (!gone || !gone_too || !in_slab || !in_area)
		return -ENOMEM;
	memcpy(gone, (void *)table, SIZE);
	memcpy(gone_too, (void *)table, SIZE);
	memcpy(in_area, (void *)table, SIZE);
	memcpy(copied, (void *)table, SIZE);
	free_pages((ulong)gone, ORDER);
	free_page((ulong)gone_too);
	return 0;
}
static void __exit copier_exit(void) { kfree(in_slab); vfree(in_area); }
module_init(copier_init);
module_exit(copier_exit);
MODULE_LICENSE("GPL");
"""


def build_module(kernel: KernelPackages, folder: Path, name: str, source: str) -> Path:
    """Return the module ``name`` of ``source`` as a file in ``folder``, built once for all runs."""

    def make(new: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="ksplice-foreign-") as scratch:
            (Path(scratch) / f"{name}.c").write_text(source)
            (Path(scratch) / "Kbuild").write_text(f"obj-m := {name}.o\n")
            run(["make", "-C", kernel.headers, f"M={scratch}", "modules"])
            shutil.copy(Path(scratch) / f"{name}.ko", new)

    compiler = read_config_dir(config_folder(kernel.cache, kernel)).compiler
    parts = [name, source, kernel.release, kernel.version, tools(compiler)]
    made = kernel.cache.entry("foreign", digest_of(parts), make)
    kernel.cache.prune("foreign", keep=_KEPT)
    return Path(shutil.copy(made / f"{name}.ko", folder))
