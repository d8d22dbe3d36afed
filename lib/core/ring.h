// SPDX-License-Identifier: BSD-2-Clause
// A single-producer single-consumer byte ring between two regions (layout.h). Pure: no waiting, no waking.
//
// Ordering: the producer stores bytes, then `head` (release), pairs with the consumer's load of `head` (acquire) in
// ring_available(). The consumer loads bytes, then stores `tail` (release), pairs with the producer's load of `tail`
// (acquire) in ring_room(): bytes are not overwritten before they were read.
// Trust: each counter of the peer is loaded once, compared with what is possible, and only then used.
#ifndef RLM_RING_H
#define RLM_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "copy.h"
#include "lock.h"
#include "rlm/layout.h"

// One direction as its producer or its consumer sees it. `cached` is the last good value of the peer's counter.
struct rlm_ring {
	struct rlm_slot_shared *mine;
	const struct rlm_slot_shared *peer;
	uint8_t *bytes; // the producer's region; the consumer has it mapped read-only
	uint64_t size;  // a power of two
	uint64_t cached;
	uint64_t last; // consumer, if not 0: the producer is gone, and its bytes end here, beyond what `head` says
	uint64_t limit; // producer: so many bytes may be in it, `size` or less
	uint64_t grain; // producer: a power of two, a quarter of the limit or less: room that is worth waking for
};

#define RLM_RING_BROKEN UINT64_MAX

static inline uint64_t ring_head(const struct rlm_ring *r)
{
	return atomic_load_explicit(&r->mine->head, memory_order_relaxed);
}

// Producer: where the next byte goes. Up to there bytes may be held back, which are not to be seen before more comes; but a consumer
// who learns that the producer is gone takes them, as it would have got them from a kernel.
static inline uint64_t slot_next(const struct rlm_slot_shared *s)
{
	uint64_t head = atomic_load_explicit(&s->head, memory_order_relaxed);
	uint64_t held = atomic_load_explicit(&s->held, memory_order_acquire); // pairs with ring_hold()

	return (int64_t)(held - head) > 0 ? held : head;
}

static inline uint64_t ring_next(const struct rlm_ring *r)
{
	return slot_next(r->mine);
}

static inline bool ring_holds(const struct rlm_ring *r)
{
	return ring_next(r) != ring_head(r);
}

// Producer: the peer has taken everything.
static inline bool ring_is_empty(const struct rlm_ring *r)
{
	return atomic_load_explicit(&r->peer->tail, memory_order_acquire) == ring_next(r);
}

static inline void ring_set_limit(struct rlm_ring *r, uint64_t limit)
{
	r->limit = limit < r->size ? limit : r->size;
	r->grain = 1;
	while (r->grain * 8 <= r->limit)
		r->grain *= 2;
}

// Producer: bytes that can be put at `head` (which may be ahead of what is published) now, RLM_RING_BROKEN when the peer's tail is impossible. Looks at the peer's cache
// line only when the cached value does not give `wanted` bytes.
static inline uint64_t ring_room(struct rlm_ring *r, uint64_t head, uint64_t wanted)
{
	uint64_t room = r->limit - (head - r->cached);
	uint64_t tail;

	if (__builtin_expect(room > r->limit, 0)) // our own counter is gone: the memory was lost
		return RLM_RING_BROKEN;
	if (room >= wanted)
		return room;
	tail = atomic_load_explicit(&r->peer->tail, memory_order_acquire);
	if (tail - r->cached > head - r->cached)
		return RLM_RING_BROKEN;
	r->cached = tail;
	return r->limit - (head - tail);
}

// Producer: puts n <= room bytes, not visible before ring_publish(). 0, or -EFAULT: `data` cannot be read.
static inline int ring_put(const struct rlm_ring *r, uint64_t head, const void *data, uint64_t n)
{
	uint64_t at = head & (r->size - 1);
	uint64_t first = r->size - at;

	if (__builtin_expect(n <= first, 1)) {
		copy_writes(r->bytes + at, n);
		return rlm_copy(r->bytes + at, data, n);
	}
	copy_writes(r->bytes + at, first);
	copy_writes(r->bytes, n - first);
	return rlm_copy(r->bytes + at, data, first) | rlm_copy(r->bytes, (const uint8_t *)data + first, n - first);
}

