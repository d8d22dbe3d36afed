// SPDX-License-Identifier: BSD-2-Clause
// Connected TCP pairs in every carrier state, and checks, for the differential tests.
#include "pair.h"

#include <stdatomic.h>
#include <time.h>

#include <rlm/rlm.h>

int pair_family_4 = AF_INET, pair_family_6 = AF_INET6;
volatile sig_atomic_t signal_count;

static pthread_t main_thread;
static pid_t main_pid;
static unsigned pairs_made;

enum carrier carrier(void)
{
	static const char *const names[] = {
	    [CARRIER_BARE] = "bare",
	    [CARRIER_PLAIN] = "plain",
	    [CARRIER_RING] = "ring",
	    [CARRIER_RING_SMALL] = "ring-small",
	    [CARRIER_PROMOTE_MID] = "promote-mid",
	    [CARRIER_DEMOTE_MID] = "demote-mid",
	    [CARRIER_FLAP] = "flap",
	};
	const char *name = getenv("RLM_TEST_CARRIER");

	if (!name)
		return CARRIER_BARE;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(name, names[i]))
			return i;
	fprintf(stderr, "RLM_TEST_CARRIER=%s is not a carrier state\n", name);
	exit(2);
}

bool carrier_accelerates(void)
{
	return carrier() >= CARRIER_RING;
}

bool carrier_is_ring(void)
{
	return carrier() == CARRIER_RING || carrier() == CARRIER_RING_SMALL;
}

// -- checks --

void check_failed(const char *file, int line, const char *format, ...)
{
	int error = errno;
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "%s:%d: %s (errno %s)\n", file, line, text,
		strerrorname_np(error) ? strerrorname_np(error) : "?");
	if (getpid() != main_pid)
		_exit(99);
	if (!pthread_equal(pthread_self(), main_thread))
		abort();
	_fail(file, line);
}

void check_returns(long got, long want, const char *call, const char *file, int line)
{
	if (got != want)
		check_failed(file, line, "%s = %ld, not %ld", call, got, want);
}

void check_fails(long got, int error, const char *call, const char *file, int line)
{
	if (got != -1 || errno != error)
		check_failed(file, line, "%s = %ld, not -1 with %s", call, got, strerrorname_np(error));
}

void check_bytes(const void *actual, const void *expected, size_t size, const char *file, int line)
{
	const unsigned char *a = actual, *e = expected;

	for (size_t i = 0; i < size; i++)
		if (a[i] != e[i])
			check_failed(file, line, "byte %zu of %zu is %#x, not %#x", i, size, a[i], e[i]);
}

// -- time, signals, threads --

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

void nap_ms(int ms)
{
	int64_t end = now_ms() + ms;

	while (now_ms() < end)
		syscall(SYS_poll, NULL, 0, (int)(end - now_ms()));
}

static void count_signal(int signal)
{
	signal_count++;
}

void catch_signal(int signal, int flags)
{
	struct sigaction action = {.sa_handler = count_signal, .sa_flags = flags};

	signal_count = 0;
	assert_returns(sigaction(signal, &action, NULL), 0);
}

static char task_state(pid_t pid, pid_t tid)
{
	char path[64], text[256] = "";
	char *state;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 'X';
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	state = strrchr(text, ')');
	return state ? state[2] : 'X';
}

// The task sleeps when three looks in a row say so; the bounded spinning before a sleep is over then.
void wait_asleep(pid_t pid, pid_t tid)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	for (int seen = 0; seen < 3 && now_ms() < deadline;) {
		seen = task_state(pid, tid) == 'S' ? seen + 1 : 0;
		nap_ms(2);
	}
}

static void *sleeper_main(void *arg)
{
	struct sleeper *sleeper = arg;
	int64_t start = now_ms();

	atomic_store(&sleeper->tid, (int)syscall(SYS_gettid));
	errno = 0;
	sleeper->result = sleeper->fn(sleeper->arg);
	sleeper->error = errno;
	sleeper->took_ms = now_ms() - start;
	return NULL;
}

void sleeper_start(struct sleeper *sleeper, int (*fn)(void *), void *arg)
{
	*sleeper = (struct sleeper){.fn = fn, .arg = arg};
	assert_returns(pthread_create(&sleeper->thread, NULL, sleeper_main, sleeper), 0);
	while (!atomic_load(&sleeper->tid))
		nap_ms(1);
	wait_asleep(getpid(), sleeper->tid);
}

