// SPDX-License-Identifier: BSD-2-Clause
// The server: accepts, tells control from data connections, and runs its side of each test.
//
// Sessions (tests under way) are in a list under one lock. A control connection has a thread that owns its session.
// Accepting threads attach data connections to sessions, and serve crr connections themselves, holding a use of the
// session meanwhile.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "control.h"
#include "crr.h"
#include "options.h"
#include "result.h"

#define GREETING_SECONDS 10
#define ATTACH_SECONDS	 10

struct session {
	struct session *next; // server::sessions
	uint64_t token;
	struct bench_params params;
	struct bench_run *run;
	unsigned attached;
	unsigned users; // accepting threads inside crr_serve()
	bool started;	// attaches nothing any more
	uint64_t served;
	struct rlm_info info;
	int status;
};

static struct server {
	const struct server_options *options;
	int listener;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct session *sessions;
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct session *session_find(uint64_t token)
{
	struct session *s = server.sessions;

	while (s && s->token != token)
		s = s->next;
	return s;
}

static struct session *session_new(const struct bench_params *p)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->params = *p;
	if (getrandom(&s->token, sizeof(s->token), 0) != sizeof(s->token))
		goto err_session;
	if (p->mode != MODE_CRR) {
		s->run = run_new(&s->params, SIDE_SERVER);
		if (!s->run)
			goto err_session;
	}
	pthread_mutex_lock(&server.lock);
	s->next = server.sessions;
	server.sessions = s;
	pthread_mutex_unlock(&server.lock);
	return s;

err_session:
	free(s);
	return NULL;
}

static void session_free(struct session *s)
{
	struct session **at = &server.sessions;

	pthread_mutex_lock(&server.lock);
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	while (s->users)
		pthread_cond_wait(&server.changed, &server.lock);
	pthread_mutex_unlock(&server.lock);
	if (s->run)
		run_free(s->run);
	free(s);
}

// Gives the connection to its session. 0: it belongs there now; -errno: the caller closes it.
static int session_attach(const struct greeting *g, int fd, int memfd)
{
	struct session *s;
	struct bench_conn *c;
	int r = -ENOENT;

	pthread_mutex_lock(&server.lock);
	s = session_find(g->token);
	if (!s || !s->run || s->started || g->index >= s->params.parallel)
		goto out;
	c = &s->run->conns[g->index];
	if (c->fd >= 0 || (s->params.ring_size != 0) != (memfd >= 0))
		goto out;
	if (memfd >= 0) {
		c->ring = ring_end_attach(s->params.ring_size, fd, memfd);
		r = -errno;
		if (!c->ring)
			goto out;
	}
	c->fd = fd;
	s->attached++;
	pthread_cond_broadcast(&server.changed);
	r = 0;
out:
	pthread_mutex_unlock(&server.lock);
	return r;
}

static int session_wait_attached(struct session *s)
{
	struct timespec until;
	int e = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ATTACH_SECONDS;
	pthread_mutex_lock(&server.lock);
	while (s->attached < s->params.parallel && e == 0)
		e = pthread_cond_timedwait(&server.changed, &server.lock, &until);
	s->started = true;
	pthread_mutex_unlock(&server.lock);
	return -e;
}

static void serve_crr(const struct greeting *g, int fd)
{
	struct session *s;
	struct rlm_info info = {0};
	uint8_t *buffer;
	bool look;
	int r;

	pthread_mutex_lock(&server.lock);
	s = session_find(g->token);
	if (s)
		s->users++;
	pthread_mutex_unlock(&server.lock);
	if (!s)
		return;
	look = s->served == 0;
	buffer = malloc(s->params.size + s->params.response);
	r = buffer ? crr_serve(fd, &s->params, g->index, buffer, look ? &info : NULL) : -ENOMEM;
	free(buffer);
	pthread_mutex_lock(&server.lock);
	if (look)
		s->info = info;
	if (r < 0 && !s->status)
		s->status = r;
	s->served++;
	if (--s->users == 0)
		pthread_cond_broadcast(&server.changed);
	pthread_mutex_unlock(&server.lock);
}

static bool expect(int fd, const char *word)
{
	json_t *json = control_receive(fd);
	bool is = json_is_true(json_object_get(json, word));

	json_decref(json);
	return is;
}

static json_t *crr_result(const struct session *session, const struct bench_cpu *from)
{
	struct session found, *s = &found;
	struct bench_cpu cpu = cpu_since(*from);
	struct carrier_sum carrier = {0};
	json_t *side = json_object();

	pthread_mutex_lock(&server.lock);
	while (session->users)
		pthread_cond_wait(&server.changed, &server.lock);
	found = *session;
	pthread_mutex_unlock(&server.lock);
	carrier_add(&carrier, &s->info);
	json_object_set_new(side, "cpu", result_of_cpu(&cpu));
	json_object_set_new(side, "carrier", carrier_to_json(&carrier));
	json_object_set_new(side, "served", json_integer((json_int_t)s->served));
	if (s->status) {
		json_object_set_new(
		    side, "error",
		    json_string(s->status == -EILSEQ ? "client to server: wrong data" : strerror(-s->status)));
		json_object_set_new(side, "wrong_data", json_boolean(s->status == -EILSEQ));
	}
	return side;
}

