// SPDX-License-Identifier: BSD-2-Clause
// Memory and doorbells between two Xen domains, as descriptors that processes without access to /dev/xen can map and ring.
//
// A segment takes two vchans (xen/io/libxenvchan.h), one served by each side:
//
//   shared page   left ring: 2 KiB inside this page, unused        granted read-write, as the ABI wants it
//                 right ring: 2^order bytes of their own           granted read-only
//                 grants[]: the pages of the right ring, then the control pages of the region
//   region        control pages (header, slots), then the right ring: what rlm/layout.h calls a region
//   event channel rung by the client for the server
//
// So each side writes memory that it alone owns, Xen sees to it that the other one only reads, and each domain pays for what it sends.
// The counters in the shared page stand still: those of rlm/layout.h are used instead.
//
// Nothing is mapped here for longer than it takes to write a header or to read grants[]: a mapping of gntdev can be made only once
// (PV), so it is the process that makes it. A page lives as long as anyone has its descriptor or a mapping.
#ifndef RLMD_XEN_CHANNEL_H
#define RLMD_XEN_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

// What this domain serves.
struct rlmd_xen_half {
	int page;	   // descriptor that keeps the shared page
	uint32_t page_ref; // its grant
	int region;	   // to be mapped read-write
	uint64_t offset;   // there
	int bell;	   // rung by the peer
	uint32_t port;
};

// What the peer domain serves.
struct rlmd_xen_view {
	int region; // to be mapped read-only
	uint64_t offset;
	int bell; // rings at the peer
	uint32_t port;
};

// Whether ring and slots fit a channel; a segment's data has 4 KiB to 1 MiB and is a power of two.
bool rlmd_xen_shape_valid(uint32_t slots, uint32_t ring_size);
// Bytes of grants that one half takes.
uint64_t rlmd_xen_half_memory(uint32_t slots, uint32_t ring_size);

// For processes of domain peer. 0 or -errno: -ENOSPC, no more pages may be granted.
int rlmd_xen_half_make(struct rlmd_xen_half *half, unsigned peer, uint32_t slots, uint32_t ring_size);
// No region, only a doorbell.
int rlmd_xen_bell_make(struct rlmd_xen_half *half, unsigned peer);
void rlmd_xen_half_close(struct rlmd_xen_half *half);

// The other half of a segment of this shape, served by domain peer. Whatever it says is checked. 0 or -errno.
int rlmd_xen_view_open(struct rlmd_xen_view *view, unsigned peer, uint32_t page_ref, uint32_t port, uint32_t slots, uint32_t ring_size);
int rlmd_xen_bell_open(struct rlmd_xen_view *view, unsigned peer, uint32_t port);
void rlmd_xen_view_close(struct rlmd_xen_view *view);

struct vchan_interface;
// What a peer's shared page may name: it fits the page's first half.
#define RLMD_XEN_GRANTS_MAX 506
// Which pages make the peer's region, in the region's order; refs has room for RLMD_XEN_GRANTS_MAX, the shape is valid. The peer may write the
// page meanwhile: what is read here once is all that is used. 0 or -EPROTO.
int rlmd_xen_page_read(const struct vchan_interface *page, uint32_t slots, uint32_t ring_size, uint32_t *refs);

// Pages that all of this kernel may grant through gntalloc; raised to `pages` if it is lower and we may.
void rlmd_xen_grants_allow(unsigned pages);

#endif
