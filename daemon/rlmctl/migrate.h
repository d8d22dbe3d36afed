// SPDX-License-Identifier: BSD-2-Clause
// rlmctl migrate: live migration of a Xen domain to another host, by the tool stack, with each phase shown.
#ifndef RLMCTL_MIGRATE_H
#define RLMCTL_MIGRATE_H

#include <stdbool.h>

struct migrate {
	const char *domain;
	const char *host;   // as for xl migrate
	const char *ssh;    // its option -s; NULL: none
	const char *socket; // of the broker, for a second session
	double timeout;	    // seconds to become quiet; 0: the broker's own
	bool json;
};

// session: with the broker in dom0. An exit status.
int migrate_run(int session, const struct migrate *migrate);

#endif
