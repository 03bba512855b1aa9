/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a core with tripwires sends over generic netlink.
 *
 * Family "kspl_KID", group "tripwires".  Attributes about the task are there
 * unless KSPLICE_TRIPWIRE_SUPPRESSED is.
 */
#ifndef KSPLICE_TRIPWIRE_H
#define KSPLICE_TRIPWIRE_H

/* The kid makes a name of 13 bytes; GENL_NAMSIZ has room for 15. */
#define KSPLICE_TRIPWIRE_FAMILY		"kspl_" __stringify(KSPLICE_KID)
#define KSPLICE_TRIPWIRE_GROUP		"tripwires"
#define KSPLICE_TRIPWIRE_VERSION	1

enum ksplice_tripwire_command {
	KSPLICE_TRIPWIRE_HIT = 1,
};

/**
 * enum ksplice_tripwire_attr - attributes of KSPLICE_TRIPWIRE_HIT
 * @KSPLICE_TRIPWIRE_CVE:	string: what was tried, as the patch's author calls it
 * @KSPLICE_TRIPWIRE_PLACE:	string: where the patch has stopped it
 * @KSPLICE_TRIPWIRE_SUPPRESSED: u32: number of further hits there, which are not sent one by one
 * @KSPLICE_TRIPWIRE_PID:	u32: the thread, in the first pid namespace
 * @KSPLICE_TRIPWIRE_TGID:	u32: its process
 * @KSPLICE_TRIPWIRE_UID:	u32: its user, in the first user namespace
 * @KSPLICE_TRIPWIRE_COMM:	string: its name
 * @KSPLICE_TRIPWIRE_IN_TASK:	u32: 1: the thread did it; 0: an interrupt in it
 * @KSPLICE_TRIPWIRE_TIME:	u64: nanoseconds since 1970
 */
enum ksplice_tripwire_attr {
	KSPLICE_TRIPWIRE_CVE = 1,
	KSPLICE_TRIPWIRE_PLACE,
	KSPLICE_TRIPWIRE_SUPPRESSED,
	KSPLICE_TRIPWIRE_PID,
	KSPLICE_TRIPWIRE_TGID,
	KSPLICE_TRIPWIRE_UID,
	KSPLICE_TRIPWIRE_COMM,
	KSPLICE_TRIPWIRE_IN_TASK,
	KSPLICE_TRIPWIRE_TIME,
};

#endif /* KSPLICE_TRIPWIRE_H */
