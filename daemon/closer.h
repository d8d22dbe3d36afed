// SPDX-License-Identifier: BSD-2-Clause
// Closing what a process passed to us. close() can take as long as its owner likes: a TCP socket that lingers waits for its peer, a file of a
// FUSE file system for its server, which is the user's own program, and a memfd takes time for all the memory in it. rlmd must not wait with it.
//
//   a socket that does not linger    is closed at once. Should it be made to linger in just that moment, a signal ends the wait
//   anything else                    is closed by a thread, and the next by another one if that does not come back
#ifndef RLMD_CLOSER_H
#define RLMD_CLOSER_H

#include <stdbool.h>
#include <sys/types.h>

// Before the sandbox. 0 or -errno.
int rlmd_closer_init(void);
// uid: whose it was. -1 is allowed for fd.
void rlmd_close_foreign(int fd, uid_t uid);
// A session's own socket, with all that is still on its way to us in it.
void rlmd_close_session(int fd, uid_t uid);
// So much of this user waits to be closed that it shall have no more sessions.
bool rlmd_closer_is_stuck(uid_t uid);

#endif
