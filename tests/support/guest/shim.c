// SPDX-License-Identifier: GPL-2.0-only
/*
 * Preloaded into ksplicd: at the N-th step after CONTROL was written, kill the
 * process or take all space that the file system with its records has left.
 *
 * A step is a call that changes the kernel or what is on the disk; the deed
 * comes before it, but for "inside": the process is killed while it is in the
 * call, or says that the call was too short for that.  Each step is told on standard error, which is the journal.
 * CONTROL holds "kill N any", "fill N any" or "inside N any", or the name of a kind of step that
 * alone counts, and a number that is new each time; it is read at each step.
 * Without it nothing happens, and the space is given back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CONTROL "/etc/ksplicd/fault"
#define RECORDS "/var/lib/ksplice"

#define REAL(name) ((typeof(&(name)))dlsym(RTLD_NEXT, #name))

/* Loading a module takes longer. */
#define SOON	10000000

static int steps, counted, hoard = -1;
static bool is_doomed;
static char before[32];

static void fill(void)
{
	static char block[4096];

	hoard = open(RECORDS, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	while (REAL(write)(hoard, block, sizeof(block)) > 0)
		;
}

static void release(void)
{
	if (hoard >= 0)
		close(hoard);
	hoard = -1;
}

static void kill_soon(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	struct itimerspec when = { .it_value.tv_nsec = SOON };
	timer_t timer;

	is_doomed = !timer_create(CLOCK_MONOTONIC, &event, &timer) &&
		    !timer_settime(timer, 0, &when, NULL);
}

static void step(const char *what)
{
	char text[32] = "", deed[8] = "", kind[16] = "";
	int number = 0, fd = open(CONTROL, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		release();
		return;
	}
	(void)!read(fd, text, sizeof(text) - 1);
	close(fd);
	if (strcmp(before, text)) {
		release();
		steps = counted = 0;
	}
	strcpy(before, text);
	sscanf(text, "%7s %d %15s", deed, &number, kind);
	dprintf(2, "step %d: %s\n", ++steps, what);
	if (strcmp(kind, "any") && strcmp(kind, what))
		return;
	if (++counted != number)
		return;
	if (!strcmp(deed, "kill"))
		kill(getpid(), SIGKILL);
	if (!strcmp(deed, "inside"))
		kill_soon();
	if (!strcmp(deed, "fill"))
		fill();
}

static int is_below(int fd, const char *folder)
{
	char link[64], path[256] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	(void)!readlink(link, path, sizeof(path) - 1);
	return !strncmp(path, folder, strlen(folder));
}

ssize_t write(int fd, const void *data, size_t size)
{
	if (is_below(fd, "/sys/") || is_below(fd, RECORDS))
		step("write");
	/* A file's last block may have room for a little more: there is none on this disk. */
	if (hoard >= 0 && is_below(fd, RECORDS)) {
		errno = ENOSPC;
		return -1;
	}
	return REAL(write)(fd, data, size);
}

int fsync(int fd)
{
	step("fsync");
	return REAL(fsync)(fd);
}

int rename(const char *from, const char *to)
{
	step("rename");
	return REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
	step("mkdir");
	return REAL(mkdir)(path, mode);
}

long syscall(long number, ...)
{
	va_list list;
	long a, b, c, result;

	va_start(list, number);
	a = va_arg(list, long);
	b = va_arg(list, long);
	c = va_arg(list, long);
	va_end(list);
	if (number == SYS_finit_module)
		step("finit_module");
	if (number == SYS_delete_module)
		step("delete_module");
	result = REAL(syscall)(number, a, b, c);
	/* Other threads make other calls meanwhile. */
	if (is_doomed && number == SYS_finit_module)
		dprintf(2, "the call was too short\n");
	return result;
}
