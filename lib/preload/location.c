// SPDX-License-Identifier: BSD-2-Clause
#include "location.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "sys.h"

#define PAGE 4096

struct rlm_location_shared *location;

static bool is_error(long p)
{
	return p < 0 && p > -4096;
}

int location_init(void)
{
	long p = sys_call6(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (is_error(p))
		return (int)p;
	location = (struct rlm_location_shared *)p;
	return 0;
}

int location_map(int fd)
{
	struct rlm_location_shared *page;
	struct stat st;
	long p;

	if (sys_call2(SYS_fstat, fd, &st) < 0 || st.st_size < PAGE)
		return -EINVAL;
	p = sys_call6(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (is_error(p))
		return (int)p;
	page = (struct rlm_location_shared *)p;
	if (page->magic != RLM_LAYOUT_MAGIC || page->version != RLM_LAYOUT_VERSION) {
		sys_call2(SYS_munmap, page, PAGE);
		return -EINVAL;
	}
	if (location->domain && location->domain != page->domain) {
		location = page; // the old one stays for the links that were made there
		return 0;
	}
	p = sys_call5(SYS_mremap, page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, location);
	return is_error(p) ? (int)p : 0;
}
