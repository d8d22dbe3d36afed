// SPDX-License-Identifier: BSD-2-Clause
// rlmd --metrics ADDRESS:PORT: what `rlmctl stats` tells of the whole, for Prometheus, over HTTP at /metrics. Nothing of single processes and
// connections: whoever can reach the address reads it.
#ifndef RLMD_METRICS_H
#define RLMD_METRICS_H

#include <stddef.h>

struct rlmd_broker;

// After the broker, before the sandbox. NULL: no such address, error tells.
struct rlmd_metrics *rlmd_metrics_new(struct rlmd_broker *broker, const char *address, char *error, size_t error_size);
void rlmd_metrics_free(struct rlmd_metrics *metrics);

#endif
