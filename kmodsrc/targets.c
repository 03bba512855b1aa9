// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the update patches: what was matched, and why it was refused.
 *
 * Locks: targets_lock protects everything static in this file; the abort cause
 * and the parameter are single words, which are also read without it.  It is
 * held while a target is matched (tens of milliseconds, up to a second when a
 * site is waited for) and is taken inside livepatch's klp_mutex; nothing is
 * called under it that could take klp_mutex.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kobject.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include "comings.h"
#include "core.h"
#include "match.h"

static const char *const state_names[] = {
	[KSPLICE_TARGET_MATCHED] = "matched",
	[KSPLICE_TARGET_WAITING] = "waiting",
	[KSPLICE_TARGET_REFUSED] = "refused",
	[KSPLICE_TARGET_UNPATCHED] = "unpatched",
};

/**
 * struct target - what this update patches, and what was found there
 * @list: in targets
 * @old: the old code; of a module in @copy
 * @state: what became of it
 * @name: the target
 * @found: of a module, where the symbols are that its old code refers to
 * @starts: where the functions begin that were compared
 * @functions: their number
 * @bytes: their size, all together
 * @microseconds: how long it took
 * @comings: how many modules had come and gone when it began
 * @copy: the old code of a module, because it may be loaded again
 */
struct target {
	struct list_head list;
	struct ksplice_old old;
	enum ksplice_target_state state;
	char name[MODULE_NAME_LEN];
	struct ksplice_found found;
	u64 *starts;
	u32 functions;
	u64 bytes;
	s64 microseconds;
	int comings;
	u8 copy[] __aligned(8);
};

static DEFINE_MUTEX(targets_lock);
static LIST_HEAD(targets);
static enum ksplice_cause abort_cause = KSPLICE_OK;
static char *mismatch;

static bool leave_unmatched;
module_param(leave_unmatched, bool, 0644);
MODULE_PARM_DESC(leave_unmatched,
		 "let a target that is loaded later and does not match load unpatched");

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

static struct target *find_target(const char *name)
{
	struct target *t;

	lockdep_assert_held(&targets_lock);
	list_for_each_entry(t, &targets, list)
		if (!strcmp(t->name, name))
			return t;
	return NULL;
}

static void free_target(struct target *t)
{
	if (t) {
		ksplice_forget_found(&t->found);
		kvfree(t->starts);
	}
	kvfree(t);
}

/* Drop the target of that name, if there is one. */
static void forget_target(const char *name)
{
	struct target *t = find_target(name);

	if (t)
		list_del(&t->list);
	free_target(t);
}

static struct target *new_target(const struct ksplice_old *old)
{
	size_t size = old->walk_modules ? old->size : 0;
	struct target *t = kvzalloc(struct_size(t, copy, size), GFP_KERNEL);

