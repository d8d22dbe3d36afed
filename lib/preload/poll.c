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
#include <sys/epoll.h>

#include "bells.h"
#include "epoll.h"
#include "hooks.h"
#include "poll.h"
#include "ready.h"
#include "stream_internal.h"

enum entry_kind {
	ENTRY_KERNEL = 0, // the kernel knows all of it
	ENTRY_PLAIN,	  // a connection that is not bound
	ENTRY_BOUND,	  // its rings are to be looked at
	ENTRY_EPOLL,	  // an instance, which may hold bound connections
};

struct entry {
	struct rlm_conn *conn;
	struct rlm_bound *listening;
	uint64_t head;
	struct rlm_inside inside; // while `sleeping`: conn is told that we are in the kernel
	uint32_t events;	  // conn's event count before the kernel was asked
	uint8_t kind;		  // enum entry_kind
	bool sleeping;
};

struct polling {
	struct _pthread_cleanup_buffer cleanup;
	struct pollfd *fds;
	nfds_t n;
	struct pollfd *shadow; // n + 1
	struct entry *entries;
	struct futex_waitv *words; // those that news of the set changes
	unsigned words_max;
	void *memory;		  // what of these is not on the stack
	uint64_t timeout_ns;      // 0 and not forever: do not wait
	struct deadline deadline; // from the first sleep on
	uint32_t signals;	  // signals_handled when the call began
	bool forever;
	bool listening; // the entries' `listening` are to wake us,
	enum ready_by by;
	const sigset_t *mask;
};

static enum entry_kind look_up_one(int fd, struct entry *e)
{
	uint32_t entry = fd < 0 ? 0 : fd_entry(fd);

	e->kind = ENTRY_KERNEL;
	e->conn = NULL;
	if (entry >> FD_VALUE_BITS == FD_CONN) {
		e->conn = &arena.conns[entry & FD_VALUE_MASK];
		e->kind = atomic_load_explicit(&e->conn->bound, memory_order_acquire) ? ENTRY_BOUND : ENTRY_PLAIN;
	} else if (entry >> FD_VALUE_BITS == FD_EPOLL) {
		e->kind = ENTRY_EPOLL;
	}
	return (enum entry_kind)e->kind;
}

// true: something in it is ours.
static bool look_up(struct polling *p)
{
	bool ours = false;

	for (nfds_t i = 0; i < p->n; i++)
		ours |= look_up_one(p->fds[i].fd, &p->entries[i]) >= ENTRY_BOUND;
	return ours;
}

static void make_shadow(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		p->shadow[i] = p->fds[i];
		p->shadow[i].revents = 0;
		if (p->entries[i].conn)
			p->entries[i].events = ready_events(p->entries[i].conn);
		if (p->entries[i].kind == ENTRY_BOUND) {
			uint32_t wanted = (uint16_t)p->fds[i].events;

			if (wanted & (EPOLLIN | EPOLLRDNORM))
				wanted |= EPOLLIN; // frames come this way too
			p->shadow[i].events = (short)ready_kernel_mask(p->entries[i].conn, wanted);
		}
	}
	p->shadow[p->n] = (struct pollfd){.fd = -1};
}

// Kernel's answer in shadow, ours in fds. Number of descriptors with events.
static int evaluate(struct polling *p)
{
	int count = 0;

	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];
		uint32_t events = (uint16_t)p->shadow[i].revents;
		uint32_t wanted = (uint16_t)p->fds[i].events | POLLERR | POLLHUP | POLLNVAL;
		struct ready r;

		// Bound while we slept: what the kernel shows may be a frame.
		if (e->kind == ENTRY_PLAIN && events && atomic_load_explicit(&e->conn->bound, memory_order_acquire))
			e->kind = ENTRY_BOUND;
		if (e->kind == ENTRY_BOUND && !(events & POLLNVAL)) { // else it was closed meanwhile
			ready_note_kernel(e->conn, e->events, (uint16_t)p->shadow[i].events, events);
			r = ready_now(e->conn, p->fds[i].fd, (uint16_t)p->fds[i].events, (uint16_t)p->shadow[i].events, events);
			e->head = r.head;
			events = r.events;
		} else if (e->kind == ENTRY_EPOLL) {
			events = epoll_is_ready(p->fds[i].fd) ? POLLIN | POLLRDNORM : 0;
		}
		p->fds[i].revents = (short)(events & wanted);
		count += p->fds[i].revents != 0;
	}
	return count;
}

// All of the set is on rings, and TCP had nothing to tell. What it has to tell since, the helper thread counts a moment later: so this is
// for calls that would wait, or have something.
static bool needs_no_kernel(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->fds[i].fd >= 0 && (p->entries[i].kind != ENTRY_BOUND ||
					  !ready_needs_no_kernel(p->entries[i].conn, (uint16_t)p->fds[i].events)))
			return false;
	return true;
}

