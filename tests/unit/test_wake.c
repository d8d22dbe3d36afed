// SPDX-License-Identifier: BSD-2-Clause
// No wake-up is lost: producers and consumers that sleep without a time-out, over rings so small that they sleep all
// the time, in futex_waitv and in epoll. Who is not woken lets the watchdog end the test.
//
// Under TSan: it does not know atomic_thread_fence(), so it cannot confirm the fences of the protocol (tests/model
// does), but every word that the two sides share is atomic and both use one mapping, so it does check that ring bytes
// are ordered by head and tail, and that what a side keeps for itself is under its lock. Nothing is annotated or
// excluded. gcc warns of the fences (-Wtsan); clang does not.
#include "unit.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "ends.h"
#include "wake.h"

enum { RING = 64, CONSUMERS_MAX = 4, MILLISECONDS = 700 };

// Two ends, one direction: [0] produces, [1] consumes.
static struct {
	struct rlm_slot_shared slot[2];
	uint8_t ring[RING];
	struct rlm_conn conn[2];
	struct rlm_bound b[2];
	int doorbell;
	_Atomic uint64_t sent;
	uint64_t received; // under rx_lock
	_Atomic int stop, done;
	_Atomic uint64_t slept, slept_light; // slept_light: the sender published without a fence before
	bool spin, light;
} w;

static struct rlm_bound *const tx = &w.b[0], *const rx = &w.b[1];

static void world_start(bool spin)
{
	memset(&w, 0, sizeof(w));
	for (int i = 0; i < 2; i++) {
		w.b[i].conn = &w.conn[i];
		w.b[i].tx = w.b[i].rx = (struct rlm_ring){&w.slot[i], &w.slot[!i], w.ring, RING, 0, 0, RING, RING / 4};
		w.b[i].doorbell_peer = -1;
		wake_spin_init(&w.b[i].rx_spin, false);
		wake_spin_init(&w.b[i].tx_spin, false);
	}
	w.doorbell = tx->doorbell_peer = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(w.doorbell >= 0);
	wake_init(2, spin ? RLM_SPIN_MAX : 0);
	w.spin = spin;
}

static void world_stop(void)
{
	close(w.doorbell);
}

static void pause_sometimes(uint64_t *random)
{
	uint64_t r = random_below(random, 200);

	if (r == 0)
		usleep((useconds_t)random_below(random, 300));
	else if (r < 10)
		sched_yield();
	else if (r < 40)
		for (uint64_t i = random_below(random, 500); i; i--)
			sys_pause();
}

// As stream_wait_room() does it.
static void wait_for_room(uint64_t tail)
{
	const struct rlm_slot_shared *peer = tx->tx.peer;
	uint32_t bell, events;

	if (wake_spin(&peer->tail, tail, &tx->tx_spin))
		return;
	bell = atomic_load_explicit(&peer->bell, memory_order_acquire);
	events = atomic_load_explicit(&tx->conn->events, memory_order_acquire);
	wake_listen(tx, RLM_WAIT_TX_FUTEX);
	if (atomic_load_explicit(&peer->tail, memory_order_acquire) == tail) {
		w.slept++;
		sys_futex_wait2(&peer->bell, bell, &tx->conn->events, events, NULL);
	}
	wake_unlisten(tx, RLM_WAIT_TX_FUTEX);
}

static void produce(uint64_t *random)
{
	uint64_t head = ring_head(&tx->tx), n = 1 + random_below(random, random_below(random, 4) ? 8 : RING);
	uint64_t room = ring_room(&tx->tx, head, n);
	uint8_t data[RING];

	must(room != RLM_RING_BROKEN && room <= RING);
	if (room == 0) {
		wait_for_room(tx->tx.cached);
		return;
	}
	if (n > room)
		n = room;
	for (uint64_t i = 0; i < n; i++)
		data[i] = pattern(0, head + i);
	ring_put(&tx->tx, head, data, n);
	ring_publish(&tx->tx, head + n);
	atomic_store_explicit(&w.sent, head + n, memory_order_relaxed);
	wake_receiver(tx);
}

static void *producer(void *arg)
{
	uint64_t random = 1;

	while (!atomic_load_explicit(&w.stop, memory_order_relaxed)) {
		produce(&random);
		pause_sometimes(&random);
	}
	return NULL;
}

