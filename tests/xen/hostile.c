// SPDX-License-Identifier: BSD-2-Clause
// A domain that means ill, in the place of its rlmd. Run by root in a domU where no rlmd is.
//
//   xen-hostile channel             asks for control channels, one after the other, and misuses each in another way
//   xen-hostile link ADDRESS PORT   has connections with a redis there matched, and misuses what makes their links
//   xen-hostile ports               takes all event channels there are, until it is ended
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <libxenvchan.h>
#include <xen/sys/evtchn.h>
#include <xenstore.h>

#include "naming.h"
#include "rlm/layout.h"
#include "xen_channel.h"
#include "xen_wire.h"

#define PROCESS 1 // the number of the process that we pretend to have

static struct xs_handle *store;

static void die(const char *what)
{
	fprintf(stderr, "xen-hostile: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void bytes_fill(void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)bytes)[i] = (uint8_t)random();
}

static void node_write(const char *path, const void *value, size_t size)
{
	xs_write(store, XBT_NULL, path, value, (unsigned)size);
}

static bool node_is(const char *path, const char *expected)
{
	unsigned length;
	char *text = xs_read(store, XBT_NULL, path, &length);
	bool same = text && (!expected || strcmp(text, expected) == 0);

	free(text);
	return same;
}

// --- a channel, as an honest rlmd gets it

static struct libxenvchan *channel_open(void)
{
	static unsigned count;
	struct libxenvchan *channel;
	double end = now() + 60;
	char number[24], value[32];

	snprintf(number, sizeof(number), "%08x%04x", (unsigned)getpid(), ++count); // another one than all before
	snprintf(value, sizeof(value), "ask %s", number);
	node_write(RLMD_WIRE_ASK_NODE, value, strlen(value));
	while (!node_is(RLMD_WIRE_FOR_NODE, number) || !node_is(RLMD_WIRE_CHANNEL_NODE "/event-channel", NULL)) {
		if (now() > end) {
			fprintf(stderr, "xen-hostile: no channel is served\n");
			exit(1);
		}
		usleep(20000);
	}
	channel = libxenvchan_client_init(NULL, 0, RLMD_WIRE_CHANNEL_NODE);
	if (!channel)
		die("libxenvchan_client_init");
	return channel;
}

static bool say(struct libxenvchan *channel, const void *bytes, size_t size)
{
	channel->blocking = 1;
	return libxenvchan_send(channel, bytes, size) == (int)size;
}

static bool message_say(struct libxenvchan *channel, const void *wire)
{
	return say(channel, wire, ((const struct rlmd_wire_header *)wire)->size);
}

// The next message, at most a while. False: none, or the channel is closed.
static bool hear(struct libxenvchan *channel, union rlmd_wire *wire, double seconds)
{
	double end = now() + seconds;
	size_t got = 0;
	long want;

	channel->blocking = 0;
	while ((want = rlmd_wire_missing(wire, got)) > 0) {
		struct pollfd p = {.fd = libxenvchan_fd_for_select(channel), .events = POLLIN};
		int n = libxenvchan_read(channel, (char *)wire + got, (size_t)want);

		if (n < 0 || now() > end)
			return false;
		got += (size_t)n;
		if (n == 0 && poll(&p, 1, 100) > 0)
			libxenvchan_wait(channel);
	}
	return want == 0;
}

static bool hello(struct libxenvchan *channel)
{
	struct rlmd_wire_hello wire = {.header = {.type = RLMD_WIRE_HELLO, .size = sizeof(wire)}, .version = RLMD_WIRE_VERSION, .addresses = 16};

	bytes_fill(wire.address, sizeof(wire.address));
	return message_say(channel, &wire);
}

static void process(struct libxenvchan *channel, uint32_t number)
{
	struct rlmd_wire_client wire = {.header = {.type = RLMD_WIRE_CLIENT, .size = sizeof(wire), .client = number}};

	bytes_fill(wire.command, sizeof(wire.command));
	message_say(channel, &wire);
}

static struct rlmd_wire_offer offer_of(struct rlmd_isn isn, uint32_t index)
{
	return (struct rlmd_wire_offer){.header = {.type = RLMD_WIRE_OFFER, .size = sizeof(struct rlmd_wire_offer), .client = PROCESS},
					.conn = {.index = index, .generation = 1},
					.isn = isn,
					.local = {.family = AF_INET, .address = {10, 0, 2, 12}, .port = 1},
					.remote = {.family = AF_INET, .address = {10, 0, 2, 11}, .port = 2}};
}

// --- ways to misuse it

static void garbage(struct libxenvchan *channel)
{
	uint8_t bytes[1000];

	bytes_fill(bytes, sizeof(bytes));
	for (int i = 0; i < 100 && say(channel, bytes, sizeof(bytes)); i++)
		;
}

static void half_a_message(struct libxenvchan *channel)
{
	struct rlmd_wire_offer wire = offer_of((struct rlmd_isn){1, 2}, 0);

	hello(channel);
	process(channel, PROCESS);
	say(channel, &wire, sizeof(wire) / 2);
	sleep(3);
}

// Each offer has an answer, which nobody reads.
static void never_reads(struct libxenvchan *channel)
{
	double end = now() + 5;

	hello(channel);
	for (uint32_t i = 1; i < 5000; i++)
		process(channel, i);
	for (uint32_t i = 0; now() < end; i++) {
		struct rlmd_wire_offer wire = offer_of((struct rlmd_isn){i, i + 1}, i);

		if (!message_say(channel, &wire))
			return;
	}
}

// What the other side reads changes under its eyes: counters, sizes, flags.
static void page_scribble(struct libxenvchan *channel)
{
	double end = now() + 5;

	hello(channel);
	while (now() < end) {
		for (int i = 0; i < 1000; i++) {
			bytes_fill(channel->ring, random() % 2 ? 16 : 64);
			if (random() % 2) // it goes on reading
				channel->ring->cli_live = channel->ring->srv_live = 1;
		}
		xenevtchn_notify(channel->event, channel->event_port);
	}
}

// The ring is full for ever, whatever is taken from it.
static void ring_full(struct libxenvchan *channel)
{
	union rlmd_wire wire = {.hello = {.header = {.type = RLMD_WIRE_HELLO, .size = 512}, .version = RLMD_WIRE_VERSION}};
	double end = now() + 5;

	for (size_t at = 0; at < RLMD_WIRE_RING; at += 512)
		memcpy((char *)channel->write.buffer + at, &wire, 512);
	while (now() < end) {
		for (int i = 0; i < 10000; i++)
			channel->ring->left.prod = channel->ring->left.cons + RLMD_WIRE_RING;
		xenevtchn_notify(channel->event, channel->event_port);
	}
}

// Nodes of its own, as many as it may have, with anything in them, where the broker watches.
static void store_fill(struct libxenvchan *channel)
{
	char path[128], value[200];

	hello(channel);
	for (int i = 0; i < 2000; i++) {
		bytes_fill(value, sizeof(value));
		node_write(RLMD_WIRE_ASK_NODE, value, sizeof(value));
		snprintf(path, sizeof(path), RLMD_WIRE_ASK_NODE "/%d/a/b", i);
		if (!xs_write(store, XBT_NULL, path, value, sizeof(value)))
			break;
		snprintf(path, sizeof(path), "device/vif/%d/mac", i);
		node_write(path, value, sizeof(value));
	}
	xs_rm(store, XBT_NULL, RLMD_WIRE_ASK_NODE);
}

// rlmctl in dom0 asks, and gets nonsense.
static void answers(struct libxenvchan *channel)
{
	static const char *const texts[] = {"[{\"pid\":\"\\u001b[2J\",\"local\":7,\"tx_carrier\":[],\"why\":{}},7,null,[[]]]", "{\"a\":", "[{}]", ""};
	struct rlmd_wire_text tell = {.header = {.type = RLMD_WIRE_TELL}, .more = 1};
	union rlmd_wire wire;
	double end = now() + 10;

	hello(channel);
	for (unsigned i = 0; now() < end;) {
		if (!hear(channel, &wire, 1) || wire.header.type != RLMD_WIRE_ASK)
			continue;
		tell.question = wire.text.question;
		tell.more = 0;
		tell.length = (uint32_t)strlen(texts[i % 4]);
		memcpy(tell.text, texts[i++ % 4], tell.length);
		tell.header.size = (uint16_t)(offsetof(struct rlmd_wire_text, text) + tell.length);
		message_say(channel, &tell);
	}
}

static void killed(struct libxenvchan *channel)
{
	hello(channel);
	process(channel, PROCESS);
	raise(SIGKILL);
}

static int channel_misuse(void)
{
	static const struct {
		const char *name;
		void (*misuse)(struct libxenvchan *channel);
	} ways[] = {{"garbage", garbage},	      {"half a message", half_a_message},
		    {"never reads", never_reads},     {"changes the shared page", page_scribble},
		    {"a ring that is always full", ring_full}, {"fills xenstore", store_fill},
		    {"nonsense for rlmctl", answers}, {"is killed", killed}};
	int status;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		printf("%s\n", ways[i].name);
		fflush(stdout);
		if (fork() == 0) {
			store = xs_open(0);
			alarm(120);
			ways[i].misuse(channel_open());
			_exit(0);
		}
		wait(&status);
		if (!WIFEXITED(status) || WEXITSTATUS(status)) {
			if (ways[i].misuse == killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
				continue;
			fprintf(stderr, "xen-hostile: that ended with status %#x\n", (unsigned)status);
			return 1;
		}
	}
	store = xs_open(0);
	xs_rm(store, XBT_NULL, RLMD_WIRE_ASK_NODE);
	return 0;
}

// --- links

static int redis_connect(const char *host, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char answer[64];

	inet_pton(AF_INET, host, &address.sin_addr);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) || write(fd, "PING\r\n", 6) != 6 || read(fd, answer, sizeof(answer)) <= 0)
		die("redis");
	return fd;
}

