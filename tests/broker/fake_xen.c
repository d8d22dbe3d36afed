// SPDX-License-Identifier: BSD-2-Clause
#include "fake_xen.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include <libxenvchan.h>
#include <xenstore.h>

#include "xen_guard.h"

#define RING 4096u

struct node {
	char path[128];
	char value[256];
	struct node *next;
};

struct watch {
	char path[128];
	char token[32];
	struct watch *next;
};

struct ring {
	uint8_t bytes[RING];
	size_t used;
};

struct fake_channel {
	struct libxenvchan public; // first: what the broker sees
	unsigned domain;
	unsigned number;
	int bell;
	struct ring in, out; // of the broker
	struct fake_channel *next;
};

struct xs_handle {
	int bell;
};

static struct xs_handle store;
static struct node *nodes;
static struct watch *watches, *fired;
static struct fake_channel *channels;

static void bell_ring(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		abort();
}

static void bell_take(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		abort();
}

// --- xenstore

static bool below(const char *path, const char *base)
{
	size_t length = strlen(base);

	return strncmp(path, base, length) == 0 && (path[length] == 0 || path[length] == '/');
}

static void fire(const char *path, const char *token)
{
	struct watch *watch = calloc(1, sizeof(*watch));

	snprintf(watch->path, sizeof(watch->path), "%s", path);
	snprintf(watch->token, sizeof(watch->token), "%s", token);
	LL_APPEND(fired, watch);
	bell_ring(store.bell);
}

static void changed(const char *path)
{
	struct watch *watch;

	LL_FOREACH (watches, watch)
		if (below(path, watch->path))
			fire(path, watch->token);
}

static struct node *node_find(const char *path)
{
	struct node *node;

	LL_FOREACH (nodes, node)
		if (strcmp(node->path, path) == 0)
			return node;
	return NULL;
}

void fake_store_set(const char *path, const char *value)
{
	struct node *node = node_find(path);

	if (!node) {
		node = calloc(1, sizeof(*node));
		snprintf(node->path, sizeof(node->path), "%s", path);
		LL_PREPEND(nodes, node);
	}
	snprintf(node->value, sizeof(node->value), "%s", value);
	changed(path);
}

const char *fake_store_get(const char *path)
{
	struct node *node = node_find(path);

	return node ? node->value : NULL;
}

struct xs_handle *xs_open(unsigned long flags)
{
	store.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return &store;
}

void xs_close(struct xs_handle *handle)
{
	struct watch *watch, *next;
	struct node *node, *node_next;

	LL_FOREACH_SAFE (watches, watch, next)
		free(watch);
	LL_FOREACH_SAFE (fired, watch, next)
		free(watch);
	LL_FOREACH_SAFE (nodes, node, node_next)
		free(node);
	watches = fired = NULL;
	nodes = NULL;
	close(handle->bell);
}

int xs_fileno(struct xs_handle *handle)
{
	return handle->bell;
}

bool xs_watch(struct xs_handle *handle, const char *path, const char *token)
{
	struct watch *watch = calloc(1, sizeof(*watch));

	snprintf(watch->path, sizeof(watch->path), "%s", path);
	snprintf(watch->token, sizeof(watch->token), "%s", token);
	LL_PREPEND(watches, watch);
	fire(path, token);
	return true;
}

bool xs_unwatch(struct xs_handle *handle, const char *path, const char *token)
{
	struct watch *watch, *next;

	LL_FOREACH_SAFE (watches, watch, next)
		if (strcmp(watch->path, path) == 0 && strcmp(watch->token, token) == 0) {
			LL_DELETE(watches, watch);
			free(watch);
		}
	return true;
}

// One block that the caller frees, as with the real one.
char **xs_check_watch(struct xs_handle *handle)
{
	struct watch *watch = fired;
	struct {
		char *vector[2];
		struct watch copy;
	} *block;

	if (!watch) {
		bell_take(handle->bell);
		errno = EAGAIN;
		return NULL;
	}
	LL_DELETE(fired, watch);
	block = malloc(sizeof(*block));
	block->copy = *watch;
	free(watch);
	block->vector[XS_WATCH_PATH] = block->copy.path;
	block->vector[XS_WATCH_TOKEN] = block->copy.token;
	return block->vector;
}

void *xs_read(struct xs_handle *handle, xs_transaction_t transaction, const char *path, unsigned *length)
{
	struct node *node = node_find(path);

	if (!node) {
		errno = ENOENT;
		return NULL;
	}
	*length = (unsigned)strlen(node->value);
	return strdup(node->value);
}

bool xs_write(struct xs_handle *handle, xs_transaction_t transaction, const char *path, const void *data, unsigned length)
{
	char value[256];

	snprintf(value, sizeof(value), "%.*s", (int)length, (const char *)data);
	fake_store_set(path, value);
	return true;
}

bool xs_rm(struct xs_handle *handle, xs_transaction_t transaction, const char *path)
{
	struct node *node, *next;
	bool found = false;

	LL_FOREACH_SAFE (nodes, node, next)
		if (below(node->path, path)) {
			LL_DELETE(nodes, node);
			free(node);
			found = true;
		}
	if (found)
		changed(path);
	return found;
}