static bool passes_quarter(uint64_t from, uint64_t to)
{
	return (from ^ to) & ~(uint64_t)(RING / 4 - 1);
}

// Takes some bytes, 0: there were none. *head: where the ring ended then. rx_lock as in the stream.
static uint64_t consume(uint64_t *random, uint64_t *head)
{
	uint64_t n, most = 1 + random_below(random, random_below(random, 4) ? 10 : RING), tail;
	uint8_t data[RING];

	rlm_lock_take(&rx->conn->rx_lock);
	n = ring_available(&rx->rx, 1);
	must(n != RLM_RING_BROKEN);
	tail = atomic_load_explicit(&rx->rx.mine->tail, memory_order_relaxed);
	if (n > most)
		n = most;
	ring_copy(&rx->rx, tail, data, n);
	for (uint64_t i = 0; i < n; i++)
		must(data[i] == pattern(0, tail + i));
	w.received += n;
	ring_free(&rx->rx, tail + n);
	*head = rx->rx.cached;
	rlm_lock_drop(&rx->conn->rx_lock);
	if (n && passes_quarter(tail, tail + n)) {
		atomic_thread_fence(memory_order_seq_cst);
		wake_sender(rx);
	}
	return n;
}

static bool head_is(uint64_t head)
{
	return atomic_load_explicit(&rx->rx.peer->head, memory_order_acquire) == head;
}

static void listen_for_data(uint32_t bit)
{
	if (w.light) {
		wake_be_light(rx);
		w.slept_light += (atomic_load(&rx->rx.mine->waiting) & RLM_WAIT_LIGHT) != 0;
	}
	wake_listen(rx, bit);
}

static void *consumer_on_futex(void *arg)
{
	uint64_t random = (uintptr_t)arg, head;
	uint32_t bell, events;

	// `users` tells wake_conn() that somebody may sleep.
	atomic_fetch_add(&rx->conn->users, 1);
	for (;;) {
		if (consume(&random, &head)) {
			pause_sometimes(&random);
			continue;
		}
		if (wake_spin(&rx->rx.peer->head, head, &rx->rx_spin))
			continue;
		bell = atomic_load_explicit(&rx->rx.peer->bell, memory_order_acquire);
		events = atomic_load_explicit(&rx->conn->events, memory_order_acquire);
		if (atomic_load_explicit(&w.done, memory_order_acquire))
			break;
		listen_for_data(RLM_WAIT_RX_FUTEX);
		if (head_is(head)) {
			w.slept++;
			sys_futex_wait2(&rx->rx.peer->bell, bell, &rx->conn->events, events, NULL);
		}
		wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
	}
	atomic_fetch_sub(&rx->conn->users, 1);
	return NULL;
}

// Each in an epoll instance of its own. The doorbell is never read: every write is an edge for every instance.
static void *consumer_on_epoll(void *arg)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	uint64_t random = (uintptr_t)arg, head;
	int ep = epoll_create1(EPOLL_CLOEXEC);

	must(ep >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, w.doorbell, &event) == 0);
	for (;;) {
		if (consume(&random, &head)) {
			pause_sometimes(&random);
			continue;
		}
		listen_for_data(RLM_WAIT_RX_FD);
		if (head_is(head) && !atomic_load_explicit(&w.done, memory_order_acquire)) {
			w.slept++;
			must(epoll_wait(ep, &event, 1, -1) == 1);
		}
		wake_unlisten(rx, RLM_WAIT_RX_FD);
		if (head_is(head) && atomic_load_explicit(&w.done, memory_order_acquire))
			break;
	}
	close(ep);
	return NULL;
}

typedef void *consumer_f(void *);

// Enough that the test tells something.
static bool has_happened(bool light)
{
	return w.sent > 1000 && w.slept > 10 && (w.slept_light > 10 || !light);
}

