// SPDX-License-Identifier: BSD-2-Clause
// The helper thread's session with the broker: begun again when it ends, and when a broker sends us to another one.
#include "session.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "binding.h"
#include "broker_client.h"
#include "helper.h"
#include "leaving.h"
#include "location.h"
#include "stream_internal.h"

static struct {
	int fd;
	uint64_t next_connect_ms; // coarse clock
	uint32_t failures;
	uint32_t redirects;
} session = {.fd = -1};

// After chroot() the path means something else, which anybody may have put there. Forked children inherit it; exec begins anew.
static _Atomic bool path_is_gone;

void session_path_ends(void)
{
	path_is_gone = true;
}

bool session_broker_exists(void)
{
	static _Atomic uint64_t checked_ms;
	static _Atomic int exists;
	uint64_t now = sys_ms();

	if (session.fd >= 0)
		return true;
	if (path_is_gone)
		return false;
	if (now - atomic_load_explicit(&checked_ms, memory_order_relaxed) > 300) {
		atomic_store_explicit(&checked_ms, now, memory_order_relaxed);
		atomic_store_explicit(&exists, sys_call4(SYS_faccessat, AT_FDCWD, settings.socket, W_OK, 0) == 0,
				      memory_order_relaxed);
	}
	return atomic_load_explicit(&exists, memory_order_relaxed);
}

void session_over(int error)
{
	log_info("broker is gone (%d), connections go on", error);
	fd_close_internal(session.fd);
	session.fd = -1;
	session.failures = 0;
	session.next_connect_ms = sys_ms() + 50;
	for (uint32_t i = 0; i < arena.table->used; i++) {
		struct rlm_conn *c = &arena.conns[i];
		uint32_t flags = atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_NAMING, memory_order_relaxed);

		if (!(flags & RLM_CONN_OFFERED) || fd_of_conn(c) < 0)
			continue; // nor of this process
		atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_OFFERED, memory_order_relaxed);
		atomic_fetch_or_explicit(&c->flags, RLM_CONN_QUEUED, memory_order_relaxed); // the next broker has to hear of it
	}
	leaving_far();
}

int session_send(const union rlm_msg *msg, int fd)
{
	int r = session.fd < 0 ? -ENOTCONN : broker_send(session.fd, msg, fd);

	if (r < 0 && r != -ENOTCONN)
		session_over(r);
	return r;
}

// The broker reads nothing more from one who does not read its answers.
void session_offer(struct rlm_conn *c)
{
	binding_offer(c);
	while (session_read())
		;
}

void session_offer_queued(void)
{
	for (uint32_t i = 0; i < arena.table->used && session.fd >= 0 && !location->quiesce; i++) {
		struct rlm_conn *c = &arena.conns[i];

		if (conn_generation(&arena, c) & 1 && !c->bound && c->flags & RLM_CONN_QUEUED && fd_of_conn(c) >= 0)
			session_offer(c);
	}
}

bool session_connect_if_due(void)
{
	uint64_t now;
	int fd;

	if (session.fd >= 0)
		return true;
	now = sys_ms();
	if (path_is_gone || now < session.next_connect_ms)
		return false;
	fd = broker_connect();
	if (fd < 0) {
		if (session.failures < 6)
			session.failures++;
		session.next_connect_ms = now + (50u << session.failures); // up to 3.2 s
		return false;
	}
	log_info("connected to broker at %s", settings.socket);
	session.fd = fd;
	session.failures = 0;
	helper_watch_broker(fd);
	binding_broker_is_back();
	return session.fd >= 0;
}

// One packet. false: nothing more to read now.
bool session_read(void)
{
	int fds[RLM_MSG_FDS_MAX];
	union rlm_msg msg;
	int n;

	if (session.fd < 0)
		return false;
	n = broker_receive(session.fd, &msg, fds);
	if (n > 0)
		n = binding_message(&msg, fds) < 0 ? -EPROTO : 1;
	for (unsigned i = 0; i < RLM_MSG_FDS_MAX; i++)
		if (fds[i] >= 0)
			sys_close(fds[i]);
	if (n < 0)
		session_over(n);
	return n > 0;
}

#define REDIRECTS 3 // brokers that send us on, before we take our time

void session_welcome(void)
{
	session.redirects = 0;
	session_offer_queued();
}

void session_move(const char *socket)
{
	static char paths[2][108];
	static unsigned next;
	char *path = paths[next++ % 2];

	snprintf(path, sizeof(paths[0]), "%.*s", (int)sizeof(paths[0]) - 1, socket);
	settings.socket = path;
	session_over(0);
	session.next_connect_ms = ++session.redirects > REDIRECTS ? sys_ms() + 1000 : 0;
}

int session_fd(void)
{
	return session.fd;
}

uint64_t session_next_try_ms(void)
{
	return session.fd >= 0 || path_is_gone ? UINT64_MAX : session.next_connect_ms;
}

void session_forget(void)
{
	fd_close_internal(session.fd);
	session.fd = -1;
	session.next_connect_ms = 0;
}
