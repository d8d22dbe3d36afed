// SPDX-License-Identifier: BSD-2-Clause
// The ring against counters from the input: what it says can be put or taken always fits.
#include <string.h>
#include <unistd.h>

#include "ends.h"

enum { RING = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t word(const uint8_t *data)
{
	uint64_t v;

	memcpy(&v, data, sizeof(v));
	return v;
}

static void put_some(const struct region *mine, struct rlm_ring *tx, uint64_t wanted)
{
	static const uint8_t zeros[RING];
	uint64_t head = mine->slot->head, room = ring_room(tx, head, wanted);

	if (room == RLM_RING_BROKEN)
		return;
	must(room <= RING);
	ring_put(tx, head, zeros, room);
	ring_publish(tx, head + room);
}

static void take_some(const struct region *mine, struct rlm_ring *rx)
{
	uint64_t tail = mine->slot->tail, available = ring_available_now(rx);
	uint8_t *out;

	if (available == RLM_RING_BROKEN)
		return;
	must(available <= RING);
	out = malloc(available + 1);
	ring_copy(rx, tail, out, available);
	ring_free(rx, tail + available);
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct region r[2];
	struct rlm_ring tx, rx;
	uint64_t start;

	if (!r[0].size)
		for (int i = 0; i < 2; i++)
			region_open(&r[i], RING);
	if (size < 8)
		return 0;
	start = word(data);
	tx = (struct rlm_ring){r[0].slot, r[1].slot_ro, r[0].ring, RING, start, 0, RING, RING / 4};
	rx = (struct rlm_ring){r[0].slot, r[1].slot_ro, r[1].ring_ro, RING, start, 0, RING, RING / 4};
	r[0].slot->head = r[0].slot->tail = r[1].slot->head = r[1].slot->tail = start;
	for (data += 8, size -= 8; size >= 9; data += 9, size -= 9) {
		uint64_t v = *data & 1 ? word(data + 1) : (uint64_t)(int16_t)word(data + 1);

		if (*data & 2)
			r[1].slot->tail = *data & 4 ? v : r[0].slot->head + v;
		else
			r[1].slot->head = *data & 4 ? v : r[0].slot->tail + v;
		if (*data & 8)
			put_some(&r[0], &tx, 1 + *data);
		else
			take_some(&r[0], &rx);
	}
	return 0;
}
