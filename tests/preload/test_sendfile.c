// SPDX-License-Identifier: BSD-2-Clause
// sendfile, splice, tee, vmsplice, copy_file_range: bytes that never pass through the program.
#include "pair.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#define SIZE (2u << 20)

// A file that holds stream `seed` from position 0.
static int file_open(uint32_t seed, size_t size)
{
	char path[] = "/tmp/rlm-test-XXXXXX";
	int fd = mkstemp(path);
	unsigned char *data = malloc(size);

	assert_that(fd >= 0 && data);
	unlink(path);
	pattern_fill(data, seed, 0, size);
	assert_returns(pwrite(fd, data, size, 0), size);
	free(data);
	return fd;
}

static void file_check(int fd, uint32_t seed, size_t size)
{
	unsigned char *data = malloc(size + 1);

	assert_that(data);
	assert_returns(pread(fd, data, size + 1, 0), size);
	pattern_check(data, seed, 0, size);
	free(data);
}

static void receiver_start(struct sleeper *sleeper, struct pattern *r, int fd, size_t size)
{
	*r = (struct pattern){fd, 1, size};
	sleeper_start(sleeper, call_recv_pattern, r);
}

static void whole_file(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, SIZE);
	off_t at = 0;
	struct pattern r;
	struct sleeper sleeper;

	receiver_start(&sleeper, &r, p->b, SIZE);
	while (at < SIZE) {
		ssize_t sent = sendfile(p->a, file, &at, SIZE - at);
		assert_that(sent > 0);
	}
	assert_returns(at, SIZE);
	assert_returns(lseek(file, 0, SEEK_CUR), 0);
	assert_returns(sendfile(p->a, file, &at, 100), 0);
	assert_returns(sleeper_join(&sleeper), 0);
	close(file);
	pair_check_ring(p);
}

static void from_position(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, 10000);
	off_t at = 2000;

	assert_returns(sendfile(p->a, file, NULL, 1000), 1000);
	assert_returns(lseek(file, 0, SEEK_CUR), 1000);
	recv_pattern(p->b, 1, 0, 1000);
	assert_returns(sendfile(p->a, file, &at, 500), 500);
	assert_returns(at, 2500);
	recv_pattern(p->b, 1, 2000, 500);
	assert_returns(sendfile(p->a, file, NULL, 100), 100);
	recv_pattern(p->b, 1, 1000, 100);
	// It stops where the file does.
	at = 9900;
	assert_returns(sendfile(p->a, file, &at, 4000), 100);
	recv_pattern(p->b, 1, 9900, 100);
	at = 20000;
	assert_returns(sendfile(p->a, file, &at, 4000), 0);
	assert_returns(sendfile64(p->a, file, NULL, 7), 7);
	recv_pattern(p->b, 1, 1100, 7);
	assert_returns(syscall(SYS_sendfile, p->a, file, NULL, 9), 9);
	recv_pattern(p->b, 1, 1107, 9);
	close(file);
	pair_check_ring(p);
}

// Not all files are in the page cache, or can be.
static void from_disk(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, SIZE), proc = open("/proc/version", O_RDONLY);
	char line[4096], got[4096];
	ssize_t n = pread(proc, line, sizeof(line), 0);
	struct pattern r;
	struct sleeper sleeper;

	fsync(file);
	assert_returns(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
	receiver_start(&sleeper, &r, p->b, SIZE);
	assert_returns(sendfile(p->a, file, NULL, SIZE + 10), SIZE);
	assert_returns(sleeper_join(&sleeper), 0);
	assert_returns(sendfile(p->a, proc, NULL, sizeof(line)), n);
	assert_returns(recv(p->b, got, (size_t)n, MSG_WAITALL), n);
	assert_that(!memcmp(line, got, (size_t)n));
	close(file);
	close(proc);
	pair_check_ring(p);
}

// What is not a file with a position cannot be sent to a socket, and stays as it is.
static void not_a_file(void **state)
{
	struct pair *p = *state;
	int event = eventfd(7, EFD_NONBLOCK), pipe_fds[2];
	uint64_t count;

	assert_returns(pipe(pipe_fds), 0);
	assert_returns(write(pipe_fds[1], "abc", 3), 3);
	assert_fails(sendfile(p->a, pipe_fds[0], NULL, 3), EINVAL);
	assert_fails(sendfile(p->a, event, NULL, 8), EINVAL);
	assert_returns(read(event, &count, sizeof(count)), sizeof(count));
	close(event);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void sendfile_between_sends(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, 4000);

	for (int i = 0; i < 20; i++) {
		off_t at = i * 100;

		send_text(p->a, "header");
		assert_returns(sendfile(p->a, file, &at, 100), 100);
		send_text(p->a, "trailer");
		recv_text(p->b, "header");
		recv_pattern(p->b, 1, i * 100, 100);
		recv_text(p->b, "trailer");
	}
	close(file);
	pair_check_ring(p);
}

