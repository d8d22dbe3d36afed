// SPDX-License-Identifier: BSD-2-Clause
// One end of a bare shared-memory ring pair.
//
// One memfd holds two regions as in layout.h, each with a single slot; `tx_round` 2 and `end` mark the end of the
// stream.
#include "ring_end.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "wake.h"

#define ALIVE_CHECK_S 1
#define RING_CHUNK    (32u << 10) // handed over at once, so that both ends copy at the same time

struct ring_end {
	struct rlm_conn conn;
	struct rlm_bound bound;
	void *map;
	size_t size;
	int alive;
};

static struct rlm_slot_shared *region_slot(void *region)
{
	return (struct rlm_slot_shared *)((uint8_t *)region + RLM_SLOTS_OFFSET);
}

static struct ring_end *end_new(uint32_t ring_size, int alive, int memfd, unsigned side)
{
	uint64_t region = rlm_region_size(1, ring_size);
	struct ring_end *e = aligned_alloc(RLM_CACHELINE, sizeof(*e));
	uint8_t *mine, *peer;

	if (!e)
		return NULL;
	memset(e, 0, sizeof(*e));
	e->alive = alive;
	e->size = 2 * region;
	e->map = mmap(NULL, e->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memfd, 0);
	if (e->map == MAP_FAILED) {
		free(e);
		return NULL;
	}
	mine = (uint8_t *)e->map + side * region;
	peer = (uint8_t *)e->map + !side * region;
	e->bound.conn = &e->conn;
	e->bound.doorbell_peer = -1;
	e->bound.tx = (struct rlm_ring){region_slot(mine), region_slot(peer), mine + rlm_data_offset(1), ring_size, 0, 0, ring_size, ring_size / 4};
	e->bound.rx = (struct rlm_ring){region_slot(mine), region_slot(peer), peer + rlm_data_offset(1), ring_size, 0, 0, ring_size, ring_size / 4};
	wake_spin_init(&e->bound.rx_spin, false);
	wake_spin_init(&e->bound.tx_spin, false);
	wake_init((unsigned)sysconf(_SC_NPROCESSORS_ONLN), RLM_SPIN_MAX);
	return e;
}

struct ring_end *ring_end_new(uint32_t ring_size, int alive, int *memfd)
{
	struct ring_end *e;
	int fd = memfd_create("rlm-bench", MFD_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (ftruncate(fd, (off_t)(2 * rlm_region_size(1, ring_size))) < 0)
		goto err_fd;
	e = end_new(ring_size, alive, fd, 0);
	if (!e)
		goto err_fd;
	*memfd = fd;
	return e;

err_fd:
	close(fd);
	return NULL;
}

struct ring_end *ring_end_attach(uint32_t ring_size, int alive, int memfd)
{
	struct stat st;

	if (fstat(memfd, &st) < 0)
		return NULL;
	if ((uint64_t)st.st_size != 2 * rlm_region_size(1, ring_size)) {
		errno = EINVAL;
		return NULL;
	}
	return end_new(ring_size, alive, memfd, 1);
}

void ring_end_free(struct ring_end *e)
{
	munmap(e->map, e->size);
	free(e);
}

static bool peer_is_gone(const struct ring_end *e)
{
	char c;

	return recv(e->alive, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static bool finished(const struct ring_end *e)
{
	const struct rlm_slot_shared *peer = e->bound.rx.peer;

	// Pairs with ring_end_finish(): who sees the end sees all that was put before it.
	return atomic_load_explicit(&peer->tx_round, memory_order_acquire) == 2 &&
	       atomic_load_explicit(&peer->end, memory_order_relaxed) ==
		   atomic_load_explicit(&e->bound.rx.mine->tail, memory_order_relaxed);
}

// One sleep. Each needs a listen of its own: the peer rings once for each, and it may ring for what we have taken
// already.
static int sleep_once(struct ring_end *e, const _Atomic uint64_t *word, uint64_t old, uint32_t bit)
{
	struct rlm_bound *b = &e->bound;
	const _Atomic uint32_t *bell = &b->tx.peer->bell;
	uint32_t seen = atomic_load_explicit(bell, memory_order_acquire);
	const struct timespec alive = {.tv_sec = ALIVE_CHECK_S};
	int r = 0;

	wake_listen(b, bit);
	if (atomic_load_explicit(word, memory_order_relaxed) == old && !(bit == RLM_WAIT_RX_FUTEX && finished(e)))
		r = (int)sys_futex_wait(bell, seen, &alive);
	wake_unlisten(b, bit);
	return r == -ETIMEDOUT && peer_is_gone(e) ? -ECONNRESET : 0;
}

// Spins, then sleeps, until *word is not `old` or the stream has ended. -ECONNRESET when the peer has died.
static int wait_change(struct ring_end *e, const _Atomic uint64_t *word, uint64_t old, struct rlm_spin *spin,
		       uint32_t bit)
{
	uint64_t from;
	int r = 0;

	if (wake_spin(word, old, spin))
		return 0;
	from = sys_ticks();
	while (r == 0 && atomic_load_explicit(word, memory_order_relaxed) == old &&
	       !(bit == RLM_WAIT_RX_FUTEX && finished(e)))
		r = sleep_once(e, word, old, bit);
	wake_slept(spin, sys_ticks() - from);
	return r;
}

ssize_t ring_end_send(struct ring_end *e, const void *data, size_t n)
{
	struct rlm_bound *b = &e->bound;
	uint64_t head = atomic_load_explicit(&b->tx.mine->head, memory_order_relaxed);
	size_t left = n;

	while (left) {
		uint64_t room = ring_room(&b->tx, head, left);

		if (__builtin_expect(room + 1 <= 1, 0)) { // 0 or RLM_RING_BROKEN
			int r = room ? -EPROTO
				     : wait_change(e, &b->tx.peer->tail, b->tx.cached, &b->tx_spin, RLM_WAIT_TX_FUTEX);

			if (r == 0)
				continue;
			errno = -r;
			return -1;
		}
		if (room > left)
			room = left;
		if (room > RING_CHUNK)
			room = RING_CHUNK;
		ring_put(&b->tx, head, data, room);
		head += room;
		data = (const uint8_t *)data + room;
		left -= room;
		ring_publish(&b->tx, head);
		wake_receiver(b);
	}
	return (ssize_t)n;
}

ssize_t ring_end_recv(struct ring_end *e, void *data, size_t n)
{
	struct rlm_bound *b = &e->bound;
	uint64_t tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
	uint64_t available;

	while ((available = ring_available(&b->rx, 1)) == 0) {
		int r;

		if (finished(e))
			return 0;
		r = wait_change(e, &b->rx.peer->head, tail, &b->rx_spin, RLM_WAIT_RX_FUTEX);
		if (r < 0) {
			errno = -r;
			return -1;
		}
	}
	if (available == RLM_RING_BROKEN) {
		errno = EPROTO;
		return -1;
	}
	if (available > n)
		available = n;
	if (available > RING_CHUNK)
		available = RING_CHUNK;
	ring_copy(&b->rx, tail, data, available);
	ring_free(&b->rx, tail + available);
	atomic_thread_fence(memory_order_seq_cst);
	wake_sender(b);
	return (ssize_t)available;
}

void ring_end_finish(struct ring_end *e)
{
	struct rlm_slot_shared *mine = e->bound.tx.mine;

	atomic_store_explicit(&mine->end, atomic_load_explicit(&mine->head, memory_order_relaxed),
			      memory_order_relaxed);
	// Pairs with finished().
	atomic_store_explicit(&mine->tx_round, 2, memory_order_release);
	wake_all(&e->bound);
}
