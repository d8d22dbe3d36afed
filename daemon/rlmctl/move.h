// SPDX-License-Identifier: BSD-2-Clause
// rlmctl move: takes a domain from one host to another, where two brokers stand for two hosts.
#ifndef RLMCTL_MOVE_H
#define RLMCTL_MOVE_H

#include <stdbool.h>

struct move {
	const char *domain;
	const char *socket; // of the other broker
	double timeout;	    // seconds to become quiet; 0: the broker's own
	bool unannounced;   // as if nobody had known of it: what cannot go on exactly is reset
	bool json;
};

// session: with the broker where the domain is. An exit status.
int move_run(int session, const struct move *move);

#endif
