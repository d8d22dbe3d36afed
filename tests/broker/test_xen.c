// SPDX-License-Identifier: BSD-2-Clause
// The broker role with honest and hostile guests, on a Xen made of memory (fake_xen.c).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include <libxenvchan.h>

#include "broker.h"
#include "fake_xen.h"
#include "xen_channel.h"
#include "xen_internal.h"

enum { ALICE = 1, BOB, MALLORY, TRUDY };

static struct rlmd_broker broker;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void turns(int count)
{
	while (count--)
		ev_run(broker.loop, EVRUN_NOWAIT);
}

static bool too_late;

static void note_too_late(struct ev_loop *loop, ev_timer *timer, int events)
{
	(void)loop, (void)timer, (void)events;
	too_late = true;
}

// Whatever makes the condition true is an event of the loop: all that the broker talks to is in this process.
#define until(condition)                                                                                                                   \
	do {                                                                                                                               \
		ev_timer patience;                                                                                                         \
		int how = EVRUN_NOWAIT; /* what was fed to the loop would not end a wait */                                                \
		too_late = false;                                                                                                          \
		ev_timer_init(&patience, note_too_late, 30, 0);                                                                            \
		ev_timer_start(broker.loop, &patience);                                                                                    \
		for (; !(condition) && !too_late; how = EVRUN_ONCE)                                                                        \
			ev_run(broker.loop, how);                                                                                          \
		ev_timer_stop(broker.loop, &patience);                                                                                     \
		assert_false(too_late);                                                                                                    \
	} while (0)

static struct rlmd_guest *guest(unsigned id)
{
	struct rlmd_guest *found;

	DL_SEARCH_SCALAR(broker.xen->guests, found, id, id);
	return found;
}

static void domain_new(unsigned id)
{
	char name[16], mac[20];

	snprintf(name, sizeof(name), "d%u", id);
	snprintf(mac, sizeof(mac), "00:16:3E:00:00:%02x", id);
	fake_domain_new(id, name, mac);
	until(guest(id));
}

static void ask(unsigned id)
{
	static unsigned number;
	unsigned before = fake_guest_channel(id);
	char path[64], text[24];

	snprintf(path, sizeof(path), "/local/domain/%u/" RLMD_WIRE_ASK_NODE, id);
	snprintf(text, sizeof(text), "ask %u", ++number);
	fake_store_set(path, text);
	until(ev_is_active(&guest(id)->serve));
	ev_feed_event(broker.loop, &guest(id)->serve, EV_TIMER); // without a pause: test_pause() is for that
	until(fake_guest_open(id) && fake_guest_channel(id) != before);
}

static void say(unsigned id, const void *wire)
{
	const struct rlmd_wire_header *header = wire;

	until(fake_guest_write(id, wire, header->size));
	turns(2);
}

// The next message for the guest; false: none.
static bool hear(unsigned id, union rlmd_wire *wire)
{
	turns(2);
	if (fake_guest_read(id, wire, sizeof(wire->header)) != sizeof(wire->header))
		return false;
	for (size_t got = sizeof(wire->header); got < wire->header.size;) {
		got += fake_guest_read(id, (char *)wire + got, wire->header.size - got);
		turns(1);
	}
	assert_true(rlmd_wire_valid(wire));
	return true;
}

static void expect(unsigned id, uint16_t type, union rlmd_wire *wire)
{
	until(hear(id, wire));
	assert_int_equal(wire->header.type, type);
}

static void expect_message(unsigned id, uint16_t type, union rlmd_wire *wire)
{
	expect(id, RLMD_WIRE_MESSAGE, wire);
	assert_int_equal(wire->message.msg.header.type, type);
}

static void silence(unsigned id)
{
	union rlmd_wire wire;

	assert_false(hear(id, &wire));
}

static struct rlmd_endpoint endpoint(const char *text, uint16_t port)
{
	struct rlmd_endpoint end = {.family = AF_INET, .port = port};

	inet_pton(AF_INET, text, end.address);
	return end;
}

// With one address, on the interface that it has.
static void hello(unsigned id, const char *address)
{
	struct rlmd_wire_hello wire = {.header = {.type = RLMD_WIRE_HELLO, .size = sizeof(wire)}, .version = RLMD_WIRE_VERSION, .addresses = 1};

	wire.address[0].endpoint = endpoint(address, 0);
	memcpy(wire.address[0].mac, (uint8_t[]){0x00, 0x16, 0x3e, 0, 0, (uint8_t)id}, 6);
	say(id, &wire);
}

static void enter(unsigned id, const char *address)
{
	union rlmd_wire wire;

	ask(id);
	hello(id, address);
	expect(id, RLMD_WIRE_WELCOME, &wire);
}

