// SPDX-License-Identifier: BSD-2-Clause
#include "epolls.h"

int instance(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	assert_that(ep >= 0);
	return ep;
}

void add(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = EPOLL_DATA(fd)};

	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event), 0);
}

void modify(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = EPOLL_DATA(fd)};

	assert_returns(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event), 0);
}

void del(int ep, int fd)
{
	assert_returns(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL), 0);
}

uint32_t take(int ep, int fd, int timeout_ms)
{
	struct epoll_event events[4];
	int count = epoll_wait(ep, events, 4, timeout_ms);

	if (count == 0)
		return 0;
	assert_returns(count, 1);
	assert_that(events[0].data.u64 == EPOLL_DATA(fd));
	return events[0].events;
}

void wait_take(int ep, int fd, uint32_t want)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	uint32_t got;

	while ((got = take(ep, fd, 100)) != want && now_ms() < deadline)
		nap_ms(1);
	assert_returns(got, want);
}

uint32_t take_one(int ep, int timeout_ms)
{
	struct epoll_event event = {0};

	return epoll_wait(ep, &event, 1, timeout_ms) == 1 ? event.events : 0;
}

int call_epoll(void *arg)
{
	struct epoll_event event;

	return epoll_wait(*(int *)arg, &event, 1, DEADLINE_MS);
}
