// SPDX-License-Identifier: GPL-2.0-only
/*
 * Core module of one update: shows its stage in sysfs.
 *
 * No locks: livepatch's callbacks alone set the stage, and klp_mutex is held
 * around them.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/sysfs.h>
#include "comings.h"
#include "core.h"

static const char *const stage_names[] = {
	[KSPLICE_PREPARING] = "preparing",
	[KSPLICE_APPLIED] = "applied",
	[KSPLICE_REVERSED] = "reversed",
};

static enum ksplice_stage stage = KSPLICE_PREPARING;
static struct kobject *kobj;

/**
 * ksplice_set_stage - set the update's stage and wake those who poll for it
 * @to: the new stage
 */
void ksplice_set_stage(enum ksplice_stage to)
{
	if (stage == to)
		return;
	WRITE_ONCE(stage, to);
	pr_info("%s\n", stage_names[to]);
	sysfs_notify(kobj, NULL, "stage");
}
EXPORT_SYMBOL_GPL(ksplice_set_stage);

/**
 * ksplice_kobject - the update's folder in sysfs
 */
struct kobject *ksplice_kobject(void)
{
	return kobj;
}
EXPORT_SYMBOL_GPL(ksplice_kobject);

/*
 * sysfs
 *
 *	/sys/module/ksplice_KID/ksplice/
 *		stage		preparing|applied|reversed; poll(POLLPRI) wakes
 *		abort_cause	ok, or why the update was refused
 *		matched		a line per target that matches:
 *				NAME FUNCTIONS BYTES MICROSECONDS
 *		targets		a line per target: NAME STATE
 *				matched, waiting (not loaded), refused (its last
 *				load) or unpatched (loaded, but does not match)
 *		conflicts	a line per task that holds up a transition:
 *				PID FUNCTION COMMAND, and below it, after a tab
 *				each, its stack, as far as a page has room; idle
 *				tasks have pid 0; only there while the new code
 *				is loaded (conflicts.c, root only)
 *		tripwire_family	generic netlink family of the tripwires; only there
 *				when the update has some (tripwire.c)
 *		mismatch	empty, or key=value ... of what differs (root only:
 *				shows the kernel's bytes)
 */
static ssize_t stage_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", stage_names[READ_ONCE(stage)]);
}

static struct kobj_attribute stage_attr = __ATTR_RO(stage);

static int __init core_init(void)
{
	int err;

	kobj = kobject_create_and_add("ksplice", &THIS_MODULE->mkobj.kobj);
	if (!kobj)
		return -ENOMEM;
	err = sysfs_create_file(kobj, &stage_attr.attr) ?:
	      sysfs_create_files(kobj, ksplice_target_attrs) ?:
	      ksplice_comings_init();
	if (err)
		goto no_files;
	err = ksplice_tripwires_init(kobj);
	if (!err)
		return 0;
	ksplice_comings_exit();
no_files:
	kobject_put(kobj);
	return err;
}

static void __exit core_exit(void)
{
	ksplice_tripwires_exit();
	ksplice_comings_exit();
	kobject_put(kobj);
	ksplice_targets_exit();
}

module_init(core_init);
module_exit(core_exit);
MODULE_DESCRIPTION("Ksplice update " __stringify(KSPLICE_KID) ": core");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