static void process(unsigned id, uint32_t number)
{
	struct rlmd_wire_client wire = {.header = {.type = RLMD_WIRE_CLIENT, .size = sizeof(wire), .client = number}, .pid = 7, .command = "test"};

	say(id, &wire);
}

static void offer(unsigned id, uint32_t number, uint32_t index, const char *local, uint32_t own, uint32_t peer)
{
	struct rlmd_wire_offer wire = {.header = {.type = RLMD_WIRE_OFFER, .size = sizeof(wire), .client = number},
				       .conn = {.index = index, .generation = 1},
				       .isn = {own, peer},
				       .local = endpoint(local, 1),
				       .remote = endpoint("10.0.0.9", 2)};

	say(id, &wire);
}

static int setup(void **state)
{
	char error[256];

	assert_int_equal(rlmd_broker_init(&broker, ev_default_loop(0), &rlmd_backend_local, "test"), 0);
	assert_int_equal(rlmd_xen_init(&broker, RLMD_ROLE_BROKER, error, sizeof(error)), 0);
	domain_new(ALICE);
	domain_new(BOB);
	return 0;
}

static int teardown(void **state)
{
	rlmd_broker_deinit(&broker);
	return 0;
}

static void bound(unsigned id, struct rlm_msg_bind *bind)
{
	union rlmd_wire wire;

	do
		until(hear(id, &wire));
	while (wire.header.type != RLMD_WIRE_MESSAGE || wire.message.msg.header.type != RLM_MSG_BIND);
	*bind = wire.message.msg.bind;
}

// A connection between processes 1 of Alice and Bob is matched.
static void match(uint32_t index, struct rlm_msg_bind bind[2])
{
	offer(ALICE, 1, index, "10.0.0.1", 1000 + index, 2000 + index);
	offer(BOB, 1, index, "10.0.0.2", 2000 + index, 1000 + index);
	bound(ALICE, &bind[0]);
	bound(BOB, &bind[1]);
	assert_int_equal(bind[0].link, bind[1].link);
}

static void release(unsigned id, const struct rlm_msg_bind *bind)
{
	struct rlmd_wire_message wire = {.header = {.type = RLMD_WIRE_MESSAGE, .client = 1}};

	wire.msg.release = (struct rlm_msg_release){.header = {.type = RLM_MSG_RELEASE, .size = sizeof(wire.msg.release)},
						    .link = bind->link,
						    .side = bind->side,
						    .segment = bind->segment,
						    .slot = bind->slot,
						    .epoch = bind->epoch};
	wire.header.size = offsetof(struct rlmd_wire_message, msg) + sizeof(wire.msg.release);
	say(id, &wire);
}

static void half(unsigned id, uint64_t link, uint32_t side, uint32_t segment, int32_t status)
{
	struct rlmd_wire_half wire = {.header = {.type = RLMD_WIRE_HALF, .size = sizeof(wire)},
				      .link = link,
				      .side = side,
				      .segment = segment,
				      .status = status,
				      .page_ref = 5,
				      .port = 6};

	say(id, &wire);
}

static void test_match(void **state)
{
	struct rlm_msg_bind bind[2];
	union rlmd_wire wire;
	uint64_t link;

	enter(ALICE, "10.0.0.1");
	enter(BOB, "10.0.0.2");
	process(ALICE, 1);
	process(BOB, 1);
	match(0, bind);
	link = bind[0].link;
	// Each half reaches the other side, once.
	half(BOB, link, 0, 0, 0);
	expect(ALICE, RLMD_WIRE_HALF, &wire);
	assert_int_equal(wire.half.page_ref, 5);
	half(BOB, link, 0, 0, 0);
	silence(ALICE);
	// The other side, or a link or a segment that is not there, is not for Bob to speak of.
	half(BOB, link, 1, 0, 0);
	half(BOB, link + 1, 0, 0, 0);
	half(BOB, link, 0, 99, 0);
	half(BOB, link, 2, 0, 0);
	silence(ALICE);
	half(BOB, link, 0, RLM_ALL_SEGMENTS, -ENOSPC);
	expect(ALICE, RLMD_WIRE_HALF, &wire);
	expect_message(ALICE, RLM_MSG_DROP, &wire);
}

