// SPDX-License-Identifier: BSD-2-Clause
#include "ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "sys.h"
#include "wake.h"

#define PAGE 4096u

void fail_hard(const char *file, int line, const char *what)
{
	fprintf(stderr, "%s:%d: not true: %s (errno %d)\n", file, line, what, errno);
	abort();
}

// Maps `size` bytes of fd, from `at` on, between two guard pages.
static uint8_t *map_guarded(int fd, uint64_t at, uint64_t size, int protection)
{
	uint8_t *p = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	must(p != MAP_FAILED);
	must(mmap(p + PAGE, size, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)at) != MAP_FAILED);
	return p;
}

void region_open(struct region *r, uint64_t ring_size)
{
	int fd = memfd_create("region", MFD_CLOEXEC);

	must(fd >= 0 && ring_size % PAGE == 0);
	must(ftruncate(fd, (off_t)(PAGE + ring_size)) == 0);
	r->size = ring_size;
	r->maps[0] = map_guarded(fd, 0, PAGE, PROT_READ | PROT_WRITE);
	r->maps[1] = map_guarded(fd, PAGE, ring_size, PROT_READ | PROT_WRITE);
	r->maps[2] = map_guarded(fd, 0, PAGE, PROT_READ);
	r->maps[3] = map_guarded(fd, PAGE, ring_size, PROT_READ);
	r->slot = (void *)(r->maps[0] + PAGE);
	r->ring = r->maps[1] + PAGE;
	r->slot_ro = (void *)(r->maps[2] + PAGE);
	r->ring_ro = r->maps[3] + PAGE;
	close(fd);
}

void region_close(struct region *r)
{
	for (int i = 0; i < 4; i++)
		munmap(r->maps[i], (i & 1 ? r->size : PAGE) + 2 * PAGE);
}

bool tcp_pair(int family, int fd[2])
{
	const int one = 1;
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr *address = family == AF_INET6 ? (void *)&in6 : (void *)&in;
	socklen_t len = family == AF_INET6 ? sizeof(in6) : sizeof(in);
	int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0 || bind(listener, address, len) < 0) {
		if (listener >= 0)
			close(listener);
		return false;
	}
	must(listen(listener, 1) == 0);
	must(getsockname(listener, address, &len) == 0);
	fd[0] = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(fd[0] >= 0 && connect(fd[0], address, len) == 0);
	fd[1] = accept(listener, NULL, NULL);
	must(fd[1] >= 0);
	close(listener);
	for (int i = 0; i < 2; i++)
		must(setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
	return true;
}

void tcp_set_buffers(int fd, int size)
{
	must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) == 0);
	must(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) == 0);
}

static void end_init(struct end *e, int fd, const struct region *mine, const struct region *peer)
{
	memset(e, 0, sizeof(*e));
	e->fd = fd;
	e->b.conn = &e->conn;
	e->b.epoch = EPOCH;
	e->b.doorbell_mine = e->b.doorbell_peer = e->b.control_peer = -1;
	e->b.tx = (struct rlm_ring){.mine = mine->slot, .peer = peer->slot_ro, .bytes = mine->ring, .size = mine->size};
	e->b.rx =
	    (struct rlm_ring){.mine = mine->slot, .peer = peer->slot_ro, .bytes = peer->ring_ro, .size = peer->size};
	ring_set_limit(&e->b.tx, UINT64_MAX);
	atomic_store(&mine->slot->epoch, EPOCH);
}

void pair_open(struct pair *p, uint64_t ring_size)
{
	int fd[2];

	must(tcp_pair(AF_INET, fd));
	for (int i = 0; i < 2; i++)
		region_open(&p->region[i], ring_size);
	for (int i = 0; i < 2; i++)
		end_init(&p->end[i], fd[i], &p->region[i], &p->region[!i]);
	p->end[0].conn.flags = RLM_CONN_ACTIVE;
}

void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++) {
		if (p->end[i].fd >= 0)
			close(p->end[i].fd);
		region_close(&p->region[i]);
	}
}