// The lines behind were last read by the consumer's CPU. Fetching them for writing ahead of time keeps the fence after each small
// message from waiting for them.
#define RLM_RING_AHEAD 1024u

static inline void ring_prefetch(const struct rlm_ring *r, uint64_t head, uint64_t n)
{
	for (uint64_t i = 0; i < n && i < 256; i += RLM_CACHELINE) {
		const uint8_t *p = r->bytes + ((head + RLM_RING_AHEAD + i) & (r->size - 1));
#if defined(__x86_64__)
		__asm__ volatile("prefetchw %0" : : "m"(*p));
#else
		__builtin_prefetch(p, 1);
#endif
	}
}

static inline void ring_publish(const struct rlm_ring *r, uint64_t head)
{
	atomic_store_explicit(&r->mine->head, head, memory_order_release);
}

// Instead of publishing them.
static inline void ring_hold(const struct rlm_ring *r, uint64_t next)
{
	atomic_store_explicit(&r->mine->held, next, memory_order_release);
}

static inline uint64_t ring_peer_head(const struct rlm_ring *r)
{
	return __builtin_expect(r->last != 0, 0) ? r->last : atomic_load_explicit(&r->peer->head, memory_order_acquire);
}

// Consumer: the producer is gone, and everything it showed was taken. true: it held bytes back.
static inline bool ring_take_held(struct rlm_ring *r)
{
	uint64_t next = slot_next(r->peer), n = next - atomic_load_explicit(&r->mine->tail, memory_order_relaxed);

	if (r->last || n == 0 || n > r->size)
		return false;
	r->last = next;
	return true;
}

// Consumer: bytes that can be taken now, RLM_RING_BROKEN when the peer's head is impossible.
// Looks at the peer's cache line only when the cached value does not give `wanted` bytes.
static inline uint64_t ring_available(struct rlm_ring *r, uint64_t wanted)
{
	uint64_t tail = atomic_load_explicit(&r->mine->tail, memory_order_relaxed);
	uint64_t head;

	if (__builtin_expect(r->cached - tail > r->size, 0))
		return RLM_RING_BROKEN;
	if (r->cached - tail >= wanted)
		return r->cached - tail;
	head = ring_peer_head(r);
	if (head - tail > r->size)
		return RLM_RING_BROKEN;
	r->cached = head;
	return head - tail;
}

// The same, always looking at the peer's cache line.
static inline uint64_t ring_available_now(struct rlm_ring *r)
{
	uint64_t tail = atomic_load_explicit(&r->mine->tail, memory_order_relaxed);
	uint64_t head = ring_peer_head(r);

	if (head - tail > r->size || head - tail < r->cached - tail)
		return RLM_RING_BROKEN;
	r->cached = head;
	return head - tail;
}

// Consumer: copies n <= available bytes, which stay in the ring until ring_free(). 0, or -EFAULT: `data` cannot be written.
static inline int ring_copy(const struct rlm_ring *r, uint64_t tail, void *data, uint64_t n)
{
	uint64_t at = tail & (r->size - 1);
	uint64_t first = r->size - at;

	if (__builtin_expect(n <= first, 1)) {
		copy_reads(r->bytes + at, n);
		return rlm_copy(data, r->bytes + at, n);
	}
	copy_reads(r->bytes + at, first);
	copy_reads(r->bytes, n - first);
	return rlm_copy(data, r->bytes + at, first) | rlm_copy((uint8_t *)data + first, r->bytes, n - first);
}

static inline void ring_free(const struct rlm_ring *r, uint64_t tail)
{
	atomic_store_explicit(&r->mine->tail, tail, memory_order_release);
}

#endif
