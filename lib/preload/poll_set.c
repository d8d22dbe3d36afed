// SPDX-License-Identifier: BSD-2-Clause
// The descriptors of a poll: which are ours, what the kernel is asked of them, and what they have.
#include <sys/epoll.h>

#include "epoll.h"
#include "poll_set.h"

bool polling_look_up(struct polling *p)
{
	bool ours = false;

	p->stale = false;
	for (nfds_t i = 0; i < p->n; i++)
		ours |= entry_look_up(p->fds[i].fd, &p->entries[i]) >= ENTRY_BOUND;
	return ours;
}

void polling_make_shadow(struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++) {
		p->shadow[i] = p->fds[i];
		p->shadow[i].revents = 0;
		if (p->entries[i].conn)
			p->entries[i].events = ready_events(p->entries[i].conn);
		if (p->entries[i].kind == ENTRY_BOUND) {
			uint32_t wanted = (uint16_t)p->fds[i].events;

			if (wanted & (EPOLLIN | EPOLLRDNORM))
				wanted |= EPOLLIN; // frames come this way too
			p->shadow[i].events = (short)ready_kernel_mask(p->entries[i].conn, wanted);
		}
	}
	p->shadow[p->n] = (struct pollfd){.fd = -1};
}

int polling_evaluate(struct polling *p)
{
	int count = 0;

	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];
		uint32_t events = (uint16_t)p->shadow[i].revents;
		uint32_t wanted = (uint16_t)p->fds[i].events | POLLERR | POLLHUP | POLLNVAL;
		struct ready r;

		// Bound while we slept: what the kernel shows may be a frame.
		if (e->kind == ENTRY_PLAIN && events && atomic_load_explicit(&e->conn->bound, memory_order_acquire))
			e->kind = ENTRY_BOUND;
		if (e->kind == ENTRY_BOUND && !(events & POLLNVAL)) { // else it was closed meanwhile
			ready_note_kernel(e->conn, e->events, (uint16_t)p->shadow[i].events, events);
			r = ready_now(e->conn, p->fds[i].fd, (uint16_t)p->fds[i].events, (uint16_t)p->shadow[i].events, events);
			e->head = r.head;
			events = r.events;
			p->stale |= r.stale;
		} else if (e->kind == ENTRY_EPOLL) {
			events = epoll_is_ready(p->fds[i].fd) ? POLLIN | POLLRDNORM : 0;
		}
		p->fds[i].revents = (short)(events & wanted);
		count += p->fds[i].revents != 0;
	}
	return count;
}

bool polling_needs_no_kernel(const struct polling *p)
{
	for (nfds_t i = 0; i < p->n; i++)
		if (p->fds[i].fd >= 0 && (p->entries[i].kind != ENTRY_BOUND ||
					  !ready_needs_no_kernel(p->entries[i].conn, (uint16_t)p->fds[i].events)))
			return false;
	return true;
}

int polling_evaluate_ours(struct polling *p)
{
	int count = 0;

	for (nfds_t i = 0; i < p->n; i++) {
		struct entry *e = &p->entries[i];
		uint32_t wanted = (uint16_t)p->fds[i].events;
		struct ready r = {0};

		if (e->kind == ENTRY_BOUND)
			r = ready_now(e->conn, p->fds[i].fd, wanted, UINT16_MAX, 0);
		else if (e->kind == ENTRY_EPOLL && epoll_is_ready(p->fds[i].fd))
			r.events = POLLIN | POLLRDNORM;
		p->stale |= r.stale;
		e->head = r.head;
		p->fds[i].revents = (short)(r.events & (wanted | POLLERR | POLLHUP | POLLNVAL));
		count += p->fds[i].revents != 0;
	}
	return count;
}