static void half_say(struct libxenvchan *channel, uint64_t link, uint32_t side, uint32_t segment, uint32_t ref, uint32_t port)
{
	struct rlmd_wire_half wire = {.header = {.type = RLMD_WIRE_HALF, .size = sizeof(wire)},
				      .link = link,
				      .side = side,
				      .segment = segment,
				      .page_ref = ref,
				      .port = port};

	// More often than once: the peer shall hear of it once.
	for (int i = 0; i < 100; i++)
		message_say(channel, &wire);
}

enum link_way { BAD_REF, BAD_ORDERS, BAD_GRANTS, BAD_REGION, LINK_WAYS };

// The shared page is granted, so we may write it, while the peer reads it.
static void half_spoil(const struct rlmd_xen_half *half, enum link_way way)
{
	struct vchan_interface *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, half->page, 0);

	if (page == MAP_FAILED)
		die("shared page");
	if (way == BAD_ORDERS)
		bytes_fill(&page->left_order, 4);
	if (way == BAD_GRANTS)
		bytes_fill(page->grants, 2000);
	munmap(page, 4096);
}

// All that the peer reads: header, slots, rings.
static void region_scribble(const struct rlmd_xen_half *half, uint32_t slots, uint32_t ring_size)
{
	size_t size = rlm_region_size(slots, ring_size);
	uint8_t *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, half->region, (off_t)half->offset);
	double end = now() + 3;

	if (region == MAP_FAILED)
		die("region");
	while (now() < end)
		bytes_fill(region + (size_t)random() % (rlm_data_offset(slots) - 64), 64);
	munmap(region, size);
}

