// SPDX-License-Identifier: BSD-2-Clause
// xenstore and libxenvchan in memory, so that the broker role runs without Xen: a test plays the guests.
#ifndef FAKE_XEN_H
#define FAKE_XEN_H

#include <stdbool.h>
#include <stddef.h>

// Writes a node as its owner would; watches fire.
void fake_store_set(const char *path, const char *value);
// NULL: there is none.
const char *fake_store_get(const char *path);
void fake_domain_new(unsigned domain, const char *name, const char *mac);
// Takes the domain and all of its nodes away.
void fake_domain_end(unsigned domain);

// The guest's side of the channel that the broker serves it. False: none is open, or what is there is not read.
bool fake_guest_write(unsigned domain, const void *bytes, size_t size);
size_t fake_guest_read(unsigned domain, void *bytes, size_t size);
bool fake_guest_open(unsigned domain);
// Another number for each channel; 0: none is open.
unsigned fake_guest_channel(unsigned domain);

#endif
