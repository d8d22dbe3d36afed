// SPDX-License-Identifier: BSD-2-Clause
// Messages between processes (librlm.so, rlmctl) and their broker rlmd, over a UNIX SOCK_SEQPACKET socket.
// One message per packet: struct rlm_msg_header, then the body of its type, at most RLM_MSG_MAX bytes; descriptors by SCM_RIGHTS.
// Both ends are on one kernel: native byte order and alignment. Fixed-width fields only. Unknown types are ignored,
// a short or malformed message ends the session. Every descriptor received is closed by its receiver, also on error.
//
// A conversation:
//   process -> HELLO                       + connection table (read-only), naming tickets (read-write), see stat.h
//   rlmd    -> WELCOME                     + location page fd (read-only)
//   process -> OFFER conn, how             + the socket. The process holds both directions still for how = RLM_NAME_ISN
//   rlmd    -> NAMED conn                  the duplicate is closed, directions may move on. Or NOTE with again = 1, which says the
//                                          same: this was not the moment (why = MATCHING) or not the way (why = NO_PEER: use ISN)
//   ...the other end's offer arrives, maybe much later...
//   rlmd    -> LINK                        + my control doorbell, peer's control doorbell    first connection of this pair only
//   rlmd    -> SEGMENT                     + my region rw, peer's region ro, my doorbell, peer's doorbell
//   rlmd    -> BIND conn, link, segment, slot, epoch
//   process -> RELEASE link, segment, slot, epoch     this end will never touch the slot again
//   rlmd    -> DROP link, segment          nothing is bound there any more: unmap, close
// An offer stands until WITHDRAW, BIND, or the end of the session; rlmd says NOTE why while it does not lead to a BIND.
// BIND for a connection that the process no longer has is answered by RELEASE.
// A process that is both ends of a connection gets everything twice, told apart by `side`.
//
// A link ends at both its ends at a time, for a domain that is going to move or is in another group now:
//   rlmd    -> LEAVE link                  to both processes, and to those forked from them, who may have inherited it
//   process                                takes every connection there back to TCP, where it may be offered again, and unmaps the link
//   process -> LEFT link                   nothing of it is mapped or open any more
// A broker that died left links behind, of which the next one knows what processes tell it:
//   process -> KEPT link                   after WELCOME, for each link of an earlier session that still carries connections
// While the location page says quiesce, a process offers nothing. RESUME: it may again. MOVE: it shall do so at another broker.
#ifndef RLM_PROTO_H
#define RLM_PROTO_H

#include <stdint.h>
#include <sys/ioctl.h>

#define RLM_PROTO_VERSION 2u
#define RLM_MSG_MAX 512u
#define RLM_MSG_FDS_MAX 4u
#define RLM_TEXT_CHUNK 480u
#define RLM_DEFAULT_SOCKET "/run/rlm/rlmd.sock"

enum rlm_msg_type {
	RLM_MSG_HELLO = 1,
	RLM_MSG_WELCOME = 2,
	RLM_MSG_OFFER = 3,
	RLM_MSG_NAMED = 4,
	RLM_MSG_NOTE = 5,
	RLM_MSG_WITHDRAW = 6,
	RLM_MSG_LINK = 7,
	RLM_MSG_SEGMENT = 8,
	RLM_MSG_BIND = 9,
	RLM_MSG_RELEASE = 10,
	RLM_MSG_DROP = 11,
	RLM_MSG_ORDER = 12,   // rlmd -> process: do something to connections (rlmctl demote, tests)
	RLM_MSG_REPAIR = 13,  // process -> rlmd: + a socket that a broker left in repair mode by dying; answered by NAMED
	RLM_MSG_LEAVE = 14,
	RLM_MSG_LEFT = 15,
	RLM_MSG_RESUME = 16,
	RLM_MSG_MOVE = 17, // also instead of WELCOME: the domain is on another host
	RLM_MSG_KEPT = 18,
	RLM_MSG_REQUEST = 20, // rlmctl -> rlmd: JSON text in chunks
	RLM_MSG_REPLY = 21,   // rlmd -> rlmctl: JSON text in chunks
};

struct rlm_msg_header {
	uint16_t type; // enum rlm_msg_type
	uint16_t size; // bytes, header included
	uint32_t reserved;
};

// A connection as its own process calls it: index into the connection table and the generation of that entry.
struct rlm_conn_ref {
	uint32_t index;
	uint32_t generation;
};

enum rlm_name_how {
	RLM_NAME_TUPLE = 0, // what rlmd finds out without disturbing the socket: the 4-tuple, exact within one network namespace, and with luck more
	RLM_NAME_ISN = 1,   // the pair of initial sequence numbers, read in TCP repair mode
};

struct rlm_msg_hello {
	struct rlm_msg_header header;
	uint32_t version;
	uint32_t pid; // as the process itself sees it; for people only
	uint32_t connections; // entries in the table
	uint32_t flags;       // none yet
	char command[32]; // program name, NUL-terminated
};

#define RLM_WELCOME_ISN 0x1u    // this broker can name by RLM_NAME_ISN
#define RLM_WELCOME_LOOKUP 0x2u // and reads most sequence numbers with RLM_NAME_TUPLE already

struct rlm_msg_welcome {
	struct rlm_msg_header header;
	uint32_t version;
	uint32_t flags;  // RLM_WELCOME_*
	uint64_t broker; // random, differs after a restart
};

