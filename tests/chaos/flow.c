// SPDX-License-Identifier: BSD-2-Clause
// One end of one connection: sends what the seed says, checks what arrives, by all calls that there are.
#include "chaos.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "rlm/rlm.h"

#define BUFFER_SIZE  (256u << 10)
#define MESSAGE_MAX  (128u << 10)
#define LIMIT_MIN    (256u << 10)
#define LIMIT_MAX    (256u << 20)
#define IOV_PARTS    3
#define SAMPLE_CALLS 64

static struct direction *tx_direction(struct flow *flow)
{
	return &flow->record->direction[flow->side];
}

static struct direction *rx_direction(struct flow *flow)
{
	return &flow->record->direction[!flow->side];
}

struct flow *flow_new(struct worker *worker, uint32_t record, int fd)
{
	struct flow *flow = calloc(1, sizeof(*flow));
	uint64_t now = now_ms();

	if (!flow)
		abort();
	flow->worker = worker;
	flow->record = &worker->board->record[record];
	flow->side = worker->side;
	flow->fd = fd;
	flow->tx_seed = mix(flow->record->seed + flow->side);
	flow->rx_seed = mix(flow->record->seed + !flow->side);
	flow->tx_rng.state = mix(flow->tx_seed);
	flow->rx_rng.state = mix(flow->rx_seed + 1);
	flow->tx_buffer = malloc(BUFFER_SIZE);
	flow->rx_buffer = malloc(BUFFER_SIZE);
	if (!flow->tx_buffer || !flow->rx_buffer)
		abort();
	flow->limit = LIMIT_MIN + rng_size(&flow->tx_rng, LIMIT_MAX);
	flow->abandon = rng_below(&flow->rx_rng, 16) ? UINT64_MAX : rng_size(&flow->rx_rng, LIMIT_MAX);
	flow->tx_ready = flow->rx_ready = true;
	tx_direction(flow)->moved = now;
	rx_direction(flow)->moved = now;
	flow->record->end[flow->side].incarnation = worker->self;
	return flow;
}

// What the library says of this socket, for the count of switches and for the report.
static void flow_sample(struct flow *flow)
{
	struct end *end = &flow->record->end[flow->side];
	struct rlm_info info;

	if (rlm_socket_info(flow->fd, &info) < 0)
		worker_fail(flow->worker->board, "rlm_socket_info: %s", strerror(errno));
	end->tx_carrier = info.tx_carrier;
	end->rx_carrier = info.rx_carrier;
	end->why = info.why;
	end->switches = info.switches;
	end->ring_bytes = info.tx_bytes_ring + info.rx_bytes_ring;
}

void flow_free(struct flow *flow)
{
	flow_sample(flow);
	close(flow->fd);
	flow->record->end[flow->side].closed = true;
	free(flow->tx_buffer);
	free(flow->rx_buffer);
	free(flow);
}

unsigned flow_pause(struct flow *flow, struct rng *rng)
{
	uint64_t dice = rng_below(rng, 1024);

	if (flow->worker->calm)
		return 0;
	if (dice == 0)
		return (unsigned)rng_below(rng, 60);
	if (dice < 16)
		return (unsigned)rng_below(rng, 6);
	return 0;
}

// Whether the other end had a reason to be gone: it was killed, or it gave up.
static bool peer_gone(struct flow *flow)
{
	const struct board *board = flow->worker->board;
	const struct end *peer = &flow->record->end[!flow->side];

	if (peer->abandoned)
		return true;
	if (peer->incarnation)
		return board->incarnation[peer->incarnation].killed;
	// Killed before it had accepted us, or while we connected; or it accepts no more.
	return flow->side == CLIENT &&
	       (board->stop || flow->record->kills % 2 || board->server_kills[flow->worker->pair] != flow->record->kills);
}

static _Noreturn void flow_fail(struct flow *flow, const char *what, uint64_t position)
{
	struct board *board = flow->worker->board;

	flow_sample(flow);
	if (!board->failed)
		board->failed_record = flow->record - board->record;
	worker_fail(board, "record %zu, %s: %s at position %llu", (size_t)(flow->record - board->record),
		    flow->side == CLIENT ? "client" : "server", what, (unsigned long long)position);
}

// An error of a call. It is all right only if the peer is gone, or if we ourselves gave up.
static enum flow_result flow_broke(struct flow *flow, const char *call, int err, uint64_t position)
{
	char what[128];

	flow->broke = true;
	if ((err == ECONNRESET || err == EPIPE) && (flow->record->end[flow->side].abandoned || peer_gone(flow)))
		return FLOW_DEAD;
	snprintf(what, sizeof(what), "%s: %s though the peer is there", call, strerror(err));
	flow_fail(flow, what, position);
}

