// SPDX-License-Identifier: BSD-2-Clause
// Connections of several processes: inherited, left behind by those that end, and on their way to other programs.
#include <fcntl.h>
#include <time.h>

#include "epoll.h"
#include "links.h"
#include "stream_internal.h"

// --- what nobody has any more ---

static bool is_anothers(const struct rlm_bound *b)
{
	return !b->own && b->owner != arena.place.id && family_is_alive(&arena, b->owner);
}

// A slot belongs to its owner's session with the broker. The owner's doorbell is open here if we inherited the connection.
void stream_unbind(struct rlm_bound *b)
{
	const uint64_t one = 1;
	int doorbell = b->control_mine;

	if (is_anothers(b)) {
		atomic_store_explicit(&b->returned, 1, memory_order_release);
		if (fd_kind(doorbell) == FD_INTERNAL)
			sys_write(doorbell, &one, sizeof(one));
		return;
	}
	if (b->own)
		cutover_leave_free(b);
	else if (b->owner == arena.place.id)
		helper_release(b);
	bound_free(&arena, b);
}

void stream_give_up(struct rlm_conn *c)
{
	struct rlm_bound *b = stream_bound(c);

	atomic_store_explicit(&c->bound, 0, memory_order_seq_cst);
	if (b)
		stream_unbind(b);
	conn_free(&arena, c);
}

static void lost(struct rlm_conn *c, bool last)
{
	if (last && conn_in_use(c)) { // a thread of a process that has closed it
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_CLOSING, memory_order_seq_cst);
		stream_finish_close(c);
	} else if (last) {
		stream_give_up(c);
	} else {
		wake_conn(c); // somebody may wait for the dead one to leave the kernel
		stream_left(c);
	}
}

static void take_returned(void)
{
	struct rlm_bound *b;
	uint32_t at = 0;

	while ((b = bound_next_returned(&arena, &at)))
		if (!is_anothers(b) && atomic_exchange_explicit(&b->returned, 0, memory_order_acq_rel))
			stream_unbind(b);
}

void stream_sweep(unsigned ms)
{
	static _Atomic int64_t last_ms;
	int64_t now;

	if (!stream_forked || !settings.enabled)
		return;
	now = (int64_t)sys_ms();
	if (now - atomic_load_explicit(&last_ms, memory_order_relaxed) < (int64_t)ms)
		return;
	atomic_store_explicit(&last_ms, now, memory_order_relaxed);
	family_sweep(&arena, lost);
	take_returned();
}

// --- fork ---

_Atomic bool stream_forked;

#define ALONE_SWEEP_MS 20

bool stream_is_alone(const struct rlm_conn *c)
{
	if (!stream_forked || atomic_load_explicit(&c->refs, memory_order_relaxed) == fd_count_of_conn(c))
		return true;
	stream_sweep(ALONE_SWEEP_MS); // the others may have gone
	return atomic_load_explicit(&c->refs, memory_order_relaxed) == fd_count_of_conn(c);
}

bool stream_is_ours_alone(const struct rlm_conn *c, const struct rlm_bound *b)
{
	return !stream_forked || (arena.place.id && b->owner == arena.place.id &&
				  atomic_load_explicit(&c->refs, memory_order_relaxed) == 1 && fd_of_conn(c) >= 0);
}

void stream_end_keeping(void)
{
	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);

		if (!c)
			continue;
		rlm_lock_end_keeping(&c->tx_lock);
		rlm_lock_end_keeping(&c->rx_lock);
	}
}

static struct rlm_place child_place; // under the lock of epoll_fork_prepare()

// What a child gets of the table was counted for it: no descriptor gets known in between.
static struct rlm_lock counting;

bool stream_hold(struct rlm_conn *c, int fd)
{
	bool held;

	rlm_lock_take(&counting);
	held = family_hold(&arena, &arena.place, c);
	if (held)
		fd_set_entry(fd, FD_CONN, conn_index(&arena, c));
	rlm_lock_drop(&counting);
	return held;
}

static int keep_place_fd(int fd)
{
	return fd < 0 ? fd : fd_make_internal(fd);
}

void stream_take_place(struct rlm_place *place)
{
	*place = (struct rlm_place){.fd = -1};
	if (!settings.enabled)
		return;
	family_take_place(&arena, place);
	place->fd = keep_place_fd(place->fd);
}

#define FORK_SWEEP_MS 1000

// The child is counted before it exists, so that it cannot be too late. If fork fails, or the child dies at once, a sweep takes it back.
void stream_fork_prepare(void)
{
	stream_sweep(FORK_SWEEP_MS);
	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);
		const struct rlm_bound *b = c ? stream_bound(c) : NULL;

		if (b && b->no_fork)
			stream_to_kernel(c, fd, RLM_WHY_SHARED);
	}
	stream_forked = true;
	rlm_lock_barrier();
	epoll_fork_prepare();
	stream_take_place(&child_place);
	rlm_lock_take(&counting);
	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);

		if (c)
			family_hold(&arena, &child_place, c);
	}
	// The child's membarrier(2) does not reach our threads. Whoever saw the connection as ours alone before this barrier has the lock.
	rlm_lock_barrier();
	stream_end_keeping();
	// Nobody would see to it if we ended now. From here on nothing is held back, since the connections are not ours alone.
	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);

		if (c)
			stream_let_go(c);
	}
}

void stream_fork_parent(void)
{
	rlm_lock_drop(&counting);
	fd_close_internal(child_place.fd);
	family_leave_place(&arena, &child_place);
	epoll_fork_parent();
}

void stream_fork_child(void)
{
	atomic_store_explicit(&counting.word, 0, memory_order_relaxed);
	atomic_store_explicit(&stream_closing, 0, memory_order_relaxed);
	fd_close_internal(arena.place.fd);
	family_leave_place(&arena, &arena.place);
	arena.place = child_place;
	inside_fork_child(&arena);
	epoll_fork_child();
	links_fork_child();
	helper_fork_child();
}

// --- exec and exit ---

void stream_before_exec(bool for_good)
{
	stream_all_to_kernel(RLM_WHY_SHARED, true, for_good);
}

#define LOCK_PATIENCE 1000 // tenths of a millisecond

bool stream_lock_patiently(struct rlm_lock *lock)
{
	const struct timespec moment = {.tv_nsec = 100000};

	for (int i = 0; i < LOCK_PATIENCE && !rlm_lock_is_mine(lock); i++) {
		if (rlm_lock_try(lock))
			return true;
		sys_call2(SYS_nanosleep, &moment, NULL);
	}
	return false;
}

// Other threads may go on for a moment, and descriptors stay open: nobody gets the locks any more.
void stream_before_exit(void)
{
	for (int fd = 0; fd <= fd_highest(); fd++) {
		struct rlm_conn *c = fd_conn(fd);
		struct rlm_bound *b;

		if (!c || !stream_bound(c) || !stream_is_alone(c))
			continue;
		if (!stream_lock_patiently(&c->tx_lock) || !stream_lock_patiently(&c->rx_lock))
			continue;
		b = stream_bound(c);
		if (b)
			stream_leave_slot(c, b, fd);
	}
}