// From start to result. false when the client has gone.
static bool session_run(struct session *s, int fd)
{
	struct bench_cpu cpu;
	int r;

	if (!expect(fd, "start"))
		return false;
	if (s->run) {
		r = session_wait_attached(s);
		if (r == 0)
			r = run_start(s->run);
		if (r < 0) {
			control_send(fd, json_pack("{s:s}", "error", strerror(-r)));
			return false;
		}
	}
	cpu = cpu_now();
	control_send(fd, json_pack("{s:b}", "started", 1));
	if (s->run)
		run_join(s->run);
	if (!expect(fd, "finish"))
		return false;
	return control_send(fd, s->run ? result_of_side(s->run) : crr_result(s, &cpu)) == 0;
}

static void session_talk(int fd)
{
	struct bench_params p;
	struct session *s;
	char token[32];
	json_t *json = control_receive(fd);
	const char *wrong = json ? params_from_json(&p, json) : "malformed test description";

	json_decref(json);
	s = wrong ? NULL : session_new(&p);
	if (!s) {
		control_send(fd, json_pack("{s:s}", "error", wrong ? wrong : "out of memory"));
		return;
	}
	snprintf(token, sizeof(token), "%016llx", (unsigned long long)s->token);
	if (control_send(fd, json_pack("{s:s}", "token", token)) == 0)
		session_run(s, fd);
	session_free(s);
}

static void *control_main(void *arg)
{
	int fd = (int)(intptr_t)arg;

	session_talk(fd);
	close(fd);
	if (server.options->once)
		shutdown(server.listener, SHUT_RDWR); // accept() returns
	return NULL;
}

static void start_control(int fd)
{
	pthread_t thread;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	net_receive_timeout(fd, 0);
	if (pthread_create(&thread, &attr, control_main, (void *)(intptr_t)fd) != 0)
		close(fd);
	pthread_attr_destroy(&attr);
}

static void greet(int fd)
{
	struct greeting g;
	struct session *s;
	bool crr, nodelay;
	int memfd;

	if (server.options->address.path)
		net_receive_timeout(fd, GREETING_SECONDS); // TCP sockets have it from the listener
	if (greeting_receive(fd, &g, &memfd) < 0)
		goto out;
	if (g.kind == GREETING_CONTROL && memfd < 0) {
		start_control(fd);
		return;
	}
	pthread_mutex_lock(&server.lock);
	s = session_find(g.token);
	crr = s && s->params.mode == MODE_CRR;
	nodelay = s && s->params.nodelay;
	pthread_mutex_unlock(&server.lock);
	if (nodelay)
		net_nodelay(fd);
	if (crr) {
		serve_crr(&g, fd);
	} else {
		net_receive_timeout(fd, 0);
		if (session_attach(&g, fd, memfd) == 0)
			fd = -1;
	}
	if (memfd >= 0)
		close(memfd);
out:
	if (fd >= 0)
		close(fd);
}

static void *accept_main(void *arg)
{
	for (;;) {
		int fd = accept4(server.listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0)
			greet(fd);
		else if (errno == EINVAL || errno == EBADF)
			return NULL; // shut down
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			usleep(10000);
	}
}

static void announce(const struct server_options *o)
{
	unsigned port = net_port(server.listener);

	if (o->ready_fd >= 0) {
		dprintf(o->ready_fd, "%u\n", port);
		close(o->ready_fd);
	}
	if (o->quiet)
		return;
	if (o->address.path)
		printf("listening on %s\n", o->address.path);
	else
		printf("listening on %s port %u\n", o->address.host ? o->address.host : "all addresses,", port);
	fflush(stdout);
}

static volatile sig_atomic_t stopped;

static void on_stop(int sig)
{
	if (stopped)
		_exit(128 + sig);
	stopped = sig;
	shutdown(server.listener, SHUT_RDWR);
}

static void catch_signals(void)
{
	struct sigaction stop = {.sa_handler = on_stop};

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
}

int server_main(const struct server_options *o)
{
	const char *wrong;
	pthread_t thread;

	server.options = o;
	server.listener = net_listen(&o->address, &wrong);
	if (server.listener < 0) {
		fprintf(stderr, "rlm-bench: %s: %s: %s\n", o->address.path ? o->address.path : o->address.port, wrong,
			strerror(-server.listener));
		return EXIT_FAILED;
	}
	net_receive_timeout(server.listener, GREETING_SECONDS);
	catch_signals();
	announce(o);
	for (unsigned i = 1; i < o->threads; i++)
		if (pthread_create(&thread, NULL, accept_main, NULL) == 0)
			pthread_detach(thread);
	accept_main(NULL);
	if (o->address.path)
		unlink(o->address.path);
	return stopped ? 128 + stopped : EXIT_OK;
}
