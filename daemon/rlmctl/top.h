// SPDX-License-Identifier: BSD-2-Clause
// The live screen.
#ifndef RLMCTL_TOP_H
#define RLMCTL_TOP_H

// Asks over the session every interval seconds until q. Exit status.
int top_run(int session, double interval);

#endif
