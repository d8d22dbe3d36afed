// SPDX-License-Identifier: BSD-2-Clause
// What the hooks have in common: the bracket's other ends, and the kernel's rules for vectors.
#include "hooks.h"

#include <limits.h>

void hook_send_abandoned(void *arg)
{
	struct hook_call *call = arg;

	stream_plain_send_end(call->conn, call->fd, -1);
}

void hook_recv_abandoned(void *arg)
{
	struct hook_call *call = arg;

	stream_plain_recv_end(call->conn, call->fd, &call->inside, NULL, 0, -1, call->flags);
}

bool hook_recv_end(struct hook_call *call, const struct iovec *iov, int iovcnt, ssize_t *n)
{
	int saved = errno;
	int64_t r;

	_pthread_cleanup_pop(&call->cleanup, 0);
	r = stream_plain_recv_end(call->conn, call->fd, &call->inside, iov, iovcnt, *n, call->flags);
	errno = saved;
	if (*n < 0) // EPERM: the broker was just reading the connection's name in repair mode
		return saved != EPERM ||
		       atomic_load_explicit(&call->conn->flags, memory_order_relaxed) & RLM_CONN_BARRED;
	if (r == STREAM_AGAIN)
		return false;
	*n = rlm_result(r);
	return true;
}

bool hook_is_kernels(struct rlm_conn *c, int fd)
{
	return atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_BARRED &&
	       stream_to_kernel(c, fd, RLM_WHY_OPTION) == 0 && !atomic_load_explicit(&c->bound, memory_order_seq_cst);
}

bool hook_vector_is_bad(const struct iovec *iov, uint64_t iovcnt)
{
	if (iovcnt > IOV_MAX || (iovcnt && hook_is_bad_object(iov, iovcnt * sizeof(*iov))))
		return true;
	for (uint64_t i = 0; i < iovcnt; i++)
		if (hook_is_bad_range(iov[i].iov_base, iov[i].iov_len))
			return true;
	return false;
}

bool hook_vector_is_empty(const struct iovec *iov, uint64_t iovcnt)
{
	for (uint64_t i = 0; i < iovcnt; i++)
		if (iov[i].iov_len)
			return false;
	return true;
}

// The part of a vector that one call can move.
struct part {
	const struct iovec *iov;
	int count;
	uint64_t total;
	struct iovec clipped;
};

static void part_init(struct part *p, const struct iovec *iov, int iovcnt)
{
	*p = (struct part){.iov = iov};
	for (; p->count < iovcnt; p->count++) {
		const struct iovec *v = &iov[p->count];

		if (v->iov_len > HOOK_MOST - p->total)
			break;
		p->total += v->iov_len;
	}
	if (p->total == 0 && p->count < iovcnt) {
		p->clipped = (struct iovec){iov[p->count].iov_base, HOOK_MOST};
		p->iov = &p->clipped;
		p->count = 1;
		p->total = HOOK_MOST;
	}
}

int64_t hook_send(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	struct part p;

	part_init(&p, iov, iovcnt);
	if (__builtin_expect(p.total == 0, 0)) {
		// TCP says first whether it can be sent on at all.
		if (REAL(send)(fd, NULL, 0, flags & ~HOOK_SEND_FLAGS) < 0)
			return -errno;
		return 0;
	}
	return stream_send(c, fd, p.iov, p.count, flags);
}

// A receive of nothing waits for something, says how the stream stands, and takes nothing.
static int64_t recv_nothing(struct rlm_conn *c, int fd, int flags)
{
	char byte;
	struct iovec iov = {&byte, 1};
	int64_t n = stream_recv(c, fd, &iov, 1, (flags & ~(MSG_WAITALL | MSG_TRUNC)) | MSG_PEEK);

	return n > 0 ? 0 : n;
}

int64_t hook_recv(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)iovcnt};
	struct part p;
	ssize_t n;

	if (__builtin_expect(flags & (MSG_OOB | MSG_ERRQUEUE | HOOK_MSG_SOCK_DEVMEM), 0)) {
		// Whoever sends urgent data has gone back to TCP for it: the kernel has it.
		if (flags & HOOK_MSG_SOCK_DEVMEM && stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
			return -ENOBUFS;
		n = REAL(recvmsg)(fd, &msg, flags);
		return n < 0 ? -errno : n;
	}
	part_init(&p, iov, iovcnt);
	if (__builtin_expect(p.total == 0, 0))
		return recv_nothing(c, fd, flags);
	return stream_recv(c, fd, p.iov, p.count, flags);
}

#define ONE_BUFFER (1u << 30)

int64_t hook_send_one(struct rlm_conn *c, int fd, const void *buf, size_t len, int flags)
{
	struct iovec iov = {(void *)(uintptr_t)buf, len};

	if (__builtin_expect(flags & ~STREAM_SEND_FLAGS || len - 1 >= ONE_BUFFER, 0))
		return hook_send(c, fd, &iov, 1, flags);
	return stream_send_one(c, fd, buf, len, flags);
}

int64_t hook_recv_one(struct rlm_conn *c, int fd, void *buf, size_t len, int flags)
{
	struct iovec iov = {buf, len};

	if (__builtin_expect(flags & ~STREAM_RECV_FLAGS || len - 1 >= ONE_BUFFER, 0))
		return hook_recv(c, fd, &iov, 1, flags);
	return stream_recv_one(c, fd, buf, len, flags);
}
