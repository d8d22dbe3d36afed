// SPDX-License-Identifier: BSD-2-Clause
// A worker process: makes or accepts connections, with threads for each or with an event loop.
#include "chaos.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

_Noreturn void worker_fail(struct board *board, const char *format, ...)
{
	va_list ap;

	if (!atomic_exchange(&board->failed, true)) {
		va_start(ap, format);
		vsnprintf(board->error, sizeof(board->error), format, ap);
		va_end(ap);
	}
	_exit(3);
}

static struct addrinfo *worker_address(struct worker *worker)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *info;
	int err = getaddrinfo(worker->address, worker->port, &hints, &info);

	if (err)
		worker_fail(worker->board, "%s: %s", worker->address, gai_strerror(err));
	return info;
}

int worker_connect(struct worker *worker, uint32_t *record)
{
	struct board *board = worker->board;
	uint32_t number = atomic_fetch_add(&board->records, 1);
	struct header header = {.magic = HEADER_MAGIC, .record = number};
	struct addrinfo *info;
	int fd, err, one = 1;

	if (number >= BOARD_RECORDS)
		worker_fail(board, "out of records");
	board->record[number].kills = board->server_kills[worker->pair];
	board->record[number].seed = mix(worker->seed + number) | 1;
	board->record[number].end[CLIENT].incarnation = worker->self; // the server may see us killed before we have a flow
	info = worker_address(worker);
	fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		worker_fail(board, "socket: %s", strerror(errno));
	err = connect(fd, info->ai_addr, info->ai_addrlen);
	freeaddrinfo(info);
	// Without a server the connection does not come about, or ends before it began.
	if (err < 0 || send(fd, &header, sizeof(header), MSG_NOSIGNAL) != sizeof(header)) {
		close(fd);
		usleep(10000);
		return -1;
	}
	if (number % 3)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*record = number;
	return fd;
}

int worker_accept(struct worker *worker, int listener, uint32_t *record)
{
	struct header header;
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = recv(fd, &header, sizeof(header), MSG_WAITALL);
	if (n != sizeof(header)) {
		// Its client was killed in between.
		close(fd);
		return -1;
	}
	if (header.magic != HEADER_MAGIC || header.record >= BOARD_RECORDS ||
	    !worker->board->record[header.record].seed)
		worker_fail(worker->board, "a connection begins with wrong bytes: %08x %08x", header.magic,
			    header.record);
	*record = header.record;
	return fd;
}

static int worker_listen(struct worker *worker)
{
	struct addrinfo *info = worker_address(worker);
	int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, 64) < 0)
		worker_fail(worker->board, "listen on %s port %s: %s", worker->address, worker->port, strerror(errno));
	freeaddrinfo(info);
	return fd;
}

// --- threads

static void *sender_main(void *arg)
{
	struct flow *flow = arg;
	enum flow_result result;

	do {
		unsigned pause = flow_pause(flow, &flow->tx_rng);

		if (pause)
			usleep(pause * 1000);
		result = flow_send(flow, true);
	} while (result == FLOW_MOVED || result == FLOW_BLOCKED);
	return NULL;
}

static void flow_main(struct flow *flow)
{
	bool polls = flow->worker->style == MIXED;
	struct pollfd pfd = {.fd = flow->fd, .events = POLLIN};
	enum flow_result result;
	pthread_t sender;

	if (pthread_create(&sender, NULL, sender_main, flow) != 0)
		worker_fail(flow->worker->board, "out of threads");
	do {
		unsigned pause = flow_pause(flow, &flow->rx_rng);

		if (pause)
			usleep(pause * 1000);
		if (polls && poll(&pfd, 1, -1) < 0 && errno != EINTR)
			worker_fail(flow->worker->board, "poll: %s", strerror(errno));
		result = flow_receive(flow, !polls);
	} while (result == FLOW_MOVED || result == FLOW_BLOCKED);
	pthread_join(sender, NULL);
	flow_free(flow);
}

static void *client_main(void *arg)
{
	struct worker *worker = arg;
	uint32_t record;

	while (!worker->board->stop) {
		int fd = worker_connect(worker, &record);

		if (fd >= 0)
			flow_main(flow_new(worker, record, fd));
	}
	return NULL;
}

// Threads of accepted connections.
static struct {
	pthread_mutex_t lock;
	pthread_cond_t none;
	unsigned count;
} accepted = {.lock = PTHREAD_MUTEX_INITIALIZER, .none = PTHREAD_COND_INITIALIZER};

static void *accepted_main(void *arg)
{
	flow_main(arg);
	pthread_mutex_lock(&accepted.lock);
	if (--accepted.count == 0)
		pthread_cond_signal(&accepted.none);
	pthread_mutex_unlock(&accepted.lock);
	return NULL;
}

static void run_server_threads(struct worker *worker, int listener)
{
	struct pollfd pfds[] = {{.fd = listener, .events = POLLIN}, {.fd = STOP_FD, .events = POLLIN}};
	uint32_t record;

	while (poll(pfds, 2, -1) > 0 && !pfds[1].revents) {
		int fd = worker_accept(worker, listener, &record);
		pthread_t thread;

		if (fd < 0)
			continue;
		pthread_mutex_lock(&accepted.lock);
		accepted.count++;
		pthread_mutex_unlock(&accepted.lock);
		if (pthread_create(&thread, NULL, accepted_main, flow_new(worker, record, fd)) != 0)
			worker_fail(worker->board, "out of threads");
		pthread_detach(thread);
	}
	pthread_mutex_lock(&accepted.lock);
	while (accepted.count)
		pthread_cond_wait(&accepted.none, &accepted.lock);
	pthread_mutex_unlock(&accepted.lock);
}

static _Noreturn void worker_run(struct worker *worker)
{
	int listener = worker->side == SERVER ? worker_listen(worker) : -1;
	pthread_t thread[64];

	if (worker->style != THREADS && worker->style != MIXED) {
		loop_run(worker, listener);
	} else if (worker->side == SERVER) {
		run_server_threads(worker, listener);
	} else {
		for (unsigned i = 0; i < worker->connections; i++)
			if (pthread_create(&thread[i], NULL, client_main, worker) != 0)
				worker_fail(worker->board, "out of threads");
		for (unsigned i = 0; i < worker->connections; i++)
			pthread_join(thread[i], NULL);
	}
	exit(0);
}

int worker_main(int argc, char **argv)
{
	static struct worker worker;
	const struct incarnation *incarnation;

	if (argc != 7)
		return 2;
	worker.board = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED, BOARD_FD, 0);
	if (worker.board == MAP_FAILED)
		return 2;
	signal(SIGPIPE, SIG_IGN);
	worker.self = (uint32_t)strtoul(argv[1], NULL, 10);
	worker.seed = strtoull(argv[2], NULL, 10);
	worker.connections = (unsigned)strtoul(argv[3], NULL, 10);
	worker.calm = argv[4][0] == '1';
	worker.address = argv[5];
	worker.port = argv[6];
	incarnation = &worker.board->incarnation[worker.self];
	worker.side = incarnation->side;
	worker.style = incarnation->style;
	worker.pair = incarnation->pair;
	worker_run(&worker);
}