static void sendfile_nonblocking(void **state)
{
	struct pair *p = *state;
	size_t size = 24u << 20;
	int file = file_open(1, size);
	off_t at = 0;
	ssize_t sent;
	struct pattern r;
	struct sleeper sleeper;

	set_nonblocking(p->a, true);
	do
		sent = sendfile(p->a, file, &at, size - at);
	while (sent > 0 && (size_t)at < size);
	assert_that(sent == -1 && errno == EAGAIN && at > 0 && (size_t)at < size);
	assert_that(!wait_for(p->a, POLLOUT, 0) || at > 0);
	receiver_start(&sleeper, &r, p->b, size);
	while ((size_t)at < size) {
		sent = sendfile(p->a, file, &at, size - at);
		if (sent < 0) {
			assert_that(errno == EAGAIN);
			assert_that(wait_for(p->a, POLLOUT, DEADLINE_MS));
		} else
			assert_that(sent > 0);
	}
	assert_returns(sleeper_join(&sleeper), 0);
	close(file);
}

static void sendfile_errors(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, 4000), closed = dup(0);
	off_t negative = -1, at = 0;
	void *unmapped = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	close(closed);
	assert_fails(sendfile(p->a, closed, NULL, 10), EBADF);
	assert_fails(sendfile(p->a, file, &negative, 10), EINVAL);
	assert_returns(sendfile(p->a, file, &at, 0), 0);
	assert_fails(sendfile(closed, file, NULL, 10), EBADF);
	assert_fails(sendfile(p->a, file, (off_t *)16, 10), EFAULT);
	assert_fails(sendfile(p->a, file, unmapped, 10), EFAULT);
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	catch_signal(SIGPIPE, 0);
	assert_fails(sendfile(p->a, file, &at, 10), EPIPE);
	assert_returns(signal_count, 1);
	signal(SIGPIPE, SIG_DFL);
	assert_returns(at, 0);
	close(file);
}

// From a socket into a pipe into a file; from a file through a pipe into a socket.
static void splice_both_ways(void **state)
{
	struct pair *p = *state;
	int in = file_open(1, SIZE), out = file_open(2, 0), fds[2];
	size_t moved = 0, done = 0;
	loff_t at = 0;
	struct pattern r;
	struct sleeper sleeper;

	assert_returns(pipe(fds), 0);
	receiver_start(&sleeper, &r, p->b, SIZE);
	while (moved < SIZE) {
		ssize_t n = splice(in, &at, fds[1], NULL, 50000, SPLICE_F_MORE);
		assert_that(n > 0);
		for (ssize_t left = n; left > 0;) {
			ssize_t m = splice(fds[0], NULL, p->a, NULL, left, SPLICE_F_MOVE);
			assert_that(m > 0);
			left -= m;
		}
		moved += n;
	}
	assert_returns(sleeper_join(&sleeper), 0);
	pair_check_ring(p);

	for (size_t sent = 0; sent < 100000; sent += 1000) {
		send_pattern(p->b, 3, sent, 1000);
		while (done < sent + 1000) {
			ssize_t n = splice(p->a, NULL, fds[1], NULL, 5000, 0);
			assert_that(n > 0 && n <= 5000);
			assert_returns(splice(fds[0], NULL, out, NULL, n, 0), n);
			done += n;
		}
	}
	file_check(out, 3, 100000);
	set_nonblocking(p->a, true);
	assert_fails(splice(p->a, NULL, fds[1], NULL, 100, 0), EAGAIN);
	assert_returns(shutdown(p->b, SHUT_WR), 0);
	assert_that(wait_for(p->a, POLLIN, DEADLINE_MS));
	assert_returns(splice(p->a, NULL, fds[1], NULL, 100, 0), 0);
	close(in);
	close(out);
	close(fds[0]);
	close(fds[1]);
}

static int splice_in(void *arg)
{
	int *fds = arg;
	return splice(fds[0], NULL, fds[1], NULL, 100, 0);
}

static void splice_blocks(void **state)
{
	struct pair *p = *state;
	int fds[2], both[2];
	struct sleeper sleeper;
	char buffer[8];

	assert_returns(pipe(fds), 0);
	both[0] = p->b;
	both[1] = fds[1];
	sleeper_start(&sleeper, splice_in, both);
	send_text(p->a, "abc");
	assert_returns(sleeper_join(&sleeper), 3);
	assert_returns(read(fds[0], buffer, 8), 3);
	assert_bytes(buffer, "abc", 3);
	close(fds[0]);
	close(fds[1]);
}

