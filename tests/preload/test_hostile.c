// SPDX-License-Identifier: BSD-2-Clause
// A process that writes what it likes into all shared memory that it can write, while it has connections to us and sends and receives on
// them. What these carry is worth nothing then, but nothing else happens to us: no crash, no thread that spins or does not come back, and the
// connections to an honest process go on to the byte. RLM_TEST_SEED repeats a run as far as the machine lets it, RLM_TEST_SECONDS makes
// it longer.
#include "pair.h"

#include <rlm/layout.h>
#include <rlm/rlm.h>

#include <spawn.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define HOSTILE 5u // connections to each hostile process
#define HONEST 2u
#define QUIET_LOOK_MS 100
#define QUIET_CPU_MS 50 // of a look, for all threads that have to do with a stopped peer
#define REGIONS 64u
#define CHUNK 40000u

struct board {
	_Atomic int stop;
	_Atomic int lie, lied;
	_Atomic uint64_t written;   // by hostile processes into shared memory
	_Atomic uint64_t truncated; // regions that let themselves be made shorter
	_Atomic uint64_t echoed, on_ring; // honest bytes
};

static struct board *board;
static int board_fd;

static unsigned number_from(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
}

static void map_board(int fd)
{
	board_fd = fd;
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_that(board != MAP_FAILED);
}

static int connect_to(int family, int port)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	bool six = family == AF_INET6;
	int fd = tcp_socket(family);

	assert_returns(connect(fd, six ? (void *)&in6 : (void *)&in, six ? sizeof(in6) : sizeof(in)), 0);
	return fd;
}

// -- the hostile process --

struct region {
	struct rlm_slot_shared *slots;
	uint8_t *start;
	size_t size;
	bool mine;
};

static struct {
	struct region region[REGIONS];
	unsigned count;
	int fd[HOSTILE];
	unsigned seed;
} evil;

// Not through libc, so that librlm has no say in it.
static void raw_send(int fd, const void *data, size_t n)
{
#if defined(__x86_64__)
	register long flags __asm__("r10") = MSG_DONTWAIT | MSG_NOSIGNAL;
	register long address __asm__("r8") = 0, size __asm__("r9") = 0;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_sendto), "D"(fd), "S"(data), "d"(n), "r"(flags), "r"(address), "r"(size)
			 : "rcx", "r11", "memory");
#else
	syscall(SYS_sendto, fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
#endif
}

static void find_regions(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long from, to;
	char line[512], access[8];

	assert_that(maps);
	evil.count = 0;
	while (fgets(line, sizeof(line), maps) && evil.count < REGIONS)
		if (strstr(line, "memfd:rlm-region") && sscanf(line, "%lx-%lx %7s", &from, &to, access) == 3)
			evil.region[evil.count++] =
				(struct region){(void *)(from + RLM_SLOTS_OFFSET), (void *)from, to - from, access[1] == 'w'};
	fclose(maps);
}

static uint64_t random_word(void)
{
	uint64_t word = 0;

	for (int i = 0; i < 5; i++)
		word = word << 15 ^ next_random(&evil.seed);
	return word;
}

static uint64_t near(uint64_t value)
{
	switch (next_random(&evil.seed) % 8) {
	case 0:
		return random_word();
	case 1:
		return value - next_random(&evil.seed) % 5000;
	case 2:
		return value + next_random(&evil.seed) % 600000;
	case 3:
		return value ^ 1ull << next_random(&evil.seed) % 64;
	default:
		return value - 2 + next_random(&evil.seed) % 5;
	}
}

