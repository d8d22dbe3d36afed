// SPDX-License-Identifier: BSD-2-Clause
// What a process may do only as long as it has one thread, or does for its one thread alone: nothing of ours may be beside it.
#include "pair.h"

#include <linux/close_range.h>
#include <sched.h>

// Each in a process of its own, which is another one afterwards.
static void in_child(int family, void (*fn)(struct pair *p))
{
	pid_t child = fork();

	if (child == 0) {
		struct pair p;

		pair_open(&p, family);
		pair_settle(&p);
		fn(&p);
		_exit(0);
	}
	child_finish(child);
}

static void enter_user_namespace(struct pair *p)
{
	send_text(p->a, "before");
	assert_returns(unshare(CLONE_NEWUSER), 0);
	recv_text(p->b, "before");
	pair_talk(p, 100);
}

static void user_namespace(void **state)
{
	in_child(*(int *)*state, enter_user_namespace);
}

static void enter_mount_namespace(struct pair *p)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY);

	send_text(p->a, "before");
	assert_returns(setns(fd, CLONE_NEWNS), 0);
	assert_returns(setns(fd, 0), 0);
	recv_text(p->b, "before");
	pair_talk(p, 100);
}

static void mount_namespace(void **state)
{
	if (geteuid() != 0)
		skip();
	in_child(*(int *)*state, enter_mount_namespace);
}

// Any network namespace, any time: it asks for nothing.
static void enter_network_namespace(struct pair *p)
{
	int fd = open("/proc/self/ns/net", O_RDONLY);

	assert_returns(setns(fd, CLONE_NEWNET), 0);
	assert_returns(setns(fd, 0), 0);
	pair_talk(p, 100);
	pair_check_ring(p);
}

static void network_namespace(void **state)
{
	if (geteuid() != 0)
		skip();
	in_child(*(int *)*state, enter_network_namespace);
}

// The last descriptor is closed, wherever the table is: the other end sees the end.
static void take_table(struct pair *p)
{
	send_text(p->b, "last words");
	assert_returns(unshare(CLONE_FILES), 0);
	assert_returns(close(p->b), 0);
	recv_text(p->a, "last words");
	recv_end(p->a);
}

static void table_of_its_own(void **state)
{
	in_child(*(int *)*state, take_table);
}

static void take_table_and_close(struct pair *p)
{
	send_text(p->b, "last words");
	assert_returns(close_range((unsigned)p->b, (unsigned)p->b, CLOSE_RANGE_UNSHARE), 0);
	recv_text(p->a, "last words");
	recv_end(p->a);
}

static void table_of_its_own_and_closed(void **state)
{
	in_child(*(int *)*state, take_table_and_close);
}

// New connections are promoted again.
static void go_on(struct pair *p)
{
	struct pair next;

	assert_returns(unshare(CLONE_FILES), 0);
	pair_talk(p, 100);
	pair_open(&next, AF_INET);
	pair_settle(&next);
	pair_talk(&next, 100);
	pair_check_ring(&next);
}

static void afterwards(void **state)
{
	in_child(*(int *)*state, go_on);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(user_namespace),
    TEST_FAMILY(mount_namespace),
    TEST_FAMILY(network_namespace),
    TEST_FAMILY(table_of_its_own),
    TEST_FAMILY(table_of_its_own_and_closed),
    TEST_FAMILY(afterwards),
};
// clang-format on

SUITE_MAIN(tests)
