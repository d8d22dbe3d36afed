// SPDX-License-Identifier: BSD-2-Clause
// sendfile() and splice() with a connection at one end.
//
// What the page cache has of a regular file is read into the ring. Everything else comes through a buffer and, on its way
// out, through a pipe of our own: sendfile() into it applies all of the kernel's rules for the file and its position,
// and tee() into it looks at another pipe's bytes without taking them. What the connection did not take is left where it was.
#include "hooks.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

#define CHUNK	    (64u << 10) // what a pipe holds
#define PLAIN_CHUNK (1u << 20)	// the connection may be promoted between two of them

// --- what a call borrows ---

struct tube {
	int from, to;
	char *buffer; // CHUNK
};

// One of each is kept: the pipe as process id (22 bits) and descriptors (21 each). A forked child must not share it.
static _Atomic uint64_t spare_pipe;
static char *_Atomic spare_buffer;

static char *buffer_take(void)
{
	char *p = atomic_exchange_explicit(&spare_buffer, NULL, memory_order_acq_rel);

	if (p)
		return p;
	p = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static void buffer_put(char *p)
{
	char *empty = NULL;

	if (p && !atomic_compare_exchange_strong(&spare_buffer, &empty, p))
		munmap(p, CHUNK);
}

static void tube_close(struct tube *t)
{
	uint64_t packed = (uint64_t)sys_call0(SYS_getpid) << 42 | (uint64_t)t->to << 21 | (uint64_t)t->from, none = 0;

	if (!atomic_compare_exchange_strong(&spare_pipe, &none, packed)) {
		fd_close_internal(t->from);
		fd_close_internal(t->to);
	}
	buffer_put(t->buffer);
}

static bool tube_open(struct tube *t)
{
	uint64_t packed = atomic_exchange_explicit(&spare_pipe, 0, memory_order_acq_rel);
	int fds[2];

	t->from = (int)(packed & 0x1fffff);
	t->to = (int)(packed >> 21 & 0x1fffff);
	if (packed && packed >> 42 != (uint64_t)sys_call0(SYS_getpid)) {
		fd_close_internal(t->from);
		fd_close_internal(t->to);
		packed = 0;
	}
	if (!packed) {
		if (sys_call2(SYS_pipe2, fds, O_CLOEXEC) < 0)
			return false;
		t->from = fd_make_internal(fds[0]);
		t->to = fd_make_internal(fds[1]);
	}
	t->buffer = buffer_take();
	if (!t->buffer)
		tube_close(t);
	return t->buffer != NULL;
}

// Bytes that are there for certain.
static void read_all(int fd, char *buffer, size_t n)
{
	long r;

	for (size_t done = 0; done < n; done += (size_t)r) {
		r = sys_read(fd, buffer + done, n - done);
		if (r == -EINTR)
			r = 0;
		else if (r <= 0)
			break;
	}
}

// --- sendfile ---

// On the ring, by way of a buffer, at most CHUNK. Offset or position advance by what was sent.
static int64_t tube_to_conn(struct rlm_conn *c, int out, int in, off64_t *offset, size_t count)
{
	struct tube t;
	int64_t sent;
	ssize_t n = 0;
	size_t have = 0;

	if (!tube_open(&t)) {
		if (stream_to_kernel(c, out, RLM_WHY_LIMIT) < 0)
			return -ENOBUFS;
		n = REAL(sendfile64)(out, in, offset, count);
		return n < 0 ? -errno : n;
	}
	if (count > CHUNK)
		count = CHUNK;
	while (have < count && (n = REAL(sendfile64)(t.to, in, offset, count - have)) > 0) {
		read_all(t.from, t.buffer + have, (size_t)n);
		have += (size_t)n;
	}
	if (have)
		sent = stream_send(c, out, &(struct iovec){t.buffer, have}, 1, 0);
	else
		sent = n < 0 ? -errno : 0;
	n = (ssize_t)have - (sent > 0 ? (ssize_t)sent : 0);
	if (n && offset)
		*offset -= n;
	else if (n)
		lseek(in, -n, SEEK_CUR);
	tube_close(&t);
	return sent;
}

// A read of these waits for nothing but the disk, and takes nothing away.
static bool is_regular(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

// more: the connection would have taken more.
static int64_t file_to_conn(struct rlm_conn *c, int out, int in, off64_t *offset, size_t count, bool *more)
{
	int64_t n;

	*more = false;
	// Of nothing: the kernel checks the descriptors, also that this one could be sent to a socket, and the offset.
	if (REAL(sendfile64)(out, in, offset, 0) < 0)
		return -errno;
	if (is_regular(in)) {
		n = stream_send_file(c, out, in, offset, count, more);
		if (n || !*more)
			return n;
	}
	n = tube_to_conn(c, out, in, offset, count);
	*more = n == (int64_t)(count < CHUNK ? count : CHUNK);
	return n;
}

static ssize_t sendfile_to(struct rlm_conn *c, int out, int in, off64_t *offset, size_t count)
{
	struct hook_call call;
	size_t done = 0, part;
	bool more;
	ssize_t n;

	if (count > HOOK_MOST)
		count = HOOK_MOST;
	do {
		part = count - done < PLAIN_CHUNK ? count - done : PLAIN_CHUNK;
		if (hook_send_begin(&call, c, out, 0)) {
			n = hook_send_end(&call, REAL(sendfile64)(out, in, offset, part));
			more = n == (ssize_t)part;
		} else {
			n = rlm_result(file_to_conn(c, out, in, offset, count - done, &more));
		}
		if (n > 0)
			done += (size_t)n;
	} while (done < count && more);
	return done ? (ssize_t)done : n;
}

RLM_EXPORT ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
	struct rlm_conn *c = fd_conn(out);

	if (c && count && (ssize_t)count > 0)
		return sendfile_to(c, out, in, offset, count);
	if (!c && !offset && (ssize_t)count > 0 && fd_conn(in) && sys_fcntl(out, F_GETPIPE_SZ, 0) >= 0)
		return splice(in, NULL, out, NULL, count < HOOK_MOST ? count : HOOK_MOST, 0);
	return REAL(sendfile64)(out, in, offset, count);
}

RLM_EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
	return sendfile64(out, in, offset, count);
}

