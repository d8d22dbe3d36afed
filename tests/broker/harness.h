// SPDX-License-Identifier: BSD-2-Clause
// Starts a real rlmd on a socket of its own and speaks the raw protocol with it, with real TCP sockets as offers.
#ifndef BROKER_HARNESS_H
#define BROKER_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <cmocka.h>

#include "rlm/layout.h"
#include "rlm/proto.h"
#include "rlm/rlm.h"
#include "rlm/stat.h"

#define CAPACITY 32768u
#define PATIENCE 5000 // milliseconds for what should happen at once

// --- harness.c: the broker, and programs beside it ---

struct broker {
	pid_t pid;
	char directory[64];
	char socket[96];
	char config[96];
};

// The one of a test program that needs but one. The two below give it no configuration.
extern struct broker rlmd;
int broker_setup(void **state);
int broker_teardown(void **state);
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
int broker_connect(const struct broker *broker);
unsigned broker_open_files(const struct broker *broker);
// The same when sessions that are over have left nothing: threads of the broker close that, and tell nobody when.
unsigned broker_files_at_rest(const struct broker *broker);
// The output of a program with these arguments, to be freed; its exit status must be as given.
char *output_of(int status, const char *program, ...);
// Runs a shell command; true if it succeeded.
bool shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

double seconds(void);
void pause_ms(long milliseconds);
// Waits for what no event tells.
#define eventually(condition)                                                                                          \
	do {                                                                                                           \
		double give_up = seconds() + PATIENCE / 1000.0;                                                        \
		while (!(condition)) {                                                                                 \
			if (seconds() > give_up)                                                                       \
				fail_msg("does not come true: %s", #condition);                                        \
			pause_ms(10);                                                                                  \
		}                                                                                                      \
	} while (0)

// --- harness_peer.c: sessions ---

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

void peer_open(struct peer *peer, const struct broker *broker, const char *command);
void peer_close(struct peer *peer); // a second time: does nothing
void message_send(int sock, const void *msg, size_t size, const int *fds, unsigned fd_count);
// Sends HELLO with these descriptors; the answer is up to the caller.
void hello_send(int sock, int table_fd, int tickets_fd, const char *command);

// The next message, within a second or so; 0 when there is none, -1 at the end of the session. fds: room for
// RLM_MSG_FDS_MAX, -1 where there is none.
int message_receive(int sock, union rlm_msg *msg, int *fds, int milliseconds);
void fds_close(int fds[RLM_MSG_FDS_MAX]);
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
void bound_close(struct bound *bound); // a second time: does nothing
void release(struct peer *peer, const struct bound *bound);
void leave_expect(struct peer *peer, const struct bound *bound);
void left(struct peer *peer, const struct bound *bound);

// Each of two peers offers its end, by addresses, as connection `index`; both are bound.
void both_offer(struct peer *a, struct peer *b, uint32_t index, const int tcp[2]);
void both_bound(struct peer *a, struct peer *b, struct bound *at_a, struct bound *at_b);

// Two peers and a connection between them.
struct couple {
	struct peer a, b;
	int tcp[2];
	struct bound at_a, at_b;
};
void couple_open(struct couple *couple, const struct broker *broker); // nothing is offered yet
void couple_bind(struct couple *couple);
void couple_close(struct couple *couple); // what of it is still open

// A couple finds together there.
void broker_works(const struct broker *broker);

// --- harness_tcp.c: sockets and namespaces ---

// Two ends of one TCP connection: [0] connected, [1] accepted.
void tcp_pair(int family, const char *address, int tcp[2]);
// Both ends at this address; a port of 0 is one that the kernel picks.
void tcp_pair_at(int family, const char *address, uint16_t port, uint16_t client_port, int tcp[2]);
int tcp_listen(int family, const char *address, uint16_t port);
int tcp_connect(int family, const char *from, uint16_t from_port, const char *to, uint16_t port);
uint16_t tcp_port(int sock);
void close_pair(int tcp[2]); // what of it is still open
// Waits until poll tells one of these.
void tcp_await(int sock, short events);

// Network namespaces of this process. False: not allowed here.
bool netns_new(void); // a fresh one with lo up
bool netns_enter(const char *name);
void netns_back(void);

#endif
