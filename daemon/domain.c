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

void rlmd_domains_init(struct rlmd_domains *domains, const char *host,
		       uint64_t (*number)(const char *host, uint64_t domain, uint32_t stay))
{
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memset(domains, 0, sizeof(*domains));
	domains->host = host;
	domains->number = number;
	if (sock < 0)
		return;
	domains->host_cookie = cookie_of(sock);
	close(sock);
}

static void domain_free(struct rlmd_domains *domains, struct rlmd_domain *domain)
{
	HASH_DEL(domains->by_cookie, domain);
	rlmd_location_deinit(&domain->location);
	free(domain);
}

void rlmd_domains_deinit(struct rlmd_domains *domains)
{
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, domains->by_cookie, domain, next)
		domain_free(domains, domain);
}

int rlmd_domain_namespace(int sock)
{
	return ioctl(sock, SIOCGSKNS);
}

// Needs CAP_NET_ADMIN in the namespace; 0 without.
static uint64_t inode_of(int sock, bool own)
{
	struct stat st;
	int fd, err;

	if (own)
		return stat("/proc/self/ns/net", &st) ? 0 : st.st_ino;
	fd = rlmd_domain_namespace(sock);
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

// A name means another namespace now: the one that had it and went to another host is gone for good.
static void namesakes_forget(struct rlmd_domains *domains, const struct rlmd_domain *fresh)
{
	struct rlmd_domain *domain, *next;

	HASH_ITER (hh, domains->by_cookie, domain, next)
		if (domain != fresh && domain->moved && !domain->clients && strcmp(domain->name, fresh->name) == 0) {
			domain->moved = false;
			domain->moved_to[0] = 0;
			rlmd_domain_put(domains, domain);
		}
}

static struct rlmd_domain *domain_new(struct rlmd_domains *domains, uint64_t cookie)
{
	struct rlmd_domain *domain = calloc(1, sizeof(*domain));

	if (!domain)
		return NULL;
	if (rlmd_location_init(&domain->location, cookie, domains->number(domains->host, cookie, 0))) {
		free(domain);
		return NULL;
	}
	domain->cookie = cookie;
	domain->host = cookie == domains->host_cookie;
	HASH_ADD(hh, domains->by_cookie, cookie, sizeof(domain->cookie), domain);
	return domain;
}

struct rlmd_domain *rlmd_domain_make(struct rlmd_domains *domains, uint64_t cookie)
{
	struct rlmd_domain *domain = domain_new(domains, cookie);

	return domain ? rlmd_domain_get(domain) : NULL;
}

struct rlmd_domain *rlmd_domain_of(struct rlmd_domains *domains, int sock, double now)
{
	uint64_t cookie = cookie_of(sock);
	struct rlmd_domain *domain;

	if (!cookie)
		return NULL;
	HASH_FIND(hh, domains->by_cookie, &cookie, sizeof(cookie), domain);
	if (!domain) {
		domain = domain_new(domains, cookie);
		if (!domain)
			return NULL;
		name_look_up(domain, sock, now);
		namesakes_forget(domains, domain);
	} else if (strpbrk(domain->name, "[#") && now - domain->looked_up > LOOKUP_INTERVAL) {
		name_look_up(domain, sock, now);
	}
	return rlmd_domain_get(domain);
}

struct rlmd_domain *rlmd_domain_known(struct rlmd_domains *domains, uint64_t cookie, const char *name)
{
	struct rlmd_domain *domain;

	HASH_FIND(hh, domains->by_cookie, &cookie, sizeof(cookie), domain);
	if (!domain) {
		domain = domain_new(domains, cookie);
		if (!domain)
			return NULL;
		snprintf(domain->name, sizeof(domain->name), "%s", name);
		namesakes_forget(domains, domain);
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
	domain_free(domains, domain);
}

const char *rlmd_domain_group(const struct rlmd_domain *domain, const struct rlmd_groups *groups)
{
	const char *names[] = {domain->name, domain->inode_name};
	size_t count = domain->inode_name[0] && strcmp(domain->name, domain->inode_name) != 0 ? 2 : 1;
	const char *group = rlmd_groups_find(groups, names, count);

	return domain->group[0] && strcmp(group, RLMD_GROUP_DEFAULT) == 0 ? domain->group : group;
}