bool sleeper_done(struct sleeper *sleeper, int timeout_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	return pthread_timedjoin_np(sleeper->thread, NULL, &until) == 0;
}

int sleeper_join(struct sleeper *sleeper)
{
	assert_that(sleeper_done(sleeper, DEADLINE_MS));
	errno = sleeper->error;
	return sleeper->result;
}

// -- sockets --

static socklen_t loopback(struct sockaddr_storage *address, int family, int port)
{
	memset(address, 0, sizeof(*address));
	if (family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)address;
		*in6 = (struct sockaddr_in6){
		    .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		return sizeof(*in6);
	}
	struct sockaddr_in *in = (struct sockaddr_in *)address;
	*in = (struct sockaddr_in){
	    .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	return sizeof(*in);
}

int tcp_socket(int family)
{
	int fd = socket(family, SOCK_STREAM, 0);

	assert_that(fd >= 0);
	return fd;
}

int listener_open(int family)
{
	struct sockaddr_storage address;
	socklen_t size = loopback(&address, family, 0);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 128) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int listener_port(int listener)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

int listener_connect(int listener)
{
	struct sockaddr_storage address;
	socklen_t size = sizeof(address);
	int fd;

	assert_returns(getsockname(listener, (struct sockaddr *)&address, &size), 0);
	fd = tcp_socket(address.ss_family);
	assert_returns(connect(fd, (struct sockaddr *)&address, size), 0);
	return fd;
}

void pair_open(struct pair *pair, int family)
{
	int listener = listener_open(family);

	assert_that(listener >= 0);
	pair->family = family;
	pair->a = listener_connect(listener);
	pair->b = accept(listener, NULL, NULL);
	assert_that(pair->b >= 0);
	assert_returns(close(listener), 0);
}

void pair_talk(struct pair *p, int rounds)
{
	for (int i = 0; i < rounds; i++) {
		send_text(p->a, "question");
		recv_text(p->b, "question");
		send_text(p->b, "answer");
		recv_text(p->a, "answer");
	}
}

void pair_close(struct pair *pair)
{
	if (pair->a >= 0)
		close(pair->a);
	if (pair->b >= 0)
		close(pair->b);
	pair->a = pair->b = -1;
}

// Ring states: both directions are on the ring now; the others: both have been.
static bool on_ring(int fd)
{
	struct rlm_info info;

	assert_returns(rlm_socket_info(fd, &info), 0);
	if (carrier_is_ring())
		return info.tx_carrier == RLM_CARRIER_RING && info.rx_carrier == RLM_CARRIER_RING;
	return info.tx_bytes_ring && info.rx_bytes_ring;
}

static void describe(int fd, const char *end)
{
	struct rlm_info info;

	if (rlm_socket_info(fd, &info) < 0)
		return;
	fprintf(stderr,
		"  end %s: tx %s, rx %s, %s; ring bytes %llu out %llu in, plain %llu out %llu in, %u switches\n", end,
		info.tx_carrier ? "ring" : "plain", info.rx_carrier ? "ring" : "plain", rlm_why_words(info.why),
		(unsigned long long)info.tx_bytes_ring, (unsigned long long)info.rx_bytes_ring,
		(unsigned long long)info.tx_bytes_plain, (unsigned long long)info.rx_bytes_plain, info.switches);
}

static void exchange(int from, int to)
{
	char byte = 's', got = 0;

	assert_returns(send(from, &byte, 1, 0), 1);
	assert_returns(recv(to, &got, 1, 0), 1);
	assert_that(got == byte);
}

void pair_wait_bound(struct pair *pair)
{
	int64_t deadline = now_ms() + 1000;
	struct rlm_info a, b;

	if (!carrier_accelerates())
		return;
	do {
		assert_returns(rlm_socket_info(pair->a, &a), 0);
		assert_returns(rlm_socket_info(pair->b, &b), 0);
		if ((a.why == RLM_WHY_WAITING || a.why == RLM_WHY_ACCELERATED) &&
		    (b.why == RLM_WHY_WAITING || b.why == RLM_WHY_ACCELERATED))
			return;
		nap_ms(1);
	} while (now_ms() < deadline);
}

void pair_touch(struct pair *pair)
{
	exchange(pair->a, pair->b);
	exchange(pair->b, pair->a);
}

// In promote-mid every third pair goes at once, every third waits until its first send will switch, and every third has
// switched one direction already, so that the cut falls on different places of the tests.
static void settle_partly(struct pair *pair)
{
	switch ((pairs_made++ + getpid()) % 3) {
	case 0:
		return;
	case 1:
		pair_touch(pair);
		pair_wait_bound(pair);
		return;
	default:
		pair_touch(pair);
		pair_wait_bound(pair);
		exchange(pair->a, pair->b);
		return;
	}
}

static void touch_until_used(struct pair *pair)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	while (!on_ring(pair->a) || !on_ring(pair->b)) {
		if (now_ms() > deadline) {
			describe(pair->a, "a");
			describe(pair->b, "b");
			check_failed(__FILE__, __LINE__, "not promoted after %d ms", DEADLINE_MS);
		}
		pair_touch(pair);
		nap_ms(1);
	}
}

