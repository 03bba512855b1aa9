// SPDX-License-Identifier: GPL-2.0-only
/*
 * Known-exploit tripwires: report attempts at what the patch stops to user space.
 * Only in cores of updates that have a tripwire.
 *
 *	new code, in any context -> a free slot of its place -> irq_work
 *		-> delayed work: generic netlink, then the slots are free again
 *
 * No locks, because new code may run in an NMI: a slot belongs to whoever moved
 * it to its state.  A hit that nobody receives stays in its slot, so that none
 * is lost while the daemon restarts.
 */
#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/irq_work.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <linux/workqueue.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>
#include "compat.h"
#include "core.h"
#include "ksplice-patch.h"
#include "tripwire.h"

/* Hits of a place that are sent one by one in a window; further ones are counted. */
#define SLOTS		8
#define WINDOW		(5 * HZ)

enum slot_state {
	SLOT_FREE,
	SLOT_BEING_FILLED,
	SLOT_FULL,
	SLOT_SENT,
};

/**
 * struct slot - one hit
 * @state: enum slot_state
 * @cve: what was tried
 * @place: where it was stopped; copies, because the new code may go first
 * @comm: name of the task
 * @pid: the task
 * @tgid: its process
 * @uid: its user
 * @in_task: whether it was that task, rather than an interrupt in it
 * @time: nanoseconds since 1970
 */
struct slot {
	atomic_t state;
	char cve[KSPLICE_TRIPWIRE_CVE_SIZE];
	char place[KSPLICE_TRIPWIRE_PLACE_SIZE];
	char comm[TASK_COMM_LEN];
	u32 pid;
	u32 tgid;
	u32 uid;
	u32 in_task;
	u64 time;
};

/**
 * struct place - where new code has a tripwire
 * @name: the string that identifies it, by its address
 * @suppressed: hits that found no free slot
 * @slots: hits to be sent, and those sent in this window
 */
struct place {
	const char *name;
	atomic_t suppressed;
	struct slot slots[SLOTS];
};

/* KSPLICE_TRIPWIRES, from the command line: how often new code calls us. */
static struct place places[KSPLICE_TRIPWIRES];
/* When slots are freed again.  Only the work uses it. */
static unsigned long window_end;

static const struct genl_multicast_group groups[] = {
	{ .name = KSPLICE_TRIPWIRE_GROUP, .flags = GENL_MCAST_CAP_SYS_ADMIN },
};

/* The daemon has a network namespace of its own. */
static struct genl_family family __ro_after_init = {
	.name = KSPLICE_TRIPWIRE_FAMILY,
	.version = KSPLICE_TRIPWIRE_VERSION,
	.netnsok = true,
	.module = THIS_MODULE,
	.mcgrps = groups,
	.n_mcgrps = ARRAY_SIZE(groups),
};

/* To all network namespaces of the first user namespace, as uevents; true when it is received. */
static bool broadcast(const struct sk_buff *skb)
{
	bool is_received = false;
	struct sk_buff *copy;
	struct net *net;

	rcu_read_lock();
	for_each_net_rcu(net) {
		if (net->user_ns != &init_user_ns)
			continue;
		copy = skb_clone((struct sk_buff *)skb, GFP_ATOMIC);
		if (copy && !genlmsg_multicast_netns(&family, net, copy, 0, 0, GFP_ATOMIC))
			is_received = true;
	}
	rcu_read_unlock();
	return is_received;
}

static int put_task(struct sk_buff *skb, const struct slot *s)
{
	return nla_put_u32(skb, KSPLICE_TRIPWIRE_PID, s->pid) ?:
	       nla_put_u32(skb, KSPLICE_TRIPWIRE_TGID, s->tgid) ?:
	       nla_put_u32(skb, KSPLICE_TRIPWIRE_UID, s->uid) ?:
	       nla_put_string(skb, KSPLICE_TRIPWIRE_COMM, s->comm) ?:
	       nla_put_u32(skb, KSPLICE_TRIPWIRE_IN_TASK, s->in_task) ?:
	       nla_put(skb, KSPLICE_TRIPWIRE_TIME, sizeof(s->time), &s->time);
}

/* Send one hit, or the number of further ones; true when it is received. */
static bool send_hit(const struct slot *s, u32 suppressed)
{
	struct sk_buff *skb = genlmsg_new(NLMSG_DEFAULT_SIZE, GFP_KERNEL);
	bool is_received = false;
	void *head;

	if (!skb)
		return false;
	head = genlmsg_put(skb, 0, 0, &family, 0, KSPLICE_TRIPWIRE_HIT);
	if (head && !nla_put_string(skb, KSPLICE_TRIPWIRE_CVE, s->cve) &&
	    !nla_put_string(skb, KSPLICE_TRIPWIRE_PLACE, s->place) &&
	    !(suppressed ? nla_put_u32(skb, KSPLICE_TRIPWIRE_SUPPRESSED, suppressed) :
			   put_task(skb, s))) {
		genlmsg_end(skb, head);
		is_received = broadcast(skb);
	}
	nlmsg_free(skb);
	return is_received;
}

