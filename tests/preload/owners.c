// SPDX-License-Identifier: BSD-2-Clause
#include "owners.h"

void echo_some(struct pair *p, uint64_t *at)
{
	send_pattern(p->a, 1, *at, 3000);
	recv_pattern(p->a, 1, *at, 3000);
	*at += 3000;
}

bool ownership_can_be_seen(void)
{
	char link[64] = "";

	return geteuid() == 0 && readlink("/proc/self/ns/pid", link, sizeof(link) - 1) > 0 && !strcmp(link, "pid:[4026531836]");
}

void queues_lock(int how)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/tmp/rlm-test-queues", O_RDONLY | O_CREAT | O_CLOEXEC, 0666);
	assert_that(fd >= 0);
	assert_returns(flock(fd, how), 0);
}