void pair_settle(struct pair *pair)
{
	if (carrier() == CARRIER_PROMOTE_MID)
		settle_partly(pair);
	else if (carrier_accelerates())
		touch_until_used(pair);
}

void pair_check_ring(struct pair *pair)
{
	if (!carrier_is_ring())
		return;
	if (on_ring(pair->a) && on_ring(pair->b))
		return;
	describe(pair->a, "a");
	describe(pair->b, "b");
	check_failed(__FILE__, __LINE__, "left the ring");
}

void pair_check_used(struct pair *pair, uint64_t bytes)
{
	struct rlm_info info;
	int fds[] = {pair->a, pair->b};

	if (!carrier_accelerates())
		return;
	// The transfer may have been over before its promotion came; then that comes now.
	if (carrier() == CARRIER_PROMOTE_MID) {
		set_nonblocking(pair->a, false);
		set_nonblocking(pair->b, false);
		touch_until_used(pair);
	}
	for (int i = 0; i < 2; i++) {
		assert_returns(rlm_socket_info(fds[i], &info), 0);
		if (carrier_is_ring() && (info.tx_bytes_ring < bytes || info.rx_bytes_ring < bytes)) {
			describe(fds[i], i ? "b" : "a");
			check_failed(__FILE__, __LINE__, "%llu bytes did not all take the ring",
				     (unsigned long long)bytes);
		}
		if (!info.tx_bytes_ring || !info.rx_bytes_ring) {
			describe(fds[i], i ? "b" : "a");
			check_failed(__FILE__, __LINE__, "nothing took the ring");
		}
	}
}

// The leader sends 's'; the other answers 'y' when it has both directions on the ring, else 'n'. The leader ends it
// with 'g'.
void peer_settle(int fd, bool leads)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	char byte;

	if (!carrier_accelerates() || carrier() == CARRIER_PROMOTE_MID)
		return;
	if (!leads) {
		for (;;) {
			assert_returns(recv(fd, &byte, 1, 0), 1);
			if (byte == 'g')
				return;
			byte = on_ring(fd) ? 'y' : 'n';
			assert_returns(send(fd, &byte, 1, 0), 1);
		}
	}
	do {
		if (now_ms() > deadline) {
			describe(fd, "leader");
			check_failed(__FILE__, __LINE__, "not promoted after %d ms", DEADLINE_MS);
		}
		nap_ms(1);
		assert_returns(send(fd, "s", 1, 0), 1);
		assert_returns(recv(fd, &byte, 1, 0), 1);
	} while (byte != 'y' || !on_ring(fd));
	assert_returns(send(fd, "g", 1, 0), 1);
}

void peer_start(struct peer *peer, int family, void (*fn)(int fd, void *arg), void *arg)
{
	int listener = listener_open(family);

	assert_that(listener >= 0);
	fflush(NULL);
	peer->pid = fork();
	assert_that(peer->pid >= 0);
	if (peer->pid == 0) {
		int fd = listener_connect(listener);
		close(listener);
		peer_settle(fd, false);
		fn(fd, arg);
		_exit(0);
	}
	peer->fd = accept(listener, NULL, NULL);
	assert_that(peer->fd >= 0);
	close(listener);
	peer_settle(peer->fd, true);
}

void child_finish(pid_t pid)
{
	int64_t deadline = now_ms() + DEADLINE_MS;
	int status;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (now_ms() > deadline) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			check_failed(__FILE__, __LINE__, "the child process does not end");
		}
		nap_ms(1);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		check_failed(__FILE__, __LINE__, "the child process ended with wait status %#x", status);
}

void peer_finish(struct peer *peer)
{
	if (peer->fd >= 0)
		close(peer->fd);
	peer->fd = -1;
	child_finish(peer->pid);
}

// -- bytes --