/* Send the hits of a place; true when there will be something to do later. */
static bool send_place(struct place *p, bool is_new_window)
{
	u32 suppressed = is_new_window ? atomic_xchg(&p->suppressed, 0) : 0;
	bool is_busy = false;
	struct slot *s;

	if (suppressed && !send_hit(&p->slots[0], suppressed))
		atomic_add(suppressed, &p->suppressed);
	for (s = p->slots; s < p->slots + SLOTS; s++) {
		if (is_new_window)
			atomic_cmpxchg_release(&s->state, SLOT_SENT, SLOT_FREE);
		if (atomic_read_acquire(&s->state) == SLOT_FULL && send_hit(s, 0))
			atomic_set(&s->state, SLOT_SENT);
		is_busy |= atomic_read(&s->state) != SLOT_FREE;
	}
	return is_busy || atomic_read(&p->suppressed);
}

static void send_all(struct work_struct *work)
{
	bool is_new_window = time_after_eq(jiffies, window_end), is_busy = false;
	struct place *p;

	if (is_new_window)
		window_end = jiffies + WINDOW;
	for (p = places; p < places + ARRAY_SIZE(places); p++)
		is_busy |= send_place(p, is_new_window);
	if (is_busy)
		schedule_delayed_work(to_delayed_work(work), max_t(long, window_end - jiffies, 0));
}

static DECLARE_DELAYED_WORK(send_work, send_all);

static void send_now(struct irq_work *unused)
{
	mod_delayed_work(KSPLICE_SYSTEM_WQ, &send_work, 0);
}

static DEFINE_IRQ_WORK(send_soon, send_now);

/* Each caller has its own; those of new code that is loaded again may share the last. */
static struct place *find_place(const char *name)
{
	struct place *p;

	for (p = places; p < places + ARRAY_SIZE(places) - 1; p++) {
		const char *known = READ_ONCE(p->name) ?: cmpxchg(&p->name, NULL, name);

		if (!known || known == name)
			break;
	}
	return p;
}

/**
 * ksplice_tripwire_hit - note an attempt at what the patch stops
 * @cve: what was tried
 * @place: where it was stopped, a string that stays where it is
 *
 * Context: any, NMIs among them; takes no lock and no memory.
 */
void ksplice_tripwire_hit(const char *cve, const char *place)
{
	struct place *p = find_place(place);
	struct slot *s;

	for (s = p->slots; s < p->slots + SLOTS; s++) {
		/* a plain read first: in a flood of hits none is free */
		if (atomic_read(&s->state) != SLOT_FREE ||
		    atomic_cmpxchg(&s->state, SLOT_FREE, SLOT_BEING_FILLED) != SLOT_FREE)
			continue;
		strscpy(s->cve, cve, sizeof(s->cve));
		strscpy(s->place, place, sizeof(s->place));
		/* get_task_comm() would take a lock; a name that changes just now does no harm */
		strscpy(s->comm, current->comm, sizeof(s->comm));
		s->pid = task_pid_nr(current);
		s->tgid = task_tgid_nr(current);
		s->uid = __kuid_val(current_uid());
		s->in_task = in_task();
		s->time = ktime_get_real_fast_ns();
		atomic_set_release(&s->state, SLOT_FULL);
		irq_work_queue(&send_soon);
		return;
	}
	if (atomic_inc_return(&p->suppressed) == 1)
		irq_work_queue(&send_soon);
}
EXPORT_SYMBOL_GPL(ksplice_tripwire_hit);

static ssize_t tripwire_family_show(struct kobject *unused, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", family.name);
}

static struct kobj_attribute tripwire_family_attr = __ATTR_RO(tripwire_family);

/**
 * ksplice_tripwires_init - begin to report hits
 * @kobj: the core's, which shows the family's name
 *
 * Return: 0 or a negative error.
 */
int __init ksplice_tripwires_init(struct kobject *kobj)
{
	int err;

	window_end = jiffies;
	err = genl_register_family(&family);
	if (err)
		return err;
	err = sysfs_create_file(kobj, &tripwire_family_attr.attr);
	if (err)
		genl_unregister_family(&family);
	return err;
}

/* No new code is loaded that could call us. */
void ksplice_tripwires_exit(void)
{
	irq_work_sync(&send_soon);
	cancel_delayed_work_sync(&send_work);
	genl_unregister_family(&family);
}