// --- splice ---

static int64_t pipe_to_conn(struct rlm_conn *c, int pipe, int out, size_t len, unsigned flags)
{
	size_t done = 0, part;
	struct tube t;
	int64_t r = 0;

	if (!tube_open(&t)) {
		if (stream_to_kernel(c, out, RLM_WHY_LIMIT) < 0)
			return -ENOBUFS;
		r = REAL(splice)(pipe, NULL, out, NULL, len, flags);
		return r < 0 ? -errno : r;
	}
	while (done < len) {
		part = len - done < CHUNK ? len - done : CHUNK;
		r = tee(pipe, t.to, part, done ? SPLICE_F_NONBLOCK : flags & SPLICE_F_NONBLOCK);
		if (r <= 0) {
			r = r < 0 ? -errno : 0;
			break;
		}
		part = (size_t)r;
		read_all(t.from, t.buffer, part);
		r = stream_send(c, out, &(struct iovec){t.buffer, part}, 1, flags & SPLICE_F_MORE ? MSG_MORE : 0);
		if (r <= 0)
			break;
		read_all(pipe, t.buffer, (size_t)r);
		done += (size_t)r;
		if ((size_t)r < part)
			break;
	}
	tube_close(&t);
	return done ? (int64_t)done : r;
}

// How much can be written without waiting: all when it is empty, else one page when there is a free one. 0 none,
// -errno.
static int64_t pipe_room(int pipe, bool wait)
{
	struct pollfd p = {.fd = pipe, .events = POLLOUT};
	int queued = 0, r = REAL(poll)(&p, 1, wait ? -1 : 0);

	if (r < 0)
		return -errno;
	if (r == 0)
		return 0;
	if (p.revents & (POLLERR | POLLNVAL))
		return -EPIPE;
	if (sys_ioctl(pipe, FIONREAD, &queued) == 0 && queued == 0)
		return sys_fcntl(pipe, F_GETPIPE_SZ, 0);
	return 4096;
}

