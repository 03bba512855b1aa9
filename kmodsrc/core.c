// SPDX-License-Identifier: GPL-2.0-only
/*
 * Core module of one update: its state, what was matched, and why it failed.
 *
 * Locks: core_lock protects everything static in this file.  It is held while
 * a target is matched (tens of milliseconds) and is taken inside livepatch's
 * klp_mutex by the stage callbacks; nothing is called under it that could take
 * klp_mutex.  Readers of sysfs take it too.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include "ksplice.h"
#include "match.h"

/**
 * struct matched_target - a target whose running code is the old code
 * @list: in matched_targets
 * @name: the target
 * @functions: number of functions that were compared
 * @bytes: their size
 * @microseconds: how long it took
 */
struct matched_target {
	struct list_head list;
	char name[MODULE_NAME_LEN];
	u32 functions;
	u64 bytes;
	s64 microseconds;
};

static DEFINE_MUTEX(core_lock);
static enum ksplice_stage stage = KSPLICE_PREPARING;
static enum ksplice_cause abort_cause = KSPLICE_OK;
static char *mismatch;
static LIST_HEAD(matched_targets);
static struct kobject *kobj;

static const char *const stage_names[] = {
	[KSPLICE_PREPARING] = "preparing",
	[KSPLICE_APPLIED] = "applied",
	[KSPLICE_REVERSED] = "reversed",
};

static const char *const cause_names[] = {
	[KSPLICE_OK] = "ok",
	[KSPLICE_NO_MATCH] = "no_match",
	[KSPLICE_FAILED_TO_FIND] = "failed_to_find",
	[KSPLICE_BAD_SYSTEM_MAP] = "bad_system_map",
	[KSPLICE_TARGET_NOT_LOADED] = "target_not_loaded",
	[KSPLICE_OUT_OF_MEMORY] = "out_of_memory",
	[KSPLICE_CALL_FAILED] = "call_failed",
	[KSPLICE_UNEXPECTED] = "unexpected",
};

static struct matched_target *find_target(const char *name)
{
	struct matched_target *t;

	lockdep_assert_held(&core_lock);
	list_for_each_entry(t, &matched_targets, list)
		if (!strcmp(t->name, name))
			return t;
	return NULL;
}

static int note_matched(const struct ksplice_matching *m, s64 microseconds)
{
	struct matched_target *t = find_target(m->target);
	u32 i;

	if (!t) {
		t = kzalloc(sizeof(*t), GFP_KERNEL);
		if (!t)
			return -ENOMEM;
		strscpy(t->name, m->target, sizeof(t->name));
		list_add_tail(&t->list, &matched_targets);
	}
	t->functions = m->head->funcs.nr;
	t->bytes = 0;
	for (i = 0; i < m->head->funcs.nr; i++)
		t->bytes += m->funcs[i].size;
	t->microseconds = microseconds;
	pr_info("%s: %u functions, %llu bytes match, %lld us\n", t->name, t->functions, t->bytes,
		t->microseconds);
	return 0;
}

/* One line of key=value; no value has blanks, because names were checked. */
static char *describe(const struct ksplice_matching *m)
{
	const struct ksplice_report *r = &m->report;

	if (r->function)
		return kasprintf(GFP_KERNEL,
				 "target=%s function=%s offset=0x%x kind=%s expected=%*phN found=%*phN",
				 m->target, r->function, r->off, r->kind, (int)r->len,
				 r->expected, (int)r->len, r->found);
	if (r->symbol)
		return kasprintf(GFP_KERNEL, "target=%s symbol=%s kind=%s", m->target, r->symbol,
				 r->kind);
	return NULL;
}

static void note_mismatch(const struct ksplice_matching *m)
{
	struct matched_target *t = m->target ? find_target(m->target) : NULL;

	if (t) {
		list_del(&t->list);
		kfree(t);
	}
	mismatch = describe(m);
	abort_cause = m->report.cause;
	pr_err("%s: %s\n", cause_names[abort_cause], mismatch ?: m->target ?: "");
}

/**
 * ksplice_match - compare the old code of one target with the running kernel
 * @old: the old code; needed only until the call returns
 *
 * Context: process context, sleeps.
 * Return: 0 when every byte is as it should be; a negative error otherwise,
 * with abort_cause and mismatch set.  They speak of the last call.
 */
