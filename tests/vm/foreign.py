# SPDX-License-Identifier: GPL-2.0-only
"""A live patch of somebody else."""

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