// What there is without the kernel, as evaluate().
static int evaluate_ours(struct polling *p)
{
	int count = 0;

	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];
		uint32_t wanted = (uint16_t)p->fds[i].events;
		struct ready r = {0};

		if (e->kind == ENTRY_BOUND)
			r = ready_now(e->conn, p->fds[i].fd, wanted, UINT16_MAX, 0);
		else if (e->kind == ENTRY_EPOLL && epoll_is_ready(p->fds[i].fd))
			r.events = POLLIN | POLLRDNORM;
		e->head = r.head;
		p->fds[i].revents = (short)(r.events & (wanted | POLLERR | POLLHUP | POLLNVAL));
		count += p->fds[i].revents != 0;
	}
	return count;
}

// No cancellation point: there is nothing to undo what this thread has counted by then.
static int ask_kernel_now(struct polling *p)
{
	struct timespec zero = {0, 0};

	return (int)sys_call5(SYS_ppoll, p->shadow, p->n, &zero, NULL, 8);
}

static struct rlm_bound *first_listening(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening)
			return p->entries[i].listening;
	return NULL;
}

// Spins over the heads of all rings in the set.
static bool spin(struct polling *p)
{
	uint64_t start = sys_ticks(), last = start, now;
	struct rlm_bound *first = first_listening(p);

	if (!first || !wake_may_spin(&first->rx_spin))
		return false;
	for (;;) {
		for (int round = 0; round < 4; round++) {
			for (nfds_t i = 0; i < p->n; i++) {
				struct entry *e = &p->entries[i];

				if (e->listening && ready_maybe(e->listening, (uint16_t)p->fds[i].events, e->head)) {
					wake_spin_paid(&first->rx_spin);
					return true;
				}
			}
			sys_pause();
		}
		now = sys_ticks();
		if (!wake_spin_on(&first->rx_spin, start, last, now))
			return false;
		last = now;
	}
}

static uint32_t listen_mask(const struct pollfd *f)
{
	return (uint16_t)f->events & (EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP);
}

static void hold(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].kind == ENTRY_BOUND)
			p->entries[i].listening = ready_hold_to_sleep(p->entries[i].conn);
}

static void release(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening) {
			ready_release(p->entries[i].conn);
			p->entries[i].listening = NULL;
		}
}

static void listen_all(struct polling *p, enum ready_by by)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->entries[i].listening)
			ready_listen(p->entries[i].listening, listen_mask(&p->fds[i]), by);
	p->by = by;
	p->listening = true;
}

static void unlisten_all(struct polling *p)
{
	for (nfds_t i = 0; p->listening && i < p->n; i++)
		if (p->entries[i].listening)
			ready_unlisten(p->entries[i].listening, listen_mask(&p->fds[i]), p->by);
	p->listening = false;
}

static void add_bells(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];

		if (e->listening)
			bells_add(e->listening->doorbell_mine);
		else if (e->kind == ENTRY_EPOLL)
			epoll_arm(p->fds[i].fd);
	}
}

static bool fall_asleep(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];

		if (e->kind != ENTRY_PLAIN || !(p->fds[i].events & (POLLIN | POLLRDNORM)))
			continue;
		if (!stream_plain_recv_begin(e->conn, p->fds[i].fd, &e->inside))
			return false; // bound by now
		e->sleeping = true;
	}
	return true;
}

static void wake_up(struct polling *p)
{
	for (nfds_t i = p->n; i-- > 0;)
		if (p->entries[i].sleeping) {
			p->entries[i].sleeping = false;
			stream_plain_recv_leave(p->entries[i].conn, p->fds[i].fd, &p->entries[i].inside);
		}
}

// The kernel's poll was cancelled, or left by a signal handler's jump.
static void abandon(void *arg)
{
	struct polling *p = arg;

	wake_up(p);
	unlisten_all(p);
	release(p);
	free(p->memory);
}

// In the kernel, with all that abandon() undoes. As bells_ppoll().
static int sleep_in_kernel(struct polling *p, const struct timespec *left)
{
	int n;

	_pthread_cleanup_push(&p->cleanup, abandon, p);
	if (p->listening)
		n = bells_ppoll(p->shadow, p->n, left, p->mask);
	else
		n = REAL(ppoll)(p->fds, p->n, left, p->mask);
	_pthread_cleanup_pop(&p->cleanup, 0);
	return n < 0 ? -errno : n;
}

