// SPDX-License-Identifier: BSD-2-Clause
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker.h"
#include "log.h"

#define BACKLOG	      1024
#define ACCEPTS	      64
#define PAUSE_SECONDS 0.5 // without descriptors, before accept is tried again

static int address_set(struct sockaddr_un *address, const char *path)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (!path[0] || strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

static int directory_open(const char *path, char *error, size_t error_size)
{
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	char *slash;
	int fd;

	snprintf(directory, sizeof(directory), "%s", path);
	slash = strrchr(directory, '/');
	if (!slash)
		strcpy(directory, ".");
	else
		slash[slash == directory] = 0;
	if (mkdir(directory, 0755) == 0)
		chmod(directory, 0755); // whatever the umask
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	snprintf(error, error_size, "%s: %s", directory, strerror(errno));
	return -errno;
}

// Nobody must be there, or a socket that a dead broker left behind.
static int place_check(const struct sockaddr_un *address, char *error, size_t error_size)
{
	struct stat st;
	int fd, err = 0;

	if (lstat(address->sun_path, &st))
		return 0;
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(error, error_size, "%s: exists and is not a socket", address->sun_path);
		return -EEXIST;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	// EAGAIN: its backlog is full, so there is one.
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN) {
		snprintf(error, error_size, "%s: another rlmd is running there", address->sun_path);
		err = -EADDRINUSE;
	}
	close(fd);
	return err;
}

// Under a name of its own first: who connects finds the old socket, none, or one that listens already.
static int place_take(struct rlmd_server *server)
{
	struct sockaddr_un temporary;
	char name[sizeof(server->address.sun_path) + 16];
	struct stat st;
	int err;

	snprintf(name, sizeof(name), "%s.%d", server->address.sun_path, (int)getpid());
	err = address_set(&temporary, name);
	if (err)
		return err;
	unlink(name);
	if (bind(server->fd, (struct sockaddr *)&temporary, sizeof(temporary)))
		return -errno;
	if (chmod(name, 0666) || listen(server->fd, BACKLOG) || lstat(name, &st) ||
	    rename(name, server->address.sun_path)) {
		err = -errno;
		unlink(name);
		return err;
	}
	server->device = st.st_dev;
	server->inode = st.st_ino;
	return 0;
}

static void on_acceptable(struct ev_loop *loop, ev_io *io, int events)
{
	struct rlmd_server *server = io->data;
	int fd;

	for (int i = 0; i < ACCEPTS; i++) {
		fd = accept4(server->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			rlmd_client_new(server->broker, fd);
			continue;
		}
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		log_warn("cannot accept: %s", strerror(errno));
		ev_io_stop(loop, &server->acceptable);
		ev_timer_set(&server->pause, PAUSE_SECONDS, 0);
		ev_timer_start(loop, &server->pause);
		return;
	}
}

static void on_pause_over(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct rlmd_server *server = timer->data;

	ev_io_start(loop, &server->acceptable);
}

int rlmd_server_init(struct rlmd_server *server, struct rlmd_broker *broker, const char *path, char *error,
		     size_t error_size)
{
	int err, directory;

	memset(server, 0, sizeof(*server));
	server->broker = broker;
	server->fd = -1;
	error[0] = 0;
	err = address_set(&server->address, path);
	if (err) {
		snprintf(error, error_size, "%s: path of the socket is empty or too long", path);
		return err;
	}
	directory = directory_open(path, error, error_size);
	if (directory < 0)
		return directory;
	flock(directory, LOCK_EX); // two that start at a time look one after the other
	err = place_check(&server->address, error, error_size);
	if (!err) {
		server->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		err = server->fd < 0 ? -errno : place_take(server);
	}
	close(directory);
	if (err) {
		if (!error[0])
			snprintf(error, error_size, "%s: %s", path, strerror(-err));
		rlmd_parts_close(&server->fd, 1);
		return err;
	}
	ev_io_init(&server->acceptable, on_acceptable, server->fd, EV_READ);
	ev_timer_init(&server->pause, on_pause_over, 0, 0);
	server->acceptable.data = server->pause.data = server;
	ev_io_start(broker->loop, &server->acceptable);
	return 0;
}

void rlmd_server_deinit(struct rlmd_server *server)
{
	struct stat st;

	ev_io_stop(server->broker->loop, &server->acceptable);
	ev_timer_stop(server->broker->loop, &server->pause);
	if (lstat(server->address.sun_path, &st) == 0 && st.st_dev == server->device && st.st_ino == server->inode)
		unlink(server->address.sun_path);
	rlmd_parts_close(&server->fd, 1);
}