static void test_addresses(void **state)
{
	union rlmd_wire wire;

	domain_new(MALLORY);
	fake_store_set("/local/domain/0/backend/vif/1/0/ip", "10.0.0.1 fd00::1");
	enter(MALLORY, "10.0.0.1"); // before its owner comes
	enter(ALICE, "10.0.0.1");
	assert_int_equal(guest(MALLORY)->address_count, 0);
	assert_int_equal(guest(ALICE)->address_count, 1);
	process(MALLORY, 1);
	offer(MALLORY, 1, 0, "10.0.0.1", 1, 2);
	expect_message(MALLORY, RLM_MSG_NOTE, &wire);
	assert_int_equal(wire.message.msg.note.why, RLM_WHY_UNNAMED);
	// What it gets later it may say later.
	hello(MALLORY, "10.0.0.3");
	silence(MALLORY);
	assert_int_equal(guest(MALLORY)->address_count, 1);
	// An interface that xenstore does not know.
	enter(BOB, "10.0.0.2");
	fake_store_set("/local/domain/0/backend/vif/2/0/mac", "00:16:3e:11:11:11");
	until(strcmp(guest(BOB)->macs[0], "00:16:3e:11:11:11") == 0);
	hello(BOB, "10.0.0.2");
	assert_int_equal(guest(BOB)->address_count, 0);
	fake_store_set("/local/domain/2/rlm/addresses", "10.0.0.3, nonsense");
	until(guest(BOB)->assigned_count == 1);
	hello(MALLORY, "10.0.0.3");
	assert_int_equal(guest(MALLORY)->address_count, 0);
}

// Who does not read is cut off, with bounded memory, and hears nothing more until it asks again.
static void test_never_reads(void **state)
{
	uint32_t index = 0;
	size_t most = 0;

	enter(ALICE, "10.0.0.1");
	domain_new(MALLORY);
	enter(MALLORY, "10.0.0.3");
	process(MALLORY, 1);
	while (guest(MALLORY)->hello) {
		offer(MALLORY, 1, index++, "10.0.0.1", 1, 2); // not its own: a NOTE each time
		if (guest(MALLORY)->pipe.out_room > most)
			most = guest(MALLORY)->pipe.out_room;
	}
	assert_true(most >= 1 << 20 && most <= 4 << 20);
	assert_false(fake_guest_open(MALLORY));
	until(guest(MALLORY)->client_count == 0);
	enter(MALLORY, "10.0.0.3");
}

// Comes back at once whenever it is thrown out: it has to wait longer each time.
static void test_pause(void **state)
{
	struct rlmd_wire_header wire = {.type = 77, .size = sizeof(wire)};
	double first = now(), last;

	domain_new(MALLORY);
	for (int i = 0; i < 4; i++) {
		fake_store_set("/local/domain/3/" RLMD_WIRE_ASK_NODE, (const char *[]){"ask a", "ask b", "ask c", "ask d"}[i]);
		last = now();
		until(fake_guest_open(MALLORY));
		say(MALLORY, &wire);
		until(!fake_guest_open(MALLORY));
	}
	assert_true(now() - last > 0.6 && now() - first > 1);
}

// --- nonsense

static uint32_t seed;

static uint32_t chance(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (seed >> 8) % below;
}

static void bytes_fill(void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)bytes)[i] = (uint8_t)chance(256);
}

// Nearly right: a message that is refused at once leads no further.
static size_t nonsense(union rlmd_wire *wire, uint64_t link)
{
	static const uint16_t inner[] = {RLM_MSG_WITHDRAW, RLM_MSG_RELEASE, RLM_MSG_LEFT, RLM_MSG_OFFER, RLM_MSG_REQUEST};
	static const size_t sizes[] = {[RLMD_WIRE_HELLO] = sizeof(struct rlmd_wire_hello),
				       [RLMD_WIRE_WELCOME] = sizeof(struct rlmd_wire_welcome),
				       [RLMD_WIRE_CLIENT] = sizeof(struct rlmd_wire_client),
				       [RLMD_WIRE_GONE] = sizeof(struct rlmd_wire_header),
				       [RLMD_WIRE_OFFER] = sizeof(struct rlmd_wire_offer),
				       [RLMD_WIRE_HALF] = sizeof(struct rlmd_wire_half)};
	uint16_t type = (uint16_t)(1 + chance(RLMD_WIRE_TELL));

	bytes_fill(wire, sizeof(*wire));
	wire->header.type = type;
	wire->header.client = chance(4);
	wire->header.size = (uint16_t)(type < sizeof(sizes) / sizeof(sizes[0]) ? sizes[type] : 0);
	if (type == RLMD_WIRE_HELLO && chance(8)) {
		wire->hello.version = RLMD_WIRE_VERSION;
		wire->hello.addresses = chance(RLMD_WIRE_ADDRESSES + 1);
	} else if (type == RLMD_WIRE_OFFER) {
		wire->offer.conn.index = chance(8);
		wire->offer.isn.own = chance(4);
		wire->offer.isn.peer = chance(4);
		wire->offer.local = endpoint("10.0.0.3", (uint16_t)chance(4));
		wire->offer.remote = endpoint("10.0.0.4", (uint16_t)chance(4));
	} else if (type == RLMD_WIRE_MESSAGE) {
		wire->message.msg.header.type = inner[chance(5)];
		wire->message.msg.header.size = (uint16_t)(chance(8) ? sizeof(struct rlm_msg_release) : 8 + chance(64));
		wire->header.size = (uint16_t)(offsetof(struct rlmd_wire_message, msg) + wire->message.msg.header.size);
		wire->message.msg.release.link = link;
		wire->message.msg.release.side = chance(3);
		wire->message.msg.release.segment = chance(2);
		wire->message.msg.release.slot = chance(5);
	} else if (type == RLMD_WIRE_HALF) {
		wire->half.link = link;
		wire->half.side = chance(3);
		wire->half.segment = chance(2) ? chance(3) : RLM_ALL_SEGMENTS;
		wire->half.status = chance(6) ? 0 : -ENOSPC;
	} else if (type >= RLMD_WIRE_ASK) {
		wire->text.length = chance(RLMD_WIRE_TEXT + 1);
		wire->text.question = chance(3);
		wire->header.size = (uint16_t)(offsetof(struct rlmd_wire_text, text) + wire->text.length);
	}
	return chance(50) ? wire->header.size : chance(sizeof(*wire));
}

