/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For patches: functions that are called when an update is applied or undone,
 * data beside existing objects (docs/hooks.md), and tripwires
 * (docs/tripwires.md).
 *
 *	#include <ksplice-patch.h>
 *
 *	static int check(void)		{ return all_is_well() ? 0 : -EBUSY; }
 *	static void change(void)	{ limit = 4096; }
 *	static void change_back(void)	{ limit = 1; }
 *	ksplice_check_apply(check);
 *	ksplice_apply(change);
 *	ksplice_reverse(change_back);
 *
 * ksplicd/create finds the pointers that the macros leave; the running kernel
 * never sees them.  Hooks of one kind are called in the order of the source.
 */
#ifndef KSPLICE_PATCH_H
#define KSPLICE_PATCH_H

#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/livepatch.h>
#include <linux/stringify.h>
#include <linux/types.h>

/* gcc would turn the order around. */
#if __has_attribute(__no_reorder__)
#define KSPLICE_NO_REORDER	__attribute__((__no_reorder__))
#else
#define KSPLICE_NO_REORDER
#endif

#define KSPLICE_CHECK(kind, fn)							\
	static int (*const __used __section(".ksplice_call_" #kind)		\
		    KSPLICE_NO_REORDER __ksplice_##kind##_##fn)(void) = fn
#define KSPLICE_ACT(kind, fn)							\
	static void (*const __used __section(".ksplice_call_" #kind)		\
		     KSPLICE_NO_REORDER __ksplice_##kind##_##fn)(void) = fn

#define KSPLICE_CHECK_OBJ(kind, fn)						\
	static int (*const __used __section(".ksplice_call_" #kind)		\
		    KSPLICE_NO_REORDER __ksplice_##kind##_##fn)			\
		   (struct klp_object *obj) = fn
#define KSPLICE_ACT_OBJ(kind, fn)						\
	static void (*const __used __section(".ksplice_call_" #kind)		\
		     KSPLICE_NO_REORDER __ksplice_##kind##_##fn)		\
		    (struct klp_object *obj) = fn

/*
 * Before anybody runs new code: pre_apply, then check_apply, either of which
 * may refuse with an error, then apply.
 */
#define ksplice_pre_apply(fn)		KSPLICE_CHECK(pre_apply, fn)
#define ksplice_check_apply(fn)		KSPLICE_CHECK(check_apply, fn)
#define ksplice_apply(fn)		KSPLICE_ACT(apply, fn)

/* When everybody runs new code. */
#define ksplice_post_apply(fn)		KSPLICE_ACT(post_apply, fn)

/* When the update was refused or turned around, after reverse if apply was called. */
#define ksplice_fail_apply(fn)		KSPLICE_ACT(fail_apply, fn)

/* Before anybody runs old code again; an error is logged and stops nothing. */
#define ksplice_pre_reverse(fn)		KSPLICE_CHECK(pre_reverse, fn)
#define ksplice_check_reverse(fn)	KSPLICE_CHECK(check_reverse, fn)

/* When nobody runs new code any more: reverse, then post_reverse. */
#define ksplice_reverse(fn)		KSPLICE_ACT(reverse, fn)
#define ksplice_post_reverse(fn)	KSPLICE_ACT(post_reverse, fn)

/* When the undo was turned around and new code stays. */
#define ksplice_fail_reverse(fn)	KSPLICE_ACT(fail_reverse, fn)

/*
 * Livepatch's own callbacks, which are handed their target
 * (Documentation/livepatch/callbacks.rst); one of a kind for each target.
 * pre_patch may refuse, and post_unpatch is called only if it has not.
 */
#define ksplice_pre_patch(fn)		KSPLICE_CHECK_OBJ(pre_patch, fn)
#define ksplice_post_patch(fn)		KSPLICE_ACT_OBJ(post_patch, fn)
#define ksplice_pre_unpatch(fn)		KSPLICE_ACT_OBJ(pre_unpatch, fn)
#define ksplice_post_unpatch(fn)	KSPLICE_ACT_OBJ(post_unpatch, fn)

/**
 * ksplice_shadow_id() - number of a kind of shadow variable of this update
 * @n: to tell several kinds apart
 *
 * No two updates have the same, except those of a series, which share the ids
 * of its first update.  Any other number may be used too.
 */
static __always_inline unsigned long ksplice_shadow_id(u8 n)
{
	const char *kid = __stringify(KSPLICE_KID);
	unsigned long id = 0;
	int i;

	for (i = 0; i < 8; i++)
		id = id << 7 | kid[i];
	return id << 8 | n;
}

/*
 * A variable of @type beside @obj, by the kernel's shadow variables
 * (Documentation/livepatch/shadow-vars.rst).  _get: NULL when there is none;
 * _make: a zeroed one when there is none, or NULL without memory; _free and
 * _free_all are no error when there is none.
 */
#define ksplice_shadow_get(type, obj, id)	((type *)klp_shadow_get(obj, id))
#define ksplice_shadow_make(type, obj, id, gfp)					\
	((type *)klp_shadow_get_or_alloc(obj, id, sizeof(type), gfp, NULL, NULL))
#define ksplice_shadow_free(obj, id)		klp_shadow_free(obj, id, NULL)
#define ksplice_shadow_free_all(id)		klp_shadow_free_all(id, NULL)

#define KSPLICE_TRIPWIRE_CVE_SIZE	24
#define KSPLICE_TRIPWIRE_PLACE_SIZE	48

#ifdef KSPLICE_WHOLE_MODULE
/* A module of the next boot has no core. */
static __always_inline void ksplice_tripwire_hit(const char *cve, const char *place)
{
}
#else
/* Of the core; a call makes create build it in. */
void __cold ksplice_tripwire_hit(const char *cve, const char *place);
#endif

/**
 * ksplice_tripwire() - report an attempt at what the patch stops here
 * @cve: what is tried: "CVE-2022-0847", or other words; "" for the update's CVEs
 * @place: a name for this place, such as "do_fcntl: F_SET_RW_HINT"
 *
 * Both are string literals, of at most 23 and 47 bytes.
 *
 * Context: any, an NMI too; takes no lock and does not sleep.
 */
static __always_inline void ksplice_tripwire(const char *cve, const char *place)
{
	BUILD_BUG_ON(__builtin_strlen(cve) >= KSPLICE_TRIPWIRE_CVE_SIZE);
	BUILD_BUG_ON(__builtin_strlen(place) >= KSPLICE_TRIPWIRE_PLACE_SIZE);
	ksplice_tripwire_hit(cve, place);
}

#endif /* KSPLICE_PATCH_H */
