// SPDX-License-Identifier: BSD-2-Clause
// Who has channels mapped.
#ifndef RLMD_XEN_MAPS_H
#define RLMD_XEN_MAPS_H

#include <stdbool.h>

struct rlmd_xen;

// Processes that still have channels of an earlier rlmd, which was killed, are about to leave them. True: after a while one has not.
bool rlmd_channels_left(struct rlmd_xen *xen);

#endif
