// SPDX-License-Identifier: BSD-2-Clause
// Are our data channels vchans? libxenvchan's own client attaches to one that rlmd's code made, in another domain, and rlmd's code to one
// that libxenvchan's own server made.
//
//   xen-oracle serve PEER    makes a half for domain PEER, publishes it in xenstore as libxenvchan does, sends BYTES in the right ring,
//                            takes what the client answers from the left one
//   xen-oracle attach SERVER libxenvchan's client: receives, checks, answers
//   xen-oracle native PEER   libxenvchan's server: sends BYTES, checks the answers
//   xen-oracle join SERVER   reads which pages it serves and binds its event channel with rlmd's code, receives, checks, answers
//   xen-oracle view SERVER   opens the half with rlmd's code as an unprivileged process would get it, reads the pattern there
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <libxenvchan.h>
#include <xen/sys/gntdev.h>
#include <xenstore.h>

#include "rlm/layout.h"
#include "rlm/proto.h"
#include "xen_channel.h"

#define NODE	  "data/rlm-oracle"
#define SLOTS	  4u
#define RING_SIZE (64u << 10)
#define RIGHT	  (SLOTS * RING_SIZE)
#define BYTES	  (3u * RIGHT + 12345)
#define LEFT_SIZE 2048u

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint8_t pattern(uint32_t at)
{
	return (uint8_t)(at * 2654435761u >> 24);
}

// What the client sends back for it.
static uint8_t answer(uint32_t at)
{
	return (uint8_t)(255 - pattern(at));
}

static void ring_bell(int fd, uint32_t port)
{
	struct rlm_evtchn_notify notify = {port};

	if (ioctl(fd, RLM_EVTCHN_NOTIFY, &notify))
		die("notify");
}

// Until the peer rings, at most a while.
static void bell_wait(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint32_t port;

	if (poll(&p, 1, 30000) != 1) {
		fprintf(stderr, "the peer does not ring\n");
		exit(1);
	}
	if (read(fd, &port, sizeof(port)) != sizeof(port) || write(fd, &port, sizeof(port)) != sizeof(port))
		die("event channel");
}

static void node_write(struct xs_handle *store, const char *name, uint32_t value, unsigned own, unsigned peer)
{
	struct xs_permissions permissions[2] = {{.id = own, .perms = XS_PERM_NONE}, {.id = peer, .perms = XS_PERM_READ}};
	char path[64], text[16];

	snprintf(path, sizeof(path), NODE "/%s", name);
	snprintf(text, sizeof(text), "%u", value);
	if (!xs_write(store, XBT_NULL, path, text, (unsigned)strlen(text)) || !xs_set_permissions(store, XBT_NULL, path, permissions, 2))
		die("xenstore");
}

static uint32_t node_read(struct xs_handle *store, const char *format, unsigned domain)
{
	char path[96], *text;
	unsigned length;
	uint32_t value;

	snprintf(path, sizeof(path), format, domain);
	text = xs_read(store, XBT_NULL, path, &length);
	if (!text)
		die(path);
	value = (uint32_t)strtoul(text, NULL, 10);
	free(text);
	return value;
}

static int serve(unsigned peer)
{
	struct xs_handle *store = xs_open(0);
	struct rlmd_xen_half half;
	struct vchan_interface *page;
	uint8_t *region, *right, *left, byte;
	uint32_t sent = 0, taken = 0;
	int err = rlmd_xen_half_make(&half, peer, SLOTS, RING_SIZE);

	if (err || !store) {
		fprintf(stderr, "half: %s\n", strerror(-err));
		return 1;
	}
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, half.page, 0);
	region = mmap(NULL, rlm_region_size(SLOTS, RING_SIZE), PROT_READ | PROT_WRITE, MAP_SHARED, half.region, (off_t)half.offset);
	if (page == MAP_FAILED || region == MAP_FAILED)
		die("mmap");
	right = region + rlm_data_offset(SLOTS);
	left = (uint8_t *)page + LEFT_SIZE;
	node_write(store, "ring-ref", half.page_ref, node_read(store, "domid", 0), peer);
	node_write(store, "event-channel", half.port, node_read(store, "domid", 0), peer);
	printf("serving\n");
	fflush(stdout);
	while (taken < BYTES) {
		// What we want to hear of is said before we look, so that nothing is missed.
		__atomic_store_n(&page->cli_notify, VCHAN_NOTIFY_WRITE | VCHAN_NOTIFY_READ, __ATOMIC_SEQ_CST);
		uint32_t room = RIGHT - (sent - __atomic_load_n(&page->right.cons, __ATOMIC_ACQUIRE));

		for (; sent < BYTES && room; room--, sent++)
			right[sent % RIGHT] = pattern(sent);
		__atomic_store_n(&page->right.prod, sent, __ATOMIC_RELEASE);
		while (page->left.cons != __atomic_load_n(&page->left.prod, __ATOMIC_ACQUIRE)) {
			byte = left[page->left.cons % LEFT_SIZE];
			if (byte != answer(taken)) {
				fprintf(stderr, "wrong answer at %u\n", taken);
				return 1;
			}
			taken++;
			__atomic_store_n(&page->left.cons, page->left.cons + 1, __ATOMIC_RELEASE);
		}
		ring_bell(half.bell, half.port);
		if (taken < BYTES)
			bell_wait(half.bell);
	}
	xs_rm(store, XBT_NULL, NODE);
	printf("%u bytes there and back\n", taken);
	return 0;
}

