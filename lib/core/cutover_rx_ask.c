// SPDX-License-Identifier: BSD-2-Clause
// How a receiver leaves the ring: asks for the round back, would like it to end, or closes.
#include "cutover_rx.h"
#include "sys.h"
#include "wake.h"

// Pairs with the acquire in end_if_wanted().
void rx_ask(struct rlm_bound *b)
{
	b->rx_asked = 1;
	atomic_store_explicit(&b->rx_fast, 0, memory_order_relaxed);
	atomic_store_explicit(&b->rx.mine->rx_ask, b->rx_round, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst); // pairs with the fence in begin()
}

void rx_unoffer(struct rlm_bound *b)
{
	b->rx_asked = 0;
	rx_set_state(b, RX_PLAIN);
}

void rx_tell_asked(struct rlm_bound *b)
{
	wake_all(b);
	sys_ring(b->control_peer, b->control_port);
}

void cutover_rx_ask(struct rlm_bound *b)
{
	b->rx_stop = 1;
	if (b->rx_state == RX_PLAIN || b->rx_asked)
		return;
	rx_ask(b);
	if (b->rx_state == RX_READY && !rx_has_begun(b))
		rx_unoffer(b);
	else if (b->rx_past)
		rx_tell_asked(b);
}

void cutover_rx_leave(struct rlm_bound *b)
{
	if (b->rx_state == RX_READY) {
		cutover_rx_ask(b); // nothing can have been taken from the ring yet
		return;
	}
	b->rx_stop = 1;
	if (b->rx_state == RX_PLAIN || b->rx_state == RX_FRAMES || b->rx_asked)
		return;
	atomic_store_explicit(&b->rx.mine->rx_leave, b->rx_round, memory_order_release); // pairs with cutover_tx_is_let_go()
	rx_tell_asked(b);
}

void cutover_rx_left(struct rlm_bound *b)
{
	struct rlm_slot_shared *mine = b->rx.mine;
	uint32_t w = atomic_load_explicit(&mine->waiting, memory_order_relaxed);

	atomic_store_explicit(&mine->rx_ask, RLM_ASK_LEFT, memory_order_relaxed);
	// As if somebody slept here: a sender looks at `waiting` each time, and at nothing else.
	atomic_store_explicit(&mine->waiting, (w + RLM_WAIT_SEQUENCE) | RLM_WAIT_RX_FUTEX, memory_order_release);
}
