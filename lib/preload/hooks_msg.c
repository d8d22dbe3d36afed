// SPDX-License-Identifier: BSD-2-Clause
// sendmsg(), recvmsg() and their array forms. On other sockets: descriptors that are passed away or arrive.
#include "hooks.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "sys.h"

// --- descriptors in control messages ---

static unsigned descriptors_of(const struct msghdr *msg, struct cmsghdr *cm, const int **fds)
{
	const char *end = (const char *)msg->msg_control + msg->msg_controllen;
	const char *data = (const char *)CMSG_DATA(cm);

	if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS || cm->cmsg_len < CMSG_LEN(sizeof(int)) ||
	    data + (cm->cmsg_len - CMSG_LEN(0)) > end)
		return 0;
	*fds = (const int *)(const void *)data;
	return (unsigned)((cm->cmsg_len - CMSG_LEN(0)) / sizeof(int));
}

// Whoever receives a connection gets it as TCP. -1 with errno when that cannot be had in time.
static int pass_descriptors(const struct msghdr *msg)
{
	struct cmsghdr *cm;
	struct rlm_conn *c;
	const int *fds;

	if (!signals_watching || hook_is_bad_object(msg, sizeof(*msg)) || !msg->msg_controllen || hook_is_bad(msg->msg_control))
		return 0; // without connections there is none to pass
	for (cm = CMSG_FIRSTHDR(msg); cm; cm = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, cm)) {
		unsigned n = descriptors_of(msg, cm, &fds);

		for (unsigned i = 0; i < n; i++) {
			c = fd_conn(fds[i]);
			if (c && stream_to_kernel(c, fds[i], RLM_WHY_SHARED) < 0)
				return (int)rlm_result(-ENOBUFS);
		}
	}
	return 0;
}

static void take_descriptors(const struct msghdr *msg)
{
	struct cmsghdr *cm;
	const int *fds;

	if (!msg->msg_controllen)
		return;
	for (cm = CMSG_FIRSTHDR(msg); cm; cm = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, cm)) {
		unsigned n = descriptors_of(msg, cm, &fds);

		for (unsigned i = 0; i < n; i++)
			hook_received(fds[i]);
	}
}

// --- sending ---

static bool has_control(const struct msghdr *msg)
{
	return !hook_is_bad_object(msg, sizeof(*msg)) && msg->msg_controllen != 0;
}

// The kernel refuses it, or it moves no byte: ask the kernel.
static bool send_is_odd(const struct msghdr *msg)
{
	return hook_is_bad_object(msg, sizeof(*msg)) ||
	       (msg->msg_name && ((int)msg->msg_namelen < 0 || (msg->msg_namelen && hook_is_bad(msg->msg_name)))) ||
	       hook_vector_is_bad(msg->msg_iov, msg->msg_iovlen) || hook_vector_is_empty(msg->msg_iov, msg->msg_iovlen);
}

static ssize_t send_message(struct rlm_conn *c, int fd, const struct msghdr *msg, int flags)
{
	struct hook_call call;

	if (__builtin_expect(has_control(msg), 0)) {
		if (stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
			return rlm_result(-ENOBUFS);
		return REAL(sendmsg)(fd, msg, flags);
	}
	if (hook_send_begin(&call, c, fd, flags))
		return hook_send_end(&call, REAL(sendmsg)(fd, msg, flags));
	if (send_is_odd(msg))
		return REAL(sendmsg)(fd, msg, flags & ~HOOK_SEND_FLAGS);
	return rlm_result(hook_send(c, fd, msg->msg_iov, (int)msg->msg_iovlen, flags));
}

RLM_EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct rlm_conn *c = fd_conn(fd);
	ssize_t n;

	if (c)
		return send_message(c, fd, msg, flags);
	if (pass_descriptors(msg) < 0)
		return -1;
	n = REAL(sendmsg)(fd, msg, flags);
	if (flags & MSG_FASTOPEN && (n >= 0 || errno == EINPROGRESS) && msg->msg_name)
		hook_connected(fd, msg->msg_name);
	return n;
}

static uint64_t message_size(const struct msghdr *msg)
{
	uint64_t n = 0;

	for (size_t i = 0; i < msg->msg_iovlen; i++)
		n += msg->msg_iov[i].iov_len;
	return n;
}

// One message after the other until one is not sent whole; an error tells itself only when it is the first.
static int send_messages(struct rlm_conn *c, int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	unsigned done = 0;
	ssize_t n;

	if (count == 0 || hook_is_bad_object(messages, sizeof(*messages)))
		return REAL(sendmmsg)(fd, messages, count, flags);
	if (count > IOV_MAX)
		count = IOV_MAX;
	while (done < count) {
		n = send_message(c, fd, &messages[done].msg_hdr, flags);
		if (n < 0)
			break;
		messages[done].msg_len = (unsigned)n;
		if ((uint64_t)n < message_size(&messages[done++].msg_hdr))
			break;
	}
	return done ? (int)done : -1;
}