static int attach(unsigned server)
{
	struct libxenvchan *channel;
	uint8_t bytes[4096];
	char path[64];
	uint32_t got = 0;

	snprintf(path, sizeof(path), "/local/domain/%u/" NODE, server);
	channel = libxenvchan_client_init(NULL, (int)server, path);
	if (!channel)
		die("libxenvchan_client_init");
	channel->blocking = 1;
	while (got < BYTES) {
		int n = libxenvchan_read(channel, bytes, sizeof(bytes));

		if (n <= 0)
			die("libxenvchan_read");
		for (int i = 0; i < n; i++, got++) {
			if (bytes[i] != pattern(got)) {
				fprintf(stderr, "wrong byte at %u\n", got);
				return 1;
			}
			bytes[i] = answer(got);
		}
		for (int at = 0; at < n;) {
			int w = libxenvchan_write(channel, bytes + at, (size_t)(n - at));

			if (w <= 0)
				die("libxenvchan_write");
			at += w;
		}
	}
	libxenvchan_close(channel);
	printf("libxenvchan received and answered %u bytes\n", got);
	return 0;
}

// Maps pages that the server grants, from a descriptor of its own, as root could.
static void *grants_map(unsigned server, const uint32_t *refs, uint32_t count, int protection)
{
	struct ioctl_gntdev_map_grant_ref *request = calloc(1, sizeof(*request) + count * sizeof(request->refs[0]));
	int fd = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC);
	void *pages;

	request->count = count;
	for (uint32_t i = 0; i < count; i++)
		request->refs[i] = (struct ioctl_gntdev_grant_ref){.domid = server, .ref = refs[i]};
	if (fd < 0 || ioctl(fd, IOCTL_GNTDEV_MAP_GRANT_REF, request))
		die("gntdev");
	pages = mmap(NULL, count * 4096, protection, MAP_SHARED, fd, (off_t)request->index);
	close(fd);
	free(request);
	return pages;
}

static void *grant_map(unsigned server, uint32_t ref, int protection)
{
	return grants_map(server, &ref, 1, protection);
}

// Blocking in one direction would wait for the other one: the client answers as it reads.
static int native(unsigned peer)
{
	struct libxenvchan *channel = libxenvchan_server_init(NULL, (int)peer, NODE, LEFT_SIZE, RIGHT);
	uint8_t bytes[4096];
	uint32_t sent = 0, taken = 0;

	if (!channel)
		die("libxenvchan_server_init");
	channel->blocking = 0;
	printf("serving\n");
	fflush(stdout);
	while (taken < BYTES) {
		uint32_t size = BYTES - sent < sizeof(bytes) ? BYTES - sent : sizeof(bytes);
		int written, got;

		for (uint32_t i = 0; i < size; i++)
			bytes[i] = pattern(sent + i);
		written = size ? libxenvchan_write(channel, bytes, size) : 0;
		got = libxenvchan_read(channel, bytes, sizeof(bytes));
		if (written < 0 || got < 0)
			die("libxenvchan");
		sent += (uint32_t)written;
		for (int i = 0; i < got; i++, taken++)
			if (bytes[i] != answer(taken)) {
				fprintf(stderr, "wrong answer at %u\n", taken);
				return 1;
			}
		if (!written && !got)
			libxenvchan_wait(channel);
	}
	libxenvchan_close(channel);
	printf("libxenvchan sent %u bytes and had them answered\n", taken);
	return 0;
}

