// SPDX-License-Identifier: BSD-2-Clause
// xenstore, as both roles use it. Its calls wait for xenstored, and so do we: connections have what they need and go on meanwhile, only new
// ones stay on TCP for longer. It is said when that takes long.
#ifndef RLMD_XEN_STORE_H
#define RLMD_XEN_STORE_H

#include <stdbool.h>
#include <stddef.h>

struct rlmd_broker;
struct rlmd_xen;

// 0 or -errno.
int rlmd_store_open(struct rlmd_broker *broker);
void rlmd_store_close(struct rlmd_broker *broker);
// Calls fired for each watch that fired, with its path and token.
void rlmd_store_watch(struct rlmd_broker *broker, void (*fired)(struct rlmd_broker *broker, const char *path, const char *token));
bool rlmd_store_watch_add(struct rlmd_xen *xen, const char *path, const char *token);
void rlmd_store_watch_end(struct rlmd_xen *xen, const char *path, const char *token);
// A copy of a node's value, cut to size; "" when there is none.
bool rlmd_store_read(struct rlmd_xen *xen, const char *path, char *value, size_t size);
// Sets errno.
bool rlmd_store_write(struct rlmd_xen *xen, const char *path, const char *value);
void rlmd_store_remove(struct rlmd_xen *xen, const char *path);
// The names below a node, to be freed; NULL: none.
char **rlmd_store_list(struct rlmd_xen *xen, const char *path, unsigned *count);
bool rlmd_store_domain_lives(struct rlmd_xen *xen, unsigned domain);

// Around calls of libraries that use xenstore by themselves.
void rlmd_store_begin(void);
void rlmd_store_end(void);

#endif