// One word of a slot, as it might be, going by what the other side's slot says.
static void write_field(struct rlm_slot_shared *slot, const struct rlm_slot_shared *other)
{
	switch (next_random(&evil.seed) % 13) {
	case 0:
		slot->head = near(next_random(&evil.seed) % 2 ? other->tail : slot->head);
		break;
	case 1:
		slot->tail = near(next_random(&evil.seed) % 2 ? other->head : slot->tail);
		break;
	case 2:
		slot->bell = (uint32_t)near(slot->bell);
		break;
	case 3:
		slot->waiting = (uint32_t)random_word();
		break;
	case 4:
		slot->epoch = (uint32_t)near(slot->epoch);
		break;
	case 5:
		slot->tx_round = (uint32_t)near(2 * other->rx_ready);
		break;
	case 6:
		slot->tx_wish = (uint32_t)near(slot->tx_round);
		break;
	case 7:
		slot->rx_ready = (uint32_t)near(other->tx_round / 2 + 1);
		break;
	case 8:
		slot->rx_past = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 9:
		slot->rx_ask = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 10:
		slot->rx_leave = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 11:
		slot->cut = near(slot->cut);
		break;
	default:
		slot->end = next_random(&evil.seed) % 4 ? near(other->tail) : RLM_END_VOID;
	}
}

static const struct rlm_slot_shared *slot_of_other(unsigned number)
{
	static const struct rlm_slot_shared none;

	for (unsigned i = 0; i < evil.count; i++)
		if (!evil.region[i].mine && number < RLM_SLOTS_MAX &&
		    RLM_SLOTS_OFFSET + (number + 1) * sizeof(none) <= evil.region[i].size)
			return &evil.region[i].slots[number];
	return &none;
}

// Values that belong together and yet are false, for a moment or for good.
static void scribble(const struct region *r)
{
	const struct rlm_region_shared *header = (const void *)r->start;
	unsigned slots = header->slots && header->slots <= RLM_SLOTS_MAX ? header->slots : 1, number = next_random(&evil.seed) % slots;
	struct rlm_slot_shared *slot = &r->slots[number], before;
	const struct rlm_slot_shared *other = slot_of_other(number);
	unsigned writes = 1 + next_random(&evil.seed) % 6, how = next_random(&evil.seed) % 32;

	if (!slot->epoch && next_random(&evil.seed) % 8)
		return;
	memcpy(&before, slot, sizeof(before));
	for (unsigned i = 0; how && i < writes; i++)
		write_field(slot, other);
	if (!how) // all bits
		for (unsigned i = 0; i < sizeof(*slot) / 8; i++)
			((uint64_t *)slot)[i] = random_word();
	if (how == 1)
		for (unsigned i = 0; i < 8; i++)
			r->start[random_word() % r->size] = (uint8_t)random_word();
	atomic_fetch_add(&board->written, writes);
	if (next_random(&evil.seed) % 2) {
		nap_ms(0);
		memcpy(slot, &before, sizeof(before));
	}
}

static void make_shorter(const struct region *r)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)r->start, (unsigned long)r->start + r->size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (ftruncate(fd, 0) == 0 || ftruncate(fd, 4096) == 0)
		atomic_fetch_add(&board->truncated, 1);
	close(fd);
}