// Cuts [bytes, bytes + size) into a few parts, some of them empty.
static void iov_cut(struct rng *rng, struct iovec *iov, uint8_t *bytes, size_t size)
{
	for (int i = 0; i < IOV_PARTS; i++) {
		size_t n = i == IOV_PARTS - 1 ? size : (size_t)rng_below(rng, size + 1);

		iov[i] = (struct iovec){bytes, n};
		bytes += n;
		size -= n;
	}
}

static ssize_t send_somehow(struct flow *flow, uint8_t *bytes, size_t size, bool wait)
{
	int flags = MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT);
	struct iovec iov[IOV_PARTS];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = IOV_PARTS};
	struct mmsghdr many[2] = {0};
	int n;

	flow->unheard = false;
	switch (rng_below(&flow->tx_rng, 8)) {
	case 0:
	case 1:
		return send(flow->fd, bytes, size, flags);
	case 2:
		return sendto(flow->fd, bytes, size, flags, NULL, 0);
	case 3:
		iov_cut(&flow->tx_rng, iov, bytes, size);
		return sendmsg(flow->fd, &msg, flags);
	case 4:
		return send(flow->fd, bytes, size, flags | MSG_MORE);
	case 5:
		iov_cut(&flow->tx_rng, iov, bytes, size);
		many[0].msg_hdr = (struct msghdr){.msg_iov = &iov[0], .msg_iovlen = 1};
		many[1].msg_hdr = (struct msghdr){.msg_iov = &iov[1], .msg_iovlen = 2};
		n = sendmmsg(flow->fd, many, 2, flags);
		// Linux ends at a message that was accepted in part.
		if (n == 2 && many[0].msg_len < iov[0].iov_len && many[1].msg_len > 0)
			flow_fail(flow, "sendmmsg sent a second message after part of the first",
				  tx_direction(flow)->sent);
		// The error of a second message is not told, and Linux does not keep it.
		flow->unheard = n == 1 && many[0].msg_len == iov[0].iov_len;
		return n < 0 ? n : (ssize_t)many[0].msg_len + (n == 2 ? (ssize_t)many[1].msg_len : 0);
	default:
		if (!wait)
			return send(flow->fd, bytes, size, flags);
		iov_cut(&flow->tx_rng, iov, bytes, size);
		return rng_below(&flow->tx_rng, 2) ? write(flow->fd, bytes, size) : writev(flow->fd, iov, IOV_PARTS);
	}
}

// The whole of what this end wanted to send is sent.
static enum flow_result send_end(struct flow *flow)
{
	struct direction *direction = tx_direction(flow);

	direction->final = direction->sent + 1;
	direction->moved = now_ms();
	if (shutdown(flow->fd, SHUT_WR) < 0 && 
	    (errno != ENOTCONN || !(peer_gone(flow) || flow->broke || flow->record->end[flow->side].abandoned)))
		flow_broke(flow, "shutdown", errno, direction->sent);
	flow_sample(flow);
	return FLOW_END;
}

enum flow_result flow_send(struct flow *flow, bool wait)
{
	struct direction *direction = tx_direction(flow);
	uint64_t position = direction->sent;
	size_t size = flow->tx_left;
	ssize_t n;

	if (position >= flow->limit || flow->worker->board->stop)
		return send_end(flow);
	if (size == 0) {
		size = rng_size(&flow->tx_rng, MESSAGE_MAX);
		if (size > flow->limit - position)
			size = flow->limit - position;
	}
	stream_fill(flow->tx_seed, position, flow->tx_buffer, size);
	n = send_somehow(flow, flow->tx_buffer, size, wait);
	if (++flow->tx_calls % SAMPLE_CALLS == 0)
		flow_sample(flow);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (wait && errno == EAGAIN)
			flow_fail(flow, "a blocking send returned EAGAIN", position);
		flow->tx_left = size;
		return FLOW_BLOCKED;
	}
	if (n < 0)
		return flow_broke(flow, "send", errno, position);
	if ((size_t)n > size)
		flow_fail(flow, "send accepted more than it was given", position);
	flow->tx_left = size - (size_t)n;
	direction->sent = position + (uint64_t)n;
	direction->moved = now_ms();
	return FLOW_MOVED;
}

