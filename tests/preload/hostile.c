// SPDX-License-Identifier: BSD-2-Clause
// A process that writes what it likes into all shared memory that it can write, and sends frames that it should not.
#include "hostile.h"

#include <rlm/layout.h>

#include <sys/mman.h>
#include <sys/prctl.h>

#define REGIONS 64u

struct board *board;
int board_fd;

void map_board(int fd)
{
	board_fd = fd;
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_that(board != MAP_FAILED);
}

int connect_to(int family, int port)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	bool six = family == AF_INET6;
	int fd = tcp_socket(family);

	assert_returns(connect(fd, six ? (void *)&in6 : (void *)&in, six ? sizeof(in6) : sizeof(in)), 0);
	return fd;
}

struct region {
	struct rlm_slot_shared *slots;
	uint8_t *start;
	size_t size;
	bool mine;
};

static struct {
	struct region region[REGIONS];
	unsigned count;
	int fd[HOSTILE];
	unsigned seed;
} evil;

// Not through libc, so that librlm has no say in it.
static void raw_send(int fd, const void *data, size_t n)
{
#if defined(__x86_64__)
	register long flags __asm__("r10") = MSG_DONTWAIT | MSG_NOSIGNAL;
	register long address __asm__("r8") = 0, size __asm__("r9") = 0;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_sendto), "D"(fd), "S"(data), "d"(n), "r"(flags), "r"(address), "r"(size)
			 : "rcx", "r11", "memory");
#else
	syscall(SYS_sendto, fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
#endif
}

static void find_regions(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long from, to;
	char line[512], access[8];

	assert_that(maps);
	evil.count = 0;
	while (fgets(line, sizeof(line), maps) && evil.count < REGIONS)
		if (strstr(line, "memfd:rlm-region") && sscanf(line, "%lx-%lx %7s", &from, &to, access) == 3)
			evil.region[evil.count++] =
				(struct region){(void *)(from + RLM_SLOTS_OFFSET), (void *)from, to - from, access[1] == 'w'};
	fclose(maps);
}

static uint64_t random_word(void)
{
	uint64_t word = 0;

	for (int i = 0; i < 5; i++)
		word = word << 15 ^ next_random(&evil.seed);
	return word;
}

static uint64_t near(uint64_t value)
{
	switch (next_random(&evil.seed) % 8) {
	case 0:
		return random_word();
	case 1:
		return value - next_random(&evil.seed) % 5000;
	case 2:
		return value + next_random(&evil.seed) % 600000;
	case 3:
		return value ^ 1ull << next_random(&evil.seed) % 64;
	default:
		return value - 2 + next_random(&evil.seed) % 5;
	}
}

// One word of a slot, as it might be, going by what the other side's slot says.
static void write_field(struct rlm_slot_shared *slot, const struct rlm_slot_shared *other)
{
	switch (next_random(&evil.seed) % 13) {
	case 0:
		slot->head = near(next_random(&evil.seed) % 2 ? other->tail : slot->head);
		break;
	case 1:
		slot->tail = near(next_random(&evil.seed) % 2 ? other->head : slot->tail);
		break;
	case 2:
		slot->bell = (uint32_t)near(slot->bell);
		break;
	case 3:
		slot->waiting = (uint32_t)random_word();
		break;
	case 4:
		slot->epoch = (uint32_t)near(slot->epoch);
		break;
	case 5:
		slot->tx_round = (uint32_t)near(2 * other->rx_ready);
		break;
	case 6:
		slot->tx_wish = (uint32_t)near(slot->tx_round);
		break;
	case 7:
		slot->rx_ready = (uint32_t)near(other->tx_round / 2 + 1);
		break;
	case 8:
		slot->rx_past = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 9:
		slot->rx_ask = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 10:
		slot->rx_leave = (uint32_t)near((other->tx_round + 1) / 2);
		break;
	case 11:
		slot->cut = near(slot->cut);
		break;
	default:
		slot->end = next_random(&evil.seed) % 4 ? near(other->tail) : RLM_END_VOID;
	}
}

static const struct rlm_slot_shared *slot_of_other(unsigned number)
{
	static const struct rlm_slot_shared none;

	for (unsigned i = 0; i < evil.count; i++)
		if (!evil.region[i].mine && number < RLM_SLOTS_MAX &&
		    RLM_SLOTS_OFFSET + (number + 1) * sizeof(none) <= evil.region[i].size)
			return &evil.region[i].slots[number];
	return &none;
}