static void run_light(bool spin, bool light, consumer_f *first, consumer_f *others, unsigned consumers)
{
	pthread_t producing, consuming[CONSUMERS_MAX];

	world_start(spin);
	w.light = light;
	assert_int_equal(pthread_create(&producing, NULL, producer, NULL), 0);
	for (uintptr_t i = 0; i < consumers; i++)
		assert_int_equal(pthread_create(&consuming[i], NULL, i ? others : first, (void *)(i + 2)), 0);
	do // on a crowded machine it takes longer until they have slept
		usleep(MILLISECONDS * 1000);
	while (!has_happened(light));
	atomic_store(&w.stop, 1);
	pthread_join(producing, NULL);
	atomic_store(&w.done, 1);
	wake_conn(rx->conn);
	wake_all(tx);
	for (unsigned i = 0; i < consumers; i++)
		pthread_join(consuming[i], NULL);
	assert_int_equal(w.received, w.sent);
	assert_int_equal(rx->rx.mine->waiting & RLM_WAIT_BITS, 0);
	assert_int_equal(tx->tx.mine->waiting & RLM_WAIT_BITS, 0);
	world_stop();
}

static void run(bool spin, consumer_f *first, consumer_f *others, unsigned consumers)
{
	run_light(spin, false, first, others, consumers);
}

static void test_one_consumer(void **state)
{
	run(false, consumer_on_futex, consumer_on_futex, 1);
	run(true, consumer_on_futex, consumer_on_futex, 1);
}

static void test_several_consumers(void **state)
{
	run(false, consumer_on_futex, consumer_on_futex, 3);
	run(true, consumer_on_futex, consumer_on_futex, 3);
}

static void test_epoll(void **state)
{
	run(false, consumer_on_epoll, consumer_on_epoll, 1);
	run(false, consumer_on_epoll, consumer_on_epoll, 2);
}

static void test_epoll_and_futex(void **state)
{
	run(false, consumer_on_epoll, consumer_on_futex, 2);
	run(false, consumer_on_futex, consumer_on_epoll, 3);
}

// Senders that leave the fence to the receiver.
static void test_light(void **state)
{
	if (!wake_is_reached)
		skip();
	run_light(false, true, consumer_on_futex, consumer_on_futex, 1);
	run_light(true, true, consumer_on_futex, consumer_on_futex, 3);
	run_light(false, true, consumer_on_epoll, consumer_on_epoll, 2);
	run_light(false, true, consumer_on_futex, consumer_on_epoll, 3);
}

#define DUEL_DELAY 64u
#define DUELS_END UINT64_MAX

static _Atomic uint64_t duel, duel_published;

static void delay(uint64_t *random)
{
	for (uint64_t i = random_below(random, DUEL_DELAY); i; i--)
		atomic_signal_fence(memory_order_seq_cst);
}

static uint64_t wait_until_not(const _Atomic uint64_t *word, uint64_t old)
{
	uint64_t now;

	for (unsigned i = 1; (now = atomic_load_explicit(word, memory_order_acquire)) == old; i++)
		if (i % 1000)
			sys_pause();
		else
			sched_yield();
	return now;
}

static void *duel_sender(void *arg)
{
	uint64_t random = 1;

	for (uint64_t i = 1; wait_until_not(&duel, i - 1) != DUELS_END; i++) {
		delay(&random);
		ring_publish(&tx->tx, i);
		wake_receiver(tx);
		atomic_store_explicit(&duel_published, i, memory_order_release);
	}
	return NULL;
}

// Nothing but the two steps that have to see each other, at the same moment, again and again: the waiter sees what was published, or its bell rings.
static void test_light_duel(void **state)
{
	struct rlm_slot_shared *sender = &w.slot[0];
	uint64_t random = 2, head, i, end = now_ms() + MILLISECONDS;
	pthread_t sending;
	uint32_t bell;

	if (!wake_is_reached)
		skip();
	world_start(false);
	duel = duel_published = 0;
	assert_int_equal(pthread_create(&sending, NULL, duel_sender, NULL), 0);
	for (i = 1; i <= 100 || now_ms() < end; i++) {
		bell = atomic_load(&sender->bell);
		wake_be_light(rx);
		atomic_store_explicit(&duel, i, memory_order_release);
		delay(&random);
		wake_listen(rx, RLM_WAIT_RX_FUTEX);
		head = atomic_load_explicit(&sender->head, memory_order_acquire);
		wait_until_not(&duel_published, i - 1);
		assert_true(head == i || atomic_load(&sender->bell) != bell);
		wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
	}
	atomic_store(&duel, DUELS_END);
	pthread_join(sending, NULL);
	world_stop();
}

