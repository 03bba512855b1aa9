// SPDX-License-Identifier: GPL-2.0-only
/*
 * Has livepatch look early whether a transition of this update is over.
 *
 * livepatch looks when a transition begins and then once a second, although
 * most tasks move within milliseconds.  Its own work is started sooner here:
 * under its own lock it does what it would do later.
 *
 * Locks: early_lock protects everything static in this file.  It is taken
 * inside klp_mutex, and nothing sleeps under it.
 */
#include <linux/compiler.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include "compat.h"
#include "new_code.h"

/*
 * At once when the transition is seen to have begun, and after 25, 75, 175 and
 * 375 ms more.  Not oftener: livepatch counts how often it has looked, and
 * signals the remaining tasks each fifteenth time.
 */
#define TIMES		5
#define FIRST_MS	25
/* Nothing tells when a transition is turned around: a flag is read this often. */
#define TURN_MS		100

static void look_early(struct work_struct *work);
static DECLARE_DELAYED_WORK(looker, look_early);

static DEFINE_SPINLOCK(early_lock);
/* Whose transition; NULL when there is none. */
static const struct klp_patch *moving;
/* Where to: what moving->enabled is from the begin of the transition on. */
static bool towards;
static bool has_begun;
static unsigned int times;

static bool ask_early = true;
module_param(ask_early, bool, 0644);
MODULE_PARM_DESC(ask_early, "have livepatch look early whether a transition is over, up to five times; off: only once a second");

static unsigned int next_look_ms(void)
{
	bool is_turned = has_begun && READ_ONCE(moving->enabled) != towards;

	/* livepatch counts anew, too */
	if (is_turned) {
		towards = !towards;
		times = 0;
	}
	has_begun = has_begun || READ_ONCE(moving->enabled) == towards;
	if (!has_begun)
		return FIRST_MS;
	if (times == TIMES)
		return TURN_MS;
	mod_delayed_work(KSPLICE_SYSTEM_WQ, &klp_work, 0);
	return FIRST_MS << times++;
}

static void look_early(struct work_struct *work)
{
	spin_lock(&early_lock);
	if (moving && READ_ONCE(ask_early))
		schedule_delayed_work(&looker, msecs_to_jiffies(next_look_ms()));
	spin_unlock(&early_lock);
}

/**
 * ksplice_early_begin - livepatch is about to move all tasks
 * @patch: to its functions, or back
 * @forward: to them
 */
void ksplice_early_begin(const struct klp_patch *patch, bool forward)
{
	spin_lock(&early_lock);
	moving = patch;
	towards = forward;
	has_begun = false;
	times = 0;
	spin_unlock(&early_lock);
	mod_delayed_work(KSPLICE_SYSTEM_WQ, &looker, msecs_to_jiffies(FIRST_MS));
}

/**
 * ksplice_early_end - all tasks have moved, or the transition did not begin
 *
 * Called under klp_mutex, so the work is not waited for: it sees that it is not
 * wanted any more.
 */
void ksplice_early_end(void)
{
	spin_lock(&early_lock);
	moving = NULL;
	spin_unlock(&early_lock);
	cancel_delayed_work(&looker);
}

/**
 * ksplice_early_exit - the module is about to go, after ksplice_early_end()
 */
void ksplice_early_exit(void)
{
	cancel_delayed_work_sync(&looker);
}
