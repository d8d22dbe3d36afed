// SPDX-License-Identifier: BSD-2-Clause
// A domain's location page (layout.h): rlmd writes it, all processes of the domain have it mapped read-only.
#ifndef RLMD_LOCATION_H
#define RLMD_LOCATION_H

#include <stdbool.h>
#include <stdint.h>

struct rlm_location_shared;

struct rlmd_location {
	int fd; // read-only
	struct rlm_location_shared *page;
};

// 0 or -errno; on error nothing is left open.
int rlmd_location_init(struct rlmd_location *location, uint64_t domain, uint64_t number);
void rlmd_location_deinit(struct rlmd_location *location);
// From here on links made under another number are lost.
void rlmd_location_set(struct rlmd_location *location, uint64_t number);
uint64_t rlmd_location_number(const struct rlmd_location *location);
// Says "offer nothing" (or no longer) to all who map the page.
void rlmd_location_quiesce(struct rlmd_location *location, bool on);

// A memfd that only its maker can write, the descriptor read-only. Also for regions.
int rlmd_memfd_make(const char *name, uint64_t size);
int rlmd_memfd_reopen_read_only(int fd);

#endif
