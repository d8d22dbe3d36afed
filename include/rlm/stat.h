// SPDX-License-Identifier: BSD-2-Clause
// The connection table of a process as the broker sees it: a memfd that the process and its forked children write and
// the broker reads, so that it can be looked at while the process sleeps, is stopped or busy. The broker trusts nothing in it.
//
//   offset 0                  struct rlm_table_shared
//   offset RLM_TABLE_OFFSET   struct rlm_conn_stat [capacity]
//
// An entry is live while `generation` is odd. Counters are relaxed: each is right by itself, not all at one instant.
// The naming tickets are the one thing the broker writes; they are in a memfd page of their own (second fd of HELLO), so that the table can stay read-only.
// Each process has its own page: those of a family share the table, but each names its connections in its own session.
// The broker maps that page, so it must not be able to shrink: make it with MFD_ALLOW_SEALING; the broker adds F_SEAL_SHRINK itself. The table is read with pread.
// ISN naming: process: lock both directions, ticket = OPEN, OFFER. Broker: OPEN -> CLAIMED (else skip), repair on, read, repair off, -> DONE.
// Process, tired of waiting: OPEN -> CANCELLED (else wait for DONE: a few microseconds away). Then it unlocks.
#ifndef RLM_STAT_H
#define RLM_STAT_H

#include <stdatomic.h>
#include <stdint.h>

#define RLM_TABLE_MAGIC 0x62744d52u // "RMtb"
#define RLM_TABLE_VERSION 1u
#define RLM_TABLE_OFFSET 4096u
#define RLM_TICKETS 16u

enum rlm_ticket {
	RLM_TICKET_FREE = 0,
	RLM_TICKET_OPEN = 1,
	RLM_TICKET_CLAIMED = 2,
	RLM_TICKET_DONE = 3,
	RLM_TICKET_CANCELLED = 4,
};

struct rlm_tickets_shared {
	_Atomic uint32_t ticket[RLM_TICKETS];
};

// What a process tells about itself.
struct rlm_table_shared {
	uint32_t magic;
	uint32_t version;
	uint32_t capacity;       // entries
	uint32_t entry_size;     // bytes, sizeof(struct rlm_conn_stat) or more
	_Atomic uint32_t used;   // entries below this index may be live
	uint32_t reserved;
	_Atomic uint64_t opened; // connections ever seen
	_Atomic uint64_t promoted; // connections that ever used a ring
	// Of connections that are gone; add the live ones.
	_Atomic uint64_t switches; // carrier changes
	_Atomic uint64_t tx_bytes_ring;
	_Atomic uint64_t rx_bytes_ring;
	_Atomic uint64_t tx_bytes_plain;
	_Atomic uint64_t rx_bytes_plain;
};

struct rlm_conn_stat {
	_Atomic uint32_t generation;  // odd: live
	_Atomic uint16_t why;         // enum rlm_why, rlm.h
	_Atomic uint8_t tx_carrier;   // enum rlm_carrier
	_Atomic uint8_t rx_carrier;
	_Atomic uint64_t tx_bytes_plain;
	_Atomic uint64_t rx_bytes_plain;
	_Atomic uint64_t tx_bytes_ring;
	_Atomic uint64_t rx_bytes_ring;
	_Atomic uint32_t switches;
	uint16_t family;              // AF_INET, AF_INET6 or 0: not looked up yet (very young connection)
	uint16_t local_port;          // host order
	uint16_t remote_port;
	uint16_t reserved;
	uint8_t local[16];            // network order, IPv4 in the first four
	uint8_t remote[16];
};

#endif
