// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hooks, which go to the end of net/ipv4/sysctl_net_ipv4.c.
 *
 * Linux 6.1.180 and 6.1.190 bound three sysctls, by rows in ipv4_net_table.  That
 * table is in use: each network namespace has a copy, and every access to a
 * sysctl reads it.  So the patch leaves the table alone, and the hooks change the
 * rows in place and put them back.  They need tcp_min_rcvbuf, which the fix adds.
 */
#include <linux/rtnetlink.h>
#include <linux/rwsem.h>
#include <ksplice-patch.h>

/**
 * struct tcp_bound - a row of ipv4_net_table, before and after
 * @name:	its procname
 * @row:	its index, found before anything is changed
 * @handler:	its proc_handler: without bounds, with bounds
 * @min:	its extra1
 * @max:	its extra2, for the first namespace
 */
static struct tcp_bound {
	const char *name;
	unsigned int row;
	proc_handler *handler[2];
	void *min[2];
	void *max[2];
} tcp_bounds[] = {
	{ .name = "tcp_reordering",
	  .handler = { proc_dointvec, proc_dointvec_minmax },
	  .min = { NULL, SYSCTL_ONE },
	  .max = { NULL, &init_net.ipv4.sysctl_tcp_max_reordering } },
	{ .name = "tcp_max_reordering",
	  .handler = { proc_dointvec, proc_dointvec_minmax },
	  .min = { NULL, SYSCTL_ONE } },
	{ .name = "tcp_rmem",
	  .handler = { proc_dointvec_minmax, proc_dointvec_minmax },
	  .min = { SYSCTL_ONE, &tcp_min_rcvbuf } },
};

/* Refuses the update when the table is not what it was written for. */
static int tcp_bounds_find(void)
{
	struct tcp_bound *b;
	unsigned int i;

	for (b = tcp_bounds; b < tcp_bounds + ARRAY_SIZE(tcp_bounds); b++) {
		for (i = 0; i < ARRAY_SIZE(ipv4_net_table) - 1; i++)
			if (!strcmp(ipv4_net_table[i].procname, b->name))
				break;
		if (i == ARRAY_SIZE(ipv4_net_table) - 1)
			return -ENOENT;
		if (ipv4_net_table[i].proc_handler != b->handler[0] ||
		    ipv4_net_table[i].extra1 != b->min[0])
			return -EBUSY;
		b->row = i;
	}
	return 0;
}

/* As the fixed ipv4_sysctl_init_net() does it. */
static void *tcp_bound_of(const struct net *net, void *max)
{
	if (max >= (void *)&init_net.ipv4 && max < (void *)(&init_net.ipv4 + 1))
		max += (void *)net - (void *)&init_net;
	return max;
}

/*
 * The writes may come in any order: a handler without bounds does not look at
 * them, and one with bounds takes NULL for none.  The lock keeps namespaces from
 * coming and going.
 */
static void tcp_bounds_set(int to)
{
	const struct tcp_bound *b;
	struct net *net;

	down_write(&pernet_ops_rwsem);
	for_each_net(net) {
		struct ctl_table *table = net->ipv4.ipv4_hdr->ctl_table_arg;

		for (b = tcp_bounds; b < tcp_bounds + ARRAY_SIZE(tcp_bounds); b++) {
			struct ctl_table *row = &table[b->row];

			WRITE_ONCE(row->extra1, b->min[to]);
			WRITE_ONCE(row->extra2, tcp_bound_of(net, b->max[to]));
			WRITE_ONCE(row->proc_handler, b->handler[to]);
		}
	}
	up_write(&pernet_ops_rwsem);
}

static void tcp_bounds_on(void)
{
	tcp_bounds_set(1);
}

static void tcp_bounds_off(void)
{
	tcp_bounds_set(0);
}

ksplice_check_apply(tcp_bounds_find);
ksplice_apply(tcp_bounds_on);
ksplice_reverse(tcp_bounds_off);
