// SPDX-License-Identifier: BSD-2-Clause
// rlm-bench compare.
#include "options.h"

int compare_main(const struct compare_options *o)
{
	fputs("rlm-bench: compare is not there yet\n", stderr);
	return EXIT_FAILED;
}