static void *traffic(void *arg)
{
	unsigned seed = *(unsigned *)arg, which = seed % HOSTILE;
	unsigned char *data = malloc(CHUNK);
	uint8_t frames[10] = {RLM_FRAME_CUT, RLM_FRAME_END};
	int fd = evil.fd[which];

	memset(data, 'x', CHUNK);
	for (;;) {
		unsigned n = 1 + next_random(&seed) % (next_random(&seed) % 2 ? CHUNK : 100u);

		switch (next_random(&seed) % 8) {
		case 0:
			memcpy(frames + 2, &slot_of_other(which)->tail, 8);
			raw_send(fd, frames + next_random(&seed) % 10, 1 + next_random(&seed) % 10);
			break;
		case 1:
			raw_send(fd, data, n % 64);
			break;
		case 2:
			nap_ms((int)(n % 3));
			break;
		case 3:
		case 4:
		case 5:
			recv(fd, data, n, MSG_DONTWAIT);
			break;
		default:
			send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	}
	return NULL;
}

static int hostile_main(char **argv)
{
	int family = atoi(argv[2]), port = atoi(argv[3]);
	unsigned seeds[HOSTILE];
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_board(atoi(argv[4]));
	evil.seed = (unsigned)strtoul(argv[5], NULL, 0);
	for (unsigned i = 0; i < HOSTILE; i++) {
		evil.fd[i] = connect_to(family, port);
		seeds[i] = next_random(&evil.seed) / HOSTILE * HOSTILE + i;
		assert_returns(pthread_create(&thread, NULL, traffic, &seeds[i]), 0);
	}
	while (!atomic_load(&board->stop)) { // until it is killed
		find_regions();
		for (unsigned i = 0; i < 50 && evil.count; i++) {
			const struct region *r = &evil.region[next_random(&evil.seed) % evil.count];

			if (r->mine)
				scribble(r);
			if (r->mine && i == 0)
				make_shorter(r);
		}
		nap_ms((int)(next_random(&evil.seed) % 4));
	}
	return 0;
}

// Honest until it is told to lie: then it says that it put more into each ring than fits there.
static int liar_main(char **argv)
{
	char data[100];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_board(atoi(argv[4]));
	fd = connect_to(atoi(argv[2]), atoi(argv[3]));
	peer_settle(fd, false);
	memset(data, 'x', sizeof(data));
	assert_returns(send(fd, data, sizeof(data), 0), sizeof(data));
	while (!atomic_load(&board->lie))
		nap_ms(1);
	find_regions();
	for (unsigned i = 0; i < evil.count; i++) {
		const struct rlm_region_shared *header = (const void *)evil.region[i].start;

		for (unsigned k = 0; evil.region[i].mine && k < header->slots; k++)
			evil.region[i].slots[k].head += 1u << 30;
	}
	atomic_store(&board->lied, 1);
	while (!atomic_load(&board->stop)) // until it is killed
		nap_ms(100);
	return 0;
}

// -- the honest process --

static void note_ring(int fd)
{
	struct rlm_info info;

	assert_returns(rlm_socket_info(fd, &info), 0);
	atomic_fetch_add(&board->on_ring, info.rx_bytes_ring);
}

// Sends the pattern and finds it come back.
static void *echo_client(void *arg)
{
	uint64_t at = 0;
	int fd = *(int *)arg;
	unsigned seed = (unsigned)fd;

	while (!atomic_load(&board->stop)) {
		size_t n = 1 + next_random(&seed) % (next_random(&seed) % 2 ? 4000u : 100u); // the smallest ring takes it

		send_pattern(fd, 1, at, n);
		recv_pattern(fd, 1, at, n);
		at += n;
		atomic_fetch_add(&board->echoed, n);
	}
	assert_returns(shutdown(fd, SHUT_WR), 0);
	recv_end(fd);
	note_ring(fd);
	close(fd);
	return NULL;
}

static int honest_main(char **argv)
{
	pthread_t thread[HONEST];
	int fd[HONEST];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_board(atoi(argv[4]));
	for (unsigned i = 0; i < HONEST; i++) {
		fd[i] = connect_to(atoi(argv[2]), atoi(argv[3]));
		assert_returns(pthread_create(&thread[i], NULL, echo_client, &fd[i]), 0);
	}
	for (unsigned i = 0; i < HONEST; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

// -- the process in between --

struct server {
	pthread_t thread;
	int fd;
	unsigned style, seed;
	int64_t close_ms;
};

static void *serve_honest(void *arg)
{
	struct server *s = arg;
	char *data = malloc(CHUNK);
	ssize_t n, sent;

	while ((n = recv(s->fd, data, CHUNK, 0)) > 0)
		for (ssize_t done = 0; done < n; done += sent) {
			sent = send(s->fd, data + done, (size_t)(n - done), 0);
			assert_that(sent > 0);
		}
	assert_returns(n, 0);
	close(s->fd);
	free(data);
	return NULL;
}

// What a server does with what it got. false: the connection is over.
static bool answer(struct server *s, char *data, size_t size, int flags)
{
	size_t most = 1 + next_random(&s->seed) % size;
	ssize_t n = recv(s->fd, data, most, flags | (next_random(&s->seed) % 8 ? 0 : MSG_PEEK));
	int queued;

	assert_that(n <= (ssize_t)most);
	assert_returns(ioctl(s->fd, FIONREAD, &queued), 0);
	assert_that(queued >= 0);
	if (n <= 0)
		return n < 0 && errno == EAGAIN;
	n = send(s->fd, data, (size_t)n, (flags & MSG_DONTWAIT) | MSG_NOSIGNAL);
	return n > 0 || errno == EAGAIN;
}

static void serve_poll(struct server *s, char *data)
{
	struct pollfd p = {.fd = s->fd, .events = POLLIN | POLLRDHUP};

	set_nonblocking(s->fd, true);
	do
		assert_that(poll(&p, 1, -1) == 1);
	while (!(p.revents & (POLLHUP | POLLERR)) && answer(s, data, CHUNK, 0));
}

static void serve_epoll(struct server *s, char *data)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC);
	bool goes_on = true;

	set_nonblocking(s->fd, true);
	assert_returns(epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &e), 0);
	while (goes_on) {
		assert_that(epoll_wait(ep, &e, 1, -1) == 1);
		if (e.events & (EPOLLHUP | EPOLLERR))
			break;
		do
			goes_on = answer(s, data, CHUNK, MSG_DONTWAIT);
		while (goes_on && errno != EAGAIN);
	}
	close(ep);
}

