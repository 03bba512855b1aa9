// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts modules that come and go: as long as none does, a module that was
 * matched is still the same one.
 *
 * No locks: the count is one word.  The kernel counts a module here before it is
 * live, and after it has ceased to be.
 */
#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/string.h>
#include "comings.h"

static atomic_t comings;

/* The modules of the update itself are no targets. */
static int count(struct notifier_block *unused, unsigned long state, void *data)
{
	const struct module *mod = data;

	if (state != MODULE_STATE_LIVE && !strstarts(mod->name, KBUILD_MODNAME))
		atomic_inc(&comings);
	return NOTIFY_DONE;
}

static struct notifier_block counter = { .notifier_call = count };

/**
 * ksplice_comings - how many modules have come and gone, with those half on their way
 */
int ksplice_comings(void)
{
	return atomic_read(&comings);
}

/**
 * ksplice_comings_init - begin to count
 *
 * Return: 0 or a negative error.
 */
int ksplice_comings_init(void)
{
	return register_module_notifier(&counter);
}

/**
 * ksplice_comings_exit - end it
 */
void ksplice_comings_exit(void)
{
	unregister_module_notifier(&counter);
}
