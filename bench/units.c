// SPDX-License-Identifier: BSD-2-Clause
// Numbers as people write and read them.
#include "units.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int suffix_factor(const char *suffix, double *factor)
{
	static const char letters[] = "KMGT";
	const char *at;
	double base = 1024;

	*factor = 1;
	if (!*suffix || strcmp(suffix, "B") == 0)
		return 0;
	at = strchr(letters, suffix[0] & ~0x20);
	if (!at || !*at)
		return -EINVAL;
	if (strcmp(suffix + 1, "B") == 0)
		base = 1000;
	else if (suffix[1] && strcmp(suffix + 1, "iB") != 0)
		return -EINVAL;
	for (const char *p = letters; p <= at; p++)
		*factor *= base;
	return 0;
}

static int parse_size_n(const char *text, size_t n, uint64_t *value)
{
	char copy[UNITS_TEXT];
	char *end;
	double number, factor;

	if (n == 0 || n >= sizeof(copy) || !strchr("0123456789.", text[0]))
		return -EINVAL;
	memcpy(copy, text, n);
	copy[n] = '\0';
	errno = 0;
	number = strtod(copy, &end);
	if (end == copy || errno || suffix_factor(end, &factor) < 0)
		return -EINVAL;
	number *= factor;
	if (!(number >= 0 && number < 9e18))
		return -EINVAL;
	*value = (uint64_t)llround(number);
	return 0;
}

int units_parse_size(const char *text, uint64_t *value)
{
	return parse_size_n(text, strlen(text), value);
}

int units_parse_range(const char *text, uint64_t *from, uint64_t *to)
{
	const char *colon = strchr(text, ':');

	if (!colon) {
		if (units_parse_size(text, from) < 0)
			return -EINVAL;
		*to = *from;
		return 0;
	}
	if (parse_size_n(text, (size_t)(colon - text), from) < 0 || units_parse_size(colon + 1, to) < 0)
		return -EINVAL;
	return *from && *from <= *to ? 0 : -EINVAL;
}

int units_parse_time(const char *text, uint64_t *ns)
{
	char *end;
	double number;

	if (!strchr("0123456789.", text[0]))
		return -EINVAL;
	errno = 0;
	number = strtod(text, &end);
	if (end == text || errno)
		return -EINVAL;
	if (strcmp(end, "ms") == 0)
		number /= 1000;
	else if (*end && strcmp(end, "s") != 0)
		return -EINVAL;
	if (!(number >= 0 && number <= 86400))
		return -EINVAL;
	*ns = (uint64_t)llround(number * 1e9);
	return 0;
}

const char *units_size(char *text, uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB"};
	unsigned i = 0;

	while (i < 3 && bytes >= 1024 && bytes % 1024 == 0) {
		bytes /= 1024;
		i++;
	}
	snprintf(text, UNITS_TEXT, "%llu %s", (unsigned long long)bytes, names[i]);
	return text;
}

// Three significant digits.
static int digits(double v)
{
	return v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
}

const char *units_rate(char *text, double per_second)
{
	static const char *const names[] = {"", "k", "M", "G", "T"};
	unsigned i = 0;

	while (i < 4 && per_second >= 999.5) {
		per_second /= 1000;
		i++;
	}
	snprintf(text, UNITS_TEXT, "%.*f %s", digits(per_second), per_second, names[i]);
	return text;
}

const char *units_duration(char *text, double ns)
{
	static const char *const names[] = {"ns", "us", "ms", "s"};
	unsigned i = 0;

	while (i < 3 && ns >= 999.5) {
		ns /= 1000;
		i++;
	}
	snprintf(text, UNITS_TEXT, "%.*f %s", i == 0 ? 0 : digits(ns), ns, names[i]);
	return text;
}
