// SPDX-License-Identifier: BSD-2-Clause
// Mapping and unmapping what the broker hands out.
#include "links.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fdtable.h"
#include "location.h"
#include "settings.h"
#include "sys.h"

struct link *links;

struct link *link_find(uint64_t id, uint32_t side)
{
	for (struct link *l = links; l; l = l->next)
		if (l->id == id && l->side == side)
			return l;
	return NULL;
}

struct segment *segment_find(const struct link *link, uint32_t number)
{
	for (struct segment *s = link ? link->segments : NULL; s; s = s->next)
		if (s->number == number)
			return s;
	return NULL;
}

struct link *link_of_channel(int channel, struct segment **segment)
{
	*segment = NULL;
	for (struct link *l = links; l; l = l->next) {
		if (l->control_channel == channel)
			return l;
		for (struct segment *s = l->segments; s; s = s->next)
			if (s->channel == channel) {
				*segment = s;
				return l;
			}
	}
	return NULL;
}

// What rings for us: an eventfd in any case. An event channel, if that is what the peer rings, goes to *channel, and the helper thread passes it on.
static int take_doorbell(int fd, uint32_t port, int *channel)
{
	*channel = port ? fd_make_internal(fd) : -1;
	return fd_make_internal(port ? (int)sys_call2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK) : fd);
}

static void close_all(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
		sys_close(fds[i]);
}

static void unmap(void *p, size_t size)
{
	if (p)
		sys_call2(SYS_munmap, p, size);
}

int link_add(const struct rlm_msg_link *msg, const int fds[2])
{
	struct link *l = map_private(sizeof(*l)); // not malloc(): the helper thread would get an arena of 64 MiB

	if (!l || link_find(msg->link, msg->side) || msg->location != location->location) {
		unmap(l, sizeof(*l));
		close_all(fds, 2);
		return -EINVAL;
	}
	l->id = msg->link;
	l->side = msg->side;
	l->here = &location->location;
	l->location = msg->location;
	l->peer_pid = msg->peer_pid;
	memcpy(l->peer_command, msg->peer_command, sizeof(l->peer_command));
	l->peer_command[sizeof(l->peer_command) - 1] = 0;
	l->control_port = msg->port[1];
	l->control_mine = take_doorbell(fds[0], msg->port[0], &l->control_channel);
	l->control_peer = fd_make_internal(fds[1]);
	l->next = links;
	links = l;
	return 0;
}

static uint8_t *map_region(int fd, uint64_t offset, uint64_t size, int protection)
{
	struct stat st;
	long p;

	// A file that is too short would turn an access into SIGBUS. rlmd has sealed it against shrinking. A device has as many pages as
	// it maps.
	if (sys_call2(SYS_fstat, fd, &st) < 0 || (!S_ISCHR(st.st_mode) && (uint64_t)st.st_size < size))
		return NULL;
	p = sys_call6(SYS_mmap, 0, size, protection, MAP_SHARED, fd, offset);
	return p < 0 && p > -4096 ? NULL : (uint8_t *)p;
}

static bool shape_is_good(const struct rlm_msg_segment *msg)
{
	return msg->slots >= 1 && msg->slots <= RLM_SLOTS_MAX && msg->ring_size >= RLM_RING_SIZE_MIN &&
	       msg->ring_size <= RLM_RING_SIZE_MAX && (msg->ring_size & (msg->ring_size - 1)) == 0;
}

