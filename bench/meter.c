// SPDX-License-Identifier: BSD-2-Clause
// A measuring window over a growing count.
#include "meter.h"

void meter_init(struct bench_meter *m, const struct bench_params *p)
{
	*m = (struct bench_meter){.countdown = 1, .params = p};
}

static bool warm(const struct bench_meter *m, uint64_t now, uint64_t count)
{
	return m->params->limit ? count >= m->params->warmup_limit : now - m->start >= m->params->warmup_ns;
}

static bool done(const struct bench_meter *m, uint64_t now, uint64_t count)
{
	const struct bench_params *p = m->params;

	return p->limit ? count >= p->warmup_limit + p->limit : now - m->t0 >= p->time_ns;
}

static uint64_t next_look(const struct bench_meter *m, uint64_t count)
{
	const struct bench_params *p = m->params;
	uint64_t next = count + METER_BYTES;
	uint64_t mark = m->open ? p->warmup_limit + p->limit : p->warmup_limit;

	return p->limit && mark > count && mark < next ? mark : next;
}

void meter_tick(struct bench_meter *m, uint64_t count)
{
	uint64_t now = clock_now();

	if (!m->start)
		m->start = now;
	if (!m->open && warm(m, now, count)) {
		m->open = true;
		m->t0 = now;
		m->v0 = count;
	} else if (m->open && !m->closed && done(m, now, count)) {
		m->closed = true;
		m->t1 = now;
		m->v1 = count;
	}
	m->countdown = METER_CALLS;
	m->next = next_look(m, count);
}

void meter_finish(struct bench_meter *m, uint64_t count)
{
	if (m->closed)
		return;
	m->t1 = clock_now();
	m->v1 = count;
	if (!m->open)
		m->t0 = m->start ? m->start : m->t1; // shorter than its warm-up: all of it
	m->closed = true;
}

double meter_rate(const struct bench_meter *m)
{
	return m->closed && m->t1 > m->t0 ? (double)(m->v1 - m->v0) * 1e9 / (double)(m->t1 - m->t0) : 0;
}
