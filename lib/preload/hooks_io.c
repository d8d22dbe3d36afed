// SPDX-License-Identifier: BSD-2-Clause
// read(), write() and their vector forms on connections. sendfile() and splice() are in hooks_splice.c.
#include "hooks.h"

#include <limits.h>

#ifndef RWF_APPEND
#define RWF_APPEND 0x10
#endif
#define OPT_RWF_NOSIGNAL 0x100

ssize_t __read_chk(int fd, void *buf, size_t len, size_t size);

RLM_EXPORT ssize_t read(int fd, void *buf, size_t len)
{
	struct rlm_conn *c = fd_conn(fd);
	struct iovec iov = {buf, len};
	struct hook_call call;
	ssize_t n;

	if (!c || len == 0)
		return REAL(read)(fd, buf, len);
	if (hook_recv_begin(&call, c, fd, 0)) {
		n = REAL(read)(fd, buf, len);
		if (hook_recv_end(&call, &iov, 1, &n))
			return n;
	}
	return rlm_result(hook_recv_one(c, fd, buf, len, 0));
}

RLM_EXPORT ssize_t __read_chk(int fd, void *buf, size_t len, size_t size)
{
	if (len > size || !fd_conn(fd))
		return REAL(__read_chk)(fd, buf, len, size);
	return read(fd, buf, len);
}

static __attribute__((noinline)) ssize_t write_unbound(struct rlm_conn *c, int fd, const void *buf, size_t len)
{
	struct hook_call call;

	if (hook_send_begin(&call, c, fd, 0))
		return hook_send_end(&call, REAL(write)(fd, buf, len));
	return rlm_result(hook_send_one(c, fd, buf, len, 0));
}

RLM_EXPORT ssize_t write(int fd, const void *buf, size_t len)
{
	struct rlm_conn *c = fd_conn(fd);

	if (!c)
		return REAL(write)(fd, buf, len);
	if (!hook_is_bound(c))
		return write_unbound(c, fd, buf, len);
	return rlm_result(hook_send_one(c, fd, buf, len, 0));
}

// Unlike recv(), a read of nothing does not look at the socket.
static bool vector_is_odd(const struct iovec *iov, int iovcnt)
{
	return iovcnt < 0 || hook_vector_is_bad(iov, (uint64_t)iovcnt) || hook_vector_is_empty(iov, (uint64_t)iovcnt);
}

RLM_EXPORT ssize_t readv(int fd, const struct iovec *iov, int iovcnt)
{
	struct rlm_conn *c = fd_conn(fd);
	struct hook_call call;
	ssize_t n;

	if (!c)
		return REAL(readv)(fd, iov, iovcnt);
	if (hook_recv_begin(&call, c, fd, 0)) {
		n = REAL(readv)(fd, iov, iovcnt);
		if (hook_recv_end(&call, iov, iovcnt, &n))
			return n;
	}
	if (vector_is_odd(iov, iovcnt))
		return REAL(readv)(fd, iov, iovcnt);
	return rlm_result(hook_recv(c, fd, iov, iovcnt, 0));
}

RLM_EXPORT ssize_t writev(int fd, const struct iovec *iov, int iovcnt)
{
	struct rlm_conn *c = fd_conn(fd);
	struct hook_call call;

	if (!c)
		return REAL(writev)(fd, iov, iovcnt);
	if (hook_send_begin(&call, c, fd, 0))
		return hook_send_end(&call, REAL(writev)(fd, iov, iovcnt));
	if (vector_is_odd(iov, iovcnt))
		return REAL(writev)(fd, iov, iovcnt);
	return rlm_result(hook_send(c, fd, iov, iovcnt, 0));
}

// The connection, if these are readv() and writev() under another name: on sockets, with any offset but -1, they fail.
// Flags that nobody here knows may mean anything: then it goes back to TCP, for the kernel alone.
static struct rlm_conn *conn_at(int fd, off64_t offset, int flags)
{
	const int known = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | OPT_RWF_NOSIGNAL;
	struct rlm_conn *c = offset == -1 ? fd_conn(fd) : NULL;

