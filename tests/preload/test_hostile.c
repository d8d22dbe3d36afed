// SPDX-License-Identifier: BSD-2-Clause
// A process that writes what it likes into all shared memory that it can write, while it has connections to us and sends and receives on
// them. What these carry is worth nothing then, but nothing else happens to us: no crash, no thread that spins or does not come back, and the
// connections to an honest process go on to the byte. RLM_TEST_SEED repeats a run as far as the machine lets it, RLM_TEST_SECONDS makes
// it longer.
#include "hostile.h"

#include <rlm/rlm.h>

#include <spawn.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define HONEST 2u
#define QUIET_LOOK_MS 100
#define QUIET_CPU_MS 50 // of a look, for all threads that have to do with a stopped peer

static unsigned number_from(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 0) : otherwise;
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