static void link_misuse(struct libxenvchan *channel, enum link_way way)
{
	struct rlmd_xen_half bell = {.page = -1, .region = -1, .bell = -1}, half = bell;
	struct rlmd_wire_message *said;
	union rlmd_wire wire;
	unsigned peer = 0;

	while (hear(channel, &wire, 20) && wire.header.type != RLMD_WIRE_ASK) {
		said = &wire.message;
		if (wire.header.type != RLMD_WIRE_MESSAGE)
			continue;
		if (said->msg.header.type == RLM_MSG_LINK) {
			peer = said->peer_domain;
			if (rlmd_xen_bell_make(&bell, peer))
				die("doorbell");
			half_say(channel, said->msg.link.link, said->msg.link.side, RLM_ALL_SEGMENTS, 0, bell.port);
		}
		if (said->msg.header.type != RLM_MSG_SEGMENT)
			continue;
		if (rlmd_xen_half_make(&half, peer, said->msg.segment.slots, said->msg.segment.ring_size))
			die("half");
		half_spoil(&half, way);
		half_say(channel, said->msg.segment.link, said->msg.segment.side, said->msg.segment.segment,
			 way == BAD_REF ? 0x7fffff : half.page_ref, half.port);
		printf("spoiled a segment with domain %u, in way %d\n", peer, way);
		if (way == BAD_REGION)
			region_scribble(&half, said->msg.segment.slots, said->msg.segment.ring_size);
		break;
	}
	if (half.region < 0) {
		fprintf(stderr, "xen-hostile: no segment came\n");
		exit(1);
	}
	sleep(1);
	rlmd_xen_half_close(&bell);
	rlmd_xen_half_close(&half);
}

static int links_misuse(const char *host, const char *port)
{
	store = xs_open(0);
	for (enum link_way way = 0; way < LINK_WAYS; way++) {
		struct libxenvchan *channel = channel_open();
		struct rlmd_wire_offer wire;
		struct rlmd_isn isn;
		enum rlm_why why;
		int fd;

		hello(channel);
		process(channel, PROCESS);
		fd = redis_connect(host, port);
		if (rlmd_naming_isn(fd, &isn, &why) != RLMD_NAMING_OK)
			die("sequence numbers");
		wire = offer_of(isn, 0);
		message_say(channel, &wire);
		link_misuse(channel, way);
		close(fd);
		libxenvchan_close(channel);
	}
	xs_rm(store, XBT_NULL, RLMD_WIRE_ASK_NODE);
	return 0;
}

static int ports_take(void)
{
	int fd = open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC), count = 0;
	struct ioctl_evtchn_bind_unbound_port bind = {.remote_domain = 0};

	while (ioctl(fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &bind) >= 0)
		count++;
	printf("took %d event channels: %s\n", count, strerror(errno));
	fflush(stdout);
	pause();
	return 0;
}

int main(int argc, char **argv)
{
	srandom(1);
	if (argc == 2 && strcmp(argv[1], "channel") == 0)
		return channel_misuse();
	if (argc == 4 && strcmp(argv[1], "link") == 0)
		return links_misuse(argv[2], argv[3]);
	if (argc == 2 && strcmp(argv[1], "ports") == 0)
		return ports_take();
	fprintf(stderr, "usage: xen-hostile channel | link ADDRESS PORT | ports\n");
	return 2;
}