static void *serve_hostile(void *arg)
{
	struct server *s = arg;
	char *data = malloc(CHUNK);

	memset(data, 'y', CHUNK);
	switch (s->style) {
	case 0:
		while (answer(s, data, CHUNK, 0))
			;
		break;
	case 1:
		serve_poll(s, data);
		break;
	case 2:
		serve_epoll(s, data);
		break;
	case 3:
		set_timeout(s->fd, SO_RCVTIMEO, 50);
		set_timeout(s->fd, SO_SNDTIMEO, 50);
		while (answer(s, data, CHUNK, next_random(&s->seed) % 2 ? MSG_WAITALL : 0))
			;
		break;
	default:
		while (send(s->fd, data, CHUNK, MSG_NOSIGNAL) > 0)
			;
	}
	free(data);
	s->close_ms = now_ms();
	close(s->fd);
	s->close_ms = now_ms() - s->close_ms;
	return NULL;
}

// Not by fork(): our connections would be shared with a process that executes another program in a moment.
static pid_t start(const char *role, int family, int listener, unsigned seed)
{
	char text[4][16], *argv[] = {"test_hostile", (char *)(uintptr_t)role, text[0], text[1], text[2], text[3], NULL};
	pid_t pid;

	snprintf(text[0], 16, "%d", family);
	snprintf(text[1], 16, "%d", listener_port(listener));
	snprintf(text[2], 16, "%d", board_fd);
	snprintf(text[3], 16, "%u", seed);
	fflush(NULL);
	assert_returns(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
	return pid;
}

static void serve(struct server *s, unsigned n, int listener, void *(*how)(void *), unsigned seed)
{
	for (unsigned i = 0; i < n; i++) {
		assert_that(wait_for(listener, POLLIN, DEADLINE_MS));
		s[i] = (struct server){.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), .style = i, .seed = seed + i};
		assert_that(s[i].fd >= 0);
		assert_returns(pthread_create(&s[i].thread, NULL, how, &s[i]), 0);
	}
}

static uint64_t cpu_ms(clockid_t clock)
{
	struct timespec t;

	return clock_gettime(clock, &t) < 0 ? 0 : (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

// Of all threads but those that serve the honest process.
static uint64_t cpu_of_others(const struct server *honest)
{
	uint64_t all = cpu_ms(CLOCK_PROCESS_CPUTIME_ID);
	clockid_t clock;

	for (unsigned i = 0; i < HONEST; i++)
		if (pthread_getcpuclockid(honest[i].thread, &clock) == 0)
			all -= cpu_ms(clock);
	return all;
}

static void expect_quiet(const struct server *honest)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	uint64_t before, took;

	do {
		before = cpu_of_others(honest);
		nap_ms(QUIET_LOOK_MS);
		took = cpu_of_others(honest) - before;
		if (now_ms() > deadline)
			check_failed(__FILE__, __LINE__, "%lu ms of %d were spent on a peer that is stopped", (unsigned long)took,
				     QUIET_LOOK_MS);
	} while (took >= QUIET_CPU_MS);
}

static void one_hostile(int family, int listener, const struct server *honest, unsigned seed)
{
	struct server server[HOSTILE];
	pid_t pid = start("--hostile", family, listener, seed);
	struct timespec until;

	serve(server, HOSTILE, listener, serve_hostile, seed);
	nap_ms(100 + (int)(seed % 400));
	kill(pid, SIGSTOP);
	expect_quiet(honest);
	kill(pid, SIGKILL);
	assert_returns(waitpid(pid, NULL, 0), pid);
	for (unsigned i = 0; i < HOSTILE; i++) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += DEADLINE_MS / 1000;
		if (pthread_timedjoin_np(server[i].thread, NULL, &until))
			check_failed(__FILE__, __LINE__, "the thread of style %u does not come back from a peer that was killed", i);
		assert_that(server[i].close_ms < 3000);
	}
}

