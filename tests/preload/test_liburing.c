// SPDX-License-Identifier: BSD-2-Clause
// Sockets used through liburing, which makes its system calls past libc.
#include "pair.h"

#include <liburing.h>

static int finish(struct io_uring *ring)
{
	struct io_uring_cqe *done;
	int result;

	assert_returns(io_uring_submit_and_wait(ring, 1), 1);
	assert_returns(io_uring_wait_cqe(ring, &done), 0);
	result = done->res;
	io_uring_cqe_seen(ring, done);
	return result;
}

static void exchange(struct io_uring *ring, struct pair *p)
{
	char buffer[16];

	for (int i = 0; i < 50; i++) {
		send_text(p->a, "hello");
		io_uring_prep_recv(io_uring_get_sqe(ring), p->b, buffer, sizeof(buffer), 0);
		assert_returns(finish(ring), 5);
		assert_bytes(buffer, "hello", 5);
		io_uring_prep_send(io_uring_get_sqe(ring), p->b, "by ring", 7, 0);
		assert_returns(finish(ring), 7);
		recv_text(p->a, "by ring");
	}
}

static bool start(struct io_uring *ring, bool with_params)
{
	struct io_uring_params params = {0};

	return (with_params ? io_uring_queue_init_params(8, ring, &params) : io_uring_queue_init(8, ring, 0)) == 0;
}

// A process that has an io_uring has it for life.
static void in_child(void **state, bool early, bool with_params)
{
	struct io_uring ring;
	struct pair p;
	char buffer[16];
	pid_t child = fork();

	if (child) {
		child_finish(child);
		return;
	}
	if (early && !start(&ring, with_params))
		_exit(0);
	pair_open(&p, *(int *)*state);
	if (!early) {
		pair_settle(&p);
		send_text(p.a, "unread");
		assert_that(wait_for(p.b, POLLIN, DEADLINE_MS));
		if (!start(&ring, with_params))
			_exit(0);
		io_uring_prep_recv(io_uring_get_sqe(&ring), p.b, buffer, sizeof(buffer), 0);
		assert_returns(finish(&ring), 6);
		assert_bytes(buffer, "unread", 6);
	}
	exchange(&ring, &p);
	_exit(0);
}

static void before_the_connection(void **state)
{
	in_child(state, true, false);
	in_child(state, true, true);
}

static void on_a_running_connection(void **state)
{
	in_child(state, false, false);
	in_child(state, false, true);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_FAMILY(before_the_connection),
    TEST_FAMILY(on_a_running_connection),
};
// clang-format on

SUITE_MAIN(tests)
