// SPDX-License-Identifier: GPL-2.0-only
/*
 * Keeps the depth of a queueing discipline beside it.  Goes after the #includes
 * of net/sched/sch_api.c.
 *
 * Linux 6.1.183 refuses qdiscs nested more than eight deep, by a new member
 * "depth" of struct Qdisc, which qdisc_graft() sets.  Running kernels have
 * qdiscs without it, so "q->depth" of the fix becomes "qdisc_depth(q)".  The
 * rest is qdisc_free() of sch_generic.c, which has to begin with
 *
 *	ksplice_shadow_free(qdisc, ksplice_shadow_id(1));
 */
#include <linux/rtnetlink.h>
#include <linux/rwsem.h>
#include <ksplice-patch.h>

#define QDISC_DEPTH	ksplice_shadow_id(1)

/* Zero at first, as the member would be.  Under the rtnl mutex; may sleep. */
#define qdisc_depth(q)	\
	(*ksplice_shadow_make(int, q, QDISC_DEPTH, GFP_KERNEL | __GFP_NOFAIL))

/* The depth that the fix would have set where old code grafted; 8 and more are refused alike. */
static int qdisc_depth_by_parents(struct net_device *dev, const struct Qdisc *q)
{
	int depth = 0;

	while (q && q->parent != TC_H_ROOT && depth < 8) {
		q = qdisc_lookup(dev, TC_H_MAJ(q->parent));
		depth++;
	}
	return depth;
}

static void qdisc_depths_free(void)
{
	ksplice_shadow_free_all(QDISC_DEPTH);
}

/*
 * All tasks run new code now.  A depth that exists may belong to a qdisc that old
 * code has freed.  Roots are not in the hash, and have depth 0.
 */
static void qdisc_depths_find(void)
{
	struct net_device *dev;
	struct Qdisc *q;
	struct net *net;
	int i;

	rtnl_lock();
	qdisc_depths_free();
	down_read(&net_rwsem);
	for_each_net(net)
		for_each_netdev(net, dev)
			hash_for_each(dev->qdisc_hash, i, q, hash)
				qdisc_depth(q) = qdisc_depth_by_parents(dev, q);
	up_read(&net_rwsem);
	rtnl_unlock();
}

ksplice_post_apply(qdisc_depths_find);
ksplice_fail_reverse(qdisc_depths_find);	/* undo turned around: some tasks ran old code */
ksplice_reverse(qdisc_depths_free);		/* at undo, and when an apply is turned around */
