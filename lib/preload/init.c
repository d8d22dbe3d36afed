// SPDX-License-Identifier: BSD-2-Clause
// Start and end of the library in a process, and the optional API.
//
// Everything works before our constructor ran and after our destructor: calls then go straight to the kernel. A set-user-ID program
// is left alone.
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/auxv.h>

#include "engine.h"
#include "inherited.h"
#include "location.h"
#include "hooks.h"
#include "stream_internal.h"

#define BINDINGS 16384u

static bool has_futex_waitv(void)
{
	_Atomic uint32_t word = 1;

	return sys_futex_wait2(&word, 0, &word, 0, NULL) == -EAGAIN;
}

static void at_exit(int status, void *unused)
{
	(void)status;
	(void)unused;
	stream_before_exit();
}

// --- the engine ---

_Atomic bool engine_started;
static struct rlm_lock lock;

static bool make_tables(void)
{
	cpu_set_t cpus;

	wake_one_word = !has_futex_waitv();
	if (wake_one_word)
		log_info("no futex_waitv here (Linux before 5.16, or a filter of system calls): poll takes a little longer");
	CPU_ZERO(&cpus);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	wake_init((unsigned)CPU_COUNT(&cpus), settings.spin_most);
	if (location_init() < 0 || arena_init(&arena, RLM_CONNECTIONS, BINDINGS) < 0 || fdtable_init() < 0)
		return false;
	arena.table_fd = fd_make_internal(arena.table_fd);
	family_init(&arena);
	if (arena.family_fd >= 0)
		arena.family_fd = fd_make_internal(arena.family_fd);
	stream_take_place(&arena.place);
	return true;
}

void engine_lock(void)
{
	rlm_lock_take(&lock);
}

void engine_unlock(void)
{
	rlm_lock_drop(&lock);
}

// A child of vfork() has our memory, but descriptors of its own.
bool engine_start_now(void)
{
	int saved = errno;
	bool started;

	if (!settings.enabled || hook_in_vfork())
		return false;
	engine_lock();
	started = atomic_load_explicit(&engine_started, memory_order_relaxed);
	if (!started && settings.enabled) {
		started = settings.enabled = make_tables();
		atomic_store_explicit(&engine_started, started, memory_order_release);
	}
	engine_unlock();
	errno = saved;
	return started;
}

void engine_fork_child(void)
{
	atomic_store_explicit(&lock.word, 0, memory_order_relaxed);
}

__attribute__((constructor)) static void start(void)
{
	int saved = errno;

	rlm_real_init();
	if (!getauxval(AT_SECURE))
		settings_read();
	if (settings.enabled) {
		rlm_clock_init();
		process_id = (int)sys_call0(SYS_getpid);
		stream_threshold_calls = settings.offer_calls;
		stream_threshold_bytes = settings.offer_bytes;
		rlm_lock_init();
		wake_barrier_init();
		pthread_atfork(hook_fork_prepare, hook_fork_parent, hook_fork_child);
		// Handlers run in the opposite order: after those of the program and all destructors, which may use sockets.
		on_exit(at_exit, NULL);
		at_quick_exit(stream_before_exit);
		inherited_adopt();
	}
	errno = saved;
}

RLM_EXPORT int rlm_socket_info_v1(int fd, struct rlm_info *info);

RLM_EXPORT int rlm_socket_info_v1(int fd, struct rlm_info *info)
{
	struct rlm_conn *c = fd_conn(fd);
	const struct rlm_conn_stat *s;
	int type, protocol = 0;
	socklen_t len = sizeof(type);

	if (REAL(getsockopt)(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -1;
	len = sizeof(protocol);
	REAL(getsockopt)(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len);
	if (!c) {
		info->why = protocol != 6 /* TCP */ ? RLM_WHY_NOT_TCP
			    : settings.enabled	    ? RLM_WHY_UNTRACKED
						    : RLM_WHY_DISABLED;
		return 0;
	}
	s = conn_stat(&arena, c);
	info->tx_carrier = s->tx_carrier;
	info->rx_carrier = s->rx_carrier;
	info->why = s->why;
	info->tx_bytes_ring = s->tx_bytes_ring;
	info->rx_bytes_ring = s->rx_bytes_ring;
	info->tx_bytes_plain = s->tx_bytes_plain;
	info->rx_bytes_plain = s->rx_bytes_plain;
	info->switches = s->switches;
	return 0;
}