static void write_all(int pipe, const char *buffer, size_t n)
{
	struct pollfd p = {.fd = pipe, .events = POLLOUT};
	ssize_t r;

	for (size_t done = 0; done < n; done += (size_t)r) {
		r = sys_write(pipe, buffer + done, n - done);
		if (r == -EAGAIN) // another writer was faster
			sys_call5(SYS_ppoll, &p, 1, NULL, NULL, 0);
		if (r == -EAGAIN || r == -EINTR)
			r = 0;
		else if (r <= 0)
			break;
	}
}

// Room first, then bytes: what was taken from the connection always has a place. Waits for the first byte only.
static int64_t conn_to_pipe(struct rlm_conn *c, int in, int pipe, size_t len, bool nonblock)
{
	size_t done = 0, part;
	int queued = 1;
	char *buffer = buffer_take();
	int64_t r = 0, room;

	if (!buffer)
		return -ENOMEM;
	while (done < len && queued > 0) {
		room = pipe_room(pipe, !done && !nonblock);
		r = room ? room : -EAGAIN;
		if (room <= 0)
			break;
		part = len - done < CHUNK ? len - done : CHUNK;
		part = part < (size_t)room ? part : (size_t)room;
		r = stream_recv(c, in, &(struct iovec){buffer, part}, 1, done ? MSG_DONTWAIT : 0);
		if (r <= 0)
			break;
		write_all(pipe, buffer, (size_t)r);
		done += (size_t)r;
		if (ioctl(in, FIONREAD, &queued) < 0)
			break;
	}
	buffer_put(buffer);
	return done ? (int64_t)done : r;
}

// The bytes go where frames could not be cut off any more, so no round may begin meanwhile: counted as two receivers,
// this is never the single one that a round needs. false: bound already.
static bool splice_plain(struct rlm_conn *c, int in, int pipe, size_t len, unsigned flags, ssize_t *n)
{
	struct hook_call call, again;
	ssize_t nothing = -1;

	if (!hook_recv_begin(&call, c, in, 0))
		return false;
	if (!hook_recv_begin(&again, c, in, 0)) {
		hook_recv_end(&call, NULL, 0, &nothing);
		return false;
	}
	*n = REAL(splice)(in, NULL, pipe, NULL, len, flags);
	hook_recv_end(&again, NULL, 0, &nothing);
	return hook_recv_end(&call, NULL, 0, n);
}

static ssize_t splice_from(struct rlm_conn *c, int in, int pipe, size_t len, unsigned flags)
{
	long status = sys_fcntl(pipe, F_GETFL, 0);
	int64_t r;
	ssize_t n;

	if (status < 0 || (status & O_ACCMODE) == O_RDONLY)
		return REAL(splice)(in, NULL, pipe, NULL, len, flags);
	if (splice_plain(c, in, pipe, len, flags, &n))
		return n;
	r = conn_to_pipe(c, in, pipe, len, flags & SPLICE_F_NONBLOCK || status & O_NONBLOCK);
	if (r ==
	    -EPIPE) // nobody reads the pipe: the kernel finds that out before it looks at the socket, and signals it
		return REAL(splice)(in, NULL, pipe, NULL, len, flags);
	return rlm_result(r);
}

static ssize_t splice_to(struct rlm_conn *c, int pipe, int out, size_t len, unsigned flags)
{
	struct hook_call call;

	if (hook_send_begin(&call, c, out, 0))
		return hook_send_end(&call, REAL(splice)(pipe, NULL, out, NULL, len, flags));
	return rlm_result(pipe_to_conn(c, pipe, out, len, flags));
}

static bool is_pipe(int fd)
{
	return sys_fcntl(fd, F_GETPIPE_SZ, 0) >= 0;
}

RLM_EXPORT ssize_t splice(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t len, unsigned flags)
{
	const unsigned known = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
	struct rlm_conn *from = fd_conn(in), *to = fd_conn(out);

	if ((!from && !to) || in_offset || out_offset || !len || flags & ~known)
		return REAL(splice)(in, in_offset, out, out_offset, len, flags);
	if (len > HOOK_MOST)
		len = HOOK_MOST;
	if (from && !to && is_pipe(out))
		return splice_from(from, in, out, len, flags);
	if (to && !from && is_pipe(in))
		return splice_to(to, in, out, len, flags);
	return REAL(splice)(in, NULL, out, NULL, len, flags);
}
