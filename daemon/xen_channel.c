// SPDX-License-Identifier: BSD-2-Clause
#include "xen_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xen/io/libxenvchan.h>
#include <xen/xen.h>
// These need domid_t.
#include <xen/sys/evtchn.h>
#include <xen/sys/gntalloc.h>
#include <xen/sys/gntdev.h>

#include "log.h"
#include "rlm/layout.h"

#define PAGE	       4096u
#define LEFT_ORDER     11 // inside the shared page, in its second half
#define RIGHT_ORDER_MIN 12
#define RIGHT_ORDER_MAX 20
#define GRANTS_MAX     RLMD_XEN_GRANTS_MAX
#define LIVE	       1
#define NOT_YET	       2
#define LIMIT_FILE     "/sys/module/xen_gntalloc/parameters/limit"

_Static_assert(sizeof(struct vchan_interface) + GRANTS_MAX * sizeof(uint32_t) == 2048, "grants[] fills the first half of the page");

static uint32_t region_pages(uint32_t slots, uint32_t ring_size)
{
	return (uint32_t)(rlm_region_size(slots, ring_size) / PAGE);
}

static uint32_t control_pages(uint32_t slots)
{
	return (uint32_t)(rlm_data_offset(slots) / PAGE);
}

bool rlmd_xen_shape_valid(uint32_t slots, uint32_t ring_size)
{
	uint64_t data = (uint64_t)slots * ring_size;

	return slots >= 1 && slots <= RLM_SLOTS_MAX && ring_size >= PAGE && (data & (data - 1)) == 0 &&
	       data <= 1u << RIGHT_ORDER_MAX && region_pages(slots, ring_size) <= GRANTS_MAX;
}

uint64_t rlmd_xen_half_memory(uint32_t slots, uint32_t ring_size)
{
	return rlm_region_size(slots, ring_size) + PAGE;
}

static int device_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

// --- event channels

// Binds a port as request says. Before anyone else gets the descriptor it is restricted to a domain that is not there, so that nothing more can be
// bound with it; the kernel refuses to restrict one to dom0. 0 or -errno.
static int evtchn_bind(int *bell, uint32_t *port, unsigned long request, void *argument)
{
	struct ioctl_evtchn_restrict_domid restriction = {.domid = DOMID_FIRST_RESERVED - 1};
	int err, result, fd = device_open("/dev/xen/evtchn");

	*bell = -1;
	if (fd < 0)
		return fd;
	result = ioctl(fd, request, argument);
	if (result < 0 || ioctl(fd, IOCTL_EVTCHN_RESTRICT_DOMID, &restriction)) {
		err = -errno;
		close(fd);
		return err;
	}
	*bell = fd;
	*port = (uint32_t)result;
	return 0;
}

int rlmd_xen_bell_make(struct rlmd_xen_half *half, unsigned peer)
{
	struct ioctl_evtchn_bind_unbound_port bind = {.remote_domain = peer};

	*half = (struct rlmd_xen_half){.page = -1, .region = -1, .bell = -1};
	return evtchn_bind(&half->bell, &half->port, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &bind);
}

int rlmd_xen_bell_open(struct rlmd_xen_view *view, unsigned peer, uint32_t port)
{
	struct ioctl_evtchn_bind_interdomain bind = {.remote_domain = peer, .remote_port = port};

	*view = (struct rlmd_xen_view){.region = -1, .bell = -1};
	return evtchn_bind(&view->bell, &view->port, IOCTL_EVTCHN_BIND_INTERDOMAIN, &bind);
}

// --- pages that we grant

// The descriptor that holds them, or -errno.
static int pages_grant(unsigned peer, bool writable, uint32_t count, uint32_t *refs, uint64_t *offset)
{
	size_t size = sizeof(struct ioctl_gntalloc_alloc_gref) + count * sizeof(uint32_t);
	struct ioctl_gntalloc_alloc_gref *request = calloc(1, size);
	int err, fd = request ? device_open("/dev/xen/gntalloc") : -ENOMEM;

	if (fd < 0)
		goto out;
	request->domid = (uint16_t)peer;
	request->flags = writable ? GNTALLOC_FLAG_WRITABLE : 0;
	request->count = count;
	if (ioctl(fd, IOCTL_GNTALLOC_ALLOC_GREF, request)) {
		err = -errno;
		close(fd);
		fd = err;
		goto out;
	}
	memcpy(refs, request->gref_ids, count * sizeof(uint32_t));
	*offset = request->index;
out:
	free(request);
	return fd;
}

static void *page_map(int fd, uint64_t offset)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

	return page == MAP_FAILED ? NULL : page;
}

static int header_write(int region, uint64_t offset, uint32_t slots, uint32_t ring_size)
{
	struct rlm_region_shared *header = page_map(region, offset);

	if (!header)
		return -errno;
	*header = rlm_region_header(slots, ring_size);
	munmap(header, PAGE);
	return 0;
}

