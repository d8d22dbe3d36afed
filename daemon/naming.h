// SPDX-License-Identifier: BSD-2-Clause
// Reads from a socket that a process passed to us what the connection is called. Nothing here is taken from messages.
//
// The 4-tuple is exact within one network namespace, where only one established socket can have it, except where
// addresses are not what they seem:
// - connection tracking translates addresses, so a socket's tuple may belong to two connections at once (one before,
// one after translation)
// - a transparent proxy uses its client's address, so both of its sockets carry reversed tuples of each other without
// being peers
// - a socket bound to a device (VRF, link-local address) shares the tuple with sockets of other devices
// There only initial sequence numbers will do. They are read in repair mode: the process holds both directions still,
// says so by its ticket, and we
//   own  = next sequence number to be written  - bytes written  - 1
//   peer = next sequence number to be received - bytes received - 1
// with the counters unchanged before and after, since the peer goes on sending.
#ifndef RLMD_NAMING_H
#define RLMD_NAMING_H

#include <stdbool.h>
#include <sys/socket.h>

#include "registry.h"
#include "rlm/rlm.h"
#include "rlm/stat.h"

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif
#define STATE_ESTABLISHED 1 // of tcp_info.tcpi_state

enum rlmd_naming {
	RLMD_NAMING_OK,
	RLMD_NAMING_REFUSED, // *why tells the reason; it will not get better
	RLMD_NAMING_AGAIN,   // not at this moment
};

// Fills end->tuple, all but netns. *exact: the tuple may be used as a name.
// isn_possible: this broker could read sequence numbers, so a tracked connection need not be trusted.
enum rlmd_naming rlmd_naming_tuple(int sock, bool isn_possible, struct rlmd_tuple *tuple, bool *exact,
				   enum rlm_why *why);
enum rlmd_naming rlmd_naming_isn(int sock, struct rlmd_isn *isn, enum rlm_why *why);

// An int option of a socket, or -errno.
int rlmd_option_int(int sock, int level, int option);
// SO_COOKIE: no other socket has it, as long as the machine runs. 0: the kernel does not tell.
uint64_t rlmd_socket_cookie(int sock);
// TCP_INFO with the counters that names are made of. False: the kernel lacks them.
struct tcp_info;
bool rlmd_tcp_info(int sock, struct tcp_info *info);

// Tickets, see stat.h. claim: false when the process has given up meanwhile.
bool rlmd_ticket_claim(struct rlm_tickets_shared *tickets, unsigned ticket);
void rlmd_ticket_done(struct rlm_tickets_shared *tickets, unsigned ticket);

// Takes a socket out of repair mode that a broker left in it. 0, also if it is not in repair mode, or -errno.
int rlmd_naming_repair(int sock);
// Whether we may use repair mode at all.
bool rlmd_naming_isn_possible(void);

#endif
