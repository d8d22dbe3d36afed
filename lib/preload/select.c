// SPDX-License-Identifier: BSD-2-Clause
// select, pselect: as a poll.
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>

#include "hooks.h"
#include "poll.h"

static bool in_set(const fd_set *set, int fd)
{
	return set && ((const unsigned long *)set)[fd / (8 * (int)sizeof(long))] >> (fd % (8 * (int)sizeof(long))) & 1;
}

static void put_in_set(fd_set *set, int fd)
{
	((unsigned long *)set)[fd / (8 * (int)sizeof(long))] |= 1ul << (fd % (8 * (int)sizeof(long)));
}

static size_t set_bytes(int n)
{
	return ((size_t)n + 8 * sizeof(long) - 1) / (8 * sizeof(long)) * sizeof(long);
}

static bool select_has_tracked(int n, const fd_set *in, const fd_set *out, const fd_set *except)
{
	if ((in && hook_is_bad(in)) || (out && hook_is_bad(out)) || (except && hook_is_bad(except)))
		return false;
	for (int fd = 0; settings.enabled && fd < n; fd++) {
		uint32_t kind = fd_entry(fd) >> FD_VALUE_BITS;

		if ((kind == FD_CONN || kind == FD_EPOLL) && (in_set(in, fd) || in_set(out, fd) || in_set(except, fd)))
			return true;
	}
	return false;
}

// Count of those that are in any set; the first `most` of them are in fds.
static nfds_t sets_to_poll(int n, const fd_set *in, const fd_set *out, const fd_set *except, struct pollfd *fds, nfds_t most)
{
	nfds_t count = 0;

	for (int fd = 0; fd < n; fd++) {
		short events = (short)((in_set(in, fd) ? POLLIN : 0) | (out && in_set(out, fd) ? POLLOUT : 0) |
				       (in_set(except, fd) ? POLLPRI : 0));

		if (events && count++ < most)
			fds[count - 1] = (struct pollfd){.fd = fd, .events = events};
	}
	return count;
}

// As the kernel does it: HUP and ERR count as readable, ERR as writable. Number of bits set, -EBADF.
static int poll_to_sets(int n, fd_set *in, fd_set *out, fd_set *except, const struct pollfd *fds, nfds_t count)
{
	int bits = 0;

	for (nfds_t i = 0; i < count; i++)
		if (fds[i].revents & POLLNVAL)
			return -EBADF;
	if (in)
		memset(in, 0, set_bytes(n));
	if (out)
		memset(out, 0, set_bytes(n));
	if (except)
		memset(except, 0, set_bytes(n));
	for (nfds_t i = 0; i < count; i++) {
		if (fds[i].events & POLLIN && fds[i].revents & (POLLIN | POLLHUP | POLLERR))
			put_in_set(in, fds[i].fd), bits++;
		if (fds[i].events & POLLOUT && fds[i].revents & (POLLOUT | POLLERR))
			put_in_set(out, fds[i].fd), bits++;
		if (fds[i].events & POLLPRI && fds[i].revents & POLLPRI)
			put_in_set(except, fds[i].fd), bits++;
	}
	return bits;
}

static int select_ours(int n, fd_set *in, fd_set *out, fd_set *except, const struct timespec *timeout,
		       struct deadline *deadline, const sigset_t *mask)
{
	struct pollfd few[POLL_ON_STACK], *fds = few;
	nfds_t count;
	int r;

	deadline_start(deadline, poll_ns(timeout));
	count = sets_to_poll(n, in, out, except, few, POLL_ON_STACK);
	if (count > POLL_ON_STACK) { // see RUN_ON_STACK()
		fds = malloc(count * sizeof(*fds));
		if (!fds)
			return -ENOMEM;
		sets_to_poll(n, in, out, except, fds, count);
	}
	r = poll_run(fds, count, timeout, deadline, mask);
	if (r >= 0)
		r = poll_to_sets(n, in, out, except, fds, count);
	if (fds != few)
		free(fds);
	return r;
}

static bool set_is_small(int n)
{
	return n >= 0 && n <= (int)FDTABLE_SIZE;
}

RLM_EXPORT int select(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict except,
		      struct timeval *restrict timeout)
{
	struct timespec t = {0, 0}, left = {0, 0};
	struct deadline deadline = {0};
	int r;

	if (!set_is_small(n) || !select_has_tracked(n, in, out, except) || (timeout && hook_is_bad(timeout)) ||
	    (timeout && (timeout->tv_sec < 0 || timeout->tv_usec < 0)))
		return REAL(select)(n, in, out, except, timeout);
	if (timeout)
		t = (struct timespec){timeout->tv_sec + timeout->tv_usec / 1000000,
				      timeout->tv_usec % 1000000 * 1000};
	r = select_ours(n, in, out, except, timeout ? &t : NULL, &deadline, NULL);
	if (timeout) {
		if (deadline.set)
			deadline_left(&deadline, &left);
		*timeout = (struct timeval){left.tv_sec, left.tv_nsec / 1000};
	}
	return (int)rlm_result(r);
}

RLM_EXPORT int pselect(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict except,
		       const struct timespec *restrict timeout, const sigset_t *restrict mask)
{
	struct deadline deadline = {0};

	if (!set_is_small(n) || !select_has_tracked(n, in, out, except) || (timeout && hook_is_bad(timeout)) ||
	    (timeout && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000)))
		return REAL(pselect)(n, in, out, except, timeout, mask);
	return (int)rlm_result(select_ours(n, in, out, except, timeout, &deadline, mask));
}