// The right ring's pages come first in grants[], as the ABI wants it, and last in the region.
static int page_write(int fd, uint64_t offset, const uint32_t *refs, uint32_t slots, uint32_t ring_size)
{
	uint32_t control = control_pages(slots), pages = region_pages(slots, ring_size);
	struct vchan_interface *page = page_map(fd, offset);

	if (!page)
		return -errno;
	page->left_order = LEFT_ORDER;
	page->right_order = (uint16_t)__builtin_ctz(slots * ring_size);
	page->srv_live = LIVE;
	page->cli_live = NOT_YET;
	page->cli_notify = VCHAN_NOTIFY_WRITE;
	memcpy(page->grants, refs + control, (pages - control) * sizeof(uint32_t));
	memcpy(page->grants + (pages - control), refs, control * sizeof(uint32_t));
	munmap(page, PAGE);
	return 0;
}

int rlmd_xen_half_make(struct rlmd_xen_half *half, unsigned peer, uint32_t slots, uint32_t ring_size)
{
	uint32_t refs[GRANTS_MAX];
	uint64_t page_offset;
	int err;

	err = rlmd_xen_bell_make(half, peer);
	if (err)
		return err;
	err = half->region = pages_grant(peer, false, region_pages(slots, ring_size), refs, &half->offset);
	if (err >= 0)
		err = header_write(half->region, half->offset, slots, ring_size);
	if (err >= 0)
		err = half->page = pages_grant(peer, true, 1, &half->page_ref, &page_offset);
	if (err >= 0)
		err = page_write(half->page, page_offset, refs, slots, ring_size);
	if (err < 0)
		rlmd_xen_half_close(half);
	return err < 0 ? err : 0;
}

void rlmd_xen_half_close(struct rlmd_xen_half *half)
{
	close_fd(&half->page);
	close_fd(&half->region);
	close_fd(&half->bell);
}

// --- pages that the peer grants

// A descriptor of gntdev with these pages, not mapped yet; or -errno.
static int pages_take(unsigned peer, uint32_t count, const uint32_t *refs, uint64_t *offset)
{
	size_t size = sizeof(struct ioctl_gntdev_map_grant_ref) + count * sizeof(struct ioctl_gntdev_grant_ref);
	struct ioctl_gntdev_map_grant_ref *request = calloc(1, size);
	int err, fd = request ? device_open("/dev/xen/gntdev") : -ENOMEM;

	if (fd < 0)
		goto out;
	request->count = count;
	for (uint32_t i = 0; i < count; i++)
		request->refs[i] = (struct ioctl_gntdev_grant_ref){.domid = peer, .ref = refs[i]};
	if (ioctl(fd, IOCTL_GNTDEV_MAP_GRANT_REF, request)) {
		err = -errno;
		close(fd);
		fd = err;
		goto out;
	}
	*offset = request->index;
out:
	free(request);
	return fd;
}

int rlmd_xen_page_read(const struct vchan_interface *page, uint32_t slots, uint32_t ring_size, uint32_t *refs)
{
	uint32_t control = control_pages(slots), pages = region_pages(slots, ring_size);

	if (page->left_order != LEFT_ORDER || page->right_order != __builtin_ctz(slots * ring_size))
		return -EPROTO;
	memcpy(refs, page->grants + (pages - control), control * sizeof(uint32_t));
	memcpy(refs + control, page->grants, (pages - control) * sizeof(uint32_t));
	return 0;
}

static int refs_read(unsigned peer, uint32_t page_ref, uint32_t slots, uint32_t ring_size, uint32_t *refs)
{
	struct vchan_interface *page;
	uint64_t offset = 0;
	int err, fd = pages_take(peer, 1, &page_ref, &offset);

	if (fd < 0)
		return fd;
	page = page_map(fd, offset);
	err = page ? rlmd_xen_page_read(page, slots, ring_size, refs) : -errno;
	if (page) {
		page->cli_live = LIVE;
		munmap(page, PAGE);
	}
	close(fd);
	return err;
}

int rlmd_xen_view_open(struct rlmd_xen_view *view, unsigned peer, uint32_t page_ref, uint32_t port, uint32_t slots, uint32_t ring_size)
{
	uint32_t refs[GRANTS_MAX];
	int err = rlmd_xen_bell_open(view, peer, port);

	if (!err)
		err = refs_read(peer, page_ref, slots, ring_size, refs);
	if (!err)
		err = view->region = pages_take(peer, region_pages(slots, ring_size), refs, &view->offset);
	if (err < 0)
		rlmd_xen_view_close(view);
	return err < 0 ? err : 0;
}

void rlmd_xen_view_close(struct rlmd_xen_view *view)
{
	close_fd(&view->region);
	close_fd(&view->bell);
}

void rlmd_xen_grants_allow(unsigned pages)
{
	FILE *file = fopen(LIMIT_FILE, "r+");
	unsigned limit = 0;

	if (!file) {
		log_warn("%s: %s", LIMIT_FILE, strerror(errno));
		return;
	}
	if (fscanf(file, "%u", &limit) == 1 && limit < pages) {
		rewind(file);
		if (fprintf(file, "%u\n", pages) < 0 || fflush(file))
			log_warn("%s stays %u: %s", LIMIT_FILE, limit, strerror(errno));
		else
			log_info("raised the number of pages that may be granted from %u to %u", limit, pages);
	}
	fclose(file);
}
