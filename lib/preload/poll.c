// SPDX-License-Identifier: BSD-2-Clause
// poll, ppoll: ring state for connections that are bound, the kernel for everything else, in one answer.
//
// A thread whose whole set is on rings, with TCP quiet, sleeps as a receive does: on the connections' own words, where nobody else's ring
// wakes it. What TCP tells then comes by the helper thread.
//
// Otherwise it sleeps in the kernel's poll, and listens on the doorbells of the segments concerned through an epoll instance of its own, in
// which they are registered edge-triggered: every ring is an edge for every instance, so threads cannot take each other's.
//
// A thread that sleeps in the kernel since before a connection was bound counts as receiving from it (rx_inflight). So the receiving side
// does not go on to the ring before that thread came back, and the frame that says so stays in the socket and wakes it.
#include <stdlib.h>

#include "hooks.h"
#include "poll_set.h"

// No cancellation point: there is nothing to undo what this thread has counted by then.
static int ask_kernel_now(struct polling *p)
{
	struct timespec zero = {0, 0};

	return (int)sys_call5(SYS_ppoll, p->shadow, p->n, &zero, NULL, 8);
}

// Something in the set is bound (or an epoll instance of ours).
static int poll_ours(struct polling *p)
{
	bool waits = p->forever || p->deadline.set || p->timeout_ns, timed_out = false;
	int n;

	for (;;) {
		polling_look_up(p);
		n = polling_needs_no_kernel(p) ? polling_evaluate_ours(p) : -1;
		if (n < 0 || (n == 0 && (!waits || timed_out))) {
			polling_make_shadow(p);
			n = ask_kernel_now(p);
			if (n < 0)
				return n;
			n = polling_evaluate(p);
		}
		if (n || ((!waits || timed_out) && !p->stale))
			return n;
		if (p->stale)
			continue;
		helper_ensure();
		polling_hold(p);
		if (!polling_spin(p)) {
			deadline_start(&p->deadline, p->timeout_ns);
			n = polling_sleep(p, &timed_out);
		}
		polling_release(p);
		if (n)
			return n;
	}
}

static bool any_tracked(const struct pollfd *fds, nfds_t n)
{
	struct entry e;

	if (!settings.enabled || !n || hook_is_bad_object(fds, n * sizeof(*fds)))
		return false;
	for (nfds_t i = 0; i < n; i++)
		if (entry_look_up(fds[i].fd, &e) != ENTRY_KERNEL)
			return true;
	return false;
}

static int run(struct polling *p, const struct timespec *timeout)
{
	int r;

	memset(p->entries, 0, p->n * sizeof(*p->entries));
	if (polling_look_up(p) || !polling_in_kernel(p, timeout, &r))
		r = poll_ours(p);
	return r;
}

// poll() is safe in a signal handler, which may have interrupted malloc() and may have little stack: so the room is on the stack, and no more
// than the set is large. Who polls more than POLL_ON_STACK in a handler must not have interrupted malloc().
#define RUN_ON_STACK(name, most, most_words)                                                                           \
	static __attribute__((noinline)) int name(struct polling *p, const struct timespec *timeout)                  \
	{                                                                                                              \
		struct pollfd shadow[(most) + 1];                                                                      \
		struct entry entries[most];                                                                            \
		struct futex_waitv words[most_words];                                                                  \
                                                                                                                       \
		p->shadow = shadow;                                                                                    \
		p->entries = entries;                                                                                  \
		p->words = words;                                                                                      \
		p->words_max = most_words;                                                                             \
		return run(p, timeout);                                                                                \
	}

RUN_ON_STACK(run_few, POLL_FEW, 2 * POLL_FEW + 1)
RUN_ON_STACK(run_some, POLL_ON_STACK, POLL_ON_STACK)

static int run_many(struct polling *p, const struct timespec *timeout)
{
	int r;

	p->words_max = FUTEX_WAITV_MAX;
	p->memory = malloc(p->n * sizeof(*p->entries) + p->words_max * sizeof(*p->words) + (p->n + 1) * sizeof(*p->shadow));
	if (!p->memory)
		return -ENOMEM;
	p->entries = p->memory;
	p->words = (struct futex_waitv *)(p->entries + p->n);
	p->shadow = (struct pollfd *)(p->words + p->words_max);
	r = run(p, timeout);
	free(p->memory);
	return r;
}

int poll_run(struct pollfd *fds, nfds_t n, const struct timespec *timeout, struct deadline *deadline,
		    const sigset_t *mask)
{
	struct polling p = {.fds = fds,
			    .n = n,
			    .timeout_ns = poll_ns(timeout),
			    .deadline = *deadline,
			    .signals = signals_handled,
			    .forever = !timeout,
			    .mask = mask};

	if (n <= POLL_FEW)
		return run_few(&p, timeout);
	return n <= POLL_ON_STACK ? run_some(&p, timeout) : run_many(&p, timeout);
}

RLM_EXPORT int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	struct deadline deadline = {0};

	if (n > FDTABLE_SIZE || !any_tracked(fds, n) || (timeout && hook_is_bad(timeout)) ||
	    (timeout && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))) // EINVAL
		return REAL(ppoll)(fds, n, timeout, mask);
	return (int)rlm_result(poll_run(fds, n, timeout, &deadline, mask));
}

RLM_EXPORT int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	struct timespec t = {timeout / 1000, (long)(timeout % 1000) * 1000000};
	struct deadline deadline = {0};

	if (n > FDTABLE_SIZE || !any_tracked(fds, n))
		return REAL(poll)(fds, n, timeout);
	return (int)rlm_result(poll_run(fds, n, timeout < 0 ? NULL : &t, &deadline, NULL));
}

int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t size);

RLM_EXPORT int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size)
{
	if (size / sizeof(*fds) < n)
		return REAL(__poll_chk)(fds, n, timeout, size); // aborts
	return poll(fds, n, timeout);
}

RLM_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
			   size_t size)
{
	if (size / sizeof(*fds) < n)
		return REAL(__ppoll_chk)(fds, n, timeout, mask, size);
	return ppoll(fds, n, timeout, mask);
}