// In the kernel's poll. Its answer is as good as one to a look: the count of events, or 0: look again.
static int sleep_with_kernel(struct polling *p, bool *timed_out)
{
	struct timespec left = {0, 0};
	int n = 0;

	add_bells(p);
	bells_harvest();
	listen_all(p, READY_BY_DOORBELL);
	make_shadow(p);
	// After listening everything is looked at once more, see wake.h. What the kernel has ends its poll at once.
	if (fall_asleep(p) && evaluate_ours(p) == 0) {
		if (!p->forever && !deadline_left(&p->deadline, &left))
			*timed_out = true;
		n = sleep_in_kernel(p, p->forever ? NULL : &left);
		*timed_out = n == 0;
	}
	wake_up(p);
	unlisten_all(p);
	return n > 0 ? evaluate(p) : n;
}

// Count of words. 0: there are too many of them, or they do not tell all.
static unsigned collect_words(const struct polling *p)
{
	unsigned n = 0;

	if (p->mask || wake_one_word || !needs_no_kernel(p)) // a futex does not change the signal mask
		return 0;
	p->words[n++] = sys_word(&signals_handled, p->signals);
	for (nfds_t i = 0; i < p->n; i++) {
		if (p->fds[i].fd < 0)
			continue;
		if (!p->entries[i].listening || n + 2 > p->words_max)
			return 0;
		n += stream_words(p->entries[i].conn, p->entries[i].listening, p->words + n);
	}
	return n;
}

// 0: look again.
static int sleep_on_words(struct polling *p, unsigned n, bool *timed_out)
{
	long r = 0;

	listen_all(p, READY_BY_BELL);
	// Whatever the helper thread counts from the first look on changes a word.
	if (needs_no_kernel(p) && evaluate_ours(p) == 0)
		r = stream_sleep(p->words, n, p->forever ? NULL : &p->deadline.at, abandon, p);
	unlisten_all(p);
	*timed_out = r == -ETIMEDOUT;
	return r == -EINTR ? -EINTR : 0;
}

// One sleep. > 0: count of events, 0: look again, < 0: -errno.
static int sleep_once(struct polling *p, bool *timed_out)
{
	struct rlm_bound *first = first_listening(p);
	uint64_t start = sys_ticks();
	unsigned words_used;
	int n;

	if (signals_handled != p->signals) // since the call began, and nothing else has come
		return -EINTR;
	words_used = collect_words(p);
	n = words_used ? sleep_on_words(p, words_used, timed_out) : sleep_with_kernel(p, timed_out);
	if (first)
		wake_slept(&first->rx_spin, sys_ticks() - start);
	return n;
}

// Something in the set is bound (or an epoll instance of ours).
static int poll_ours(struct polling *p)
{
	bool waits = p->forever || p->deadline.set || p->timeout_ns, timed_out = false;
	int n;

	for (;;) {
		look_up(p);
		n = needs_no_kernel(p) ? evaluate_ours(p) : -1;
		if (n < 0 || (n == 0 && (!waits || timed_out))) {
			make_shadow(p);
			n = ask_kernel_now(p);
			if (n < 0)
				return n;
			n = evaluate(p);
		}
		if (n || !waits || timed_out)
			return n;
		helper_ensure();
		hold(p);
		if (!spin(p)) {
			deadline_start(&p->deadline, p->timeout_ns);
			n = sleep_once(p, &timed_out);
		}
		release(p);
		if (n)
			return n;
	}
}

// A connection in the set was bound while the kernel's poll slept: its answer may be a frame.
static bool needs_second_look(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct entry e;

		if (p->fds[i].revents && look_up_one(p->fds[i].fd, &e) >= ENTRY_BOUND)
			return true;
	}
	return false;
}

// Nothing of ours in the set yet. false: there is now; the answer, if there was one, is not to be trusted.
static bool poll_kernels(struct polling *p, const struct timespec *timeout, int *result)
{
	bool asleep = true;

	deadline_start(&p->deadline, p->timeout_ns);
	if (p->forever || p->timeout_ns)
		asleep = fall_asleep(p);
	p->timeout_ns = 0; // from here on the deadline tells
	if (asleep)
		*result = sleep_in_kernel(p, timeout);
	wake_up(p);
	return asleep && (*result <= 0 || !needs_second_look(p));
}

static bool any_tracked(const struct pollfd *fds, nfds_t n)
{
	struct entry e;

	if (!settings.enabled || !n || hook_is_bad_object(fds, n * sizeof(*fds)))
		return false;
	for (nfds_t i = 0; i < n; i++)
		if (look_up_one(fds[i].fd, &e) != ENTRY_KERNEL)
			return true;
	return false;
}

static int run(struct polling *p, const struct timespec *timeout)
{
	int r;

	memset(p->entries, 0, p->n * sizeof(*p->entries));
	if (look_up(p) || !poll_kernels(p, timeout, &r))
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
