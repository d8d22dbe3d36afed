// SPDX-License-Identifier: BSD-2-Clause
#include "domain.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif

// A namespace may get its name after its first process: look again, but not for every socket.
#define LOOKUP_INTERVAL 1.0

static uint64_t cookie_of(int sock)
{
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);

	if (getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length))
		return 0;
	return cookie;
}

void rlmd_domains_init(struct rlmd_domains *domains)
{
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memset(domains, 0, sizeof(*domains));
	if (sock < 0)
		return;
	domains->host_cookie = cookie_of(sock);
	close(sock);
}

void rlmd_domains_deinit(struct rlmd_domains *domains)
{
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, domains->by_cookie, domain, next) {
		HASH_DEL(domains->by_cookie, domain);
		free(domain);
	}
}

// Needs CAP_NET_ADMIN in the namespace; 0 without.
static uint64_t inode_of(int sock, bool own)
{
	struct stat st;
	int fd, err;

	if (own)
		return stat("/proc/self/ns/net", &st) ? 0 : st.st_ino;
	fd = ioctl(sock, SIOCGSKNS);
	if (fd < 0)
		return 0;
	err = fstat(fd, &st);
	close(fd);
	return err ? 0 : st.st_ino;
}

static bool name_find(uint64_t inode, char *name, size_t size)
{
	DIR *dir = opendir(RLMD_NETNS_DIR);
	struct dirent *entry;
	struct stat st;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && st.st_ino == inode)
			found = snprintf(name, size, "netns:%s", entry->d_name) < (int)size;
	closedir(dir);
	return found;
}

static void name_look_up(struct rlmd_domain *domain, int sock, double now)
{
	char name[RLMD_NAME_MAX];

	domain->looked_up = now;
	if (!domain->inode)
		domain->inode = inode_of(sock, domain->host);
	if (domain->inode)
		snprintf(domain->inode_name, sizeof(domain->inode_name), "netns:[%llu]",
			 (unsigned long long)domain->inode);
	if (domain->host)
		snprintf(domain->name, sizeof(domain->name), "host");
	else if (domain->inode && name_find(domain->inode, name, sizeof(name)))
		memcpy(domain->name, name, sizeof(name));
	else if (domain->inode)
		memcpy(domain->name, domain->inode_name, sizeof(domain->name));
	else
		snprintf(domain->name, sizeof(domain->name), "netns:#%llu", (unsigned long long)domain->cookie);
}

struct rlmd_domain *rlmd_domain_of(struct rlmd_domains *domains, int sock, double now)
{
	uint64_t cookie = cookie_of(sock);
	struct rlmd_domain *domain;

	if (!cookie)
		return NULL;
	HASH_FIND(hh, domains->by_cookie, &cookie, sizeof(cookie), domain);
	if (!domain) {
		domain = calloc(1, sizeof(*domain));
		if (!domain)
			return NULL;
		domain->cookie = cookie;
		domain->host = cookie == domains->host_cookie;
		name_look_up(domain, sock, now);
		HASH_ADD(hh, domains->by_cookie, cookie, sizeof(domain->cookie), domain);
	} else if (strpbrk(domain->name, "[#") && now - domain->looked_up > LOOKUP_INTERVAL) {
		name_look_up(domain, sock, now);
	}
	return rlmd_domain_get(domain);
}

struct rlmd_domain *rlmd_domain_get(struct rlmd_domain *domain)
{
	domain->refs++;
	return domain;
}

void rlmd_domain_put(struct rlmd_domains *domains, struct rlmd_domain *domain)
{
	if (!domain || --domain->refs)
		return;
	HASH_DEL(domains->by_cookie, domain);
	free(domain);
}

const char *rlmd_domain_group(const struct rlmd_domain *domain, const struct rlmd_groups *groups)
{
	const char *names[] = {domain->name, domain->inode_name};
	size_t count = domain->inode_name[0] && strcmp(domain->name, domain->inode_name) != 0 ? 2 : 1;

	return rlmd_groups_find(groups, names, count);
}
