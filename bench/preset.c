// SPDX-License-Identifier: BSD-2-Clause
// What `compare` compares.
#include "preset.h"

#include <stddef.h>
#include <string.h>

#include "clock.h"

#define K      1024ull
#define M      (1024ull * K)
#define BIT(c) (1u << (c))
#define ALL    (BIT(COL_TCP) | BIT(COL_VETH) | BIT(COL_UNIX) | BIT(COL_RING) | BIT(COL_RLM))

#define STREAM(bytes)                                                                                                  \
	{                                                                                                              \
		MODE_STREAM, METRIC_BANDWIDTH, (bytes), WAIT_BLOCK, WAIT_BLOCK, NULL                                   \
	}
#define RR(bytes)                                                                                                      \
	{                                                                                                              \
		MODE_RR, METRIC_TIME, (bytes), WAIT_BLOCK, WAIT_BLOCK, NULL                                            \
	}
#define STREAM_SIZES                                                                                                   \
	STREAM(64), STREAM(256), STREAM(1 * K), STREAM(4 * K), STREAM(16 * K), STREAM(64 * K), STREAM(128 * K),        \
	    STREAM(1 * M)
#define RR_SIZES RR(64), RR(256), RR(1 * K), RR(4 * K), RR(16 * K), RR(64 * K), RR(128 * K), RR(1 * M)

const struct column compare_columns[COL_COUNT] = {
    [COL_TCP] = {"tcp", "TCP loopback"},  [COL_VETH] = {"veth", "TCP veth"},
    [COL_UNIX] = {"unix", "UNIX socket"}, [COL_RING] = {"ring", "bare ring"},
    [COL_RLM] = {"librlm", "librlm"},	  [COL_LOADED] = {"loaded", "TCP, librlm loaded"},
};

static const struct preset presets[] = {
    {
	.name = "default",
	.title = "streams and round trips, by message size",
	.columns = ALL,
	.base = COL_TCP,
	.subject = COL_RLM,
	.time_ns = 500 * NS_PER_MS,
	.plot = true,
	.pairs = 1,
	.rows = {STREAM_SIZES, RR_SIZES},
    },
    {
	.name = "rr",
	.title = "round trips, by message size",
	.columns = ALL,
	.base = COL_TCP,
	.subject = COL_RLM,
	.time_ns = 500 * NS_PER_MS,
	.plot = true,
	.pairs = 1,
	.rows = {RR_SIZES},
    },
    {
	.name = "small",
	.title = "64-byte messages",
	.columns = ALL,
	.base = COL_TCP,
	.subject = COL_RLM,
	.time_ns = NS_PER_S,
	.plot = true,
	.pairs = 1,
	.rows = {STREAM(64), RR(64)},
    },
    {
	.name = "paper",
	.title = "300 MB through both carriers, by buffer size",
	.note = "Published for shared memory between two Xen guests (2011): 278, 624, 2366, 1893 and 2054 Mb/s;\n"
		"over Xen's network about 100 Mb/s.",
	.columns = BIT(COL_TCP) | BIT(COL_VETH) | BIT(COL_RLM),
	.base = COL_TCP,
	.subject = COL_RLM,
	.bytes = 300000000,
	.recv_is_size = true,
	.plot = true,
	.pairs = 1,
	.rows = {STREAM(256), STREAM(1 * K), STREAM(16 * K), STREAM(64 * K), STREAM(128 * K)},
    },
    {
	.name = "epoll",
	.title = "64-byte sends, received with blocking calls and through epoll",
	.columns = BIT(COL_TCP) | BIT(COL_UNIX) | BIT(COL_RLM),
	.base = COL_TCP,
	.subject = COL_RLM,
	.time_ns = NS_PER_S,
	.pairs = 1,
	.rows = {{MODE_STREAM, METRIC_BANDWIDTH, 64, WAIT_BLOCK, WAIT_BLOCK, "blocking"},
		 {MODE_STREAM, METRIC_BANDWIDTH, 64, WAIT_BLOCK, WAIT_EPOLL, "epoll"},
		 {MODE_RR, METRIC_TIME, 64, WAIT_BLOCK, WAIT_BLOCK, "blocking"},
		 {MODE_RR, METRIC_TIME, 64, WAIT_EPOLL, WAIT_EPOLL, "epoll"}},
    },
    {
	.name = "oversubscribed",
	.title = "four pairs at once on two CPUs",
	.columns = BIT(COL_TCP) | BIT(COL_UNIX) | BIT(COL_RING) | BIT(COL_RLM),
	.base = COL_TCP,
	.subject = COL_RLM,
	.time_ns = NS_PER_S,
	.pairs = 4,
	.cpus = 2,
	.rows = {STREAM(64), STREAM(16 * K), STREAM(64 * K), RR(64), RR(16 * K)},
    },
    {
	.name = "plain-cost",
	.title = "a connection that cannot be accelerated, without and with librlm loaded",
	.columns = BIT(COL_TCP) | BIT(COL_LOADED),
	.base = COL_TCP,
	.subject = COL_LOADED,
	.time_ns = NS_PER_S,
	.pairs = 1,
	.rows = {{MODE_RR, METRIC_RATE, 64, WAIT_BLOCK, WAIT_BLOCK, "rr, 64 B"},
		 {MODE_RR, METRIC_RATE, 64, WAIT_BUSY, WAIT_BUSY, "rr, 64 B, busy"},
		 {MODE_CRR, METRIC_RATE, 64, WAIT_BLOCK, WAIT_BLOCK, "crr, 64 B"}},
    },
};

const struct preset *preset_find(const char *name)
{
	for (size_t i = 0; i < sizeof(presets) / sizeof(*presets); i++)
		if (strcmp(presets[i].name, name) == 0)
			return &presets[i];
	return NULL;
}
