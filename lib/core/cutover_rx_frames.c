// SPDX-License-Identifier: BSD-2-Clause
// What a receiver itself takes from TCP: bytes up to the cut, and the frames of a round.
#include <errno.h>
#include <linux/sockios.h>

#include "cutover_rx.h"
#include "sys.h"

int64_t rx_take(struct rlm_bound *b, int fd, void *data, uint64_t n)
{
	b->rx_taking = 1;
	atomic_signal_fence(memory_order_seq_cst);
	return sys_recv(fd, data, n, MSG_DONTWAIT);
}

// Frames lie in `frame` by then. Until we are past the cut pass() finds out how many there are.
void rx_recount_now(struct rlm_bound *b, int fd)
{
	int64_t taken, cut = b->rx_cut;

	b->rx_taking = 0;
	taken = b->rx_state >= RX_DRAIN && !rx_is_void(b) ? tcp_taken(fd) : -1;
	if (taken < 0)
		return;
	b->drain = taken < cut ? (uint64_t)(cut - taken) : 0;
	if (b->rx_past && taken > cut)
		b->frame_got = taken - cut < FRAMES_SIZE ? (uint8_t)(taken - cut) : FRAMES_SIZE;
}

// What came so far may be the beginning of this round's frames.
static bool frames_are_plausible(const struct rlm_bound *b)
{
	return (b->frame_got < 1 || b->frame[0] == RLM_FRAME_CUT) && (b->frame_got < 2 || b->frame[1] == RLM_FRAME_END);
}

bool rx_frames_name_the_end(const struct rlm_bound *b)
{
	uint64_t end = 0;

	for (int i = 0; i < 8; i++)
		end |= (uint64_t)b->frame[2 + i] << (8 * i);
	return end == atomic_load_explicit(&b->rx.mine->tail, memory_order_relaxed);
}

int rx_take_frames(struct rlm_bound *b, int fd)
{
	int queued = 0;
	long events;
	int64_t n;

	rx_recount(b, fd);
	if (b->rx_eof)
		return 0;
	if (!b->rx_past)
		return -EAGAIN; // they wake whoever is in the kernel
	if (b->frame_got == FRAMES_SIZE)
		return -EPROTO;
	events = sys_poll_now(fd, POLLIN | POLLRDHUP);
	if (events <= 0)
		return -EAGAIN;
	if (events & (POLLERR | POLLHUP) && (sys_ioctl(fd, SIOCINQ, &queued) < 0 || queued == 0)) {
		b->rx_eof = 1;
		return 0;
	}
	// Payload follows a round that was made void; whoever sees it here sees that too.
	if (b->rx_asked && rx_is_void(b))
		return -EAGAIN;
	n = rx_take(b, fd, b->frame + b->frame_got, FRAMES_SIZE - b->frame_got);
	if (n > 0)
		b->frame_got = (uint8_t)(b->frame_got + n);
	rx_counted(b);
	if (n == -EAGAIN || n == -EINTR || n == -EPERM) // EPERM: in repair mode for a moment
		return -EAGAIN;
	if (n <= 0) {
		cutover_keep_error(b, n);
		b->rx_eof = 1;
		return 0;
	}
	return frames_are_plausible(b) ? (int)n : -EPROTO;
}

// The frame is of no more use. If it lay in the socket when the process is killed, the kernel would answer with a reset.
bool cutover_rx_look_at_tcp(struct rlm_bound *b, int fd)
{
	bool had_eof = b->rx_eof;
	int n;

	if (b->frame_got == FRAMES_SIZE && rx_is_decided(b))
		return true; // all frames are here, and the ring has an end
	n = rx_take_frames(b, fd);
	if (n == -EPROTO)
		b->rx_broken = 1;
	return n > 0 || b->rx_eof != had_eof || b->rx_broken;
}

bool cutover_rx_has_frames(struct rlm_bound *b, int fd)
{
	if (b->rx_state == RX_DRAIN) // payload is still before them
		return tcp_arrived(fd) >= b->rx_cut + FRAMES_SIZE;
	while (b->frame_got < FRAMES_SIZE && !b->rx_eof && !b->rx_broken && cutover_rx_look_at_tcp(b, fd))
		;
	return b->frame_got == FRAMES_SIZE || b->rx_eof || b->rx_broken;
}
