// SPDX-License-Identifier: BSD-2-Clause
// What there is to receive, on whatever carrier, and whether more can come.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "cutover_rx.h"
#include "sys.h"

bool cutover_rx_is_plain(const struct rlm_bound *b)
{
	return b->rx_state == RX_PLAIN;
}

// All that was asked back.
static bool back_has_arrived(const struct rlm_bound *b, int fd)
{
	return b->back_at == b->back_to || tcp_arrived(fd) >= (int64_t)(b->back_base + (b->back_to - b->back_at));
}

bool cutover_rx_is_settled(const struct rlm_bound *b, int fd)
{
	return cutover_rx_is_plain(b) && back_has_arrived(b, fd);
}

bool cutover_rx_has_ended(const struct rlm_bound *b)
{
	return b->rx_state != RX_PLAIN && b->rx_state != RX_READY && rx_is_decided(b);
}

bool cutover_rx_is_complete(struct rlm_bound *b, int fd)
{
	if (b->rx_state == RX_PLAIN)
		return true;
	if (b->rx_state == RX_READY && !rx_has_begun(b))
		return false;
	return rx_is_decided(b) || b->rx_eof || sys_poll_now(fd, POLLRDHUP) > 0;
}

// Beyond the cut come the frames of this round, then payload again.
int64_t cutover_rx_arrived(struct rlm_bound *b, int fd)
{
	int64_t n = tcp_arrived(fd), beyond;

	if (n >= 0 && b->rx_state != RX_PLAIN && rx_has_begun(b) && b->rx_cut >= 0 && !rx_is_void(b)) {
		beyond = n - b->rx_cut;
		if (beyond > 0)
			n -= beyond < FRAMES_SIZE ? beyond : FRAMES_SIZE;
	}
	return n < 0 ? n : n - (int64_t)b->rx_framed;
}

bool cutover_rx_is_on_its_way(struct rlm_bound *b, int fd)
{
	uint64_t n;

	if (b->rx_eof)
		return false;
	if (b->rx_state == RX_RING && b->rx_asked) {
		n = ring_available_now(&b->rx);
		return n && n != RLM_RING_BROKEN;
	}
	if (b->rx_state == RX_RING || b->back_at == b->back_to)
		return false;
	if (b->rx_state != RX_FRAMES && back_has_arrived(b, fd))
		b->back_to = b->back_at;
	return b->back_at != b->back_to && sys_poll_now(fd, POLLRDHUP) == 0;
}

// What lies in the ring before its end, or before what is to come again.
static uint64_t ring_unread(struct rlm_bound *b)
{
	uint64_t n = ring_available_now(&b->rx), tail = atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed), end;

	if (n == RLM_RING_BROKEN)
		return 0;
	if (b->rx_orphaned)
		return b->back_to - tail;
	if (!rx_is_decided(b))
		return n;
	end = atomic_load_explicit(&b->rx.peer->end, memory_order_relaxed) - tail;
	return end < n ? end : n;
}

struct rx_layout cutover_rx_layout(struct rlm_bound *b)
{
	// The order matters: a round that is seen as ended is seen with all its bytes.
	bool ended = !b->rx_orphaned && rx_is_decided(b);

	return (struct rx_layout){
		.tcp = b->rx_state == RX_DRAIN ? b->drain : 0,
		.ring = b->rx_state == RX_FRAMES ? 0 : ring_unread(b),
		.frames = FRAMES_SIZE - b->frame_got,
		.more = ended,
	};
}

// All that is there now, across a change of carrier: programs count down to zero what they were told and then wait for news.
uint64_t cutover_rx_unread(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available, tcp;
	struct rx_layout l;
	enum rx_way way;
	int queued;

	do {
		way = cutover_rx(c, b, fd, &available);
		if (sys_ioctl(fd, FIONREAD, &queued) < 0)
			queued = 0;
		// A round that began before this was counted, with its CUT on TCP, is seen to have begun.
	} while (way == RX_WAY_SINGLE && rx_has_begun(b) && !rx_is_void(b));
	tcp = (uint64_t)queued;
	if (b->rx_state < RX_DRAIN)
		return tcp;
	l = cutover_rx_layout(b);
	if (tcp < l.tcp)
		return tcp;
	tcp -= l.tcp;
	return l.tcp + l.ring + (l.more && tcp > l.frames ? tcp - l.frames : 0);
}

bool cutover_rx_at_mark(struct rlm_conn *c, struct rlm_bound *b, int fd)
{
	uint64_t available;
	int at = 0;

	cutover_rx(c, b, fd, &available);
	return !available && sys_ioctl(fd, SIOCATMARK, &at) == 0 && at;
}