RLM_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	struct rlm_conn *c = fd_conn(fd);

	if (c)
		return send_messages(c, fd, messages, count, flags);
	for (unsigned i = 0; i < count && i < IOV_MAX && !hook_is_bad_object(messages, sizeof(*messages)); i++)
		if (pass_descriptors(&messages[i].msg_hdr) < 0)
			return -1;
	return REAL(sendmmsg)(fd, messages, count, flags);
}

// --- receiving ---

// Programs set these options on all their sockets and ask for the answer on those for datagrams alone.
static bool asks_for_timestamps(struct rlm_conn *c, int fd, const struct msghdr *msg)
{
	return has_control(msg) && atomic_load_explicit(arena.timestamps, memory_order_relaxed) &&
	       !(atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_BARRED) && hook_brings_timestamps(fd);
}

static ssize_t recv_message(struct rlm_conn *c, int fd, struct msghdr *msg, int flags)
{
	struct hook_call call;
	ssize_t n;

	if (asks_for_timestamps(c, fd, msg) && stream_to_kernel(c, fd, RLM_WHY_OPTION) < 0)
		return rlm_result(-ENOBUFS);
	// Options that bring control messages have barred it; bytes left in the ring come first, without any.
	if (atomic_load_explicit(&c->flags, memory_order_relaxed) & RLM_CONN_BARRED && has_control(msg) &&
	    hook_is_kernels(c, fd))
		return REAL(recvmsg)(fd, msg, flags);
	if (hook_recv_begin(&call, c, fd, flags)) {
		n = REAL(recvmsg)(fd, msg, flags);
		if (hook_recv_end(&call, n >= 0 ? msg->msg_iov : NULL, n >= 0 ? (int)msg->msg_iovlen : 0, &n))
			return n;
	}
	if (hook_is_bad_object(msg, sizeof(*msg)) || hook_vector_is_bad(msg->msg_iov, msg->msg_iovlen))
		return REAL(recvmsg)(fd, msg, flags);
	n = rlm_result(hook_recv(c, fd, msg->msg_iov, (int)msg->msg_iovlen, flags));
	if (n < 0)
		return n;
	if (msg->msg_name)
		msg->msg_namelen = 0;
	msg->msg_controllen = 0;
	msg->msg_flags = flags & MSG_CMSG_CLOEXEC;
	return n;
}

RLM_EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct rlm_conn *c = fd_conn(fd);
	ssize_t n;

	if (c && !(flags & MSG_ERRQUEUE))
		return recv_message(c, fd, msg, flags);
	n = REAL(recvmsg)(fd, msg, flags);
	if (n >= 0)
		take_descriptors(msg);
	return n;
}

// What the kernel would put into the socket's error for the next call must not be fetched by a call that cannot return
// it.
static bool error_waits(struct rlm_conn *c, int fd)
{
	int n = 0;

	return sys_poll_now(fd, 0) & POLLERR && ioctl(fd, FIONREAD, &n) == 0 && n == 0;
}

static bool time_is_over(const struct timespec *end, struct timespec *left)
{
	return !rlm_clock_left(end, left) || (left->tv_sec == 0 && left->tv_nsec == 0);
}

// The time-out is looked at between messages only, as recvmmsg(2) says of itself; what is left of it is told.
static int recv_messages(struct rlm_conn *c, int fd, struct mmsghdr *messages, unsigned count, int flags,
			 struct timespec *timeout)
{
	int each = flags & ~MSG_WAITFORONE;
	struct timespec end;
	unsigned done = 0;
	ssize_t n;

	if (timeout) {
		rlm_clock_now(&end);
		end = rlm_time_plus(end, *timeout);
	}
	while (done < count && !(done && error_waits(c, fd))) {
		n = recv_message(c, fd, &messages[done].msg_hdr, each);
		if (n < 0)
			return done ? (int)done : -1;
		messages[done++].msg_len = (unsigned)n;
		if (flags & MSG_WAITFORONE)
			each |= MSG_DONTWAIT;
		if (timeout && time_is_over(&end, timeout))
			break;
	}
	return (int)done;
}

RLM_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
	struct rlm_conn *c = fd_conn(fd);
	int error = 0, n;
	socklen_t len = sizeof(error);

	if (c && count && !(flags & (MSG_ERRQUEUE | MSG_OOB)) && !hook_is_bad_object(messages, sizeof(*messages)) &&
	    !(timeout &&
	      (hook_is_bad(timeout) || timeout->tv_sec < 0 || (unsigned long)timeout->tv_nsec >= 1000000000))) {
		// Unlike recvmsg(), an error goes before bytes that came earlier.
		if (sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error)
			return (int)rlm_result(-error);
		return recv_messages(c, fd, messages, count, flags, timeout);
	}
	n = REAL(recvmmsg)(fd, messages, count, flags, timeout);
	for (int i = 0; i < n; i++)
		take_descriptors(&messages[i].msg_hdr);
	return n;
}