// Values that belong together and yet are false, for a moment or for good.
static void scribble(const struct region *r)
{
	const struct rlm_region_shared *header = (const void *)r->start;
	unsigned slots = header->slots && header->slots <= RLM_SLOTS_MAX ? header->slots : 1, number = next_random(&evil.seed) % slots;
	struct rlm_slot_shared *slot = &r->slots[number], before;
	const struct rlm_slot_shared *other = slot_of_other(number);
	unsigned writes = 1 + next_random(&evil.seed) % 6, how = next_random(&evil.seed) % 32;

	if (!slot->epoch && next_random(&evil.seed) % 8)
		return;
	memcpy(&before, slot, sizeof(before));
	for (unsigned i = 0; how && i < writes; i++)
		write_field(slot, other);
	if (!how) // all bits
		for (unsigned i = 0; i < sizeof(*slot) / 8; i++)
			((uint64_t *)slot)[i] = random_word();
	if (how == 1)
		for (unsigned i = 0; i < 8; i++)
			r->start[random_word() % r->size] = (uint8_t)random_word();
	atomic_fetch_add(&board->written, writes);
	if (next_random(&evil.seed) % 2) {
		nap_ms(0);
		memcpy(slot, &before, sizeof(before));
	}
}

static void make_shorter(const struct region *r)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)r->start, (unsigned long)r->start + r->size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	if (ftruncate(fd, 0) == 0 || ftruncate(fd, 4096) == 0)
		atomic_fetch_add(&board->truncated, 1);
	close(fd);
}

static void *traffic(void *arg)
{
	unsigned seed = *(unsigned *)arg, which = seed % HOSTILE;
	unsigned char *data = malloc(CHUNK);
	uint8_t frames[10] = {RLM_FRAME_CUT, RLM_FRAME_END};
	int fd = evil.fd[which];

	memset(data, 'x', CHUNK);
	for (;;) {
		unsigned n = 1 + next_random(&seed) % (next_random(&seed) % 2 ? CHUNK : 100u);

		switch (next_random(&seed) % 8) {
		case 0:
			memcpy(frames + 2, &slot_of_other(which)->tail, 8);
			raw_send(fd, frames + next_random(&seed) % 10, 1 + next_random(&seed) % 10);
			break;
		case 1:
			raw_send(fd, data, n % 64);
			break;
		case 2:
			nap_ms((int)(n % 3));
			break;
		case 3:
		case 4:
		case 5:
			recv(fd, data, n, MSG_DONTWAIT);
			break;
		default:
			send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	}
	return NULL;
}

int hostile_main(char **argv)
{
	int family = atoi(argv[2]), port = atoi(argv[3]);
	unsigned seeds[HOSTILE];
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_board(atoi(argv[4]));
	evil.seed = (unsigned)strtoul(argv[5], NULL, 0);
	for (unsigned i = 0; i < HOSTILE; i++) {
		evil.fd[i] = connect_to(family, port);
		seeds[i] = next_random(&evil.seed) / HOSTILE * HOSTILE + i;
		assert_returns(pthread_create(&thread, NULL, traffic, &seeds[i]), 0);
	}
	while (!atomic_load(&board->stop)) { // until it is killed
		find_regions();
		for (unsigned i = 0; i < 50 && evil.count; i++) {
			const struct region *r = &evil.region[next_random(&evil.seed) % evil.count];

			if (r->mine)
				scribble(r);
			if (r->mine && i == 0)
				make_shorter(r);
		}
		nap_ms((int)(next_random(&evil.seed) % 4));
	}
	return 0;
}

int liar_main(char **argv)
{
	char data[100];
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_board(atoi(argv[4]));
	fd = connect_to(atoi(argv[2]), atoi(argv[3]));
	peer_settle(fd, false);
	memset(data, 'x', sizeof(data));
	assert_returns(send(fd, data, sizeof(data), 0), sizeof(data));
	while (!atomic_load(&board->lie))
		nap_ms(1);
	find_regions();
	for (unsigned i = 0; i < evil.count; i++) {
		const struct rlm_region_shared *header = (const void *)evil.region[i].start;

		for (unsigned k = 0; evil.region[i].mine && k < header->slots; k++)
			evil.region[i].slots[k].head += 1u << 30;
	}
	atomic_store(&board->lied, 1);
	while (!atomic_load(&board->stop)) // until it is killed
		nap_ms(100);
	return 0;
}