	if (c && flags & ~known && stream_to_kernel(c, fd, RLM_WHY_OPTION) == 0)
		return NULL;
	return c;
}

static int message_flags(int flags)
{
	return (flags & RWF_NOWAIT ? MSG_DONTWAIT : 0) | (flags & OPT_RWF_NOSIGNAL ? MSG_NOSIGNAL : 0);
}

RLM_EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int iovcnt, off64_t offset, int flags)
{
	struct rlm_conn *c = conn_at(fd, offset, flags);
	struct hook_call call;
	ssize_t n;

	if (!c)
		return REAL(preadv64v2)(fd, iov, iovcnt, offset, flags);
	if (hook_recv_begin(&call, c, fd, 0)) {
		n = REAL(preadv64v2)(fd, iov, iovcnt, offset, flags);
		if (hook_recv_end(&call, iov, iovcnt, &n))
			return n;
	}
	if (vector_is_odd(iov, iovcnt))
		return REAL(preadv64v2)(fd, iov, iovcnt, offset, flags);
	return rlm_result(hook_recv(c, fd, iov, iovcnt, message_flags(flags)));
}

RLM_EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
	return preadv64v2(fd, iov, iovcnt, offset, flags);
}

RLM_EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int iovcnt, off64_t offset, int flags)
{
	struct rlm_conn *c = conn_at(fd, offset, flags);
	struct hook_call call;

	if (!c)
		return REAL(pwritev64v2)(fd, iov, iovcnt, offset, flags);
	if (hook_send_begin(&call, c, fd, 0))
		return hook_send_end(&call, REAL(pwritev64v2)(fd, iov, iovcnt, offset, flags));
	if (vector_is_odd(iov, iovcnt))
		return REAL(pwritev64v2)(fd, iov, iovcnt, offset, flags);
	return rlm_result(hook_send(c, fd, iov, iovcnt, message_flags(flags)));
}

RLM_EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int iovcnt, off_t offset, int flags)
{
	return pwritev64v2(fd, iov, iovcnt, offset, flags);
}

// --- asynchronous, by libc's own threads ---

// false: it cannot be had, with EAGAIN, as when aio has no room for another request.
static bool to_aio(const struct aiocb *block)
{
	struct rlm_conn *c = hook_is_bad(block) ? NULL : fd_conn(block->aio_fildes);

	if (!c)
		return true;
	stream_to_kernel(c, block->aio_fildes, RLM_WHY_OPTION);
	if (hook_is_kernels(c, block->aio_fildes))
		return true;
	errno = EAGAIN;
	return false;
}

RLM_EXPORT int aio_read(struct aiocb *block)
{
	return to_aio(block) ? REAL(aio_read)(block) : -1;
}

RLM_EXPORT int aio_write(struct aiocb *block)
{
	return to_aio(block) ? REAL(aio_write)(block) : -1;
}

RLM_EXPORT int lio_listio(int mode, struct aiocb *const list[restrict], int count, struct sigevent *restrict event)
{
	for (int i = 0; i < count; i++)
		if (list[i] && !to_aio(list[i]))
			return -1;
	return REAL(lio_listio)(mode, list, count, event);
}

#if __SIZEOF_LONG__ == 8
// The same structure by another name.
RLM_EXPORT int aio_read64(struct aiocb64 *block)
{
	return aio_read((struct aiocb *)block);
}

RLM_EXPORT int aio_write64(struct aiocb64 *block)
{
	return aio_write((struct aiocb *)block);
}

RLM_EXPORT int lio_listio64(int mode, struct aiocb64 *const list[restrict], int count, struct sigevent *restrict event)
{
	return lio_listio(mode, (struct aiocb *const *)list, count, event);
}
#endif