	if (!t)
		return NULL;
	t->old = *old;
	if (size)
		t->old.blob = memcpy(t->copy, old->blob, size);
	return t;
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

/* Note the cause.  The kernel's bytes are not for the log, which more people read than root. */
static void note_failure(const struct ksplice_matching *m)
{
	const char *what = m->target ?: "", *bytes;

	abort_cause = m->report.cause;
	kfree(mismatch);
	mismatch = describe(m);
	if (mismatch)
		what = mismatch;
	bytes = strstr(what, " expected=");
	pr_err("%s: %.*s\n", cause_names[abort_cause],
	       (int)(bytes ? bytes - what : strlen(what)), what);
}

/* Why the update was refused is known no more once what may refuse it is tried again. */
static void forget_failure(void)
{
	abort_cause = KSPLICE_OK;
	kfree(mismatch);
	mismatch = NULL;
}

static void note_match(struct target *t, const struct ksplice_matching *m)
{
	u32 i;

	t->functions = m->head->funcs.nr;
	t->bytes = 0;
	for (i = 0; i < m->head->funcs.nr; i++)
		t->bytes += m->funcs[i].size;
	pr_info("%s: %u functions, %llu bytes match, %lld us\n", t->name, t->functions, t->bytes,
		t->microseconds);
}

/*
 * Abort cause and mismatch are those of the last match that failed; a module
 * that matches when it is loaded later says nothing of what was refused before.
 */
static int match_target(struct target *t, const struct module *mod)
{
	struct ksplice_matching m = { .mod = mod, .report = { .cause = KSPLICE_OK } };
	ktime_t begin = ktime_get();
	int err;

	lockdep_assert_held(&targets_lock);
	if (!mod)
		forget_failure();
	t->comings = ksplice_comings();
	err = ksplice_run_match(&t->old, &t->found, &m);
	if (!t->old.walk_modules)
		ksplice_forget_found(&t->found);
	kvfree(t->starts);
	t->starts = m.starts;
	t->microseconds = ktime_us_delta(ktime_get(), begin);
	if (m.target)
		strscpy(t->name, m.target, sizeof(t->name));
	t->state = err ? KSPLICE_TARGET_WAITING : KSPLICE_TARGET_MATCHED;
	if (!mod && m.report.cause == KSPLICE_TARGET_NOT_LOADED && t->old.is_late) {
		pr_info("%s: not loaded yet\n", t->name);
		return 0;
	}
	if (err)
		note_failure(&m);
	else
		note_match(t, &m);
	return err;
}

/**
 * ksplice_match - compare the old code of one target with the running kernel
 * @old: the old code; needed only until the call returns
 *
 * Context: process context, sleeps.
 * Return: 0 when every byte matches, or the target may be loaded later; a
 * negative error otherwise, with abort_cause and mismatch set.
 */
int ksplice_match(const struct ksplice_old *old)
{
	struct target *t = new_target(old);
	int err = -ENOMEM;

	mutex_lock(&targets_lock);
	if (t)
		err = match_target(t, NULL);
	else
		abort_cause = KSPLICE_OUT_OF_MEMORY;
	if (!err) {
		forget_target(t->name);
		list_add_tail(&t->list, &targets);
		t = NULL;
	}
	free_target(t);
	mutex_unlock(&targets_lock);
	return err;
}
EXPORT_SYMBOL_GPL(ksplice_match);

/* Send a target's state to user space, as a uevent of the core module. */
static void send_uevent(const char *target, enum ksplice_target_state state)
{
	char name[MODULE_NAME_LEN + 16], word[32];
	char *env[3] = { name, word };

	snprintf(name, sizeof(name), "KSPLICE_TARGET=%s", target);
	snprintf(word, sizeof(word), "KSPLICE_STATE=%s", state_names[state]);
	kobject_uevent_env(&THIS_MODULE->mkobj.kobj, KOBJ_CHANGE, env);
}

/*
 * A module that is live was counted when it came, so its state is read first:
 * neither the compiler nor the processor changes the order.
 */
static bool is_still_matched(const struct target *t, const struct module *mod)
{
	bool is_live = READ_ONCE(mod->state) == MODULE_STATE_LIVE;

	return is_live && t->state == KSPLICE_TARGET_MATCHED && t->comings == ksplice_comings();
}

/**
 * ksplice_match_late - match a loaded module just before it is patched
 * @target: its name
 * @mod: the module
 * @walk_modules: replaces that of the old-code module, which may be unloaded by now
 * @may_leave: it may be left unpatched, if the administrator allows that
 *
 * Livepatch holds klp_mutex, for which all loads of modules wait: what was matched
 * is not matched again as long as no module has come or gone.  Whether a target
 * that matches is patched is not known yet, see ksplice_note_target().
 *
 * Return: 0 to patch it, 1 to leave it unpatched, a negative error to refuse
 * it.
 */
int ksplice_match_late(const char *target, const struct module *mod, ksplice_walk_fn *walk_modules,
		       bool may_leave)
{
	enum ksplice_target_state state = KSPLICE_TARGET_REFUSED;
	struct target *t;
	int err = -ENOENT;

	mutex_lock(&targets_lock);
	t = find_target(target);
	if (t) {
		t->old.walk_modules = walk_modules;
		err = is_still_matched(t, mod) ? 0 : match_target(t, mod);
		if (!err)
			state = KSPLICE_TARGET_MATCHED;
		else if (may_leave && leave_unmatched && err != -ENOMEM)
			state = KSPLICE_TARGET_UNPATCHED;
		t->state = state;
	}
	mutex_unlock(&targets_lock);
	if (state != KSPLICE_TARGET_MATCHED) {
		pr_err("%s: %s, %s\n", target, err == -ENOMEM ? "no memory to match it" :
		       "does not match", state_names[state]);
		send_uevent(target, state);
	}
	return state == KSPLICE_TARGET_UNPATCHED ? 1 : err;
}
EXPORT_SYMBOL_GPL(ksplice_match_late);

/**
 * ksplice_note_target - set a target's state, and send it to user space
 * @target: its name
 * @state: what became of it
 *
 * Return: 0, or -ENOENT when it is not loaded and must be.
 */
int ksplice_note_target(const char *target, enum ksplice_target_state state)
{
	bool is_missing = false;
	struct target *t;

	mutex_lock(&targets_lock);
	t = find_target(target);
	if (t) {
		is_missing = state == KSPLICE_TARGET_WAITING && !t->old.is_late;
		t->state = state;
	}
	mutex_unlock(&targets_lock);
	if (t)
		send_uevent(target, state);
	return is_missing ? -ENOENT : 0;
}
EXPORT_SYMBOL_GPL(ksplice_note_target);

/**
 * ksplice_may_patch - check that a target was matched, or may be loaded later
 * @target: "vmlinux" or a module
 */
bool ksplice_may_patch(const char *target)
{
	bool may_patch;

	mutex_lock(&targets_lock);
	may_patch = find_target(target);
	mutex_unlock(&targets_lock);
	return may_patch;
}
EXPORT_SYMBOL_GPL(ksplice_may_patch);

/**
 * ksplice_was_compared - check that a function was compared
 * @target: "vmlinux" or a module that was matched
 * @addr: where it would begin
 */
bool ksplice_was_compared(const char *target, unsigned long addr)
{
	bool was_compared = false;
	struct target *t;
	u32 i;

	mutex_lock(&targets_lock);
	t = find_target(target);
	if (t && t->state == KSPLICE_TARGET_MATCHED)
		for (i = 0; i < t->functions && !was_compared; i++)
			was_compared = t->starts[i] == addr;
	mutex_unlock(&targets_lock);
	return was_compared;
}
EXPORT_SYMBOL_GPL(ksplice_was_compared);

/**
 * ksplice_abort - note why the update was refused, unless a cause is known
 * @cause: the cause
 */
void ksplice_abort(enum ksplice_cause cause)
{
	mutex_lock(&targets_lock);
	if (abort_cause == KSPLICE_OK)
		abort_cause = cause;
	mutex_unlock(&targets_lock);
}
EXPORT_SYMBOL_GPL(ksplice_abort);

static ssize_t abort_cause_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", cause_names[READ_ONCE(abort_cause)]);
}

