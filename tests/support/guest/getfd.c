// SPDX-License-Identifier: GPL-2.0-only
/* Asks do_fcntl for the flags of a descriptor; prints what updates add to them. */
#include <fcntl.h>
#include <stdio.h>

int main(void)
{
	return printf("%d\n", fcntl(0, F_GETFD) & ~FD_CLOEXEC) < 0;
}