int64_t end_send(struct end *e, const void *data, uint64_t n)
{
	struct rlm_ring *r = &e->b.tx;
	uint64_t head, room;
	enum tx_way way = cutover_tx(&e->conn, &e->b, e->fd, true);

	if (way == TX_WAY_BLOCKED)
		return -EAGAIN;
	if (way == TX_WAY_PLAIN)
		return sys_send(e->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	head = ring_head(r);
	room = ring_room(r, head, n);
	if (room == RLM_RING_BROKEN)
		return -ECONNRESET;
	must(room <= r->size);
	if (n > room)
		n = room;
	if (!n)
		return -EAGAIN;
	ring_put(r, head, data, n);
	ring_publish(r, head + n);
	wake_receiver(&e->b);
	return (int64_t)n;
}

static int64_t from_kernel(struct end *e, void *data, uint64_t n, bool peek)
{
	int64_t r, mine;

	e->conn.rx_inflight++;
	r = sys_recv(e->fd, data, n, MSG_DONTWAIT | (peek ? MSG_PEEK : 0));
	mine = r;
	if (r > 0)
		mine = cutover_rx_returned(&e->b, e->fd, r, peek);
	else if (r == 0 && n && cutover_rx_ended(&e->b, e->fd))
		mine = -EAGAIN;
	must(mine <= r || mine == -EAGAIN);
	if (r > 0 && mine == 0)
		mine = -EAGAIN; // nothing but frames: look again
	e->conn.rx_inflight--;
	return mine;
}

static int64_t up_to_cut(struct end *e, void *data, uint64_t n, bool peek)
{
	int64_t r;

	n = n < e->b.drain ? n : e->b.drain;
	r = peek ? sys_recv(e->fd, data, n, MSG_DONTWAIT | MSG_PEEK) : rx_take(&e->b, e->fd, data, n);
	must(r <= (int64_t)n);
	if (r > 0 && !peek)
		e->b.drain -= (uint64_t)r;
	rx_counted(&e->b);
	return r;
}

static int64_t from_ring(struct end *e, void *data, uint64_t n, uint64_t available, bool peek)
{
	uint64_t tail = atomic_load_explicit(&e->b.rx.mine->tail, memory_order_relaxed);

	must(available > 0 && available <= e->b.rx.size);
	if (n > available)
		n = available;
	ring_copy(&e->b.rx, tail, data, n);
	if (peek)
		return (int64_t)n;
	ring_free(&e->b.rx, tail + n);
	atomic_thread_fence(memory_order_seq_cst);
	wake_sender(&e->b);
	return (int64_t)n;
}

int64_t end_recv(struct end *e, void *data, uint64_t n, bool peek)
{
	uint64_t available;
	int64_t r;

	// A few looks only: each brings something or the state forward.
	for (int looks = 0; looks < 16; looks++) {
		enum rx_way way = cutover_rx(&e->conn, &e->b, e->fd, &available);

		switch (way) {
		case RX_WAY_PLAIN:
		case RX_WAY_SINGLE:
			r = from_kernel(e, data, n, peek);
			if (r == -EAGAIN)
				break;
			return r;
		case RX_WAY_LIMIT:
			return up_to_cut(e, data, n, peek);
		case RX_WAY_RING:
			return from_ring(e, data, n, available, peek);
		case RX_WAY_WAIT:
			if (e->b.rx_state == RX_RING && cutover_rx_look_at_tcp(&e->b, e->fd))
				break;
			return -EAGAIN;
		case RX_WAY_BUSY:
			return -EAGAIN;
		case RX_WAY_KERNEL:
			return sys_recv(e->fd, data, n, MSG_DONTWAIT);
		case RX_WAY_BROKEN:
			return -ECONNRESET;
		}
	}
	return -EAGAIN;
}

int64_t end_send_pattern(struct end *e, unsigned seed, uint64_t n)
{
	uint8_t *data = malloc(n);
	int64_t r;

	must(data);
	for (uint64_t i = 0; i < n; i++)
		data[i] = pattern(seed, e->sent + i);
	r = end_send(e, data, n);
	if (r > 0)
		e->sent += (uint64_t)r;
	free(data);
	return r;
}

int64_t end_recv_pattern(struct end *e, unsigned seed, uint64_t n, bool peek)
{
	uint8_t *data = malloc(n);
	int64_t r;

	must(data);
	r = end_recv(e, data, n, peek);
	for (int64_t i = 0; i < r; i++)
		must(data[i] == pattern(seed, e->received + (uint64_t)i));
	if (r > 0 && !peek)
		e->received += (uint64_t)r;
	if (r == 0)
		e->eof = true;
	free(data);
	return r;
}

bool end_recv_comes_back(struct end *e, bool peeks)
{
	uint8_t data[1000];
	int64_t r = -EAGAIN;

	for (int looks = 0; looks < 100 && (r > 0 || r == -EAGAIN); looks++) {
		if (peeks)
			end_recv(e, data, sizeof(data), true);
		r = end_recv(e, data, sizeof(data), false);
	}
	return r == 0 || (r < 0 && r != -EAGAIN);
}

// As send_all() does it when TCP has told that the peer closed.
bool end_send_comes_back(struct end *e)
{
	const uint8_t data[1000] = {0};
	uint64_t deadline = now_ms() + 2000;
	int64_t r;

	e->b.tx_stop = 1;
	e->b.tx_fast = 0;
	do {
		r = end_send(e, data, sizeof(data));
		if (r == -EAGAIN)
			cutover_tx_need(&e->b);
	} while ((r > 0 || r == -EAGAIN) && now_ms() < deadline);
	return r < 0 && r != -EAGAIN;
}

uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint64_t random_below(uint64_t *state, uint64_t limit)
{
	return random_next(state) % limit;
}

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void on_alarm(int sig)
{
	static const char words[] = "watchdog: the test hangs\n";

	(void)!write(2, words, sizeof(words) - 1);
	signal(SIGABRT, SIG_DFL); // cmocka would go on in the middle of it
	abort();
}

void watchdog(unsigned seconds)
{
	signal(SIGALRM, on_alarm);
	alarm(seconds);
}
