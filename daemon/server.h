// SPDX-License-Identifier: BSD-2-Clause
// The listening socket.
#ifndef RLMD_SERVER_H
#define RLMD_SERVER_H

#include <ev.h>
#include <stddef.h>
#include <sys/un.h>

struct rlmd_broker;

struct rlmd_server {
	struct rlmd_broker *broker;
	int fd;
	struct sockaddr_un address;
	dev_t device; // of the socket's file, to know it again
	ino_t inode;
	ev_io acceptable;
	ev_timer pause;
};

// Makes the directory if it is missing, takes the place of a socket that nobody listens at, refuses to take a living
// one's. 0 or -errno, error tells.
int rlmd_server_init(struct rlmd_server *server, struct rlmd_broker *broker, const char *path, char *error,
		     size_t error_size);
// Removes the socket's file if it is still ours.
void rlmd_server_deinit(struct rlmd_server *server);

#endif