// Whoever sleeps for data takes the bit back, and nobody gives it again as long as one sleeps. Not for a peer with another kernel.
static void test_light_ends(void **state)
{
	if (!wake_is_reached)
		skip();
	world_start(false);
	wake_be_light(rx);
	assert_int_equal(w.slot[1].waiting, RLM_WAIT_LIGHT);
	wake_listen(rx, RLM_WAIT_TX_FD);
	assert_true(w.slot[1].waiting & RLM_WAIT_LIGHT);
	wake_receiver(tx); // nobody waits for data
	assert_int_equal(w.slot[0].bell, 0);
	wake_listen(rx, RLM_WAIT_RX_FUTEX);
	wake_be_light(rx);
	assert_false(w.slot[1].waiting & RLM_WAIT_LIGHT);
	wake_receiver(tx);
	assert_int_equal(w.slot[0].bell, 1);
	wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
	rx->bell_port = 1;
	wake_be_light(rx);
	assert_false(w.slot[1].waiting & RLM_WAIT_LIGHT);
	world_stop();
}

// One ring of the bell for a sleep, however much is published.
static void test_rings_once_per_sleep(void **state)
{
	world_start(false);
	wake_receiver(tx);
	assert_int_equal(w.slot[0].bell, 0);
	for (uint32_t i = 1; i < 10; i++) {
		wake_listen(rx, RLM_WAIT_RX_FUTEX);
		for (int j = 0; j < 3; j++)
			wake_receiver(tx);
		assert_int_equal(w.slot[0].bell, i);
		wake_sender(tx); // nobody waits for room
		assert_int_equal(w.slot[0].bell, i);
		wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
		wake_receiver(tx);
		assert_int_equal(w.slot[0].bell, i);
	}
	world_stop();
}

static void test_bits_are_counted(void **state)
{
	world_start(false);
	wake_listen(rx, RLM_WAIT_RX_FUTEX);
	wake_listen(rx, RLM_WAIT_RX_FUTEX);
	wake_listen(rx, RLM_WAIT_TX_FD);
	assert_int_equal(w.slot[1].waiting & RLM_WAIT_BITS, RLM_WAIT_RX_FUTEX | RLM_WAIT_TX_FD);
	wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
	assert_int_equal(w.slot[1].waiting & RLM_WAIT_BITS, RLM_WAIT_RX_FUTEX | RLM_WAIT_TX_FD);
	wake_unlisten(rx, RLM_WAIT_RX_FUTEX);
	assert_int_equal(w.slot[1].waiting & RLM_WAIT_BITS, RLM_WAIT_TX_FD);
	wake_unlisten(rx, RLM_WAIT_TX_FD);
	assert_int_equal(w.slot[1].waiting & RLM_WAIT_BITS, 0);
	world_stop();
}

// The sequence number in front of the bits wraps without touching them.
static void test_sequence_wraps(void **state)
{
	world_start(false);
	w.slot[1].waiting = UINT32_MAX & ~RLM_WAIT_BITS;
	wake_listen(rx, RLM_WAIT_RX_FD);
	assert_int_equal(w.slot[1].waiting, RLM_WAIT_RX_FD);
	wake_receiver(tx);
	assert_int_equal(w.slot[0].bell, 1);
	world_stop();
}

// A peer that writes nonsense into `waiting` costs a system call, no more.
static void test_any_waiting_word(void **state)
{
	uint64_t random = 1;

	world_start(false);
	for (int i = 0; i < 1000; i++) {
		w.slot[1].waiting = (uint32_t)random_next(&random);
		wake_receiver(tx);
		wake_sender(tx);
		wake_all(tx);
	}
	world_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rings_once_per_sleep), cmocka_unit_test(test_bits_are_counted),
	    cmocka_unit_test(test_sequence_wraps),	 cmocka_unit_test(test_any_waiting_word),
	    cmocka_unit_test(test_one_consumer),
	    cmocka_unit_test(test_several_consumers),	 cmocka_unit_test(test_epoll),
	    cmocka_unit_test(test_epoll_and_futex),	 cmocka_unit_test(test_light),
	    cmocka_unit_test(test_light_duel),		 cmocka_unit_test(test_light_ends),
	};

	if (sys_futex_wait2(&w.slot[0].bell, 1, &w.slot[0].bell, 1, NULL) == -ENOSYS) {
		print_message("this kernel has no futex_waitv\n");
		return 77;
	}
	wake_barrier_init();
	watchdog(40);
	return cmocka_run_group_tests_name("wake", tests, NULL, NULL);
}
