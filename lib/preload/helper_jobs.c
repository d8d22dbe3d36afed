// SPDX-License-Identifier: BSD-2-Clause
// What threads of the application have for the helper thread to do: a queue.
#include "binding.h"
#include "broker_client.h"
#include "helper_internal.h"
#include "links.h"
#include "session.h"
#include "stream_internal.h"

enum job_type { JOB_OFFER = 1, JOB_WITHDRAW, JOB_RELEASE, JOB_ACTIVITY, JOB_LENT };

struct job {
	enum job_type type;
	struct rlm_conn_ref conn;
	struct rlm_msg_release release;
};

#define JOBS 4096u // a power of two
static struct {
	struct rlm_lock lock;
	struct job jobs[JOBS];
	uint32_t put, taken;
} queue;

// false: there is no helper to do it.
static bool enqueue(const struct job *job)
{
	helper_ensure();
	for (;;) {
		if (!atomic_load_explicit(&helper_running, memory_order_acquire))
			return false;
		rlm_lock_take(&queue.lock);
		if (queue.put - queue.taken < JOBS)
			break;
		rlm_lock_drop(&queue.lock);
		if (helper_is_me())
			return true; // cannot wait for itself; the broker learns of it at the end of the session
		sys_call0(SYS_sched_yield);
	}
	queue.jobs[queue.put++ % JOBS] = *job;
	rlm_lock_drop(&queue.lock);
	helper_poke();
	return true;
}

static bool dequeue(struct job *job)
{
	bool any;

	rlm_lock_take(&queue.lock);
	any = queue.put != queue.taken;
	if (any)
		*job = queue.jobs[queue.taken++ % JOBS];
	rlm_lock_drop(&queue.lock);
	return any;
}

void helper_offer(struct rlm_conn *c)
{
	struct job job = {.type = JOB_OFFER, .conn = helper_conn_ref(c)};

	if (!session_broker_exists()) {
		atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_NO_BROKER, memory_order_relaxed);
		atomic_store_explicit(&c->calls, 0, memory_order_relaxed); // look again after as many calls
		return;
	}
	if (atomic_fetch_or_explicit(&c->flags, RLM_CONN_QUEUED, memory_order_relaxed) & RLM_CONN_QUEUED)
		return;
	if (enqueue(&job))
		return;
	atomic_fetch_and_explicit(&c->flags, ~RLM_CONN_QUEUED, memory_order_relaxed);
	atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_LIMIT, memory_order_relaxed);
	atomic_store_explicit(&c->calls, 0, memory_order_relaxed);
}

void helper_withdraw(uint32_t index, uint32_t generation)
{
	struct job job = {.type = JOB_WITHDRAW, .conn = {index, generation}};

	if (atomic_load_explicit(&helper_running, memory_order_acquire)) // else the offer is another process's: we are its child
		enqueue(&job);
}

void helper_release(const struct rlm_bound *b)
{
	struct job job = {.type = JOB_RELEASE};

	job.release = (struct rlm_msg_release){
		.header = {.type = RLM_MSG_RELEASE, .size = sizeof(job.release)},
		.link = b->link,
		.side = b->side,
		.segment = b->segment,
		.slot = b->slot,
		.epoch = b->epoch,
	};
	enqueue(&job);
}

// The caller may hold a lock: never wait. A full queue is activity enough, the helper looks again soon.
static void note_job(enum job_type type)
{
	bool full;

	helper_ensure();
	rlm_lock_take(&queue.lock);
	full = queue.put - queue.taken == JOBS;
	if (!full)
		queue.jobs[queue.put++ % JOBS].type = type;
	rlm_lock_drop(&queue.lock);
	helper_poke();
}

void helper_note_activity(void)
{
	note_job(JOB_ACTIVITY);
}

void helper_note_lent(void)
{
	note_job(JOB_LENT);
}

// A question goes past the queue: whoever asks waits.
enum ask { ASK_NONE, ASK_WAITS, ASK_RUNS, ASK_DONE };

static struct {
	struct rlm_lock lock; // one who asks at a time
	long (*fn)(void *arg);
	_Alignas(8) char arg[HELPER_ASK_MAX];
	long result;
	_Atomic uint32_t state; // enum ask. Who asks: NONE, WAITS, and takes WAITS back; helper: WAITS to RUNS, and DONE
} asked;

static bool is_asked(uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong_explicit(&asked.state, &from, to, memory_order_acquire, memory_order_relaxed);
}

long helper_ask(long (*fn)(void *arg), const void *arg, size_t size)
{
	const struct timespec moment = {.tv_nsec = 100000000};
	uint32_t state;
	long result = 0;

	if (!atomic_load_explicit(&helper_running, memory_order_acquire))
		return 0;
	rlm_lock_take(&asked.lock);
	asked.fn = fn;
	if (size)
		memcpy(asked.arg, arg, size);
	atomic_store_explicit(&asked.state, ASK_WAITS, memory_order_release); // pairs with answer()
	helper_poke();
	while ((state = atomic_load_explicit(&asked.state, memory_order_acquire)) != ASK_DONE) { // pairs with answer()
		if (!atomic_load_explicit(&helper_running, memory_order_acquire) && is_asked(ASK_WAITS, ASK_NONE))
			break; // it ended before it came to it
		sys_futex_wait(&asked.state, state, &moment);
	}
	if (state == ASK_DONE)
		result = asked.result;
	atomic_store_explicit(&asked.state, ASK_NONE, memory_order_relaxed);
	rlm_lock_drop(&asked.lock);
	return result;
}

static void answer(void)
{
	if (!is_asked(ASK_WAITS, ASK_RUNS))
		return;
	asked.result = asked.fn(asked.arg);
	atomic_store_explicit(&asked.state, ASK_DONE, memory_order_release);
	sys_futex_wake(&asked.state, 1);
}

static long meet(void *unused)
{
	(void)unused;
	return session_connect_if_due();
}

void helper_meet_broker(void)
{
	if (!session_broker_exists())
		return;
	helper_ensure();
	helper_ask(meet, NULL, 0);
}

bool helper_offer_outstanding(const struct rlm_conn *c)
{
	return atomic_load_explicit(&c->flags, memory_order_seq_cst) & RLM_CONN_NAMING;
}

void helper_run_jobs(void)
{
	union rlm_msg msg;
	struct rlm_conn *c;
	struct job job;

	for (answer(); dequeue(&job); answer()) {
		switch (job.type) {
		case JOB_OFFER:
			c = helper_conn(job.conn);
			if (!c)
				break;
			if (session_connect_if_due())
				session_offer(c);
			else
				atomic_store_explicit(&conn_stat(&arena, c)->why, RLM_WHY_NO_BROKER,
						      memory_order_relaxed); // stays QUEUED, see session_offer_queued()
			break;
		case JOB_WITHDRAW:
			msg = broker_message(RLM_MSG_WITHDRAW, withdraw, .conn = job.conn);
			session_send(&msg, -1);
			break;
		case JOB_RELEASE:
			msg.release = job.release;
			segment_unbind(job.release.link, job.release.side, job.release.segment);
			session_send(&msg, -1);
			break;
		case JOB_ACTIVITY:
			helper_arm_idle();
			break;
		case JOB_LENT:
			helper_arm_sweep();
			break;
		}
	}
}

void helper_jobs_fork_child(void)
{
	atomic_store_explicit(&asked.lock.word, 0, memory_order_relaxed);
	atomic_store_explicit(&asked.state, ASK_NONE, memory_order_relaxed);
	atomic_store_explicit(&queue.lock.word, 0, memory_order_relaxed);
	queue.put = queue.taken = 0;
}