int ksplice_match(const struct ksplice_old *old)
{
	struct ksplice_matching m = { .report = { .cause = KSPLICE_OK } };
	ktime_t begin;
	int err;

	mutex_lock(&core_lock);
	kfree(mismatch);
	mismatch = NULL;
	abort_cause = KSPLICE_OK;
	begin = ktime_get();
	err = ksplice_run_match(old, &m);
	if (!err) {
		err = note_matched(&m, ktime_us_delta(ktime_get(), begin));
		if (err)
			m.report.cause = KSPLICE_OUT_OF_MEMORY;
	}
	if (err)
		note_mismatch(&m);
	mutex_unlock(&core_lock);
	return err;
}
EXPORT_SYMBOL_GPL(ksplice_match);

/**
 * ksplice_is_matched - was this target found to run the old code?
 * @target: "vmlinux" or a module
 */
bool ksplice_is_matched(const char *target)
{
	bool is_matched;

	mutex_lock(&core_lock);
	is_matched = find_target(target);
	mutex_unlock(&core_lock);
	return is_matched;
}
EXPORT_SYMBOL_GPL(ksplice_is_matched);

/**
 * ksplice_set_stage - note where the update is and wake who polls for it
 * @to: the new stage
 */
void ksplice_set_stage(enum ksplice_stage to)
{
	bool is_new;

	mutex_lock(&core_lock);
	is_new = stage != to;
	stage = to;
	mutex_unlock(&core_lock);
	if (is_new) {
		pr_info("%s\n", stage_names[to]);
		sysfs_notify(kobj, NULL, "stage");
	}
}
EXPORT_SYMBOL_GPL(ksplice_set_stage);

/**
 * ksplice_abort - note why the update was refused, unless a reason is known
 * @cause: the reason
 */
void ksplice_abort(enum ksplice_cause cause)
{
	mutex_lock(&core_lock);
	if (abort_cause == KSPLICE_OK)
		abort_cause = cause;
	mutex_unlock(&core_lock);
}
EXPORT_SYMBOL_GPL(ksplice_abort);

/*
 * sysfs
 *
 *	/sys/module/ksplice_KID/ksplice/
 *		stage		preparing|applied|reversed; poll(POLLPRI) wakes
 *		abort_cause	ok, or why the update was refused
 *		matched		a line per target: NAME FUNCTIONS BYTES MICROSECONDS
 *		mismatch	empty, or key=value ... of what differs (root only:
 *				shows the kernel's bytes)
 */
static ssize_t stage_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	ssize_t len;

	mutex_lock(&core_lock);
	len = sysfs_emit(buf, "%s\n", stage_names[stage]);
	mutex_unlock(&core_lock);
	return len;
}

static ssize_t abort_cause_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	ssize_t len;

	mutex_lock(&core_lock);
	len = sysfs_emit(buf, "%s\n", cause_names[abort_cause]);
	mutex_unlock(&core_lock);
	return len;
}

static ssize_t matched_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	struct matched_target *t;
	ssize_t len = 0;

	mutex_lock(&core_lock);
	list_for_each_entry(t, &matched_targets, list)
		len += sysfs_emit_at(buf, len, "%s %u %llu %lld\n", t->name, t->functions,
				     t->bytes, t->microseconds);
	mutex_unlock(&core_lock);
	return len;
}

static ssize_t mismatch_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	ssize_t len = 0;

	mutex_lock(&core_lock);
	if (mismatch)
		len = sysfs_emit(buf, "%s\n", mismatch);
	mutex_unlock(&core_lock);
	return len;
}

static struct kobj_attribute stage_attr = __ATTR_RO(stage);
static struct kobj_attribute abort_cause_attr = __ATTR_RO(abort_cause);
static struct kobj_attribute matched_attr = __ATTR_RO(matched);
static struct kobj_attribute mismatch_attr = __ATTR_RO_MODE(mismatch, 0400);

static const struct attribute *attrs[] = {
	&stage_attr.attr,
	&abort_cause_attr.attr,
	&matched_attr.attr,
	&mismatch_attr.attr,
	NULL
};

static int __init core_init(void)
{
	int err;

	kobj = kobject_create_and_add("ksplice", &THIS_MODULE->mkobj.kobj);
	if (!kobj)
		return -ENOMEM;
	err = sysfs_create_files(kobj, attrs);
	if (err)
		kobject_put(kobj);
	return err;
}

static void __exit core_exit(void)
{
	struct matched_target *t, *next;

	kobject_put(kobj);
	list_for_each_entry_safe(t, next, &matched_targets, list)
		kfree(t);
	kfree(mismatch);
}

module_init(core_init);
module_exit(core_exit);
MODULE_DESCRIPTION("Ksplice update " __stringify(KSPLICE_KID) ": core");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
