// SPDX-License-Identifier: BSD-2-Clause
// What the rlmd of a domain (guest) and the rlmd of dom0 (broker) say to one another over a libxenvchan channel.
//
//   guest  -> HELLO                         first, and again whenever its addresses have changed
//   broker -> WELCOME                       to the first one
//   guest  -> CLIENT number                 a process has a session
//   guest  -> OFFER number, conn, name      a connection that has no peer in its own domain
//   guest  -> MESSAGE number                WITHDRAW, RELEASE or LEFT, as the process would say it
//   broker -> MESSAGE number                LINK, SEGMENT, BIND, DROP, LEAVE, NOTE or ORDER for the process
//   both   -> HALF link, segment            what one side of a link has made for the other; the broker passes it on
//   broker -> ASK; guest -> TELL...         JSON for rlmctl, in chunks
//   guest  -> GONE number
//   guest  -> STATE number, state           a process that is to leave a link is stopped, or held by a debugger
//   broker -> CLOSE                         the domain is about to be suspended: leave what is left, close this channel too, say so in xenstore
//   broker -> RESUME                        it is not, after all
//
// Two domains, one architecture: native byte order. The broker trusts no field; a message that breaks a rule ends the channel.
#ifndef RLMD_XEN_WIRE_H
#define RLMD_XEN_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registry.h"
#include "rlm/proto.h"

#define RLMD_WIRE_VERSION   3u
#define RLMD_WIRE_TEXT	    1024u
#define RLMD_WIRE_ADDRESSES 16u
#define RLMD_WIRE_RING	    4096 // bytes of the channel, each way
// Below a domain's home in xenstore. The guest asks there, see xen_node.h, the broker answers by serving a channel, and says beside it which
// number was asked with. One that was made for an earlier rlmd of the domain is about to be replaced, perhaps by one with the same grant and port:
// libxenvchan's client, which binds the port first, could then have the page of the new one, and the port of none.
#define RLMD_WIRE_ASK_NODE     "data/rlm"
#define RLMD_WIRE_CHANNEL_NODE "rlm/control"
#define RLMD_WIRE_FOR_NODE     RLMD_WIRE_CHANNEL_NODE "/for"

enum rlmd_wire_type {
	RLMD_WIRE_HELLO = 1,
	RLMD_WIRE_WELCOME,
	RLMD_WIRE_CLIENT,
	RLMD_WIRE_GONE,
	RLMD_WIRE_OFFER,
	RLMD_WIRE_MESSAGE,
	RLMD_WIRE_HALF,
	RLMD_WIRE_ASK,
	RLMD_WIRE_TELL,
	RLMD_WIRE_STATE,
	RLMD_WIRE_CLOSE,
	RLMD_WIRE_RESUME,
};

struct rlmd_wire_header {
	uint16_t type;
	uint16_t size;	 // bytes, header included
	uint32_t client; // number that the guest gave to a process; 0: none
};

struct rlmd_wire_address {
	struct rlmd_endpoint endpoint; // port is 0
	uint8_t mac[6];		       // of the interface that has it
	uint16_t reserved;
};

struct rlmd_wire_hello {
	struct rlmd_wire_header header;
	uint32_t version;
	uint32_t addresses; // used in the list below
	struct rlmd_wire_address address[RLMD_WIRE_ADDRESSES];
};

struct rlmd_wire_welcome {
	struct rlmd_wire_header header;
	uint32_t version;
	uint32_t reserved;
	uint64_t location; // of this stay of the domain
	char name[64];	   // what the broker calls it
};

struct rlmd_wire_client {
	struct rlmd_wire_header header;
	uint32_t pid;
	uint32_t uid;
	char command[32];
};

struct rlmd_wire_offer {
	struct rlmd_wire_header header;
	struct rlm_conn_ref conn;
	struct rlmd_isn isn;
	struct rlmd_endpoint local;
	struct rlmd_endpoint remote;
};

struct rlmd_wire_message {
	struct rlmd_wire_header header; // size: as long as the message
	uint32_t peer_domain;		// LINK: where the other end is
	uint32_t reserved;
	union rlm_msg msg;
};

struct rlmd_wire_half {
	struct rlmd_wire_header header; // client: who holds this side, or is to get it
	uint64_t link;
	uint32_t side;	  // who made it
	uint32_t segment; // RLM_ALL_SEGMENTS: the link's control doorbell
	int32_t status;	  // 0, or -errno: it could not be made, the link is useless
	uint32_t page_ref;
	uint32_t port;
	uint32_t reserved;
};

struct rlmd_wire_text {
	struct rlmd_wire_header header;
	uint32_t question; // the broker's number for it
	uint32_t more;
	uint32_t length;
	char text[RLMD_WIRE_TEXT];
};

struct rlmd_wire_state {
	struct rlmd_wire_header header;
	uint32_t state; // as in /proc/PID/stat
};

union rlmd_wire {
	struct rlmd_wire_header header;
	struct rlmd_wire_hello hello;
	struct rlmd_wire_welcome welcome;
	struct rlmd_wire_client client;
	struct rlmd_wire_offer offer;
	struct rlmd_wire_message message;
	struct rlmd_wire_half half;
	struct rlmd_wire_text text;
	struct rlmd_wire_state state;
};

// Bytes that are missing of a message of which `got` have arrived; -1: there is no such message.
long rlmd_wire_missing(const union rlmd_wire *wire, size_t got);
// Whether a message that has arrived whole is as long as its type and its own fields say.
bool rlmd_wire_valid(const union rlmd_wire *wire);

#endif
