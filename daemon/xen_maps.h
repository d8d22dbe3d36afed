// SPDX-License-Identifier: BSD-2-Clause
// Who has what mapped.
#ifndef RLMD_XEN_MAPS_H
#define RLMD_XEN_MAPS_H

#include <sys/types.h>

// A process that still has files mapped with both texts in their paths after a while; 0: none, or none that we may look at.
pid_t rlmd_maps_left(const char *text, const char *other);

#endif