static void open_board(void)
{
	board_fd = memfd_create("board", 0);
	assert_returns(ftruncate(board_fd, sizeof(*board)), 0);
	map_board(board_fd);
}

static void close_board(void)
{
	munmap(board, sizeof(*board));
	close(board_fd);
}

static int peek_half(void *arg)
{
	char data[50];

	return (int)recv(*(int *)arg, data, sizeof(data), MSG_PEEK);
}

// What was there when the last call looked is enough for this one, and now the peer says what cannot be.
static void peek_at_lies(void **state)
{
	int family = *(int *)*state, listener = listener_open(family), fd, n;
	struct sleeper sleeper;
	char data[10];
	pid_t pid;

	open_board();
	pid = start("--liar", family, listener, 0);
	assert_that(wait_for(listener, POLLIN, DEADLINE_MS));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_that(fd >= 0);
	peer_settle(fd, true);
	assert_returns(recv(fd, data, sizeof(data), MSG_WAITALL), sizeof(data));
	atomic_store(&board->lie, 1);
	while (!atomic_load(&board->lied))
		nap_ms(1);
	sleeper_start(&sleeper, peek_half, &fd);
	n = sleeper_join(&sleeper);
	assert_that(n > 0 || (n < 0 && errno == ECONNRESET));
	close(fd);
	kill(pid, SIGKILL);
	assert_returns(waitpid(pid, NULL, 0), pid);
	close(listener);
	close_board();
}

static void scribbles(void **state)
{
	int family = *(int *)*state, hostile = listener_open(family), listener = listener_open(family);
	unsigned seed = number_from("RLM_TEST_SEED", (unsigned)(now_ms() * 7919) ^ (unsigned)getpid()), count = 0;
	int64_t end = now_ms() + number_from("RLM_TEST_SECONDS", carrier_accelerates() ? 4 : 1) * 1000;
	struct server honest[HONEST];
	pid_t pid;

	printf("RLM_TEST_SEED=%u\n", seed);
	open_board();
	pid = start("--honest", family, listener, 0);
	serve(honest, HONEST, listener, serve_honest, 0);
	while (now_ms() < end) {
		one_hostile(family, hostile, honest, next_random(&seed));
		count++;
	}
	atomic_store(&board->stop, 1);
	child_finish(pid);
	for (unsigned i = 0; i < HONEST; i++)
		pthread_join(honest[i].thread, NULL);
	printf("%u hostile processes wrote %lu words; %lu honest bytes, %lu of them on the ring\n", count, (unsigned long)board->written,
	       (unsigned long)board->echoed, (unsigned long)board->on_ring);
	assert_returns(board->truncated, 0);
	if (carrier_accelerates())
		assert_that(board->written && board->on_ring);
	close_board();
	close(hostile);
	close(listener);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {TEST_FAMILY(peek_at_lies), TEST_FAMILY(scribbles)};

	if (argc == 6 && !strcmp(argv[1], "--hostile"))
		return hostile_main(argv);
	if (argc == 6 && !strcmp(argv[1], "--liar"))
		return liar_main(argv);
	if (argc == 6 && !strcmp(argv[1], "--honest"))
		return honest_main(argv);
	return suite_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