static bool listed(char *const *list, unsigned count, const char *name, size_t length)
{
	for (unsigned i = 0; i < count; i++)
		if (strlen(list[i]) == length && memcmp(list[i], name, length) == 0)
			return true;
	return false;
}

char **xs_directory(struct xs_handle *handle, xs_transaction_t transaction, const char *path, unsigned *count)
{
	size_t prefix = strlen(path) + 1;
	struct {
		char *vector[64];
		char names[64][32];
	} *block = calloc(1, sizeof(*block));
	struct node *node;

	*count = 0;
	LL_FOREACH (nodes, node) {
		size_t length = below(node->path, path) && node->path[prefix - 1] ? strcspn(node->path + prefix, "/") : 0;

		if (!length || *count == 64 || length >= 32 || listed(block->vector, *count, node->path + prefix, length))
			continue;
		memcpy(block->names[*count], node->path + prefix, length);
		block->vector[*count] = block->names[*count];
		++*count;
	}
	return block->vector;
}

bool xs_is_domain_introduced(struct xs_handle *handle, unsigned domain)
{
	char path[64];

	snprintf(path, sizeof(path), "/local/domain/%u/name", domain);
	return node_find(path) != NULL;
}

void fake_domain_new(unsigned domain, const char *name, const char *mac)
{
	char path[64];

	snprintf(path, sizeof(path), "/local/domain/0/backend/vif/%u/0/mac", domain);
	fake_store_set(path, mac);
	snprintf(path, sizeof(path), "/local/domain/%u/name", domain);
	fake_store_set(path, name);
	fire("@introduceDomain", "domains");
}

void fake_domain_end(unsigned domain)
{
	char path[64];

	snprintf(path, sizeof(path), "/local/domain/0/backend/vif/%u", domain);
	xs_rm(&store, XBT_NULL, path);
	snprintf(path, sizeof(path), "/local/domain/%u", domain);
	xs_rm(&store, XBT_NULL, path);
	fire("@releaseDomain", "domains");
}

// --- libxenvchan

struct libxenvchan *libxenvchan_server_init(struct xentoollog_logger *logger, int domain, const char *path, size_t left, size_t right)
{
	static unsigned number;
	struct fake_channel *channel = calloc(1, sizeof(*channel));

	channel->domain = (unsigned)domain;
	channel->number = ++number;
	channel->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	LL_PREPEND(channels, channel);
	return &channel->public;
}

struct libxenvchan *libxenvchan_client_init(struct xentoollog_logger *logger, int domain, const char *path)
{
	errno = ENOSYS;
	return NULL;
}

static struct fake_channel *channel_of(struct libxenvchan *public)
{
	return (struct fake_channel *)public;
}

void libxenvchan_close(struct libxenvchan *public)
{
	struct fake_channel *channel = channel_of(public);

	LL_DELETE(channels, channel);
	close(channel->bell);
	free(channel);
}

static size_t ring_put(struct ring *ring, const void *bytes, size_t size)
{
	size_t room = RING - ring->used;

	if (size > room)
		size = room;
	memcpy(ring->bytes + ring->used, bytes, size);
	ring->used += size;
	return size;
}

static size_t ring_take(struct ring *ring, void *bytes, size_t size)
{
	if (size > ring->used)
		size = ring->used;
	memcpy(bytes, ring->bytes, size);
	ring->used -= size;
	memmove(ring->bytes, ring->bytes + size, ring->used);
	return size;
}

int libxenvchan_read(struct libxenvchan *public, void *bytes, size_t size)
{
	return (int)ring_take(&channel_of(public)->in, bytes, size);
}

int libxenvchan_write(struct libxenvchan *public, const void *bytes, size_t size)
{
	return (int)ring_put(&channel_of(public)->out, bytes, size);
}

int libxenvchan_wait(struct libxenvchan *public)
{
	bell_take(channel_of(public)->bell);
	return 0;
}

int libxenvchan_fd_for_select(struct libxenvchan *public)
{
	return channel_of(public)->bell;
}

int libxenvchan_is_open(struct libxenvchan *public)
{
	return 1;
}

static struct fake_channel *channel_find(unsigned domain)
{
	struct fake_channel *channel;

	LL_FOREACH (channels, channel)
		if (channel->domain == domain)
			return channel;
	return NULL;
}

bool fake_guest_open(unsigned domain)
{
	return channel_find(domain) != NULL;
}

unsigned fake_guest_channel(unsigned domain)
{
	struct fake_channel *channel = channel_find(domain);

	return channel ? channel->number : 0;
}

bool fake_guest_write(unsigned domain, const void *bytes, size_t size)
{
	struct fake_channel *channel = channel_find(domain);

	if (!channel || RING - channel->in.used < size)
		return false;
	ring_put(&channel->in, bytes, size);
	bell_ring(channel->bell);
	return true;
}

size_t fake_guest_read(unsigned domain, void *bytes, size_t size)
{
	struct fake_channel *channel = channel_find(domain);
	size_t taken = channel ? ring_take(&channel->out, bytes, size) : 0;

	if (taken)
		bell_ring(channel->bell);
	return taken;
}

// --- the tool stack, which does nothing here

int rlmd_guard_start(const char *path, double patience, char *error, size_t error_size)
{
	return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}