static void splice_errors(void **state)
{
	struct pair *p = *state;
	int fds[2];
	loff_t at = 0;

	assert_returns(pipe(fds), 0);
	send_text(p->a, "abc");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	assert_fails(splice(p->b, &at, fds[1], NULL, 10, 0), EINVAL);
	assert_fails(splice(p->b, NULL, p->a, NULL, 10, 0), EINVAL);
	assert_fails(splice(p->b, NULL, fds[1], NULL, 10, 0x1000), EINVAL);
	assert_returns(splice(p->b, NULL, fds[1], NULL, 0, 0), 0);
	// A pipe without reader.
	close(fds[0]);
	catch_signal(SIGPIPE, 0);
	assert_fails(splice(p->b, NULL, fds[1], NULL, 10, 0), EPIPE);
	signal(SIGPIPE, SIG_DFL);
	close(fds[1]);
	recv_text(p->b, "abc");
}

// A proxy: one connection's bytes into another's.
static void splice_between_connections(void **state)
{
	struct pair *p = *state, q;
	int fds[2];

	assert_returns(pipe(fds), 0);
	pair_open(&q, p->family);
	pair_settle(&q);
	for (uint64_t at = 0; at < 60000; at += 600) {
		size_t left = 600;

		send_pattern(p->a, 1, at, 600);
		while (left) {
			ssize_t n = splice(p->b, NULL, fds[1], NULL, left, 0);
			assert_that(n > 0);
			assert_returns(splice(fds[0], NULL, q.a, NULL, n, 0), n);
			left -= n;
		}
		recv_pattern(q.b, 1, at, 600);
	}
	pair_check_ring(p);
	pair_check_ring(&q);
	pair_close(&q);
	close(fds[0]);
	close(fds[1]);
}

// Pages given to a pipe, duplicated in it, and sent.
static void vmsplice_and_tee(void **state)
{
	struct pair *p = *state;
	int one[2], two[2];
	static char text[] = "pages given away";
	struct iovec part = {text, 16};

	assert_returns(pipe(one), 0);
	assert_returns(pipe(two), 0);
	for (int i = 0; i < 5; i++) {
		assert_returns(vmsplice(one[1], &part, 1, 0), 16);
		assert_returns(tee(one[0], two[1], 16, 0), 16);
		assert_returns(splice(one[0], NULL, p->a, NULL, 16, 0), 16);
		assert_returns(splice(two[0], NULL, p->b, NULL, 16, 0), 16);
		recv_text(p->b, text);
		recv_text(p->a, text);
	}
	assert_fails(vmsplice(p->a, &part, 1, 0), EBADF);
	assert_fails(tee(one[0], p->a, 10, 0), EINVAL);
	for (int i = 0; i < 2; i++) {
		close(one[i]);
		close(two[i]);
	}
}

static void copy_file_range_fails(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, 100);

	assert_fails(copy_file_range(file, NULL, p->a, NULL, 10, 0), EINVAL);
	assert_fails(copy_file_range(p->b, NULL, file, NULL, 10, 0), EINVAL);
	send_text(p->a, "abc");
	recv_text(p->b, "abc");
	close(file);
}

// sendfile from a socket is not possible, into a pipe and a file it is.
static void sendfile_elsewhere(void **state)
{
	struct pair *p = *state;
	int file = file_open(1, 100), out = file_open(2, 0);

	assert_returns(sendfile(out, file, NULL, 100), 100);
	file_check(out, 1, 100);
	send_text(p->a, "abc");
	assert_fails(sendfile(out, p->b, NULL, 3), EINVAL);
	recv_text(p->b, "abc");
	close(file);
	close(out);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(whole_file),
    TEST_SETTLED(from_position),
    TEST_SETTLED(from_disk),
    TEST_SETTLED(not_a_file),
    TEST_SETTLED(sendfile_between_sends),
    TEST_SETTLED(sendfile_nonblocking),
    TEST_SETTLED(sendfile_errors),
    TEST_SETTLED(splice_both_ways),
    TEST_SETTLED(splice_blocks),
    TEST_SETTLED(splice_errors),
    TEST_SETTLED(splice_between_connections),
    TEST_SETTLED(vmsplice_and_tee),
    TEST_SETTLED(copy_file_range_fails),
    TEST_SETTLED(sendfile_elsewhere),
};
// clang-format on

SUITE_MAIN(tests)
