// SPDX-License-Identifier: BSD-2-Clause
// Checked streams, both ways at a time, at a steady pace. Tells every second how much came, and each time in which nothing came, if it was long.
//
//   xen-stream serve PORT                     one connection
//   xen-stream run ADDRESS PORT SECONDS
//
// Every position of a stream has its byte. Each end sends until SECONDS are over or SIGTERM comes, or until its peer's stream has ended, then how much that was, in
// eight bytes, then the end of the stream. Fails on the first byte that is wrong, missing or too many, and on any error.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE	 32768 // at most; half of them have less than 200 bytes
#define PAUSE_NS 40000000 // some 50 kB/s each way: more is more than TCP carries between emulated domains that have other streams, too
#define LONG	 0.1 // s

static int sock;
static double until; // 0: as long as the peer
static atomic_bool over;
static uint64_t sent;

static _Noreturn void fail(const char *what, uint64_t at, const char *why)
{
	printf("failed: %s at %llu: %s\n", what, (unsigned long long)at, why);
	fflush(stdout);
	while (!atomic_load(&over)) // keeps what it has until it is told to end
		poll(NULL, 0, 100);
	_exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void pattern(uint8_t *to, uint64_t position, size_t size, uint64_t seed)
{
	for (uint64_t end = position + size; position < end;) {
		uint64_t x = position / 8 * 0x9e3779b97f4a7c15 + seed;

		x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
		x = (x ^ x >> 27) * 0x94d049bb133111eb;
		x ^= x >> 31;
		do
			*to++ = (uint8_t)(x >> 8 * (position % 8));
		while (++position % 8 && position < end);
	}
}

static void send_all(const uint8_t *data, size_t size, uint64_t at)
{
	while (size) {
		ssize_t n = send(sock, data, size, MSG_NOSIGNAL);

		if (n < 0)
			fail("send", at, strerror(errno));
		data += n;
		size -= (size_t)n;
	}
}

static void *sender(void *seed)
{
	const struct timespec pause = {.tv_nsec = PAUSE_NS};
	uint8_t data[PIECE];
	uint64_t position = 0;
	unsigned state = (unsigned)*(uint64_t *)seed;

	while (!atomic_load(&over) && (until == 0 || now() < until)) {
		size_t size = PIECE >> rand_r(&state) % 16;

		size -= (size_t)rand_r(&state) % size;
		pattern(data, position, size, *(uint64_t *)seed);
		send_all(data, size, position);
		position += size;
		nanosleep(&pause, NULL);
	}
	send_all((uint8_t *)&position, sizeof(position), position);
	if (shutdown(sock, SHUT_WR))
		fail("shutdown", position, strerror(errno));
	sent = position;
	return NULL;
}

// The kernel tells an error once: after the sender's thread was told of a reset, a receive finds an end.
static const char *why_it_ends(void)
{
	struct tcp_info info = {0};
	socklen_t size = sizeof(info);

	getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &size);
	return info.tcpi_state == TCP_CLOSE ? strerror(ECONNRESET) : "the end comes where it should not";
}

struct heard {
	double last, told, longest;
};

static void heard(struct heard *heard, uint64_t position)
{
	double at = now(), pause = at - heard->last;

	if (pause > LONG)
		printf("pause %.0f ms\n", pause * 1e3);
	if (at - heard->told > 1) {
		printf("at %llu\n", (unsigned long long)position);
		heard->told = at;
	}
	fflush(stdout);
	if (pause > heard->longest)
		heard->longest = pause;
	heard->last = at;
}

// What comes before the last eight bytes is the stream.
static uint64_t receive(uint64_t seed, struct heard *pauses)
{
	uint8_t data[2 * PIECE + 8], right[2 * PIECE];
	uint64_t position = 0, told;
	size_t kept = 0;

	for (;;) {
		ssize_t n = recv(sock, data + kept, 2 * PIECE, 0);

		if (n < 0)
			fail("recv", position, strerror(errno));
		if (n == 0)
			break;
		heard(pauses, position);
		kept += (size_t)n;
		if (kept > 8) {
			pattern(right, position, kept - 8, seed);
			if (memcmp(data, right, kept - 8) != 0)
				fail("recv", position, "a wrong byte from there on");
			position += kept - 8;
			memmove(data, data + kept - 8, 8);
			kept = 8;
		}
	}
	memcpy(&told, data, sizeof(told));
	if (kept != 8 || told != position)
		fail("recv", position, why_it_ends());
	return position;
}

static void both(uint64_t send_seed, uint64_t receive_seed)
{
	struct heard pauses = {.last = now()};
	pthread_t thread;
	uint64_t got;

	if (pthread_create(&thread, NULL, sender, &send_seed))
		fail("thread", 0, "cannot be made");
	got = receive(receive_seed, &pauses);
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	printf("exact: sent %llu got %llu longest pause %.0f ms\n", (unsigned long long)sent, (unsigned long long)got, pauses.longest * 1e3);
}

static void serve(uint16_t port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1))
		fail("listen", 0, strerror(errno));
	sock = accept(listener, NULL, NULL);
	if (sock < 0)
		fail("accept", 0, strerror(errno));
	both(2, 1);
}

static void run(const char *host, uint16_t port, double seconds)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};

	until = now() + seconds;
	sock = socket(AF_INET, SOCK_STREAM, 0);
	if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || connect(sock, (struct sockaddr *)&address, sizeof(address)))
		fail("connect", 0, strerror(errno));
	both(1, 2);
}

static void on_term(int number)
{
	atomic_store(&over, true);
}

int main(int argc, char **argv)
{
	struct sigaction term = {.sa_handler = on_term, .sa_flags = SA_RESTART};

	sigaction(SIGTERM, &term, NULL);
	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		serve((uint16_t)atoi(argv[2]));
	else if (argc == 5 && strcmp(argv[1], "run") == 0)
		run(argv[2], (uint16_t)atoi(argv[3]), atof(argv[4]));
	else
		return 2;
	return 0;
}
