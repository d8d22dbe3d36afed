// SPDX-License-Identifier: BSD-2-Clause
// Replies as text for people.
#ifndef RLMCTL_PRINT_H
#define RLMCTL_PRINT_H

#include <jansson.h>
#include <stddef.h>

void print_status(const json_t *reply);
void print_connections(const json_t *reply);
void print_stats(const json_t *reply);
void print_groups(const json_t *reply);
void print_domains(const json_t *reply);
void print_events(const json_t *reply);
void print_ordered(const json_t *reply);

// Members as text, "-" when there is none.
const char *text_of(const json_t *object, const char *key);
json_int_t number_of(const json_t *object, const char *key);
// "12.3M"; size: of the buffer, 8 is enough.
char *bytes_text(char *buffer, size_t size, double bytes);

#endif
