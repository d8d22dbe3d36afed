// SPDX-License-Identifier: BSD-2-Clause
// Shared by the hooks: hooks_*.c, and the calls that wait for readiness in poll.c, select.c, epoll_ctl.c and epoll_wait.c.
//
// A hook looks the descriptor up; the kernel alone is concerned: the real function. Else, while the connection is not
// bound, the real function between hook_*_begin() and hook_*_end(), so that every argument meets the kernel's own
// checks; else hook_send() or hook_recv().
#ifndef RLM_HOOKS_H
#define RLM_HOOKS_H

#include "copy.h"
#include "real.h"
#include "signals.h"
#include "stream.h"

// Value of a FD_SOCKET entry.
#define SOCKET_NONBLOCK 0x1u
#define SOCKET_BARRED	0x2u // has an option that only TCP can honour
#define SOCKET_OTHER	0x4u // accepts connections, but they are not TCP

// Flags that are not for the bracket: hook_send() and hook_recv() know what to do.
#define HOOK_SEND_FLAGS	     (MSG_OOB | MSG_ZEROCOPY | MSG_FASTOPEN)
#define HOOK_RECV_FLAGS	     (MSG_OOB | MSG_ERRQUEUE | MSG_WAITALL | MSG_TRUNC | HOOK_MSG_SOCK_DEVMEM)
#define HOOK_MSG_SOCK_DEVMEM 0x2000000

#define HOOK_MOST 0x7ffff000u // bytes that one call moves at most (Linux's MAX_RW_COUNT)

// A kernel call within the bracket. It may end without returning, see stream.h.
struct hook_call {
	struct _pthread_cleanup_buffer cleanup;
	struct rlm_conn *conn;
	struct rlm_inside inside; // receives
	int fd;
	int flags;
};

// A hint that keeps the bracket out of the way of small messages.
static inline bool hook_is_bound(const struct rlm_conn *c)
{
	return __builtin_expect(atomic_load_explicit(&c->bound, memory_order_relaxed) != 0, 1);
}

void hook_send_abandoned(void *call);
void hook_recv_abandoned(void *call);

static inline bool hook_send_begin(struct hook_call *call, struct rlm_conn *c, int fd, int flags)
{
	if (__builtin_expect(flags & HOOK_SEND_FLAGS, 0) || !stream_plain_send_begin(c))
		return false;
	call->conn = c;
	call->fd = fd;
	_pthread_cleanup_push(&call->cleanup, hook_send_abandoned, call);
	return true;
}

static inline ssize_t hook_send_end(struct hook_call *call, ssize_t n)
{
	int saved = errno;

	_pthread_cleanup_pop(&call->cleanup, 0);
	stream_plain_send_end(call->conn, call->fd, n);
	errno = saved;
	return n;
}

static inline bool hook_recv_begin(struct hook_call *call, struct rlm_conn *c, int fd, int flags)
{
	if (__builtin_expect(flags & HOOK_RECV_FLAGS, 0) || !stream_plain_recv_begin(c, fd, &call->inside))
		return false;
	call->conn = c;
	call->fd = fd;
	call->flags = flags;
	_pthread_cleanup_push(&call->cleanup, hook_recv_abandoned, call);
	return true;
}

// *n: the kernel's result, then the caller's. false: nothing of it is the caller's, go on with hook_recv().
bool hook_recv_end(struct hook_call *call, const struct iovec *iov, int iovcnt, ssize_t *n);

// Whatever carries the connection, with the kernel's answers to empty and bad vectors. >= 0 or -errno.
int64_t hook_send(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags);
int64_t hook_recv(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags);
// The same for one buffer.
int64_t hook_send_one(struct rlm_conn *c, int fd, const void *buf, size_t len, int flags);
int64_t hook_recv_one(struct rlm_conn *c, int fd, void *buf, size_t len, int flags);

// The kernel refuses such a vector before it looks at the socket: ask it.
bool hook_vector_is_bad(const struct iovec *iov, uint64_t iovcnt);
bool hook_vector_is_empty(const struct iovec *iov, uint64_t iovcnt);

// Barred, and nothing of it is on the ring any more or ever will be.
bool hook_is_kernels(struct rlm_conn *c, int fd);

// What the kernel would not read, of what our code has to read before it. As long as no connection is known that is left to chance.
static inline bool hook_is_bad(const void *p)
{
#if defined(__x86_64__)
	if ((intptr_t)p < 4096) // the upper half is the kernel's
		return true;
#else
	if ((uintptr_t)p < 4096) // the top byte may be a tag
		return true;
#endif
	return signals_watching && !copy_can_read(p);
}

// The same for something that may reach into a second page.
static inline bool hook_is_bad_object(const void *p, size_t size)
{
	return hook_is_bad(p) || hook_is_bad((const char *)p + size - 1);
}

// A range that no process can have, so that the kernel refuses the whole call.
static inline bool hook_is_bad_range(const void *p, size_t len)
{
#if defined(__x86_64__)
	return (ssize_t)len < 0 || (intptr_t)((uintptr_t)p + len) < 0;
#else
	return len >> 52 != 0;
#endif
}

// A descriptor number that the kernel has just given out: what the table says of it, if anything, was closed behind our
// back.
static inline void hook_fresh(int fd)
{
	if (__builtin_expect(fd_kind(fd) != FD_UNKNOWN, 0))
		fd_clear(fd);
}

// The same for one that another process may have, too.
void hook_received(int fd);

// A connection whose options may have been set where we did not see it: what of them has to be known is looked up.
void hook_foreign(int fd);

// Messages received from it bring control messages with timestamps.
bool hook_brings_timestamps(int fd);

// The kernel has made fd a connection, or makes it (EINPROGRESS), or goes on making it (EINTR).
void hook_connected(int fd, const struct sockaddr *addr);

// The kernel made newfd (or failed, -1) another descriptor of oldfd's file. Returns newfd.
int hook_duplicated(int oldfd, int newfd);

// The calling thread is vfork's child, or runs in another process that shares our memory: its descriptors are not those
// of our table.
bool hook_in_vfork(void);

void hook_signal_fork_prepare(void);
void hook_signal_fork_parent(void);
void hook_signal_fork_child(void);

// The handlers of fork().
void hook_fork_prepare(void);
void hook_fork_parent(void);
void hook_fork_child(void);
// After a fork that runs no handlers. pid: its result.
void hook_fork_done(long pid);

// The process uses sockets in a way that no hook sees: all connections stay on TCP from now on.
void hook_bar_all(void);
// The kernel asks of the caller that it be the only thread, or gives it a descriptor table of its own: it must not notice the helper thread,
// which starts again when it is needed.
void hook_be_alone(void);
int capset(void *header, const void *data); // no header of libc declares it
// The main thread has changed what it may do by this system call: the helper thread shall, too.
void hook_follow(long number, const long arg[5]);
// seccomp(2): from here on no call but the program's own.
void hook_before_sandbox(void);

#endif
