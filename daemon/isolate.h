// SPDX-License-Identifier: BSD-2-Clause
// Gives up what a broker does not need once it listens. Of root's powers it keeps CAP_NET_ADMIN alone, to read sequence
// numbers and to learn which namespace a socket belongs to.
#ifndef RLMD_ISOLATE_H
#define RLMD_ISOLATE_H

// As many descriptors as the administrator allows.
void rlmd_isolate_descriptors(void);
// 0 or -errno. A broker without any capability stays as it is.
int rlmd_isolate_privileges(void);

#endif
