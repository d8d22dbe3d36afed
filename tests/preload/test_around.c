// SPDX-License-Identifier: BSD-2-Clause
// Ways to the socket that no libc call of ours sees, stdio, aio, io_uring: the stream stays whole.
#include "pair.h"

#include <aio.h>
#include <linux/io_uring.h>
#include <sys/mman.h>

// -- stdio --

static void stdio_reads_and_writes(void **state)
{
	struct pair *p = *state;
	int copy = dup(p->b);
	FILE *in = fdopen(p->b, "r"), *out = fdopen(copy, "w");
	char line[64];

	assert_that(in && out);
	for (int i = 0; i < 20; i++) {
		send_text(p->a, "a line\nanother line\n");
		assert_that(fgets(line, sizeof(line), in));
		assert_bytes(line, "a line\n", 7);
		assert_that(fgets(line, sizeof(line), in));
		assert_bytes(line, "another line\n", 13);
		assert_returns(fprintf(out, "answer %d\n", i % 10), 9);
		assert_returns(fflush(out), 0);
		snprintf(line, sizeof(line), "answer %d\n", i % 10);
		recv_text(p->a, line);
	}
	assert_returns(fclose(out), 0);
	assert_that(!wait_for(p->a, POLLIN, 5));
	assert_returns(shutdown(p->a, SHUT_WR), 0);
	assert_that(!fgets(line, sizeof(line), in));
	assert_that(feof(in));
	assert_returns(fclose(in), 0);
	p->b = -1;
	recv_end(p->a);
}

// Bytes received by recv before and after the stream is opened.
static void stdio_after_calls(void **state)
{
	struct pair *p = *state;
	char *line = NULL;
	size_t size = 0;
	FILE *file;

	send_text(p->a, "first");
	recv_text(p->b, "first");
	send_text(p->a, "second\nthird\n");
	assert_that(wait_for(p->b, POLLIN, DEADLINE_MS));
	file = fdopen(p->b, "r+");
	assert_that(file);
	setvbuf(file, NULL, _IONBF, 0);
	assert_returns(getline(&line, &size, file), 7);
	assert_bytes(line, "second\n", 7);
	recv_text(p->b, "third\n");
	fputs("written\n", file);
	recv_text(p->a, "written\n");
	send_text(p->b, "sent");
	recv_text(p->a, "sent");
	free(line);
	fclose(file);
	p->b = -1;
	recv_end(p->a);
}

static void dprintf_writes(void **state)
{
	struct pair *p = *state;

	for (int i = 0; i < 20; i++) {
		assert_returns(dprintf(p->a, "number %d\n", i % 10), 9);
		send_text(p->a, "and a send\n");
	}
	for (int i = 0; i < 20; i++) {
		char line[32];

		snprintf(line, sizeof(line), "number %d\nand a send\n", i % 10);
		recv_text(p->b, line);
	}
}

// -- asynchronous I/O --

static int aio_wait(struct aiocb *block)
{
	const struct aiocb *list[] = {block};
	struct timespec time = {DEADLINE_MS / 1000, 0};

	assert_returns(aio_suspend(list, 1, &time), 0);
	assert_returns(aio_error(block), 0);
	return aio_return(block);
}

static void posix_aio(void **state)
{
	struct pair *p = *state;
	char buffer[16] = "";
	struct aiocb in = {.aio_fildes = p->b, .aio_buf = buffer, .aio_nbytes = sizeof(buffer)};
	struct aiocb out = {.aio_fildes = p->b, .aio_buf = "by aio", .aio_nbytes = 6};

	for (int i = 0; i < 5; i++) {
		assert_returns(aio_read(&in), 0);
		send_text(p->a, "hello");
		assert_returns(aio_wait(&in), 5);
		assert_bytes(buffer, "hello", 5);
		assert_returns(aio_write(&out), 0);
		assert_returns(aio_wait(&out), 6);
		recv_text(p->a, "by aio");
	}
}

struct ring {
	int fd;
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static void *ring_map(int fd, size_t size, off_t offset)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);

	assert_that(memory != MAP_FAILED);
	return memory;
}