static ssize_t receive_somehow(struct flow *flow, uint8_t *bytes, size_t size, bool wait)
{
	int flags = wait ? 0 : MSG_DONTWAIT, waiting = 0;
	struct iovec iov[IOV_PARTS];
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = IOV_PARTS};
	struct direction *direction = rx_direction(flow);
	ssize_t n;

	switch (rng_below(&flow->rx_rng, 10)) {
	case 0:
		return recvfrom(flow->fd, bytes, size, flags, NULL, NULL);
	case 1:
		iov_cut(&flow->rx_rng, iov, bytes, size);
		return recvmsg(flow->fd, &msg, flags);
	case 2:
		n = recv(flow->fd, bytes, size, flags | MSG_PEEK);
		if (n > 0 && stream_check(flow->rx_seed, direction->received, bytes, (size_t)n) != (size_t)n)
			flow_fail(flow, "MSG_PEEK shows a wrong byte in the message", direction->received);
		if (n <= 0 || rng_below(&flow->rx_rng, 2))
			return n < 0 ? n : recv(flow->fd, bytes, size, flags);
		return recv(flow->fd, bytes, (size_t)n, flags);
	case 3:
		if (ioctl(flow->fd, FIONREAD, &waiting) == 0 && waiting > 0 && (size_t)waiting < size)
			size = (size_t)waiting;
		n = recv(flow->fd, bytes, size, flags);
		if (waiting > 0 && n >= 0 && (size_t)n < size)
			flow_fail(flow, "recv returned less than FIONREAD told", direction->received);
		return n;
	case 4:
		// Short enough not to wait for more than one message.
		return recv(flow->fd, bytes, 1 + size % 64, flags | MSG_WAITALL);
	case 5:
		if (wait)
			return read(flow->fd, bytes, size);
		// fall through
	case 6:
		if (wait) {
			iov_cut(&flow->rx_rng, iov, bytes, size);
			return readv(flow->fd, iov, IOV_PARTS);
		}
		// fall through
	default:
		return recv(flow->fd, bytes, size, flags);
	}
}

// recv returned 0: is this where the stream ends?
static enum flow_result receive_end(struct flow *flow, uint64_t position)
{
	struct direction *direction = rx_direction(flow);

	direction->ended = true;
	direction->moved = now_ms();
	if (direction->final && position + 1 == direction->final)
		return FLOW_END;
	if (!peer_gone(flow))
		flow_fail(flow,
			  direction->final ? "end of stream too early, bytes lost"
					   : "end of stream though the peer goes on",
			  position);
	// The peer died or gave up: everything that it had sent, then the end. Only an error excuses less, and the
	// sending thread may be just about to see it. `sent` is set after the call, so there may be more.
	for (int i = 0; i < 20 && !flow->broke && direction->sent > position; i++)
		usleep(10000);
	if (!flow->broke && !flow->unheard && direction->sent > position)
		flow_fail(flow, "end of stream after the peer's death, but not after its last byte", position);
	return FLOW_DEAD;
}

static _Noreturn void wrong_byte(struct flow *flow, uint64_t position, const uint8_t *bytes, size_t size, size_t at)
{
	uint64_t really = stream_locate(flow->rx_seed, position + at, bytes + at, size - at);
	char what[160];

	if (really == UINT64_MAX)
		snprintf(what, sizeof(what), "wrong byte (%02x, in a receive of %zu bytes at %llu)", bytes[at], size,
			 (unsigned long long)position);
	else if (really > position + at)
		snprintf(what, sizeof(what), "%llu bytes lost (in a receive of %zu bytes at %llu)",
			 (unsigned long long)(really - position - at), size, (unsigned long long)position);
	else
		snprintf(what, sizeof(what), "bytes twice, from %llu bytes back (in a receive of %zu bytes at %llu)",
			 (unsigned long long)(position + at - really), size, (unsigned long long)position);
	flow_fail(flow, what, position + at);
}

enum flow_result flow_receive(struct flow *flow, bool wait)
{
	struct direction *direction = rx_direction(flow);
	uint64_t position = direction->received;
	size_t size = rng_size(&flow->rx_rng, BUFFER_SIZE), good;
	ssize_t n;

	if (position >= flow->abandon) {
		flow->record->end[flow->side].abandoned = true;
		// Wakes our own sender, too.
		shutdown(flow->fd, SHUT_RDWR);
		return FLOW_DEAD;
	}
	n = receive_somehow(flow, flow->rx_buffer, size, wait);
	if (++flow->rx_calls % SAMPLE_CALLS == 0)
		flow_sample(flow);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (wait && errno == EAGAIN)
			flow_fail(flow, "a blocking receive returned EAGAIN", position);
		return FLOW_BLOCKED;
	}
	if (n < 0)
		return flow_broke(flow, "receive", errno, position);
	if (n == 0)
		return receive_end(flow, position);
	good = stream_check(flow->rx_seed, position, flow->rx_buffer, (size_t)n);
	if (good < (size_t)n)
		wrong_byte(flow, position, flow->rx_buffer, (size_t)n, good);
	direction->received = position + (uint64_t)n;
	direction->moved = now_ms();
	return FLOW_MOVED;
}
