// SPDX-License-Identifier: BSD-2-Clause
// Where this process is: the page that the broker hands out with WELCOME. Written by the helper thread's messages alone.
#ifndef RLM_LOCATION_H
#define RLM_LOCATION_H

#include "rlm/layout.h"

// Never NULL after location_init(); a page of zeros until there is a broker. Links keep the address of the number they were made
// under: another page of the same domain takes this one's place, so that they see the new number; another domain's gets a place of its own.
extern struct rlm_location_shared *location;

int location_init(void);
// Does not close fd. 0 or -errno.
int location_map(int fd);

#endif
