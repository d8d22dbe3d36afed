// SPDX-License-Identifier: BSD-2-Clause
// The shared-memory ABI between the two ends of a link. Nothing else may be assumed of a peer's memory.
//
// A segment is a pair of regions, one per side. A region is written by its owner alone and mapped read-only by
// the other side:
//
//   offset 0                 struct rlm_region_shared      constants, written by the daemon before it is handed out
//   offset 4096              struct rlm_slot_shared [slots] written by the owner, 256 bytes each
//   offset data_offset       ring bytes: slots x ring_size  written by the owner
//
// A slot carries one connection. The ring in my region holds what I send; its `head` is mine, and the `tail` that
// frees its bytes is in the *peer's* region, in the slot of the same number. So every field has one writer:
//
//   field      writer, meaning                                   reader's trust
//   head       owner: bytes it ever put into this ring           tail <= head <= tail + ring_size, else the peer misbehaves
//   held       owner: bytes up to here are in the ring, too,     looked at when the owner is gone; head < held <= tail + ring_size,
//              held back as TCP_CORK asks                        else none are held back
//   bell       owner: bumped before it wakes a sleeping peer     none needed, compared for equality only
//   tail       owner: bytes it ever took from the peer's ring    cached tail <= tail <= head, else the peer misbehaves
//   waiting    owner: who sleeps here and wants to be woken      a wrong value costs the peer a system call, or itself a wake-up
//   epoch      owner: the binding this slot's contents belong to equality only; fields of another epoch are not read
//   tx_round   owner: 2r-1 = round r is carried by the ring, 2r = round r has ended (see cutover.h)
//   tx_wish    owner: 2r-1 = it would like to end round r, 2r = it must, and needs the peer to ask for it back
//   rx_ready   owner: it can take round r from the ring
//   rx_past    owner: the cut of round r is behind it, no thread is left in the kernel that could take what follows for payload
//   rx_ask     owner: it asks to get round r back on TCP, from its tail on; RLM_ASK_LEFT: it has closed
//   rx_leave   owner: it would like round r to end
//   grain      owner, as a sender: it is to be woken, if it waits for room, each time that the tail passes a multiple of this. It
//              changes only when the ring is empty, and a wrong value costs the owner a wake-up, or the peer some that nobody needs
//   cut        owner: TCP byte count at which the current round begins
//   end        owner: ring position at which the last round ended, RLM_END_VOID: it never really began
//
// Counters are free-running and never wrap in practice (2^64 bytes); positions in the ring are counter % ring_size.
#ifndef RLM_LAYOUT_H
#define RLM_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>

#define RLM_LAYOUT_MAGIC 0x67654d52u // "RMeg"
#define RLM_LAYOUT_VERSION 4u
#define RLM_CACHELINE 64
#define RLM_SLOTS_OFFSET 4096u
#define RLM_SLOTS_MAX 64u
#define RLM_RING_SIZE_MIN 4096u
#define RLM_RING_SIZE_MAX (64u << 20)

// Bits of rlm_slot_shared.waiting. _FUTEX: sleeps on the peer's `bell`; _FD: sleeps in poll or epoll, ring the doorbell.
#define RLM_WAIT_RX_FUTEX 0x1u // wants data
#define RLM_WAIT_RX_FD 0x2u
#define RLM_WAIT_TX_FUTEX 0x4u // wants room
#define RLM_WAIT_TX_FD 0x8u
#define RLM_WAIT_RX (RLM_WAIT_RX_FUTEX | RLM_WAIT_RX_FD)
#define RLM_WAIT_TX (RLM_WAIT_TX_FUTEX | RLM_WAIT_TX_FD)
// Nobody sleeps, and before one does for data, membarrier(2) has every sender of this kernel pass a full fence.
#define RLM_WAIT_LIGHT 0x10u

struct rlm_slot_shared {
	_Alignas(RLM_CACHELINE) _Atomic uint64_t head;
	_Atomic uint32_t bell;
	_Alignas(RLM_CACHELINE) _Atomic uint64_t tail;
	_Alignas(RLM_CACHELINE) _Atomic uint32_t waiting;
	_Alignas(RLM_CACHELINE) _Atomic uint32_t epoch;
	_Atomic uint32_t tx_round;
	_Atomic uint32_t tx_wish;
	_Atomic uint32_t rx_ready;
	_Atomic uint32_t rx_past;
	_Atomic uint32_t rx_ask;
	_Atomic uint32_t rx_leave;
	_Atomic uint32_t grain;
	_Atomic uint64_t cut;
	_Atomic uint64_t end;
	_Atomic uint64_t held;
};

struct rlm_region_shared {
	uint32_t magic;
	uint32_t version;
	uint32_t slots;       // 1 .. RLM_SLOTS_MAX
	uint32_t ring_size;   // bytes, a power of two
	uint64_t data_offset; // bytes from the region's start, page aligned
	uint64_t size;        // bytes, the whole region
};

// One page per domain, written by the daemon, mapped read-only by all of the domain's processes.
struct rlm_location_shared {
	uint32_t magic;
	uint32_t version;
	_Atomic uint64_t location; // unique to one stay of one domain on one host, never 0; links of another one must not be touched
	_Atomic uint32_t quiesce;  // not 0: the domain is about to move, offer nothing
	uint32_t reserved;
	uint64_t domain; // which one it is, as long as the kernel runs: a process may find itself in another one
};

static_assert(sizeof(struct rlm_slot_shared) == 4 * RLM_CACHELINE, "slot is four cache lines");
static_assert(sizeof(struct rlm_region_shared) <= RLM_SLOTS_OFFSET, "header fits its page");
static_assert(RLM_SLOTS_MAX * sizeof(struct rlm_slot_shared) % 4096 == 0, "slot table fills whole pages");

#define RLM_END_VOID UINT64_MAX
#define RLM_ASK_LEFT UINT32_MAX

// Frames that a sender puts on TCP while its direction is carried by a ring. Between byte `cut` and the last byte
// of END the TCP stream contains nothing else.
#define RLM_FRAME_CUT 'C' // 1 byte: the ring begins here; wakes whoever sleeps in the kernel
#define RLM_FRAME_END 'E' // 9 bytes: 'E', then the ring position of the end, little endian; payload follows
#define RLM_FRAME_END_SIZE 9

static inline uint64_t rlm_data_offset(uint32_t slots)
{
	uint64_t end = RLM_SLOTS_OFFSET + (uint64_t)slots * sizeof(struct rlm_slot_shared);
	return (end + 4095) & ~4095ull;
}

static inline uint64_t rlm_region_size(uint32_t slots, uint32_t ring_size)
{
	return rlm_data_offset(slots) + (uint64_t)slots * ring_size;
}

static inline struct rlm_region_shared rlm_region_header(uint32_t slots, uint32_t ring_size)
{
	return (struct rlm_region_shared){.magic = RLM_LAYOUT_MAGIC,
					  .version = RLM_LAYOUT_VERSION,
					  .slots = slots,
					  .ring_size = ring_size,
					  .data_offset = rlm_data_offset(slots),
					  .size = rlm_region_size(slots, ring_size)};
}

#endif
