// SPDX-License-Identifier: BSD-2-Clause
// The pure parts of the broker: links and limits, groups, configuration, messages, events. Matching is in test_registry.c.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "codec.h"
#include "config.h"
#include "event.h"
#include "group.h"
#include "link.h"
#include "rlm/layout.h"
#include "rlm/stat.h"

static uint64_t next_random;

static uint64_t fake_random(void)
{
	return next_random++;
}

static struct rlmd_limits limits_small(void)
{
	return (struct rlmd_limits){.ring_size = 4096,
				    .slots = 2,
				    .memory_per_link = 2 * 32768,
				    .memory_per_process = 3 * 32768,
				    .memory_total = 4 * 32768};
}

// Segments between domains have a shape of their own.
static void test_far(void **state)
{
	struct rlmd_limits limits = limits_small();
	struct rlmd_party here = {.id = 1}, there = {.id = 2, .far = true};
	struct rlmd_links links;
	struct rlmd_segment *segment;
	struct rlmd_link *link;

	limits.xen = (struct rlmd_shape){.slots = 1, .ring_size = 16384};
	rlmd_links_init(&links, &limits, fake_random);
	link = rlmd_link_new(&links, &here, &there);
	assert_true(link->far);
	assert_true(rlmd_segment_allowed(&links, link, &here, &there));
	segment = rlmd_segment_new(&links, link, 0);
	assert_int_equal(segment->slots, 1);
	assert_int_equal(segment->ring_size, 16384);
	assert_int_equal(link->memory, 2 * (4096 + 4096 + 16384));
	assert_false(rlmd_segment_allowed(&links, link, &here, &there));
	rlmd_link_free(&links, link);
	assert_int_equal(links.memory, 0);
}

static void test_limits(void **state)
{
	struct rlmd_limits limits = limits_small();
	struct rlmd_links links;
	struct rlmd_party a = {.id = 1}, b = {.id = 2}, c = {.id = 3}, d = {.id = 4};
	struct rlmd_link *ab, *ac, *dd;

	rlmd_links_init(&links, &limits, fake_random);
	assert_null(rlmd_link_find(&links, &a, &b));
	ab = rlmd_link_new(&links, &a, &b);
	assert_ptr_equal(rlmd_link_find(&links, &b, &a), ab);
	assert_ptr_equal(rlmd_link_by_id(&links, ab->id), ab);
	assert_int_equal(rlmd_link_side(ab, &a), 0);
	assert_int_equal(rlmd_link_side(ab, &b), 1);
	assert_true(rlmd_segment_allowed(&links, ab, &a, &b));
	rlmd_segment_new(&links, ab, 0);
	assert_int_equal(ab->memory, 32768);
	rlmd_segment_new(&links, ab, 0);
	assert_false(rlmd_segment_allowed(&links, ab, &a, &b)); // the link
	assert_true(rlmd_segment_allowed(&links, NULL, &a, &c));
	ac = rlmd_link_new(&links, &a, &c);
	rlmd_segment_new(&links, ac, 0);
	assert_false(rlmd_segment_allowed(&links, ac, &a, &c)); // the process
	assert_true(rlmd_segment_allowed(&links, NULL, &d, &d));
	dd = rlmd_link_new(&links, &d, &d);
	rlmd_segment_new(&links, dd, 0);
	assert_int_equal(d.memory, 32768);			  // once
	assert_false(rlmd_segment_allowed(&links, NULL, &c, &d)); // all together
	rlmd_link_free(&links, ab);
	assert_int_equal(a.memory, 32768);
	assert_int_equal(b.memory, 0);
	assert_true(rlmd_link_close(&links, ac, &a));
	rlmd_link_free(&links, ac);
	assert_int_equal(a.memory, 0);
	assert_int_equal(c.memory, 0);
	assert_true(rlmd_link_close(&links, dd, &d));
	rlmd_link_free(&links, dd);
	assert_int_equal(d.memory, 0);
	assert_int_equal(links.memory, 0);
	assert_null(links.idle);
}