static void attack(unsigned id, uint64_t link)
{
	union rlmd_wire wire;
	uint8_t heard[2048];
	size_t size = nonsense(&wire, link);

	if (!fake_guest_open(id)) {
		ask(id);
		if (chance(8))
			hello(id, "10.0.0.3");
		return;
	}
	fake_guest_write(id, &wire, size);
	turns(1);
	if (chance(4))
		fake_guest_read(id, heard, sizeof(heard));
}

// A link that the two attackers have with one another, if any.
static uint64_t some_link(void)
{
	return broker.links.by_id ? broker.links.by_id->id : 1;
}

static void test_nonsense(void **state)
{
	struct rlm_msg_bind bind[2];

	seed = 1;
	enter(ALICE, "10.0.0.1");
	enter(BOB, "10.0.0.2");
	process(ALICE, 1);
	process(BOB, 1);
	domain_new(MALLORY);
	domain_new(TRUDY);
	for (uint32_t i = 0; i < 200; i++) {
		match(i, bind);
		for (int j = 0; j < 100; j++) {
			attack(chance(2) ? MALLORY : TRUDY, some_link());
			if (chance(2000) == 0) {
				fake_domain_end(TRUDY);
				until(!guest(TRUDY));
				domain_new(TRUDY);
			}
		}
		release(ALICE, &bind[0]);
		release(BOB, &bind[1]);
		assert_true(guest(ALICE)->hello && guest(BOB)->hello);
	}
	fake_domain_end(MALLORY);
	fake_domain_end(TRUDY);
	until(!guest(MALLORY) && !guest(TRUDY) && broker.client_count == 2);
}

// A page that its owner fills with anything names grants, or is refused; nothing beyond it is read.
static void test_page(void **state)
{
	static const struct rlmd_shape shapes[] = {{4, 256 << 10}, {1, 1 << 20}, {64, 4096}, {1, 4096}};
	uint8_t *pages = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vchan_interface *page = (struct vchan_interface *)pages;
	uint32_t refs[RLMD_XEN_GRANTS_MAX + 1];

	assert_int_equal(mprotect(pages + 4096, 4096, PROT_NONE), 0);
	seed = 2;
	for (int i = 0; i < 20000; i++) {
		const struct rlmd_shape *shape = &shapes[chance(4)];
		int order = __builtin_ctz(shape->slots * shape->ring_size), err;

		assert_true(rlmd_xen_shape_valid(shape->slots, shape->ring_size));
		bytes_fill(pages, 256);
		page->left_order = (uint16_t)(chance(4) ? 11 : chance(65536));
		page->right_order = (uint16_t)(chance(4) ? order : (int)chance(65536));
		refs[RLMD_XEN_GRANTS_MAX] = 0xdead;
		err = rlmd_xen_page_read(page, shape->slots, shape->ring_size, refs);
		assert_int_equal(err, page->left_order == 11 && page->right_order == order ? 0 : -EPROTO);
		assert_int_equal(refs[RLMD_XEN_GRANTS_MAX], 0xdead);
	}
	assert_false(rlmd_xen_shape_valid(0, 4096));
	assert_false(rlmd_xen_shape_valid(3, 4096));
	assert_false(rlmd_xen_shape_valid(1, 2 << 20));
	assert_false(rlmd_xen_shape_valid(1, 2048));
	assert_false(rlmd_xen_shape_valid(UINT32_MAX, UINT32_MAX));
	munmap(pages, 2 * 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_match, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_never_reads, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_pause, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
	    cmocka_unit_test(test_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
