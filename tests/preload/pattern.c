// SPDX-License-Identifier: BSD-2-Clause
// What tests send and receive: streams whose every byte is known, short texts, full and empty sockets, buffers with an edge.
#include "pair.h"

#include <sys/mman.h>

static uint64_t pattern_word(uint32_t seed, uint64_t index)
{
	uint64_t z = (index + 1 + ((uint64_t)seed << 32)) * 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	return z ^ (z >> 27);
}

void pattern_fill(void *buffer, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char *bytes = buffer;

	for (size_t i = 0; i < size; i++)
		bytes[i] = pattern_word(seed, (offset + i) >> 3) >> ((offset + i) & 7) * 8;
}

void pattern_check(const void *buffer, uint32_t seed, uint64_t offset, size_t size)
{
	const unsigned char *bytes = buffer;

	for (size_t i = 0; i < size; i++) {
		unsigned char want = pattern_word(seed, (offset + i) >> 3) >> ((offset + i) & 7) * 8;
		if (bytes[i] != want)
			check_failed(__FILE__, __LINE__, "byte %llu of stream %u is %#x, not %#x",
				     (unsigned long long)(offset + i), seed, bytes[i], want);
	}
}

unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

void send_pattern(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char buffer[8192];

	while (size) {
		size_t part = size < sizeof(buffer) ? size : sizeof(buffer);
		ssize_t sent;

		pattern_fill(buffer, seed, offset, part);
		sent = send(fd, buffer, part, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLOUT, DEADLINE_MS));
			continue;
		}
		assert_that(sent > 0);
		offset += sent;
		size -= sent;
	}
}

void recv_pattern(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	unsigned char buffer[8192];

	while (size) {
		ssize_t got = recv(fd, buffer, size < sizeof(buffer) ? size : sizeof(buffer), 0);

		if (got < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
			continue;
		}
		assert_that(got > 0);
		pattern_check(buffer, seed, offset, got);
		offset += got;
		size -= got;
	}
}

static void *flow_main(void *arg)
{
	struct flow *flow = arg;

	while (!flow->stop) {
		const size_t size = 1000;

		send_pattern(flow->from, 3, flow->moved, size);
		recv_pattern(flow->to, 3, flow->moved, size);
		flow->moved += size;
	}
	return NULL;
}

void flow_start(struct flow *flow, int from, int to)
{
	*flow = (struct flow){.from = from, .to = to};
	assert_returns(pthread_create(&flow->thread, NULL, flow_main, flow), 0);
	while (!flow->moved)
		sched_yield();
}

void flow_stop(struct flow *flow)
{
	flow->stop = true;
	assert_returns(pthread_join(flow->thread, NULL), 0);
}

void recv_end(int fd)
{
	char byte;

	assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
	assert_returns(recv(fd, &byte, 1, 0), 0);
}

void send_text(int fd, const char *text)
{
	assert_returns(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

int readable_bytes(int fd)
{
	int value = -1;

	assert_returns(ioctl(fd, FIONREAD, &value), 0);
	return value;
}

void wait_readable_bytes(int fd, int want)
{
	int64_t deadline = now_ms() + DEADLINE_MS;

	while (readable_bytes(fd) != want && now_ms() < deadline)
		nap_ms(1);
	assert_returns(readable_bytes(fd), want);
}

void recv_text(int fd, const char *text)
{
	char buffer[4096];
	size_t want = strlen(text), have = 0;

	assert_that(want < sizeof(buffer));
	while (have < want) {
		ssize_t got = recv(fd, buffer + have, want - have, 0);
		if (got < 0 && errno == EAGAIN) {
			assert_that(wait_for(fd, POLLIN, DEADLINE_MS));
			continue;
		}
		assert_that(got > 0);
		have += got;
	}
	assert_bytes(buffer, text, want);
}

bool wait_for(int fd, short events, int timeout_ms)
{
	struct pollfd item = {.fd = fd, .events = events};

	return poll(&item, 1, timeout_ms) == 1 && (item.revents & events);
}

static size_t fill_from(int fd, uint32_t seed, size_t total)
{
	unsigned char buffer[4096];

	for (;;) {
		ssize_t sent;

		pattern_fill(buffer, seed, total, sizeof(buffer));
		sent = send(fd, buffer, sizeof(buffer), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent > 0) {
			total += sent;
			continue;
		}
		assert_that(sent == -1 && errno == EAGAIN);
		// TCP moves queued bytes to the peer for a moment yet.
		if (!wait_for(fd, POLLOUT, QUIET_MS))
			return total;
	}
}

size_t fill_socket(int fd, uint32_t seed)
{
	return fill_from(fd, seed, 0);
}

size_t fill_more(int fd, uint32_t seed, size_t filled)
{
	size_t total = fill_from(fd, seed, filled);

	assert_that(!carrier_is_ring());
	assert_that(total > filled);
	return total;
}

void drain_socket(int fd, uint32_t seed, uint64_t offset, size_t size)
{
	recv_pattern(fd, seed, offset, size);
	assert_that(!wait_for(fd, POLLIN, 0));
}

char *edge_open(size_t size)
{
	char *start = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_that(start != MAP_FAILED);
	assert_returns(mprotect(start + size, 4096, PROT_NONE), 0);
	return start + size;
}

void edge_close(char *edge, size_t size)
{
	munmap(edge - size, size + 4096);
}