static void test_slots(void **state)
{
	struct rlmd_limits limits = limits_small();
	struct rlmd_links links;
	struct rlmd_party a = {.id = 1}, b = {.id = 2};
	struct rlmd_link *link;
	struct rlmd_segment *segment;
	uint32_t epoch, slot;

	next_random = 0xffffffff; // the first epoch of the first slot is the last before 0
	rlmd_links_init(&links, &limits, fake_random);
	link = rlmd_link_new(&links, &a, &b);
	next_random = 0xffffffff;
	segment = rlmd_segment_new(&links, link, 5);
	assert_ptr_equal(rlmd_segment_find(link), segment);
	assert_ptr_equal(links.idle, segment);
	slot = rlmd_slot_bind(&links, segment);
	epoch = segment->slot[slot].epoch;
	assert_int_equal(epoch, 0xffffffff);
	assert_null(links.idle);
	assert_int_equal(rlmd_slot_bind(&links, segment), !slot);
	assert_null(rlmd_segment_find(link));
	assert_int_equal(rlmd_slot_release(&links, segment, slot, 0, epoch + 1, 7), RLMD_RELEASE_STALE);
	assert_int_equal(rlmd_slot_release(&links, segment, 99, 0, epoch, 7), RLMD_RELEASE_STALE);
	assert_int_equal(rlmd_slot_release(&links, segment, slot, 0, epoch, 7), RLMD_RELEASE_HALF);
	assert_int_equal(rlmd_slot_release(&links, segment, slot, 0, epoch, 7), RLMD_RELEASE_STALE);
	assert_null(rlmd_segment_find(link));
	assert_int_equal(rlmd_slot_release(&links, segment, slot, 1, epoch, 7), RLMD_RELEASE_FREE);
	assert_int_equal(rlmd_slot_bind(&links, segment), slot);
	assert_int_equal(segment->slot[slot].epoch, 1); // 0 never
	assert_int_equal(links.bound, 2);
	// One side goes: the other's slots are not used again, the link goes with the last of them.
	assert_false(rlmd_link_close(&links, link, &b));
	assert_null(rlmd_link_find(&links, &a, &b));
	assert_int_equal(b.memory, 0);
	rlmd_slot_release(&links, segment, 0, 0, segment->slot[0].epoch, 9);
	assert_int_equal(links.bound, 1);
	rlmd_slot_release(&links, segment, 1, 0, segment->slot[1].epoch, 9);
	assert_int_equal(segment->bound, 0);
	rlmd_link_free(&links, link);
	assert_int_equal(a.memory, 0);
}

// A slot whose epochs are used up is not bound again.
static void test_worn(void **state)
{
	struct rlmd_limits limits = limits_small();
	struct rlmd_links links;
	struct rlmd_party a = {.id = 1};
	struct rlmd_link *link;
	struct rlmd_segment *segment;

	limits.slots = 1;
	next_random = 100;
	rlmd_links_init(&links, &limits, fake_random);
	link = rlmd_link_new(&links, &a, &a);
	segment = rlmd_segment_new(&links, link, 0);
	segment->slot[0].epoch = segment->slot[0].first - 2;
	rlmd_slot_bind(&links, segment);
	for (unsigned side = 0; side < 2; side++)
		rlmd_slot_release(&links, segment, 0, side, segment->slot[0].epoch, 0);
	assert_null(rlmd_segment_find(link));
	rlmd_link_free(&links, link);
}

static void test_groups(void **state)
{
	struct rlmd_groups groups = {.count = 0};
	const char *owner, *host[] = {"host", "netns:[4026531840]"}, *web[] = {"netns:web1", "netns:[17]"};
	const char *other[] = {"netns:[18]"};

	assert_string_equal(rlmd_groups_find(&groups, host, 2), "default");
	assert_int_equal(rlmd_groups_add(&groups, "red", "netns:*", &owner), 0);
	assert_int_equal(rlmd_groups_add(&groups, "blue", "netns:web*", &owner), 0);
	assert_string_equal(rlmd_groups_find(&groups, web, 2), "blue");
	assert_int_equal(rlmd_groups_add(&groups, "green", "netns:web1", &owner), 0);
	assert_int_equal(rlmd_groups_add(&groups, "red", "netns:web1", &owner), -EEXIST);
	assert_string_equal(owner, "green");
	assert_string_equal(rlmd_groups_find(&groups, web, 2), "green");
	assert_string_equal(rlmd_groups_find(&groups, other, 1), "red");
	assert_string_equal(rlmd_groups_find(&groups, host, 1), "default");
	assert_int_equal(rlmd_groups_add(&groups, "blue", "host", &owner), 0);
	assert_string_equal(rlmd_groups_find(&groups, host, 2), "blue");
	rlmd_groups_deinit(&groups);
}

