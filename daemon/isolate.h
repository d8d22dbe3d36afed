// SPDX-License-Identifier: BSD-2-Clause
// Gives up what a broker does not need once it listens. Of root's powers it keeps CAP_NET_ADMIN alone, to read sequence
// numbers and to learn which namespace a socket belongs to. The guard (xen_guard.h), which was forked before, has its own.
#ifndef RLMD_ISOLATE_H
#define RLMD_ISOLATE_H

#include <stdbool.h>

// As many descriptors as the administrator allows.
void rlmd_isolate_descriptors(void);
// 0 or -errno. A broker without any capability stays as it is.
int rlmd_isolate_privileges(void);
// After that, when nothing more has to be opened: a seccomp filter, sandbox.c. What is not allowed fails with EPERM, and the kernel's audit log
// tells of it. xen: the broker's and guest's roles, which need more. 0 or -errno.
int rlmd_isolate_syscalls(bool xen);

#endif
