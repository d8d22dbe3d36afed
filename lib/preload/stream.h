// SPDX-License-Identifier: BSD-2-Clause
// All sends and all receives of a connection, whatever carries it. Hooks look up the connection, call one function here, and turn
// -errno into errno. A connection that is not bound to shared memory costs the bracket stream_plain_*() around the kernel call.
#ifndef RLM_STREAM_H
#define RLM_STREAM_H

#include <pthread.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "family.h"
#include "fdtable.h"
#include "inside.h"

// A call that blocks may end without returning, by cancellation or by siglongjmp() in a signal handler; libc runs handlers of this old
// kind, which cost two stores, in both cases.
void _pthread_cleanup_push(struct _pthread_cleanup_buffer *buffer, void (*routine)(void *), void *arg);
void _pthread_cleanup_pop(struct _pthread_cleanup_buffer *buffer, int execute);

// Flags that mean the same to a ring. Others send the connection back to TCP for good.
#define STREAM_SEND_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM | MSG_DONTROUTE)
// Flags that change nothing but whether it waits.
#define STREAM_RECV_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CMSG_CLOEXEC)

#define STREAM_AGAIN INT64_MIN // stream_plain_recv_end(): nothing for the caller in it, use stream_recv()

// --- data ---

void stream_consider(struct rlm_conn *c, int fd);

extern uint32_t stream_threshold_calls;
extern uint64_t stream_threshold_bytes;

static inline void stream_count(struct rlm_conn *c, _Atomic uint64_t *bytes, int fd, ssize_t n)
{
	uint32_t calls = atomic_load_explicit(&c->calls, memory_order_relaxed) + 1;
	uint64_t sum = atomic_load_explicit(bytes, memory_order_relaxed);

	if (n > 0)
		atomic_store_explicit(bytes, sum += (uint64_t)n, memory_order_relaxed);
	atomic_store_explicit(&c->calls, calls, memory_order_relaxed);
	if (__builtin_expect(calls == stream_threshold_calls || (sum >= stream_threshold_bytes && !(calls & 7)), 0))
		stream_consider(c, fd);
}

// The last thread that leaves a connection which was closed under it finishes the close.
void stream_finish_close(struct rlm_conn *c);

static inline void stream_left(struct rlm_conn *c)
{
	if (__builtin_expect(atomic_load_explicit(&c->flags, memory_order_seq_cst) & RLM_CONN_CLOSING, 0))
		stream_finish_close(c);
}

// true: not bound, the caller makes the kernel call itself and then stream_plain_send_end() with its result.
static inline bool stream_plain_send_begin(struct rlm_conn *c)
{
	if (atomic_load_explicit(&c->bound, memory_order_relaxed))
		return false;
	FAMILY_ENTER(&arena, c, tx_inflight);
	if (__builtin_expect(atomic_load_explicit(&c->bound, memory_order_seq_cst) == 0, 1))
		return true;
	FAMILY_LEAVE(&arena, c, tx_inflight);
	stream_left(c);
	return false;
}

// It may have found no room, and its caller waits for some: that is news of the binding now.
void stream_plain_send_was_bound(struct rlm_conn *c);

static inline void stream_plain_send_end(struct rlm_conn *c, int fd, ssize_t n)
{
	stream_count(c, &conn_stat(&arena, c)->tx_bytes_plain, fd, n);
	FAMILY_LEAVE(&arena, c, tx_inflight);
	if (__builtin_expect(atomic_load_explicit(&c->bound, memory_order_seq_cst) != 0, 0))
		stream_plain_send_was_bound(c);
	stream_left(c);
}

// A bound connection that waited for us to leave the kernel goes on.
void stream_came_out(struct rlm_conn *c, int fd);

// The same for receiving. The result may be less than n, or STREAM_AGAIN: the connection was promoted meanwhile.
// -errno when the stream is broken. iov: what the caller wanted.
static inline bool stream_plain_recv_begin(struct rlm_conn *c, int fd, struct rlm_inside *inside)
{
	if (atomic_load_explicit(&c->bound, memory_order_relaxed))
		return false;
	inside_enter(inside, &arena, c);
	if (__builtin_expect(atomic_load_explicit(&c->bound, memory_order_seq_cst) == 0, 1))
		return true;
	inside_leave(inside, &arena, c);
	stream_came_out(c, fd);
	stream_left(c);
	return false;
}

// Out of the kernel without any bytes: poll() goes in and out like a receive.
static inline void stream_plain_recv_leave(struct rlm_conn *c, int fd, struct rlm_inside *inside)
{
	inside_leave(inside, &arena, c);
	if (__builtin_expect(atomic_load_explicit(&c->bound, memory_order_seq_cst) != 0, 0))
		stream_came_out(c, fd);
	stream_left(c);
}

int64_t stream_plain_recv_end_bound(struct rlm_conn *c, int fd, struct rlm_inside *inside, const struct iovec *iov, int iovcnt,
				    ssize_t n, int flags);

