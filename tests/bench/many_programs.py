# SPDX-License-Identifier: GPL-2.0-only
"""The programs and modules, in C, with which ``many.py`` watches a guest."""

from typing import Final

SLEEPERS: Final = """\
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
static int fds[2], sockets[2], epoll;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static void *asleep(void *way)
{
	struct pollfd pollfd = { .fd = fds[0], .events = POLLIN };
	struct epoll_event event;
	char byte;

	switch ((long)way % 6) {
	case 0: pthread_mutex_lock(&mutex); pthread_cond_wait(&never, &mutex); break;
	case 1: poll(&pollfd, 1, -1); break;
	case 2: return (void *)(long)read(fds[0], &byte, 1);
	case 3: epoll_wait(epoll, &event, 1, -1); break;
	case 4: return (void *)recv(sockets[0], &byte, 1, 0);
	default: sleep(1000000);
	}
	return NULL;
}
int main(int argc, char **argv)
{
	pthread_attr_t attr;
	pthread_t thread;
	long i, n = atol(argv[1]);

	if (pipe(fds) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		return 1;
	epoll = epoll_create1(0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 16384);
	for (i = 0; i < n; i++)
		if (pthread_create(&thread, &attr, asleep, (void *)i))
			return 2;
	sleep(1);
	puts("asleep");
	fflush(stdout);
	pause();
	return 0;
}
"""
"""Has as many threads as it is told, which sleep in six ways."""

WATCH: Final = """\
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static volatile sig_atomic_t is_over;
static double late[2], longest_fork, longest_load;
static void end(int signal) { is_over = 1; }
static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}
static void longest(double *most, double seconds)
{
	*most = seconds > *most ? seconds : *most;
}
static void priority(int which)
{
	struct sched_param param = { .sched_priority = which };

	if (sched_setscheduler(0, SCHED_FIFO, &param))
		_exit(3);
}
static void *real_time(void *cpu)
{
	struct timespec millisecond = { .tv_nsec = 1000000 };
	cpu_set_t set;
	double begin;

	CPU_ZERO(&set);
	CPU_SET((long)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		_exit(3);
	priority(99);
	while (!is_over) {
		begin = now();
		nanosleep(&millisecond, NULL);
		longest(&late[(long)cpu], now() - begin - 0.001);
	}
	return NULL;
}
static void *forks(void *unused)
{
	double begin;
	pid_t child;

	priority(50);
	while (!is_over) {
		begin = now();
		child = fork();
		if (!child)
			_exit(0);
		longest(&longest_fork, now() - begin);
		waitpid(child, NULL, 0);
		usleep(5000);
	}
	return NULL;
}
static void *loads(void *module)
{
	double begin;
	int fd;

	priority(50);
	while (!is_over) {
		fd = open(module, O_RDONLY | O_CLOEXEC);
		begin = now();
		if (syscall(SYS_finit_module, fd, "", 0))
			_exit(4);
		longest(&longest_load, now() - begin);
		close(fd);
		syscall(SYS_delete_module, "bench_tiny", 0);
		usleep(20000);
	}
	return NULL;
}
int main(int argc, char **argv)
{
	pthread_t threads[4];
	int i;

	signal(SIGTERM, end);
	pthread_create(&threads[0], NULL, real_time, (void *)0);
	pthread_create(&threads[1], NULL, real_time, (void *)1);
	pthread_create(&threads[2], NULL, forks, NULL);
	pthread_create(&threads[3], NULL, loads, argv[1]);
	for (i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("{\\"real_time\\": %f, \\"fork\\": %f, ", late[late[0] < late[1]], longest_fork);
	printf("\\"load\\": %f}\\n", longest_load);
	return 0;
}
"""
"""Until SIGTERM: a task of the highest priority on each processor that sleeps for a millisecond
again and again, one that forks, one that loads and unloads the module it is told.  Prints by how
many seconds the first was late at most, and how long the others' calls took at most."""

TINY: Final = """\
#include <linux/module.h>
static int __init tiny_init(void) { return 0; }
static void __exit tiny_exit(void) { }
module_init(tiny_init);
module_exit(tiny_exit);
MODULE_LICENSE("GPL");
"""
"""The module that is loaded again and again."""

OFF: Final = """\
#include <linux/cpu.h>
#include <linux/hrtimer.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/smp.h>
#define PERIOD (500 * NSEC_PER_USEC)
static DEFINE_PER_CPU(struct hrtimer, timers);
static unsigned long longest;
module_param(longest, ulong, 0644);
static enum hrtimer_restart tick(struct hrtimer *timer)
{
	s64 late = ktime_to_ns(ktime_sub(ktime_get(), hrtimer_get_expires(timer)));

	if (late > 0 && late > READ_ONCE(longest))
		WRITE_ONCE(longest, late);
	hrtimer_set_expires(timer, ktime_add_ns(ktime_get(), PERIOD));
	return HRTIMER_RESTART;
}
static void begin(void *unused)
{
	struct hrtimer *timer = this_cpu_ptr(&timers);

	hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	timer->function = tick;
	hrtimer_start(timer, ns_to_ktime(PERIOD), HRTIMER_MODE_REL_PINNED_HARD);
}
static int __init off_init(void)
{
	on_each_cpu(begin, NULL, 1);
	return 0;
}
static void __exit off_exit(void)
{
	unsigned int cpu;

	for_each_online_cpu(cpu)
		hrtimer_cancel(per_cpu_ptr(&timers, cpu));
}
module_init(off_init);
module_exit(off_exit);
MODULE_LICENSE("GPL");
"""
"""A timer on each processor, in hard interrupts; by how many nanoseconds it was late at most."""
