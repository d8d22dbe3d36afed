// SPDX-License-Identifier: BSD-2-Clause
// Starts a real rlmd on a socket of its own and speaks the raw protocol with it, with real TCP sockets as offers.
#ifndef BROKER_HARNESS_H
#define BROKER_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <cmocka.h>

#include "rlm/layout.h"
#include "rlm/proto.h"
#include "rlm/rlm.h"
#include "rlm/stat.h"

#define CAPACITY 32768u

struct broker {
	pid_t pid;
	char directory[64];
	char socket[96];
	char config[96];
};

// config: text of its configuration, NULL for none. Waits until it answers.
void broker_start(struct broker *broker, const char *config);
// The same as an ordinary user, without capabilities.
void broker_start_unprivileged(struct broker *broker, const char *config);
// SIGTERM, and it must end well.
void broker_stop(struct broker *broker);
void broker_kill(struct broker *broker);
// After that, at the same place.
void broker_again(struct broker *broker);
void broker_config(struct broker *broker, const char *config);
bool broker_lives(const struct broker *broker);
// The output of a program with these arguments, to be freed; its exit status must be as given.
char *output_of(int status, const char *program, ...);
// Runs a shell command; true if it succeeded.
bool shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A process's session, as librlm would have it.
struct peer {
	int sock;
	bool broker_looks_up; // RLM_WELCOME_LOOKUP
	int table_fd;
	struct rlm_table_shared *table;
	struct rlm_tickets_shared *tickets;
	struct rlm_conn_stat *entries;
	const struct rlm_location_shared *location;
	int offered[64]; // the sockets offered last, by index, in case that the broker wants to see one again
};

int broker_connect(const struct broker *broker);
void peer_open(struct peer *peer, const struct broker *broker, const char *command);
void peer_close(struct peer *peer);
void message_send(int sock, const void *msg, size_t size, const int *fds, unsigned fd_count);
// Sends HELLO with these descriptors; the answer is up to the caller.
void hello_send(int sock, int table_fd, int tickets_fd, const char *command);

// The next message, within a second or so; 0 when there is none, -1 at the end of the session. fds: room for
// RLM_MSG_FDS_MAX, -1 where there is none.
int message_receive(int sock, union rlm_msg *msg, int *fds, int milliseconds);
// It must be of this type. What comes before it is answered, or passed over, as a process would.
void message_expect(struct peer *peer, uint16_t type, union rlm_msg *msg, int *fds);
void silence_expect(struct peer *peer);
void end_expect(int sock);

void offer(struct peer *peer, uint32_t index, enum rlm_name_how how, int tcp);
// Offers and takes NAMED, which must say why.
void offer_named(struct peer *peer, uint32_t index, enum rlm_name_how how, int tcp, enum rlm_why why);
void withdraw(struct peer *peer, uint32_t index);
void note_expect(struct peer *peer, uint32_t index, enum rlm_why why, bool again);

// What one end of a matched connection gets.
struct bound {
	struct rlm_msg_link link;	// link.link 0: no new link
	struct rlm_msg_segment segment; // link 0: no new segment
	struct rlm_msg_bind bind;
	int link_fds[RLM_MSG_FDS_MAX];
	int fds[RLM_MSG_FDS_MAX];
};
enum { FD_RW, FD_RO, FD_MINE, FD_PEER };
void bound_expect(struct peer *peer, struct bound *bound);
void bound_close(struct bound *bound);
void release(struct peer *peer, const struct bound *bound);
void leave_expect(struct peer *peer, const struct bound *bound);
void left(struct peer *peer, const struct bound *bound);

// Two ends of one TCP connection: [0] connected, [1] accepted.
void tcp_pair(int family, const char *address, int tcp[2]);
// Both ends at this address; a port of 0 is one that the kernel picks.
void tcp_pair_at(int family, const char *address, uint16_t port, uint16_t client_port, int tcp[2]);
int tcp_listen(int family, const char *address, uint16_t port);
int tcp_connect(int family, const char *from, uint16_t from_port, const char *to, uint16_t port);
uint16_t tcp_port(int sock);
void close_pair(int tcp[2]);

// Network namespaces of this process. False: not allowed here.
bool netns_new(void); // a fresh one with lo up
bool netns_enter(const char *name);
void netns_back(void);

#endif