static inline int64_t stream_plain_recv_end(struct rlm_conn *c, int fd, struct rlm_inside *inside, const struct iovec *iov, int iovcnt,
					    ssize_t n, int flags)
{
	stream_count(c, &conn_stat(&arena, c)->rx_bytes_plain, fd, flags & MSG_PEEK ? 0 : n);
	if (__builtin_expect(atomic_load_explicit(&c->bound, memory_order_acquire) != 0, 0))
		return stream_plain_recv_end_bound(c, fd, inside, iov, iovcnt, n, flags);
	stream_plain_recv_leave(c, fd, inside);
	return n;
}

// Whatever the carrier: blocks as the socket and flags say. >= 0 bytes, or -errno (SIGPIPE has been raised as the kernel would).
// Any MSG_ flag of send() and recv(); control messages do not exist on TCP streams (hooks with msg_control on a send:
// stream_to_kernel() first).
int64_t stream_send(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags);
int64_t stream_recv(struct rlm_conn *c, int fd, const struct iovec *iov, int iovcnt, int flags);
// The same for one buffer, not empty, and these flags only.
int64_t stream_send_one(struct rlm_conn *c, int fd, const void *data, uint64_t n, int flags);
int64_t stream_recv_one(struct rlm_conn *c, int fd, void *data, uint64_t most, int flags);
// The same for n bytes of a regular file, as sendfile() does it: from *offset, or its position, which advance.
// more: it is not the connection that ended it. 0 with `more`: the file has nothing in memory here, the caller must read it.
int64_t stream_send_file(struct rlm_conn *c, int fd, int file, off64_t *offset, uint64_t n, bool *more);

// Before the kernel must see the socket used in a way librlm does not follow: ends rounds, forbids new ones, and waits (bounded) until
// both directions are plain. why: RLM_WHY_*. 0, or -EBUSY when it could not be done in time.
int stream_to_kernel(struct rlm_conn *c, int fd, enum rlm_why why);
// The same before nobody here looks at the ring, or for frames, any more: nothing of either may be left.
int stream_to_kernel_whole(struct rlm_conn *c, int fd);
// The same for all connections, or for those whose descriptors survive exec. Others will read them: nothing stays in the ring for us alone.
// for_good: this program ends here. What cannot be had in time, and nobody else of the family will see to, is reset.
void stream_all_to_kernel(enum rlm_why why, bool kept_only, bool for_good);

// --- life ---

// A connected (or connecting) TCP socket of ours. nonblock: its O_NONBLOCK. NULL when the table is full: stays unknown.
struct rlm_conn *stream_open(int fd, bool nonblock);
// fd's entry goes away because the kernel is about to close it (close, dup2 over it): with the last descriptor, leaves the socket so that
// close does what TCP would do (RST when unread bytes are thrown away). Call directly before the kernel call.
void stream_forget(int fd);
// newfd is now a duplicate of oldfd (any kind).
void stream_duplicated(int oldfd, int newfd);
// shutdown(), with the result of the kernel.
int stream_shutdown(struct rlm_conn *c, int fd, int how);
// The application set O_NONBLOCK.
void stream_set_nonblock(struct rlm_conn *c, bool nonblock);
// What TCP_CORK holds back, if anything.
void stream_let_go(struct rlm_conn *c);
void stream_set_corked(struct rlm_conn *c, bool corked);
// setsockopt(TCP_NODELAY or TCP_CORK), with the result of the kernel.
int stream_set_pushing(struct rlm_conn *c, int fd, int name, const void *value, socklen_t len);
// After a successful setsockopt() by the application.
void stream_option_set(struct rlm_conn *c, int fd, int level, int name);
// SO_ERROR, when the kernel has none: errno, 0 = none.
int stream_error(struct rlm_conn *c);
// FIONREAD: payload bytes that a receive would find. kernel: what the kernel said.
int stream_unread(struct rlm_conn *c, int fd, int kernel);
// SIOCATMARK. kernel: what the kernel said.
int stream_at_mark(struct rlm_conn *c, int fd, int kernel);
// SIOCOUTQ: bytes sent that have not arrived. kernel: what the kernel said.
int stream_unsent(struct rlm_conn *c, int kernel);

// --- processes ---

extern _Atomic bool stream_forked; // this process has forked or was forked
// Under a lock of the connection: no other process of the family has it, nor serves it. It stays so until stream_fork_prepare().
bool stream_is_ours_alone(const struct rlm_conn *c, const struct rlm_bound *b);
// Nobody keeps a lock of a connection.
void stream_end_keeping(void);
void stream_fork_prepare(void);
void stream_fork_parent(void);
void stream_fork_child(void);
void stream_take_place(struct rlm_place *place);
// Takes back what processes of the family that are gone held; at most once in so many milliseconds.
void stream_sweep(unsigned ms);
// The process is about to end: what plain TCP would deliver without it must be in TCP.
void stream_before_exit(void);
// Every promoted connection whose descriptor survives exec (or goes to posix_spawn, system, popen) goes back to TCP. for_good: as above.
void stream_before_exec(bool for_good);
// It came to nothing: what that had barred may be promoted again.
void stream_after_exec(void);

#endif
