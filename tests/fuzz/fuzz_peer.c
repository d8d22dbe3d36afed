// SPDX-License-Identifier: BSD-2-Clause
// A hostile peer: its region and its TCP bytes come from the input, and so does what this end does meanwhile. The
// regions lie between guard pages and the peer's is mapped read-only, so a wrong access ends the run, and so does a
// call that does not come back, also from a peer that is dead by then. It also writes between two loads of one call, see before_load.h.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ends.h"
#include "sys.h"

enum { RING = 4096 };

struct input {
	const uint8_t *data;
	size_t left;
};

static uint8_t next(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

static uint64_t next_word(struct input *in)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v |= (uint64_t)next(in) << 8 * i;
	return v;
}

// Mostly near what is expected: a value from nowhere is refused at once and leads no further.
static uint64_t next_value(struct input *in, uint64_t near)
{
	uint8_t how = next(in);

	return how < 240 ? near + how % 16 - 4 : how < 250 ? near + (uint64_t)next(in) * 16 : next_word(in);
}

static void write_region(struct input *in, struct rlm_slot_shared *slot, const struct end *e)
{
	const struct rlm_slot_shared *mine = e->b.tx.mine;
	uint8_t field = next(in);

	switch (field % 12) {
	case 0:
		slot->tx_round = (uint32_t)next_value(in, 2 * e->b.rx_round);
		break;
	case 1:
		slot->cut = next_value(in, (uint64_t)tcp_taken(e->fd)) & INT64_MAX;
		break;
	case 2:
		slot->end = next_value(in, mine->tail);
		break;
	case 3:
		slot->head = next_value(in, mine->tail);
		break;
	case 4:
		slot->tail = next_value(in, mine->head);
		break;
	case 5:
		slot->rx_ready = (uint32_t)next_value(in, e->b.tx_round + 1);
		break;
	case 6:
		slot->rx_ask = (uint32_t)next_value(in, e->b.tx_round);
		break;
	case 7:
		slot->waiting = (uint32_t)next_word(in);
		break;
	case 8:
		slot->rx_past = (uint32_t)next_value(in, e->b.tx_round);
		break;
	case 9:
		slot->rx_leave = (uint32_t)next_value(in, e->b.tx_round);
		break;
	case 10:
		slot->tx_wish = (uint32_t)next_value(in, 2 * e->b.rx_round);
		break;
	default:
		slot->epoch = field < 240 ? EPOCH : next(in);
	}
}

static struct {
	struct pair *pair; // NULL: the peer writes nothing in the middle of a call
	uint64_t random;
	unsigned one_of; // one load of so many
} meanwhile;

void fuzz_before_load(const volatile void *word)
{
	struct pair *p = meanwhile.pair;
	const uint8_t *slot = p ? (const uint8_t *)p->region[0].slot_ro : NULL;
	uint8_t bytes[16];
	struct input in = {bytes, sizeof(bytes)};

	if (!p || (const uint8_t *)word < slot || (const uint8_t *)word >= slot + sizeof(struct rlm_slot_shared) ||
	    random_below(&meanwhile.random, meanwhile.one_of))
		return;
	for (unsigned i = 0; i < sizeof(bytes); i += 8)
		memcpy(bytes + i, &(uint64_t){random_next(&meanwhile.random)}, 8);
	meanwhile.pair = NULL;
	write_region(&in, p->region[0].slot, &p->end[1]);
	meanwhile.pair = p;
}

static void send_tcp(struct input *in, int fd)
{
	uint8_t n = next(in), data[256];

	for (unsigned i = 0; i <= n; i++)
		data[i] = next(in);
	sys_send(fd, data, n + 1u, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_frames(struct input *in, int fd, uint64_t end)
{
	uint8_t frames[10] = {'C', 'E'}, part = next(in);
	unsigned from = part % 10, n = 1 + part / 16 % (10 - from);

	memcpy(frames + 2, &end, 8);
	sys_send(fd, frames + from, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// A buffer of exactly the size that is asked for, so that ASan sees what is written behind it.
static void receive(struct end *e, uint64_t n, bool peek)
{
	uint8_t *data = malloc(n);
	uint64_t tail = e->b.rx.mine->tail;
	bool orphaned = e->b.rx_orphaned;
	int64_t r = end_recv(e, data, n, peek);

	must(r <= (int64_t)n);
	// What TCP has brought of the bytes that were asked back is left out when the ring's turn comes again.
	must(e->b.rx.mine->tail - tail <= n + (e->b.rx_orphaned != orphaned ? e->b.back_to - e->b.back_at : 0));
	free(data);
}

static void step(struct input *in, struct pair *p)
{
	static uint8_t data[RING];
	struct end *e = &p->end[1];
	uint8_t what = next(in);

	switch (what % 16) {
	case 0:
	case 1:
	case 2:
	case 3:
		write_region(in, p->region[0].slot, e);
		break;
	case 4:
		send_tcp(in, p->end[0].fd);
		break;
	case 5:
	case 6:
		send_frames(in, p->end[0].fd, e->b.rx.mine->tail);
		break;
	case 7:
	case 8:
	case 9:
	case 10:
		receive(e, 1 + next(in) * (what & 16 ? 17 : 1), what & 32);
		break;
	case 11:
		cutover_rx_ask(&e->b);
		break;
	case 12:
		e->b.rx_stop = 0;
		break;
	case 13:
		end_send(e, data, 1 + next(in) * 16u);
		break;
	case 14:
		if (what & 16)
			e->b.tx_stop ^= 1;
		else if (what & 32)
			cutover_tx_wish(&e->b);
		else if (what & 64)
			cutover_tx_need(&e->b);
		else
			cutover_tx_end(&e->b);
		break;
	default:
		if (what > 240)
			shutdown(p->end[0].fd, SHUT_WR);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct linger reset = {.l_onoff = 1};
	struct input in = {data, size};
	struct pair p;

	pair_open(&p, RING);
	meanwhile.one_of = 1u + next(&in) % 64;
	meanwhile.random = next_word(&in);
	meanwhile.pair = meanwhile.random % 4 ? &p : NULL;
	while (in.left)
		step(&in, &p);
	meanwhile.pair = NULL;
	setsockopt(p.end[0].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)); // no TIME_WAIT: ports are few
	close(p.end[0].fd);
	p.end[0].fd = -1;
	must(end_recv_comes_back(&p.end[1], meanwhile.random % 2));
	must(end_send_comes_back(&p.end[1]));
	pair_close(&p);
	return 0;
}