static bool ring_open(struct ring *ring)
{
	struct io_uring_params params = {0};
	char *memory;
	size_t size;

	ring->fd = syscall(SYS_io_uring_setup, 8, &params);
	if (ring->fd < 0)
		return false;
	assert_that(params.features & IORING_FEAT_SINGLE_MMAP);
	size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	if (params.sq_off.array + params.sq_entries * sizeof(unsigned) > size)
		size = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	memory = ring_map(ring->fd, size, IORING_OFF_SQ_RING);
	ring->sqes = ring_map(ring->fd, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring->sq_tail = (unsigned *)(memory + params.sq_off.tail);
	ring->sq_mask = (unsigned *)(memory + params.sq_off.ring_mask);
	ring->sq_array = (unsigned *)(memory + params.sq_off.array);
	ring->cq_head = (unsigned *)(memory + params.cq_off.head);
	ring->cq_tail = (unsigned *)(memory + params.cq_off.tail);
	ring->cq_mask = (unsigned *)(memory + params.cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(memory + params.cq_off.cqes);
	return true;
}

static void ring_submit(struct ring *ring, int opcode, int fd, void *buffer, unsigned size)
{
	unsigned tail = *ring->sq_tail, index = tail & *ring->sq_mask;

	ring->sqes[index] = (struct io_uring_sqe){.opcode = opcode, .fd = fd, .addr = (uintptr_t)buffer, .len = size};
	if (opcode == IORING_OP_READ || opcode == IORING_OP_WRITE)
		ring->sqes[index].off = (uint64_t)-1;
	ring->sq_array[index] = index;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	assert_returns(syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0), 1);
}

static int ring_wait(struct ring *ring)
{
	unsigned head = *ring->cq_head;
	int result;

	while (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE))
		assert_returns(syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0), 0);
	result = ring->cqes[head & *ring->cq_mask].res;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

// A program that has an io_uring may do anything with its sockets through it. In a child each, since that is for life.
static void use_io_uring(int family)
{
	struct ring ring;
	struct pair p;
	char buffer[16];

	assert_that(ring_open(&ring));
	pair_open(&p, family);
	for (int i = 0; i < 50; i++) {
		ring_submit(&ring, i % 2 ? IORING_OP_RECV : IORING_OP_READ, p.b, buffer, sizeof(buffer));
		send_text(p.a, "hello");
		assert_returns(ring_wait(&ring), 5);
		assert_bytes(buffer, "hello", 5);
		ring_submit(&ring, i % 2 ? IORING_OP_SEND : IORING_OP_WRITE, p.b, "by ring", 7);
		assert_returns(ring_wait(&ring), 7);
		recv_text(p.a, "by ring");
		send_text(p.b, "by send");
		recv_text(p.a, "by send");
	}
}

// The io_uring comes when the connection is on the ring already, with bytes unread.
static void use_io_uring_late(int family)
{
	struct ring ring;
	struct pair p;
	char buffer[16];

	pair_open(&p, family);
	pair_settle(&p);
	send_text(p.a, "unread");
	assert_that(wait_for(p.b, POLLIN, DEADLINE_MS));
	assert_that(ring_open(&ring));
	ring_submit(&ring, IORING_OP_RECV, p.b, buffer, sizeof(buffer));
	assert_returns(ring_wait(&ring), 6);
	assert_bytes(buffer, "unread", 6);
	ring_submit(&ring, IORING_OP_SEND, p.b, "by ring", 7);
	assert_returns(ring_wait(&ring), 7);
	send_text(p.b, "by send");
	recv_text(p.a, "by ringby send");
}

static void in_child(void (*fn)(int family), int family)
{
	pid_t child = fork();

	if (child == 0) {
		fn(family);
		_exit(0);
	}
	child_finish(child);
}

// Many containers do not allow it.
static bool has_io_uring(void)
{
	struct io_uring_params params = {0};
	int status;
	pid_t child = fork();

	if (child == 0)
		_exit(syscall(SYS_io_uring_setup, 1, &params) < 0);
	assert_returns(waitpid(child, &status, 0), child);
	return status == 0;
}

static void io_uring(void **state)
{
	if (!has_io_uring())
		skip();
	in_child(use_io_uring, *(int *)*state);
}

static void io_uring_comes_late(void **state)
{
	if (!has_io_uring())
		skip();
	in_child(use_io_uring_late, *(int *)*state);
}

// clang-format off
static const struct CMUnitTest tests[] = {
    TEST_SETTLED(stdio_reads_and_writes),
    TEST_SETTLED(stdio_after_calls),
    TEST_SETTLED(dprintf_writes),
    TEST_SETTLED(posix_aio),
    TEST_FAMILY(io_uring),
    TEST_FAMILY(io_uring_comes_late),
};
// clang-format on

SUITE_MAIN(tests)