static void test_patterns(void **state)
{
	static const char *const good[] = {"host", "*", "netns:a", "netns:*", "netns:a-*", "netns:[12]",
					   "domain:web", "domain:*", "uuid:0a1b-22", "uuid:0a*"};
	static const char *const wrong[] = {"",		"hosts",    "netns:",	 "netns:a*b", "netns:[x]",
					    "netns:[1", "netns:[]", "netns:a/b", "a",	      "netns:[1]*",
					    "domain:",	"uuid:",     "uuid:xyz"};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(rlmd_pattern_valid(good[i]));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(rlmd_pattern_valid(wrong[i]));
}

static char *config_file(const char *text)
{
	static char path[64];
	int fd;

	strcpy(path, "/tmp/rlm-config-XXXXXX");
	fd = mkstemp(path);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	return path;
}

static void test_config(void **state)
{
	struct rlmd_config config;
	char error[256], *path;

	rlmd_config_default(&config);
	assert_int_equal(rlmd_config_load(&config, "/nowhere/rlmd.conf", false, error, sizeof(error)), 0);
	assert_int_equal(rlmd_config_load(&config, "/nowhere/rlmd.conf", true, error, sizeof(error)), -ENOENT);
	path = config_file("# text\nring_size = 64K\nslots=4\nmemory_total = \"2 GiB\"\nidle_time = 0.5\n"
			   "xen_slots = 1\nxen_ring_size = 1M\nquiesce_time = 2.5\nsave_helper = /opt/xen/libxl-save-helper\n"
			   "group a { domain = {host, \"netns:x*\"} }\ngroup b { domain = {\"netns:[7]\"} }\n");
	assert_int_equal(rlmd_config_load(&config, path, true, error, sizeof(error)), 0);
	assert_int_equal(config.limits.ring_size, 65536);
	assert_int_equal(config.limits.slots, 4);
	assert_true(config.limits.memory_total == 2ull << 30);
	assert_int_equal(config.limits.memory_per_link, 64 << 20);
	assert_true(config.limits.idle_time == 0.5);
	assert_int_equal(config.limits.xen.slots, 1);
	assert_int_equal(config.limits.xen.ring_size, 1 << 20);
	assert_true(config.quiesce_time == 2.5);
	assert_string_equal(config.save_helper, "/opt/xen/libxl-save-helper");
	assert_int_equal(config.groups.count, 2);
	assert_string_equal(config.groups.list[0].patterns[1], "netns:x*");
	unlink(path);
	rlmd_config_deinit(&config);
}

static void test_config_errors(void **state)
{
	static const struct {
		const char *text, *line, *says;
	} cases[] = {
	    {"\nsize = 1\n", ":2: ", "allowed: group, ring_size"},
	    {"ring_size = 300K\n", ":1: ", "power of two from 4K to 64M"},
	    {"ring_size = 2K\n", ":1: ", "power of two from 4K to 64M"},
	    {"\n\nslots = 65\n", ":3: ", "from 1 to 64"},
	    {"slots = many\n", ":1: ", "from 1 to 64"},
	    {"memory_per_link = 1X\n", ":1: ", "units K, M, G"},
	    {"memory_total = 99999999999999999999\n", ":1: ", "units K, M, G"},
	    {"idle_time = -1\n", ":1: ", "seconds from 0 to 86400"},
	    {"xen_slots = 3\n", ":1: ", "power of two"},
	    {"xen_ring_size = 1M\n", ": ", "must fit 1 MiB"},
	    {"quiesce_time = 0\n", ":1: ", "seconds from 0.1 to 60"},
	    {"save_helper = libxl-save-helper\n", ":1: ", "path from the root"},
	    {"offers_per_process = 0\n", ":1: ", "from 1 to 1048576"},
	    {"group g {\n domain = {\"web\"}\n}\n", ":2: ", "must be \"host\", \"netns:NAME\""},
	    {"group g {\n colour = 1\n}\n", ":2: ", "allowed in a group: domain"},
	    {"group \"\" { }\n", ":1: ", "1 to 63 characters"},
	    {"group { }\n", ":1: ", "title"},
	    {"group g { }\ngroup g { }\n", ":2: ", "duplicate"},
	    {"group g { domain = {host} }\ngroup h {\n domain = {host} }\n", ":3: ", "group \"g\" has it already"},
	    {"group g {\n domain = {host}\n", ":1: ", "has no '}'"},
	    {"slots = 4 }\n", ":1: ", "brace"},
	    {"slots 4\n", ":1: ", "equal sign"},
	};
	struct rlmd_config config;
	char error[512], *path;

	rlmd_config_default(&config);
	config.limits.slots = 3;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		path = config_file(cases[i].text);
		assert_int_equal(rlmd_config_load(&config, path, true, error, sizeof(error)), -EINVAL);
		if (strncmp(error, path, strlen(path)) != 0 || !strstr(error, cases[i].line) ||
		    !strstr(error, cases[i].says))
			fail_msg("%s gives: %s", cases[i].text, error);
		assert_int_equal(config.limits.slots, 3); // what was stays
		unlink(path);
	}
	assert_int_equal(rlmd_config_load(&config, "/dev/zero", true, error, sizeof(error)), -EINVAL);
	rlmd_config_deinit(&config);
}