static uint64_t pattern_word(uint32_t seed, uint64_t index)
{
	uint64_t z = (index + 1 + ((uint64_t)seed << 32)) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	return z ^ (z >> 27);
}

void pattern_fill(void *buffer, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char *bytes = buffer;

	for (size_t i = 0; i < size; i++)
		bytes[i] = pattern_word(seed, (offset + i) >> 3) >> ((offset + i) & 7) * 8;
}

void pattern_check(const void *buffer, uint32_t seed, uint64_t offset, size_t size)
{
	const unsigned char *bytes = buffer;

	for (size_t i = 0; i < size; i++) {
		unsigned char want = pattern_word(seed, (offset + i) >> 3) >> ((offset + i) & 7) * 8;
		if (bytes[i] != want)
			check_failed(__FILE__, __LINE__, "byte %llu of stream %u is %#x, not %#x",
				     (unsigned long long)(offset + i), seed, bytes[i], want);
	}
}

unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

void send_pattern(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char buffer[8192];

	while (size) {
		size_t part = size < sizeof(buffer) ? size : sizeof(buffer);
		ssize_t sent;

		pattern_fill(buffer, seed, offset, part);
		sent = send(fd, buffer, part, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLOUT, DEADLINE_MS));
			continue;
		}
		assert_that(sent > 0);
		offset += sent;
		size -= sent;
	}
}

void recv_pattern(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char buffer[8192];

	while (size) {
		ssize_t got = recv(fd, buffer, size < sizeof(buffer) ? size : sizeof(buffer), 0);

		if (got < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
			continue;
		}
		assert_that(got > 0);
		pattern_check(buffer, seed, offset, got);
		offset += got;
		size -= got;
	}
}

void recv_end(int fd)
{
	char byte;

	assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
	assert_returns(recv(fd, &byte, 1, 0), 0);
}

void send_text(int fd, const char *text)
{
	assert_returns(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

void recv_text(int fd, const char *text)
{
	char buffer[4096];
	size_t want = strlen(text), have = 0;

	assert_that(want < sizeof(buffer));
	while (have < want) {
		ssize_t got = recv(fd, buffer + have, want - have, 0);
		if (got < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
			continue;
		}
		assert_that(got > 0);
		have += got;
	}
	assert_bytes(buffer, text, want);
}

bool wait_for(int fd, short events, int timeout_ms)
{
	struct pollfd item = {.fd = fd, .events = events};

	return poll(&item, 1, timeout_ms) == 1 && (item.revents & events);
}

size_t fill_socket(int fd, uint32_t seed)
{
	unsigned char buffer[4096];
	size_t total = 0;

	for (;;) {
		ssize_t sent;

		pattern_fill(buffer, seed, total, sizeof(buffer));
		sent = send(fd, buffer, sizeof(buffer), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0) {
			total += sent;
			continue;
		}
		assert_that(sent == -1 && errno == EAGAIN);
		// TCP moves queued bytes to the peer for a moment yet.
		if (!wait_for(fd, POLLOUT, QUIET_MS))
			return total;
	}
}

void drain_socket(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	recv_pattern(fd, seed, offset, size);
	assert_that(!wait_for(fd, POLLIN, 0));
}

void set_nonblocking(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	assert_that(flags >= 0);
	assert_returns(fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 0);
}

void set_timeout(int fd, int option, int ms)
{
	struct timeval time = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	assert_returns(setsockopt(fd, SOL_SOCKET, option, &time, sizeof(time)), 0);
}

// -- tests --

int setup_fresh(void **state)
{
	int family = *(int *)*state;
	struct pair *pair = malloc(sizeof(*pair));

	assert_that(pair);
	pair_open(pair, family);
	*state = pair;
	return 0;
}

int setup_settled(void **state)
{
	setup_fresh(state);
	pair_settle(*state);
	return 0;
}

int teardown_pair(void **state)
{
	pair_close(*state);
	free(*state);
	return 0;
}

static bool has_ipv6(void)
{
	int listener = listener_open(AF_INET6);

	if (listener < 0)
		return false;
	close(listener);
	return true;
}

int suite_main(int argc, char **argv, const struct CMUnitTest *tests, size_t count)
{
	main_thread = pthread_self();
	main_pid = getpid();
	carrier();
	if (!has_ipv6())
		cmocka_set_skip_filter("*/6");
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		for (size_t i = 0; i < count; i++)
			puts(tests[i].name);
		return 0;
	}
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return _cmocka_run_group_tests(argv[0], tests, count, NULL, NULL) ? 1 : 0;
}