static int join(unsigned server)
{
	struct xs_handle *store = xs_open(0);
	uint32_t refs[RLMD_XEN_GRANTS_MAX], got = 0;
	struct vchan_interface *page =
	    grant_map(server, node_read(store, "/local/domain/%u/" NODE "/ring-ref", server), PROT_READ | PROT_WRITE);
	uint32_t port = node_read(store, "/local/domain/%u/" NODE "/event-channel", server);
	struct rlmd_xen_view view;
	const uint8_t *right;
	uint8_t *left = (uint8_t *)page + LEFT_SIZE;
	int err = page == MAP_FAILED ? -errno : rlmd_xen_page_read(page, SLOTS, RING_SIZE, refs);

	if (!err)
		err = rlmd_xen_bell_open(&view, server, port);
	if (err) {
		fprintf(stderr, "join: %s\n", strerror(-err));
		return 1;
	}
	right = grants_map(server, refs + rlm_data_offset(SLOTS) / 4096, RIGHT / 4096, PROT_READ);
	if (right == MAP_FAILED)
		die("right ring");
	page->cli_live = 1;
	while (got < BYTES) {
		__atomic_store_n(&page->srv_notify, VCHAN_NOTIFY_WRITE | VCHAN_NOTIFY_READ, __ATOMIC_SEQ_CST);
		while (got != __atomic_load_n(&page->right.prod, __ATOMIC_ACQUIRE) &&
		       got - __atomic_load_n(&page->left.cons, __ATOMIC_ACQUIRE) < LEFT_SIZE) {
			if (right[got % RIGHT] != pattern(got)) {
				fprintf(stderr, "wrong byte at %u\n", got);
				return 1;
			}
			left[got % LEFT_SIZE] = answer(got);
			got++;
			__atomic_store_n(&page->right.cons, got, __ATOMIC_RELEASE);
			__atomic_store_n(&page->left.prod, got, __ATOMIC_RELEASE);
		}
		ring_bell(view.bell, view.port);
		if (got < BYTES)
			bell_wait(view.bell);
	}
	printf("received and answered %u bytes of libxenvchan's server\n", got);
	return 0;
}

// Even to root in the other domain a region is what it is said to be.
static int writable_check(unsigned server, uint32_t page_ref)
{
	struct vchan_interface *page = grant_map(server, page_ref, PROT_READ | PROT_WRITE);
	uint32_t first;

	if (page == MAP_FAILED)
		die("shared page");
	first = page->grants[0];
	if (grant_map(server, first, PROT_READ | PROT_WRITE) != MAP_FAILED) {
		fprintf(stderr, "the peer's region can be mapped for writing\n");
		return 1;
	}
	if (grant_map(server, first, PROT_READ) == MAP_FAILED)
		die("a page of the region, read-only");
	return 0;
}

static int view(unsigned server)
{
	struct xs_handle *store = xs_open(0);
	struct rlmd_xen_view opened;
	const struct rlm_region_shared *header;
	uint32_t ref = node_read(store, "/local/domain/%u/" NODE "/ring-ref", server);
	uint32_t port = node_read(store, "/local/domain/%u/" NODE "/event-channel", server);
	uint64_t size = rlm_region_size(SLOTS, RING_SIZE);
	int err = rlmd_xen_view_open(&opened, server, ref, port, SLOTS, RING_SIZE);
	const uint8_t *right;

	if (err) {
		fprintf(stderr, "view: %s\n", strerror(-err));
		return 1;
	}
	if (writable_check(server, ref))
		return 1;
	if (setgid(65534) || setuid(65534))
		die("setuid");
	header = mmap(NULL, size, PROT_READ, MAP_SHARED, opened.region, (off_t)opened.offset);
	if (header == MAP_FAILED)
		die("mmap");
	if (header->magic != RLM_LAYOUT_MAGIC || header->slots != SLOTS || header->ring_size != RING_SIZE || header->size != size) {
		fprintf(stderr, "no header in the region\n");
		return 1;
	}
	right = (const uint8_t *)header + rlm_data_offset(SLOTS);
	for (uint32_t i = 0; i < RIGHT; i++)
		if (right[i] != pattern(i)) {
			fprintf(stderr, "wrong byte at %u of the region\n", i);
			return 1;
		}
	printf("mapped without privileges, read-only, %u bytes as sent\n", RIGHT);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned domain = argc == 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;

	if (argc == 3 && strcmp(argv[1], "serve") == 0)
		return serve(domain);
	if (argc == 3 && strcmp(argv[1], "attach") == 0)
		return attach(domain);
	if (argc == 3 && strcmp(argv[1], "view") == 0)
		return view(domain);
	if (argc == 3 && strcmp(argv[1], "native") == 0)
		return native(domain);
	if (argc == 3 && strcmp(argv[1], "join") == 0)
		return join(domain);
	fprintf(stderr, "usage: xen-oracle serve|attach|native|join|view DOMAIN\n");
	return 2;
}