static void test_messages(void **state)
{
	union rlm_msg msg;
	const char *problem;

	memset(&msg, 0, sizeof(msg));
	msg.header.type = RLM_MSG_HELLO;
	msg.header.size = sizeof(msg.hello);
	assert_int_equal(rlmd_msg_check(&msg, sizeof(msg.hello), 2, &problem), RLMD_CHECK_OK);
	assert_int_equal(rlmd_msg_check(&msg, sizeof(msg.hello), 3, &problem), RLMD_CHECK_BAD);
	assert_non_null(problem);
	assert_int_equal(rlmd_msg_check(&msg, sizeof(msg.hello) - 1, 2, &problem), RLMD_CHECK_BAD);
	assert_int_equal(rlmd_msg_check(&msg, 3, 0, &problem), RLMD_CHECK_BAD);
	msg.header.type = 500;
	assert_int_equal(rlmd_msg_check(&msg, sizeof(msg.hello), 2, &problem), RLMD_CHECK_IGNORE);
	msg.header.type = RLM_MSG_BIND;
	assert_int_equal(rlmd_msg_check(&msg, sizeof(msg.hello), 0, &problem), RLMD_CHECK_BAD);
	msg.header.type = RLM_MSG_REQUEST;
	msg.header.size = offsetof(struct rlm_msg_text, text) + 4;
	msg.text.length = 4;
	assert_int_equal(rlmd_msg_check(&msg, msg.header.size, 0, &problem), RLMD_CHECK_OK);
	msg.text.length = 5;
	assert_int_equal(rlmd_msg_check(&msg, msg.header.size, 0, &problem), RLMD_CHECK_BAD);
}

static void test_text(void **state)
{
	char text[8];

	rlmd_text_clean(text, sizeof(text), "ab\n\033c", 32);
	assert_string_equal(text, "ab??c");
	rlmd_text_clean(text, sizeof(text), "abcdefghij", 10);
	assert_string_equal(text, "abcdefg");
	rlmd_text_clean(text, sizeof(text), "abc", 2);
	assert_string_equal(text, "ab");
}

static void test_events(void **state)
{
	struct rlmd_events events;

	assert_int_equal(rlmd_events_init(&events), 0);
	for (unsigned i = 0; i < RLMD_EVENTS_MAX + 10; i++)
		rlmd_event(&events, "counted", "host", NULL, "%u", i);
	assert_int_equal(rlmd_events_first(&events), 10);
	assert_null(rlmd_event_at(&events, 9));
	assert_string_equal(rlmd_event_at(&events, 10)->text, "10");
	assert_null(rlmd_event_at(&events, RLMD_EVENTS_MAX + 10));
	rlmd_events_deinit(&events);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_far),
	    cmocka_unit_test(test_slots),
	    cmocka_unit_test(test_worn),
	    cmocka_unit_test(test_groups),
	    cmocka_unit_test(test_patterns),
	    cmocka_unit_test(test_config),
	    cmocka_unit_test(test_config_errors),
	    cmocka_unit_test(test_messages),
	    cmocka_unit_test(test_text),
	    cmocka_unit_test(test_events),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
