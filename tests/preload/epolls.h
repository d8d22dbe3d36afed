// SPDX-License-Identifier: BSD-2-Clause
// epoll instances with pairs in them. The data of a registration is its descriptor, and something in the upper half.
#ifndef RLM_TEST_EPOLLS_H
#define RLM_TEST_EPOLLS_H

#include "pair.h"

#include <sys/epoll.h>

#define EPOLL_DATA(fd) (0x1234567800000000ull + (fd)) // event.data.u64

int instance(void);
void add(int ep, int fd, uint32_t events);
void modify(int ep, int fd, uint32_t events);
void del(int ep, int fd);
// The events of the one descriptor that is ready, 0 for none.
uint32_t take(int ep, int fd, int timeout_ms);
// The same of whichever it is.
uint32_t take_one(int ep, int timeout_ms);
int call_epoll(void *arg); // for a sleeper: epoll_wait() on the instance to which `arg` points
// As take(), once they are these.
void wait_take(int ep, int fd, uint32_t want);

#endif