struct rlm_msg_offer {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
	uint32_t how;    // enum rlm_name_how
	uint32_t ticket; // RLM_NAME_ISN: index of the naming ticket in the table header, see stat.h
};

struct rlm_msg_named {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
	uint32_t why; // 0: it has a name and waits for its peer. RLM_WHY_*: it will not be matched
	uint32_t reserved;
};

// Why an offer has not led anywhere yet. RLM_WHY_NO_PEER with again = 1 asks for a new offer with RLM_NAME_ISN.
struct rlm_msg_note {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
	uint32_t why; // RLM_WHY_*
	uint32_t again;
};

struct rlm_msg_withdraw {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
};

// A socket on which a broker died between switching repair mode on and off. What the broker cannot know, SO_REUSEADDR, the process restores itself.
struct rlm_msg_repair {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
};

struct rlm_msg_link {
	struct rlm_msg_header header;
	uint64_t link; // unique over all brokers that ever ran
	uint32_t side; // 0 or 1
	uint32_t peer_pid; // as rlmd sees it; this and peer_command for people only
	uint64_t location; // of the receiver's domain when the link was made
	uint32_t port[2];  // my control doorbell's, the peer's; 0: it is an eventfd. See below
	char peer_command[32];
};

// Between Xen domains a doorbell is a descriptor of /dev/xen/evtchn with one port bound to it. It is rung by the ioctl below, and
// readable when it rang; then the port has to be read and written back before it can ring again.
struct rlm_evtchn_notify {
	uint32_t port;
};
#define RLM_EVTCHN_NOTIFY _IOC(_IOC_NONE, 'E', 4, sizeof(struct rlm_evtchn_notify))

struct rlm_msg_segment {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t segment; // numbered from 0 within the link
	uint32_t slots;
	uint32_t ring_size;
	uint32_t port[2];   // of my doorbell, of the peer's; 0: eventfds, and the two processes share a kernel and its futexes
	uint64_t offset[2]; // at which my region, the peer's is to be mapped
	uint32_t flags;	    // RLM_SEGMENT_*
	uint32_t reserved;
};

// Not for forked children: those of a PV domain do not inherit the mapping, and nowhere may one that does not answer keep what has to be
// closed before the domain is suspended.
#define RLM_SEGMENT_NO_FORK 0x1u

struct rlm_msg_bind {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn;
	uint64_t link;
	uint32_t side;
	uint32_t segment;
	uint32_t slot;
	uint32_t epoch; // never 0; different for each binding of a slot
};

struct rlm_msg_release {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t segment;
	uint32_t slot;
	uint32_t epoch;
};

// Gives back what a BIND gave.
static inline struct rlm_msg_release rlm_release_of(const struct rlm_msg_bind *bind)
{
	return (struct rlm_msg_release){.header = {.type = RLM_MSG_RELEASE, .size = sizeof(struct rlm_msg_release)},
					.link = bind->link,
					.side = bind->side,
					.segment = bind->segment,
					.slot = bind->slot,
					.epoch = bind->epoch};
}

// Nothing will be bound there any more. The receiver unmaps and closes it when none of its own connections is bound there:
// at once for an idle segment, later when the peer process is gone and bytes are left in the rings. RELEASE stays due for what is bound.
struct rlm_msg_drop {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t segment; // RLM_ALL_SEGMENTS: the link itself
	uint32_t lost;    // 1: the peer's domain is gone. Keep a copy of its region where one is needed, and let go of the memory
	uint32_t reserved;
};
#define RLM_ALL_SEGMENTS UINT32_MAX

struct rlm_msg_leave {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t reserved;
};

struct rlm_msg_left {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t reserved;
};

struct rlm_msg_kept {
	struct rlm_msg_header header;
	uint64_t link;
	uint32_t side;
	uint32_t reserved;
};

struct rlm_msg_resume {
	struct rlm_msg_header header;
};

struct rlm_msg_move {
	struct rlm_msg_header header;
	char socket[108]; // of the other broker, NUL-terminated
};

enum rlm_order {
	RLM_ORDER_DEMOTE = 1,  // back to TCP, and stay there until PROMOTE
	RLM_ORDER_PROMOTE = 2, // undo DEMOTE; offer at once whatever the threshold says
};

struct rlm_msg_order {
	struct rlm_msg_header header;
	struct rlm_conn_ref conn; // index UINT32_MAX: all connections of the process
	uint32_t order;           // enum rlm_order
	uint32_t reserved;
};

// rlmctl's request and rlmd's reply: JSON text in as many packets as it takes; the last one has more = 0.
struct rlm_msg_text {
	struct rlm_msg_header header;
	uint32_t more;
	uint32_t length; // bytes of text used
	char text[RLM_TEXT_CHUNK];
};

union rlm_msg {
	struct rlm_msg_header header;
	struct rlm_msg_hello hello;
	struct rlm_msg_welcome welcome;
	struct rlm_msg_offer offer;
	struct rlm_msg_named named;
	struct rlm_msg_note note;
	struct rlm_msg_withdraw withdraw;
	struct rlm_msg_repair repair;
	struct rlm_msg_link link;
	struct rlm_msg_segment segment;
	struct rlm_msg_bind bind;
	struct rlm_msg_release release;
	struct rlm_msg_drop drop;
	struct rlm_msg_order order;
	struct rlm_msg_leave leave;
	struct rlm_msg_left left;
	struct rlm_msg_kept kept;
	struct rlm_msg_resume resume;
	struct rlm_msg_move move;
	struct rlm_msg_text text;
};

#endif