int segment_add(const struct rlm_msg_segment *msg, const int fds[4])
{
	struct link *l = link_find(msg->link, msg->side);
	struct segment *s = map_private(sizeof(*s));

	if (!l || !s || !shape_is_good(msg) || segment_find(l, msg->segment)) {
		unmap(s, sizeof(*s));
		close_all(fds, 4);
		return -EINVAL;
	}
	s->number = msg->segment;
	s->slots = msg->slots;
	s->ring_size = msg->ring_size;
	s->size = rlm_region_size(msg->slots, msg->ring_size);
	s->mine = map_region(fds[0], msg->offset[0], s->size, PROT_READ | PROT_WRITE);
	s->peer = map_region(fds[1], msg->offset[1], s->size, PROT_READ);
	close_all(fds, 2);
	if (!s->mine || !s->peer) {
		if (s->mine)
			sys_call2(SYS_munmap, s->mine, s->size);
		if (s->peer)
			sys_call2(SYS_munmap, s->peer, s->size);
		close_all(fds + 2, 2);
		unmap(s, sizeof(*s));
		return -ENOMEM;
	}
	s->port = msg->port[1];
	s->no_fork = msg->flags & RLM_SEGMENT_NO_FORK;
	s->doorbell_mine = take_doorbell(fds[2], msg->port[0], &s->channel);
	s->doorbell_peer = fd_make_internal(fds[3]);
	s->next = l->segments;
	l->segments = s;
	return 0;
}

// What two domains had at another place. The kernel here knows nothing of those grants and ports: to give one back is an error, and a BUG that
// ends the thread if it is a port. So descriptors and mappings stay until the process ends.
static bool is_out_of_reach(const struct link *l)
{
	return l->control_channel >= 0 && *l->here != l->location;
}

static void segment_free(struct link *l, struct segment *s)
{
	struct segment **at = &l->segments;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	fd_close_internal(s->doorbell_mine);
	if (!is_out_of_reach(l)) {
		sys_call2(SYS_munmap, s->mine, s->size);
		sys_call2(SYS_munmap, s->peer, s->size);
		fd_close_internal(s->doorbell_peer);
		fd_close_internal(s->channel);
	}
	unmap(s, sizeof(*s));
}

static void link_free_if_empty(struct link *l)
{
	struct link **at = &links;

	if (!l->dropped || l->segments)
		return;
	while (*at != l)
		at = &(*at)->next;
	*at = l->next;
	fd_close_internal(l->control_mine);
	if (!is_out_of_reach(l)) {
		fd_close_internal(l->control_peer);
		fd_close_internal(l->control_channel);
	}
	unmap(l, sizeof(*l));
}

bool link_detach(uint64_t id, uint32_t side)
{
	struct link *l = link_find(id, side);
	bool any = false;

	for (struct segment *s = l ? l->segments : NULL; s; s = s->next) {
		long copy;

		if (!s->bound)
			continue;
		copy = sys_call6(SYS_mmap, 0, s->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (copy < 0 && copy > -4096)
			continue;
		memcpy((void *)copy, s->peer, s->size);
		// At once for whoever is reading: before and after it finds the same bytes.
		sys_call5(SYS_mremap, copy, s->size, s->size, MREMAP_MAYMOVE | MREMAP_FIXED, s->peer);
		any = true;
	}
	return any;
}

void link_drop(uint64_t id, uint32_t side, uint32_t segment)
{
	struct link *l = link_find(id, side);

	if (!l)
		return;
	l->dropped |= segment == RLM_ALL_SEGMENTS;
	for (struct segment *s = l->segments, *next; s; s = next) {
		next = s->next;
		if (segment != RLM_ALL_SEGMENTS && s->number != segment)
			continue;
		s->dropped = true;
		if (!s->bound)
			segment_free(l, s);
	}
	link_free_if_empty(l);
}

void links_fork_child(void)
{
	for (struct link *l = links, *next; l; l = next) {
		next = l->next;
		if (l->control_channel >= 0)
			link_drop(l->id, l->side, RLM_ALL_SEGMENTS);
	}
}

void link_end(struct link *l)
{
	while (l->segments)
		segment_free(l, l->segments);
	l->dropped = true;
	link_free_if_empty(l);
}

void segment_unbind(uint64_t id, uint32_t side, uint32_t number)
{
	struct link *l = link_find(id, side);
	struct segment *s = segment_find(l, number);

	if (!s)
		return;
	s->bound--;
	if (s->dropped && !s->bound)
		segment_free(l, s);
	link_free_if_empty(l);
}
