// SPDX-License-Identifier: BSD-2-Clause
// Domains of the local role: network namespaces. Known by their cookie, which the kernel never gives twice; named by
// the file in /run/netns and by the inode, as far as we may see them. "host" is the namespace that rlmd was started in.
#ifndef RLMD_DOMAIN_H
#define RLMD_DOMAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

#include "group.h"
#include "location.h"

#define RLMD_NETNS_DIR "/run/netns"

struct rlmd_guest;

struct rlmd_domain {
	uint64_t cookie;
	uint64_t inode; // 0: unknown
	bool host;
	bool numbered; // what rtnetlink calls it: set by lookup.c
	int32_t number;
	struct rlmd_guest *guest; // a Xen domain, as long as it is there
	unsigned refs;
	unsigned clients; // processes whose session came from there
	double looked_up;
	uint32_t stay; // how often it has come here from another host
	struct rlmd_location location;
	bool moved; // from or to another host, so it has a reference of its own
	char moved_to[108]; // socket of the broker where it is; "": here
	char moved_host[RLMD_NAME_MAX];
	char name[RLMD_NAME_MAX];	// "host", "netns:NAME", "netns:[INODE]" or "netns:#COOKIE"; of a Xen domain "domain:NAME"
	char inode_name[RLMD_NAME_MAX]; // "netns:[INODE]" or ""; of a Xen domain "uuid:UUID"
	char group[RLMD_NAME_MAX];	// what xenstore says, for a domain that the configuration does not name
	UT_hash_handle hh;
};

struct rlmd_domains {
	struct rlmd_domain *by_cookie;
	uint64_t host_cookie;
	const char *host; // what tells us from other hosts' brokers
	uint64_t (*number)(const char *host, uint64_t domain, uint32_t stay);
};

void rlmd_domains_init(struct rlmd_domains *domains, const char *host,
		       uint64_t (*number)(const char *host, uint64_t domain, uint32_t stay));
void rlmd_domains_deinit(struct rlmd_domains *domains);
// The domain that a socket belongs to, with a reference. NULL: not a socket, or out of memory.
struct rlmd_domain *rlmd_domain_of(struct rlmd_domains *domains, int sock, double now);
// The domain of this cookie, which may have no socket here, with a reference. NULL: out of memory.
struct rlmd_domain *rlmd_domain_known(struct rlmd_domains *domains, uint64_t cookie, const char *name);
// One that is no namespace, with a reference; the caller names it. NULL: out of memory.
struct rlmd_domain *rlmd_domain_make(struct rlmd_domains *domains, uint64_t cookie);
struct rlmd_domain *rlmd_domain_get(struct rlmd_domain *domain);
void rlmd_domain_put(struct rlmd_domains *domains, struct rlmd_domain *domain);
// The network namespace of a socket as a descriptor, the caller's to close. Needs CAP_NET_ADMIN there; -1 without.
int rlmd_domain_namespace(int sock);
const char *rlmd_domain_group(const struct rlmd_domain *domain, const struct rlmd_groups *groups);

#endif
