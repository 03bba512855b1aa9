// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shows the tasks that hold up a transition of this update, and wakes them if
 * asked to.
 *
 * Part of the new-code module, because the patch is.  No locks: tasks are
 * walked under RCU, and what is read of them may be outdated when it is shown.
 */
#include <linux/cpumask.h>
#include <linux/jiffies.h>
#include <linux/kobject.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/stringify.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>
#include "compat.h"
#include "ksplice.h"
#include "new_code.h"

#define STACK_DEPTH	32
/* Room for a task's line, except with the longest names. */
#define LINE		128

extern unsigned int save_stack(struct task_struct *task, unsigned long *store, unsigned int size,
			       unsigned int skip) KSPLICE_VMLINUX_SYMBOL(stack_trace_save_tsk);

static const struct klp_patch *patch;
static struct kobject *kobj;
static bool is_moving;

static unsigned int signal_after;
module_param(signal_after, uint, 0644);
MODULE_PARM_DESC(signal_after, "seconds after which tasks that hold up a transition are woken; 0: livepatch does that each fifteenth time that it looks");

static bool is_conflict(const struct task_struct *task)
{
	return READ_ONCE(is_moving) && READ_ONCE(task->patch_state) == !patch->enabled;
}

static bool is_inside(unsigned long addr, const void *func, unsigned long size)
{
	return addr >= (unsigned long)func && addr - (unsigned long)func < size;
}

/* The patched function that @addr is in, old or new, or NULL. */
static const struct klp_func *patched_function(unsigned long addr)
{
	const struct klp_object *obj;
	const struct klp_func *func;

	klp_for_each_object_static(patch, obj)
		klp_for_each_func_static(obj, func)
			if (is_inside(addr, func->old_func, func->old_size) ||
			    is_inside(addr, func->new_func, func->new_size))
				return func;
	return NULL;
}

/* The innermost patched function of a stack, NULL when there is none. */
static const struct klp_func *function_in(const unsigned long *stack, unsigned int nr)
{
	const struct klp_func *func;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		func = patched_function(stack[i]);
		if (func)
			return func;
	}
	return NULL;
}

/* An anchor's name ends in that of what it stands for. */
static const char *name_of(const struct klp_func *func)
{
	const char *prefix = __stringify(KSPLICE_ANCHOR_PREFIX);

	if (!func)
		return "-";
	if (!strstarts(func->old_name, prefix))
		return func->old_name;
	return strchr(func->old_name + strlen(prefix), '_') + 1;
}

/* Add a task that holds the transition up.  There is only a page: half of it is for stacks. */
static ssize_t emit_task(char *buf, ssize_t len, struct task_struct *task)
{
	char comm[TASK_COMM_LEN];
	unsigned long stack[STACK_DEPTH];
	unsigned int i, nr;

	if (!is_conflict(task) || len > PAGE_SIZE - LINE)
		return len;
	nr = save_stack(task, stack, STACK_DEPTH, 0);
	get_task_comm(comm, task);
	len += sysfs_emit_at(buf, len, "%d %s %*pE\n", task_pid_nr(task),
			     name_of(function_in(stack, nr)), (int)strlen(comm), comm);
	for (i = 0; i < nr && len < PAGE_SIZE / 2; i++)
		len += sysfs_emit_at(buf, len, "\t%pS\n", (void *)stack[i]);
	return len;
}

static ssize_t conflicts_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	struct task_struct *process, *task;
	ssize_t len = 0;
	int cpu;

	rcu_read_lock();
	for_each_process_thread(process, task)
		len = emit_task(buf, len, task);
	/* In no list, and not shown in /proc: their processors have something better to do. */
	for_each_online_cpu(cpu)
		len = emit_task(buf, len, idle_task_of(cpu));
	rcu_read_unlock();
	return len;
}

static struct kobj_attribute conflicts_attr = __ATTR_RO_MODE(conflicts, 0400);

/*
 * As klp_send_signals() does.  A task that goes to sleep just now may be woken
 * once too often, which every sleeper must expect.
 */
static void wake(struct task_struct *task)
{
	if (!(task->flags & PF_KTHREAD))
		set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
	if (READ_ONCE(task->__state) & TASK_INTERRUPTIBLE)
		wake_up_process(task);
	else
		kick_process(task);
}

static void wake_all(struct work_struct *work);
static DECLARE_DELAYED_WORK(waker, wake_all);

static void wake_all(struct work_struct *work)
{
	struct task_struct *process, *task;

	rcu_read_lock();
	for_each_process_thread(process, task)
		if (is_conflict(task))
			wake(task);
	rcu_read_unlock();
	/* Who holds it up may be no task yet, or an idle one, which livepatch wakes. */
	if (READ_ONCE(is_moving) && signal_after)
		schedule_delayed_work(&waker, (unsigned long)signal_after * HZ);
}

/**
 * ksplice_transition_begins - livepatch is about to move all tasks
 *
 * Called by its callbacks, before which it has refused when another transition
 * runs: that one's tasks are not ours to show and to wake.
 */
void ksplice_transition_begins(void)
{
	WRITE_ONCE(is_moving, true);
	if (signal_after)
		mod_delayed_work(KSPLICE_SYSTEM_WQ, &waker, (unsigned long)signal_after * HZ);
}

/**
 * ksplice_transition_ends - all tasks have moved, or it did not begin
 */
void ksplice_transition_ends(void)
{
	WRITE_ONCE(is_moving, false);
	cancel_delayed_work(&waker);
}

/**
 * ksplice_conflicts_init - show who holds up transitions
 * @which: whose transitions
 */
int ksplice_conflicts_init(const struct klp_patch *which)
{
	patch = which;
	kobj = ksplice_kobject();
	return sysfs_create_file(kobj, &conflicts_attr.attr);
}

void ksplice_conflicts_exit(void)
{
	sysfs_remove_file(kobj, &conflicts_attr.attr);
	cancel_delayed_work_sync(&waker);
}