static ssize_t matched_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	struct target *t;
	ssize_t len = 0;

	mutex_lock(&targets_lock);
	list_for_each_entry(t, &targets, list)
		if (t->state == KSPLICE_TARGET_MATCHED)
			len += sysfs_emit_at(buf, len, "%s %u %llu %lld\n", t->name, t->functions,
					     t->bytes, t->microseconds);
	mutex_unlock(&targets_lock);
	return len;
}

static ssize_t targets_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	struct target *t;
	ssize_t len = 0;

	mutex_lock(&targets_lock);
	list_for_each_entry(t, &targets, list)
		len += sysfs_emit_at(buf, len, "%s %s\n", t->name, state_names[t->state]);
	mutex_unlock(&targets_lock);
	return len;
}

static ssize_t mismatch_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	ssize_t len = 0;

	mutex_lock(&targets_lock);
	if (mismatch)
		len = sysfs_emit(buf, "%s\n", mismatch);
	mutex_unlock(&targets_lock);
	return len;
}

static struct kobj_attribute abort_cause_attr = __ATTR_RO(abort_cause);
static struct kobj_attribute matched_attr = __ATTR_RO(matched);
static struct kobj_attribute targets_attr = __ATTR_RO(targets);
static struct kobj_attribute mismatch_attr = __ATTR_RO_MODE(mismatch, 0400);

const struct attribute *ksplice_target_attrs[] = {
	&abort_cause_attr.attr,
	&matched_attr.attr,
	&targets_attr.attr,
	&mismatch_attr.attr,
	NULL
};

/* The files in sysfs are gone. */
void ksplice_targets_exit(void)
{
	struct target *t, *next;

	list_for_each_entry_safe(t, next, &targets, list)
		free_target(t);
	kfree(mismatch);
}
