// SPDX-License-Identifier: BSD-2-Clause
// Leaving a slot while its connection lives, because the memory is about to go: a domain moves, or a group is split.
//
// Waiting until all bytes of a round were read would mean waiting for the application, and sending them again over TCP for buffers
// that may be full. Instead each side, once its peer has ended the round it sends,
//   - takes a copy of what it has still to read, and of what it may still have to send again
//   - goes on with that copy in the slot's place: same positions, same states, same frames to come on TCP
// and lets go of the shared memory. So it takes both helper threads and nobody else: no application, no room in TCP.
// The copy goes when it is used up.
#include <errno.h>
#include <sys/mman.h>

#include "cutover.h"
#include "sys.h"
#include "wake.h"

#define SLOTS_SIZE 4096u // both sides' slots, then the ring we read, then the ring we send

bool cutover_leave_begin(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;

	b->tx_stop = b->rx_stop = 1;
	atomic_store_explicit(&b->tx_fast, 0, memory_order_relaxed);
	if (b->tx_state == TX_RING && !b->tx_dead) {
		cutover_tx_end(b); // the peer takes a copy of what it has not read
		cutover_tx(c, b, fd, false);
	}
	if (b->rx_state == RX_READY)
		cutover_rx_ask(b); // withdraws the offer, if the round has not begun
	cutover_rx(c, b, fd, &available);
	return (b->tx_state == TX_PLAIN || b->tx_dead) && cutover_rx_is_complete(b, fd);
}

static void copy_slot(struct rlm_slot_shared *to, const struct rlm_slot_shared *from)
{
	atomic_store_explicit(&to->head, atomic_load_explicit(&from->head, memory_order_acquire), memory_order_relaxed);
	atomic_store_explicit(&to->held, atomic_load_explicit(&from->held, memory_order_acquire), memory_order_relaxed);
	atomic_store_explicit(&to->tail, atomic_load_explicit(&from->tail, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(&to->epoch, atomic_load_explicit(&from->epoch, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(&to->tx_round, atomic_load_explicit(&from->tx_round, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(&to->cut, atomic_load_explicit(&from->cut, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(&to->end, atomic_load_explicit(&from->end, memory_order_relaxed), memory_order_relaxed);
	// rx_ready and rx_ask stay 0: nobody offers a round or asks for one back any more. Nor does anybody wait there.
}

static void copy_bytes(uint8_t *to, const struct rlm_ring *r, uint64_t from, uint64_t n)
{
	uint64_t at = from & (r->size - 1), first = n < r->size - at ? n : r->size - at;

	if (n > r->size)
		return; // nonsense, and found to be so when it is read
	memcpy(to + at, r->bytes + at, first);
	memcpy(to, r->bytes, n - first);
}

int cutover_leave(struct rlm_bound *b)
{
	uint64_t size = SLOTS_SIZE + 2 * b->rx.size;
	long p = sys_call6(SYS_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct rlm_slot_shared *mine = (void *)p, *peer = mine + 1;
	uint8_t *rx = (uint8_t *)p + SLOTS_SIZE, *tx = rx + b->rx.size;

	if (p < 0 && p > -4096)
		return -ENOMEM;
	if (!b->gone) {
		copy_slot(mine, b->rx.mine);
		copy_slot(peer, b->rx.peer);
		copy_bytes(rx, &b->rx, mine->tail, slot_next(peer) - mine->tail); // in PLAIN: what was asked back, in case it does not arrive
		copy_bytes(tx, &b->tx, b->resend_at, b->resend_to - b->resend_at);
	}
	if (b->tx_dead)
		b->tx_state = TX_PLAIN; // what is in the ring is the peer's to read, and nothing comes after it
	b->own = (uint8_t *)p;
	b->own_size = size;
	b->tx.mine = b->rx.mine = mine;
	b->tx.peer = b->rx.peer = peer;
	b->rx.bytes = rx;
	b->tx.bytes = tx;
	b->doorbell_mine = b->doorbell_peer = b->control_peer = -1;
	return 0;
}

bool cutover_is_lonely(const struct rlm_bound *b)
{
	return !cutover_peer_is_bound(b) && cutover_tx_is_plain(b) && b->rx_state <= RX_READY;
}

bool cutover_leave_lonely(struct rlm_bound *b)
{
	uint8_t stop = b->rx_stop;

	cutover_rx_ask(b); // withdraws the offer, if the round has not begun
	if (b->rx_state != RX_PLAIN || cutover_peer_is_bound(b)) {
		b->rx_stop = stop;
		return false;
	}
	atomic_store_explicit(&b->rx.mine->epoch, 0, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	if (cutover_peer_is_bound(b)) { // and may have seen our epoch, and never look for it again. It is in no round: it saw the offer withdrawn
		atomic_store_explicit(&b->rx.mine->epoch, b->epoch, memory_order_seq_cst);
		b->rx_stop = stop;
		return false;
	}
	b->tx_stop = b->rx_stop = 1;
	return true;
}

bool cutover_lost_is_plain(const struct rlm_bound *b)
{
	return b->tx_state == TX_PLAIN && b->resend_at == b->resend_to && b->rx_state == RX_PLAIN;
}

void cutover_leave_free(struct rlm_bound *b)
{
	sys_call2(SYS_munmap, b->own, b->own_size);
	b->own = NULL;
}
