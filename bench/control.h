// SPDX-License-Identifier: BSD-2-Clause
// What client and server say to each other.
//
// Every connection begins with a greeting of 16 bytes. A control connection then carries JSON, each text after its
// length:
//   client -> test description (params.c)        server -> {"token": "..."}
//   client opens its data connections, each with a greeting that names the token and the connection's number
//   client -> {"start": true}                    server -> {"started": true}: all have arrived, its threads run
//   client -> {"finish": true}                   server -> what it found (result.c)
// Instead of any answer: {"error": "..."}. With crr the greeting is the beginning of each request.
#ifndef BENCH_CONTROL_H
#define BENCH_CONTROL_H

#include <jansson.h>
#include <stdint.h>

enum greeting_kind {
	GREETING_CONTROL = 1,
	GREETING_DATA = 2,
};

struct greeting {
	char magic[4];
	uint8_t kind;
	uint8_t version;
	uint16_t index;
	uint64_t token;
};

_Static_assert(sizeof(struct greeting) == 16, "the smallest crr request");

struct greeting greeting_make(enum greeting_kind kind, uint64_t token, unsigned index);
// With a descriptor when memfd >= 0 (UNIX sockets). 0 or -errno.
int greeting_send(int fd, const struct greeting *g, int memfd);
// *memfd is a descriptor that came along, or -1. 0 or -errno.
int greeting_receive(int fd, struct greeting *g, int *memfd);

// Steals the reference. 0 or -errno.
int control_send(int fd, json_t *json);
// NULL when the connection ended or the text is malformed.
json_t *control_receive(int fd);

// Whole buffers over a blocking socket. 0 or -errno.
int send_all(int fd, const void *data, size_t n);
int receive_all(int fd, void *data, size_t n);

#endif
