// SPDX-License-Identifier: BSD-2-Clause
// The guard stands between dom0's tool stack and a suspend. Every save and every migration of a domain begins with the execution of
// libxl-save-helper, whoever asked for it; the kernel lets that wait for our permission (fanotify), and a domain that still had a channel
// open when it is suspended would be damaged (rlmd(8), MIGRATION).
//
// It is a process of its own, a child of rlmd, so small that it has nothing to die of, and it outlives rlmd:
//
//   rlmd lives         it decides, after it has made the domain quiet. Should it not answer, the guard says no in its place
//   rlmd is gone       domains whose broker is gone close their channels by themselves and say so in xenstore (xen_node.h). Those that have
//                      done so may go; others wait, and are refused when it takes too long
//   the guard is gone  the kernel lets everything pass. rlmd notices and ends, so that all domains close their channels
//
// It ends when rlmd is gone and no domain has a channel, or when another rlmd has a guard of its own.
#ifndef RLMD_XEN_GUARD_H
#define RLMD_XEN_GUARD_H

#include <stddef.h>
#include <stdint.h>

// guard -> rlmd, one packet each: the tool stack wants to save a domain.
struct rlmd_guard_ask {
	uint32_t number;
	uint32_t domain;
	int32_t pid; // of the process that is held, and will be libxl-save-helper
};

// rlmd -> guard
struct rlmd_guard_answer {
	uint32_t number;
	uint32_t allow;
	char why[256]; // for the administrator, when it is refused
};

// helper: path of libxl-save-helper, NULL: wherever Xen may have it. patience: seconds that rlmd takes for its answer. Needs CAP_SYS_ADMIN.
// A descriptor for packets, readable at its end when the guard is gone; -errno, and error tells.
int rlmd_guard_start(const char *helper, double patience, char *error, size_t error_size);

#endif
